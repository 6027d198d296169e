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

from bigmarket.activity.stock import SKUS, StockKey
from bigmarket.errors import BigmarketError, Contention
from bigmarket.ids import Ids
from bigmarket.importing.mapping import map_user
from bigmarket.importing.report import Report
from bigmarket.importing.staging import Staging
from bigmarket.importing.terms import Target, Terms
from bigmarket.importing.users import NewRow, sort_out
from bigmarket.storage import schema as t
from bigmarket.storage.escrow import Escrow
from bigmarket.storage.installation import Stores
from bigmarket.storage.routing import SplitTables, part_of
from bigmarket.storage.transfers import named, standings

USERS_PER_CHUNK = 200
ROWS_PER_CHUNK = 5_000
ATTEMPTS_MAX = 5  # to bring units of stock to a shard
KEYS_PER_QUERY = 500  # an IN list longer than a thousand is refused by some engines

LATE = "its user is here already: what came later is not brought over"
TAKEN = "its number belongs to another row here"

#: Tables in the order they are written, with what names a row; where that is the user, the row's whole key does.
_KEYS: Mapping[Table, Column[Any]] = {
    t.raffle_activity_account: t.raffle_activity_account.c.user_id,
    t.raffle_activity_order: t.raffle_activity_order.c.order_id,
    t.unpaid_order: t.unpaid_order.c.order_id,
    t.user_raffle_order: t.user_raffle_order.c.order_id,
    t.user_award_record: t.user_award_record.c.order_id,
    t.task: t.task.c.message_id,
    t.user_credit_account: t.user_credit_account.c.user_id,
    t.user_credit_order: t.user_credit_order.c.order_id,
    t.user_behavior_rebate_order: t.user_behavior_rebate_order.c.order_id,
    t.user_behavior: t.user_behavior.c.user_id,
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


class _Short(Exception):
    """So many units of each item are ``wanted`` beside those that are here."""

    def __init__(self, wanted: Mapping[StockKey, int]) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class MappedUser(NamedTuple):
    """A user's rows as they will be here, and what was found on the way."""

    user_id: str
    rows: Sequence[NewRow]
    found: Report


def load_users(
    staging: Staging, target: Target, terms: Terms, *, dry_run: bool, report: Report, say: Callable[[str], None]
) -> None:
    """Bring all users over, chunk by chunk; ``report`` hears of a chunk once it is committed."""
    stores = target.stores
    escrow = Escrow(stores, ids=Ids(), now_ms=lambda: terms.now_ms) if stores and stores.escrowed else None
    for chunk in _chunks(_mapped_users(staging, terms)):
        if stores is None:
            _tell(_plan(chunk, _Here()), report)
        elif dry_run:
            for plan in _look_only(stores, chunk):
                _tell(plan, report)
        else:
            for shard, users in _by_shard(chunk, stores):
                _tell(_load_shard(stores, escrow, shard, users), report)
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


def _by_shard(chunk: Sequence[MappedUser], stores: Stores) -> Iterator[tuple[int, list[MappedUser]]]:
    shards: dict[int, list[MappedUser]] = {}
    for user in chunk:
        shards.setdefault(stores.routing.shard_of(user.user_id), []).append(user)
    yield from sorted(shards.items())


def _look_only(stores: Stores, users: Sequence[MappedUser]) -> Iterator[_Plan]:
    """What would be done."""
    for shard, some in _by_shard(users, stores):
        with stores.shards[shard].reading() as connection:
            yield _plan(some, _look(connection, some))


def _load_shard(stores: Stores, escrow: Escrow | None, shard: int, users: Sequence[MappedUser]) -> _Plan:
    """One transaction; again when units of stock have to come from another database first."""
    store = stores.shards[shard]
    for _ in range(ATTEMPTS_MAX):
        try:
            with store.writing() as connection:
                plan = _plan(users, _look(connection, users))
                _write(connection, plan, store.split)
                return plan
        except IntegrityError as error:
            raise Contention("Somebody else wrote some of these rows meanwhile. Run this again.") from error
        except _Short as short:
            wanted = short.wanted
            if escrow is not None:
                escrow.fetch(shard, wanted)
                continue
        break
    items = ", ".join(f"{units} of {named(key)}" for key, units in sorted(wanted.items()))
    raise StockShort(
        f"More units were won or ordered there than are left here; short by {items}. Raise the stock in the campaign "
        "file, apply and arm it, then import again; users imported so far stay."
    )


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
    if table is t.user_behavior:
        return tuple(values[column.name] for column in table.primary_key)
    return values[_KEYS[table].name]


# --- what is to be done -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """``fresh`` rows are written; of ``known`` users something was here before; ``left_out`` rows have a reason."""

    users: Sequence[MappedUser]
    fresh: dict[Table, list[NewRow]] = field(default_factory=lambda: {table: [] for table in _KEYS})
    known: set[str] = field(default_factory=set)
    there: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[NewRow, str]] = field(default_factory=list)


def _plan(users: Sequence[MappedUser], here: _Here) -> _Plan:
    plan = _Plan(users)
    for user in users:
        owners: set[object] = set()  # order ids of new rows that others belong to
        for row in user.rows:
            fate = _fate(row, here, owners)
            if fate is None:
                plan.fresh[row.table].append(row)
                if row.table in (t.user_award_record, t.raffle_activity_order):
                    owners.add(row.values["order_id"])
                continue
            plan.known.add(user.user_id)
            if row.source is not None and fate:
                plan.left_out.append((row, fate))
            elif row.source is not None:
                plan.there[row.source] += 1
    return plan


def _fate(row: NewRow, here: _Here, owners: set[object]) -> str | None:
    """None for a new row, blank for one that is here, else the reason why it is left out."""
    key = _key_of(row.table, row.values)
    if row.table in (t.task, t.unpaid_order):  # once done it is gone, so its owner tells whether it was here
        return None if key in owners else ""
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
    orders = [row.values for row in plan.fresh[t.user_raffle_order]]
    owed = Counter((row["user_id"], row["activity_id"]) for row in orders if row["order_state"] == "create")
    for account in plan.fresh[t.raffle_activity_account]:
        account.values["open_orders"] = owed[account.values["user_id"], account.values["activity_id"]]
    for table, rows in plan.fresh.items():
        insert_rows(connection, table, [row.values for row in rows], split=split)
    taken: Counter[StockKey] = Counter()
    for row in plan.fresh[t.user_award_record]:
        taken[row.values["strategy_id"], row.values["award_id"]] += 1
    for row in plan.fresh[t.raffle_activity_order]:
        taken[SKUS, row.values["sku"]] += row.values["state"] != "expired"
    _count_sold(connection, taken)


def _count_sold(connection: Connection, taken: Mapping[StockKey, int]) -> None:
    """Count units as sold; what has no row here is not counted. Raises ``_Short`` when there are not so many."""
    there = standings(connection, list(taken), lock=True)
    wanted = {key: taken[key] - here.free for key, here in there.items() if here.alloc is not None}
    if short := {key: units for key, units in wanted.items() if units > 0}:
        raise _Short(short)
    for key in sorted(there):
        table, name = (t.sku_stock, "sku") if key[0] == SKUS else (t.award_stock, "award_id")
        this = [table.c[name] == key[1]]
        if key[0] != SKUS:
            this.append(table.c.strategy_id == key[0])
        connection.execute(update(table).where(*this).values(sold=table.c.sold + taken[key]))


def _tell(plan: _Plan, report: Report) -> None:
    for user in plan.users:
        report.absorb(user.found, faults=user.user_id not in plan.known)
    report.users_done += len(plan.users)
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
