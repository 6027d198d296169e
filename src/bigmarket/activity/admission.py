"""Whether an activity is there, and armed, and takes draws and recharges now."""

from __future__ import annotations

from collections.abc import Mapping

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.revision import Revision
from bigmarket.errors import ActivityClosed, NotArmed, NotFound, OutOfWindow


def open_activity(
    activity_id: int, *, live: Mapping[int, LiveActivity], now_ms: int
) -> tuple[LiveActivity, Revision]:
    """The activity and its live revision, or the reason why nobody may enter it at ``now_ms``."""
    activity = live.get(activity_id)
    if activity is None:
        raise NotFound(f"There is no activity {activity_id}; apply its campaign file first.")
    if activity.state != "open":
        raise ActivityClosed(f"Activity {activity_id} is not open (its state is {activity.state}).")
    if not activity.begin_ms <= now_ms < activity.end_ms:
        raise OutOfWindow(f"Activity {activity_id} is outside its window; it takes no draws and no recharges now.")
    if activity.revision is None:
        raise NotArmed(f"Activity {activity_id} is not armed; run: bigmarket armory {activity_id}")
    return activity, activity.revision


def live_activity(activity_id: int, *, live: Mapping[int, LiveActivity]) -> LiveActivity:
    """The activity as it runs, open or not. Raises NotFound."""
    activity = live.get(activity_id)
    if activity is None:
        raise NotFound(f"There is no activity {activity_id}; load its campaign file with `bigmarket apply`.")
    return activity


def armed(activity: LiveActivity) -> Revision:
    """What the activity runs by. Raises NotArmed."""
    if activity.revision is None:
        number = activity.activity_id
        raise NotArmed(f"Activity {number} is not armed; run: bigmarket armory {number}")
    return activity.revision
