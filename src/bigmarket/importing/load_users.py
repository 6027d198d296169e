"""Writes users' rows, some users in each transaction, each user whole.

A user is brought over in one transaction of their shard or not at all. So an import that ended half-way is simply run
again: whoever is here already is left alone, nothing is written twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Table, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.errors import BigmarketError, Contention
from bigmarket.importing.mapping import map_user
from bigmarket.importing.report import Report
from bigmarket.importing.staging import Staging
from bigmarket.importing.terms import Target, Terms
from bigmarket.importing.users import NewRow, sort_out
from bigmarket.storage import schema as t
from bigmarket.storage.contract import Store
from bigmarket.storage.routing import SplitTables, part_of

USERS_PER_CHUNK = 200
ROWS_PER_CHUNK = 5_000
KEYS_PER_QUERY = 500  # an IN list longer than a thousand is refused by some engines

LATE = "its user is here already: what came later is not brought over"
TAKEN = "its number belongs to another row here"

#: Tables in the order they are written, with what names a row; an account's row is named by its activity, too.
_KEYS: Mapping[Table, Column[Any]] = {
    t.raffle_activity_account: t.raffle_activity_account.c.user_id,
    t.raffle_activity_order: t.raffle_activity_order.c.order_id,
    t.user_raffle_order: t.user_raffle_order.c.order_id,
    t.user_award_record: t.user_award_record.c.order_id,
    t.task: t.task.c.message_id,
    t.user_credit_account: t.user_credit_account.c.user_id,
    t.user_credit_order: t.user_credit_order.c.order_id,
    t.user_behavior_rebate_order: t.user_behavior_rebate_order.c.order_id,
}
#: What else must be unique.
_NUMBERS: Mapping[Table, Column[Any]] = {
    t.raffle_activity_order: t.raffle_activity_order.c.out_business_no,
    t.user_credit_order: t.user_credit_order.c.out_business_no,
    t.user_behavior_rebate_order: t.user_behavior_rebate_order.c.biz_id,
}


class StockShort(BigmarketError):
    """A campaign that was here before has less stock than was won or ordered there."""

    code = "stock_short"


class MappedUser(NamedTuple):
    """A user's rows as they will be here, and what was found on the way."""

    user_id: str
    rows: Sequence[NewRow]
    found: Report


def load_users(
    staging: Staging, target: Target, terms: Terms, *, dry_run: bool, report: Report, say: Callable[[str], None]
) -> None:
    """Bring all users over, chunk by chunk; ``report`` hears of a chunk once it is committed."""
    for chunk in _chunks(_mapped_users(staging, terms)):
        for store, users in _by_store(chunk, target):
            _load_chunk(store, users, report, dry_run=dry_run)
        say(f"{report.users_done:,} of {report.users:,} users")


def insert_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, split: SplitTables
) -> None:
    """Every row of a user that an import writes goes through here, into the user's part of a split table."""
    parts = split if table in t.SPLIT else SplitTables()
    for suffix, some in parts.parts(rows, lambda row: str(row["user_id"])):
        connection.execute(insert(part_of(table, suffix)), [dict(row) for row in some])


def _mapped_users(staging: Staging, terms: Terms) -> Iterator[MappedUser]:
    for user_id, staged in staging.users():
        found = Report(repair=terms.repair, dry_run=False)
        user = sort_out(user_id, staged, home_of=staging.home_of, report=found)
        yield MappedUser(user_id, map_user(user, terms, found), found)


def _chunks(users: Iterable[MappedUser]) -> Iterator[list[MappedUser]]:
    chunk: list[MappedUser] = []
    rows = 0
    for user in users:
        chunk.append(user)
        rows += len(user.rows)
        if len(chunk) >= USERS_PER_CHUNK or rows >= ROWS_PER_CHUNK:
            yield chunk
            chunk, rows = [], 0
    if chunk:
        yield chunk


def _by_store(chunk: Sequence[MappedUser], target: Target) -> Iterator[tuple[Store | None, list[MappedUser]]]:
    if target.stores is None:
        yield None, list(chunk)
        return
    shards: dict[int, tuple[Store, list[MappedUser]]] = {}
    for user in chunk:
        store = target.stores.of(user.user_id)
        shards.setdefault(id(store), (store, []))[1].append(user)
    yield from shards.values()


def _load_chunk(store: Store | None, users: Sequence[MappedUser], report: Report, *, dry_run: bool) -> None:
    if store is None:
        plan = _plan(users, _Here())
    elif dry_run:
        with store.reading() as connection:
            plan = _plan(users, _look(connection, users))
    else:
        try:
            with store.writing() as connection:
                plan = _plan(users, _look(connection, users))
                _write(connection, plan, store.split)
        except IntegrityError as error:
            raise Contention("Somebody else wrote some of these rows meanwhile. Run this again.") from error
    _tell(plan, users, report)


# --- what is here already -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Here:
    """Rows that are here: whose each is, by table and key; which row has a business number, by table and number."""

    owners: dict[str, dict[object, str]] = field(default_factory=lambda: {table.name: {} for table in _KEYS})
    numbers: dict[str, dict[str, object]] = field(default_factory=lambda: {table.name: {} for table in _NUMBERS})


