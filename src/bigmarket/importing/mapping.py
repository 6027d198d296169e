"""Pure: one user's rows of the reference -> rows for our tables."""

from __future__ import annotations

from collections.abc import Iterator

from bigmarket.importing.accounts import map_account
from bigmarket.importing.draws import map_draws
from bigmarket.importing.part import Part
from bigmarket.importing.points import map_points
from bigmarket.importing.report import Report
from bigmarket.importing.tasks import PendingAward, pending_awards
from bigmarket.importing.terms import Terms
from bigmarket.importing.users import NewRow, UserRows

UNKNOWN_ACTIVITY = "its activity is not here"
RECORD_NOT_HERE = "its award record is not brought over"


def map_user(user: UserRows, terms: Terms, report: Report) -> list[NewRow]:
    """All rows; accounts come before what belongs to them, so that who is there already is known."""
    pending = pending_awards(user, terms, report)
    rows = [*_map_activities(user, terms, report, pending), *map_points(user, terms, report)]
    for task in pending.values():
        report.skip("task", reason=RECORD_NOT_HERE, key=task.key)
    return rows


def _map_activities(
    user: UserRows, terms: Terms, report: Report, pending: dict[str, PendingAward]
) -> Iterator[NewRow]:
    found: set[int] = set()
    for table, rows in user.rows.items():
        for row in rows:
            activity_id: int | None = getattr(row, "activity_id", None)
            if activity_id is not None and activity_id in terms.activities:
                found.add(activity_id)
            elif activity_id is not None:
                report.skip(table, reason=UNKNOWN_ACTIVITY, key=f"{user.user_id} activity {activity_id}")
    for activity_id in sorted(found):
        part = Part(user, activity_id, terms.activities[activity_id], terms, report)
        draws = map_draws(part, pending)
        yield from map_account(part, draws)
        yield from draws.rows
