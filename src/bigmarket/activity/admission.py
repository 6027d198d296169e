"""Whether an activity takes draws and recharges now."""

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
