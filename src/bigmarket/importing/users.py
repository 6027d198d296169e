"""Pure: one user's rows of the reference, sorted out: readable, of this user, where the reference looks for them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Table

from bigmarket.errors import BadInput
from bigmarket.importing import reference as r
from bigmarket.importing.report import Report
from bigmarket.importing.staging import StagedRow
from bigmarket.importing.terms import Terms

HomeOf = Callable[[str, Iterable[str], Iterable[str]], tuple[str, str | None]]

ID_MAX, NUMBER_MAX = 26, 128
UNPLACED = "misplaced: the reference looks for this user in another database or table"


class NewRow(NamedTuple):
    """A row for one of our tables; ``source`` is the reference's table, None when there is no such row there."""

    table: Table
    source: str | None
    values: dict[str, Any]


@dataclass(slots=True)
class UserRows:
    """A user's rows by table, each of one kind."""

    user_id: str
    rows: dict[str, list[r.UserRow]] = field(default_factory=lambda: defaultdict(list))

    def of(self, kind: type[r.R]) -> list[r.R]:
        """The rows of a kind."""
        table = _TABLE_OF[kind]
        return [row for row in self.rows.get(table, ()) if isinstance(row, kind)]


_TABLE_OF: dict[type[r.Row], str] = {kind: table for table, kind in r.TABLES.items()}


def sort_out(user_id: str, staged: Sequence[StagedRow], *, home_of: HomeOf, report: Report) -> UserRows:
    """The rows that count; the others are told to ``report``, by which every row is counted as read."""
    for row in staged:
        report.table(row.table).read += 1
    user = UserRows(user_id)
    seen: set[tuple[object, ...]] = set()
    for row in _at_home(user_id, staged, home_of, report):
        kind = r.TABLES[row.table]
        try:
            read = r.read_row(kind, row.values)
            key = _key_of(read)
        except BadInput as bad:
            report.skip(row.table, reason=f"cannot be read: {bad}", key=_where(user_id, row))
            continue
        if not user_id.strip() or len(user_id) > NUMBER_MAX:
            report.skip(row.table, reason="its user id is blank or too long", key=_where(user_id, row))
        elif (row.table, *key) in seen:
            report.skip(row.table, reason="is there twice in the source", key=_where(user_id, row))
        else:
            seen.add((row.table, *key))
            assert isinstance(read, r.UserRow), row.table
            user.rows[row.table].append(read)
    return user


def count_gone(user: UserRows, *, awards: Counter[tuple[int, int]], skus: Counter[int]) -> None:
    """Add the units that this user's rows have taken."""
    awards.update((row.strategy_id, row.award_id) for row in user.of(r.RecordRow))
    skus.update(row.sku for row in user.of(r.QuotaOrderRow))


def _at_home(user_id: str, staged: Sequence[StagedRow], home_of: HomeOf, report: Report) -> Iterable[StagedRow]:
    """Rows in another database or part than where the reference looks are dead there, and would count twice here."""
    shards = {row.shard for row in staged}
    parts = {row.part for row in staged if row.part is not None}
    if len(shards) == 1 and len(parts) <= 1:
        return staged
    home, _ = home_of(user_id, shards, parts)
    _, part = home_of(user_id, shards, {row.part for row in staged if row.part is not None and row.shard == home})
    kept = []
    for row in staged:
        if row.shard == home and row.part in (None, part):
            kept.append(row)
        else:
            report.skip(row.table, reason=UNPLACED, key=_where(user_id, row))
    return kept


def _where(user_id: str, row: StagedRow) -> str:
    number = row.values.get("order_id") or row.values.get("message_id") or row.values.get("activity_id") or ""
    suffix = f"_{row.part}" if row.part else ""
    return f"{row.shard}.{row.table}{suffix} {user_id} {number}".rstrip()


def _key_of(row: r.Row) -> tuple[object, ...]:
    """What names a row within its table. Raises BadInput for an order id that cannot be kept."""
    match row:
        case r.AccountRow():
            return (row.activity_id,)
        case r.MonthRow():
            return (row.activity_id, row.month)
        case r.DayRow():
            return (row.activity_id, row.day)
        case r.TaskRow():
            return (row.message_id, row.message if row.message_id is None else "")
        case r.QuotaOrderRow() | r.RaffleOrderRow() | r.RecordRow() | r.RebateOrderRow() | r.CreditOrderRow():
            order_id = row.order_id
            if not order_id.isascii() or not order_id.isprintable() or not 0 < len(order_id) <= ID_MAX - 3:
                raise BadInput(f"an order id must be ASCII, at most {ID_MAX - 3} characters")
            return (order_id,)
        case _:
            return ()


# --- what mapping shares ------------------------------------------------------------------------------------------


def moment_ms(text: str, *, created: str | None, terms: Terms, report: Report, key: str) -> int:
    """A row's own time; told to ``report`` when it was written by another clock. Raises BadInput."""
    moment = r.moment_of(text, created=created, zone=terms.zone)
    if moment.shift:
        hours = moment.shift.total_seconds() / 3600
        report.note(
            f"its time was written by a clock {hours:+g} h from the database's: the database's is taken", key=key
        )
    return moment.ms


def opening_id(*parts: object) -> str:
    """The order id of an opening balance: the same for the same user, and none that the reference could make."""
    return f"IO{hashlib.sha256(repr(parts).encode()).hexdigest()[:24].upper()}"


def opening_number(*parts: object) -> str:
    """Its business number: ``import-opening-<user>-<activity>``, hashed when that is too long."""
    number = "-".join(("import-opening", *map(str, parts)))
    return number if len(number) <= NUMBER_MAX else f"import-opening-{opening_id(*parts)}"