def _look(connection: Connection, users: Sequence[MappedUser]) -> _Here:
    """Ask each table once for all that the users' rows could meet."""
    here = _Here()
    rows: dict[Table, list[NewRow]] = {table: [] for table in _KEYS}
    for user in users:
        for row in user.rows:
            rows[row.table].append(row)
    for table, column in _KEYS.items():
        number = _NUMBERS.get(table)
        wanted = [
            (row.values[column.name], row.values[number.name] if number is not None else None) for row in rows[table]
        ]
        if column.name == "user_id":  # also of those who bring no account
            wanted = [(user.user_id, None) for user in users]
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            asked: ColumnElement[bool] = column.in_([key for key, _ in some])
            if number is not None:
                asked = or_(asked, number.in_([value for _, value in some]))
            for found in map(dict, connection.execute(select(table).where(asked)).mappings()):
                here.owners[table.name][_key_of(table, found)] = found["user_id"]
                if number is not None:
                    here.numbers[table.name][found[number.name]] = _key_of(table, found)
    return here


def _key_of(table: Table, values: Mapping[str, Any]) -> object:
    if table is t.raffle_activity_account:
        return values["user_id"], values["activity_id"]
    return values[_KEYS[table].name]


# --- what is to be done -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """``fresh`` rows are written; of ``known`` users something was here before; ``left_out`` rows have a reason."""

    fresh: dict[Table, list[NewRow]] = field(default_factory=lambda: {table: [] for table in _KEYS})
    known: set[str] = field(default_factory=set)
    there: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[NewRow, str]] = field(default_factory=list)


def _plan(users: Sequence[MappedUser], here: _Here) -> _Plan:
    plan = _Plan()
    for user in users:
        records: set[object] = set()  # new ones
        for row in user.rows:
            fate = _fate(row, here, records)
            if fate is None:
                plan.fresh[row.table].append(row)
                if row.table is t.user_award_record:
                    records.add(row.values["order_id"])
                continue
            plan.known.add(user.user_id)
            if row.source is not None and fate:
                plan.left_out.append((row, fate))
            elif row.source is not None:
                plan.there[row.source] += 1
    return plan


def _fate(row: NewRow, here: _Here, records: set[object]) -> str | None:
    """None for a new row, blank for one that is here, else the reason why it is left out."""
    key = _key_of(row.table, row.values)
    if row.table is t.task:  # a task that is done is gone, so its record tells whether it was here
        return None if key in records else ""
    owner = here.owners[row.table.name].get(key)
    if owner is not None:
        return "" if owner == row.values["user_id"] else TAKEN
    if _account_here(row, here):
        return LATE
    number = _NUMBERS.get(row.table)
    if number is not None and row.values[number.name] in here.numbers[row.table.name]:
        return TAKEN
    return None


def _account_here(row: NewRow, here: _Here) -> bool:
    """Whether the account that the row belongs to was here before."""
    if "activity_id" in row.values:
        account = (row.values["user_id"], row.values["activity_id"])
        return account in here.owners[t.raffle_activity_account.name]
    return row.table is t.user_credit_order and row.values["user_id"] in here.owners[t.user_credit_account.name]


# --- doing and telling --------------------------------------------------------------------------------------------


def _write(connection: Connection, plan: _Plan, split: SplitTables) -> None:
    """Rows first; the stock that everybody shares last."""
    for table, rows in plan.fresh.items():
        insert_rows(connection, table, [row.values for row in rows], split=split)
    records = [row.values for row in plan.fresh[t.user_award_record]]
    won = Counter((record["strategy_id"], record["award_id"]) for record in records)
    for (strategy_id, award_id), units in sorted(won.items()):
        _count_sold(connection, t.award_stock, units, strategy_id=strategy_id, award_id=award_id)
    ordered = Counter(row.values["sku"] for row in plan.fresh[t.raffle_activity_order])
    for sku, units in sorted(ordered.items()):
        _count_sold(connection, t.sku_stock, units, sku=sku)


def _count_sold(connection: Connection, table: Table, units: int, **where: int) -> None:
    """Count units as sold; without a row there is nothing to count. Raises StockShort when there are not so many."""
    this = [table.c[name] == value for name, value in where.items()]
    enough = or_(table.c.alloc.is_(None), table.c.sold + units <= table.c.alloc)
    changed = connection.execute(update(table).where(*this, enough).values(sold=table.c.sold + units)).rowcount
    if not changed and connection.execute(select(table.c.sold).where(*this)).first() is not None:
        item = " ".join(f"{name} {value}" for name, value in where.items())
        raise StockShort(
            f"There are fewer units left of {item} than the {units} that were won or ordered there. Raise its stock "
            "in the campaign file, apply and arm it, then import again; users imported so far stay."
        )


def _tell(plan: _Plan, users: Sequence[MappedUser], report: Report) -> None:
    for user in users:
        report.absorb(user.found, faults=user.user_id not in plan.known)
    report.users_done += len(users)
    for source, number in plan.there.items():
        report.table(source).there_already += number
    for row, reason in plan.left_out:
        assert row.source is not None, "only such rows are told"
        report.skip(row.source, reason=reason, key=f"{row.values['user_id']} {_key_of(row.table, row.values)}")
    for table, rows in plan.fresh.items():
        for row in rows:
            if row.source is None:
                report.added[table.name] += 1
            else:
                report.table(row.source).written += 1
