"""Claims on any engine: a winner says where a thing goes, an operator that it went. Each in one transaction.

Locks are taken as by everybody who delivers: the award record first, then its delivery. What nobody claimed has no
delivery; it is found among the award records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, Select, Table, and_, exists, insert, select, update

from bigmarket.award.claims import PHYSICAL, ClaimExpired, Contact, Standing, claim_before_ms, delivery_view
from bigmarket.award.deliveries import DeliveryState
from bigmarket.award.message import SendAward, decode, encode
from bigmarket.award.model import Award
from bigmarket.errors import BadInput, Contention, Duplicate, NotFound
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores
from bigmarket.storage.routing import SplitTables, part_of
from bigmarket.storage.schema import award_delivery, award_void, user_award_record
from bigmarket.storage.tasks import body_of

PAGE = 500

AwardOf = Callable[[int, str, int], Award | None]  # by activity, revision and award id

_BY_HAND = and_(award_delivery.c.place == PHYSICAL, award_delivery.c.award_key == PHYSICAL)  # the first has an index


class Record(NamedTuple):
    """An award record as far as its delivery goes by it."""

    order_id: str
    user_id: str
    activity_id: int
    award_id: int
    award_title: str
    award_config: str | None
    award_state: str
    award_time_ms: int
    revision_id: str
    epoch: int


class Claim(NamedTuple):
    """A claim as an operator sees it; times are epoch milliseconds. No ``contact``: it was erased."""

    order_id: str
    user_id: str
    activity_id: int
    award_id: int
    award_title: str
    award_config: str
    state: DeliveryState
    contact: Contact | None
    carrier: str | None
    tracking: str | None
    claim_time_ms: int
    update_time_ms: int


class Unclaimed(NamedTuple):
    """A thing that was won and not claimed; times are epoch milliseconds. No ``claim_before_ms``: it has no end."""

    order_id: str
    user_id: str
    activity_id: int
    award_id: int
    award_title: str
    award_config: str
    award_time_ms: int
    claim_before_ms: int | None


class Shipped(NamedTuple):
    """A thing that went; ``repeated`` when it was told before."""

    order_id: str
    user_id: str
    carrier: str
    tracking: str
    repeated: bool


def find_record(connection: Connection, split: SplitTables, user_id: str, order_id: str) -> Record:
    """The award that this user won by this order. Raises NotFound."""
    return _record(connection, split, user_id, order_id, lock=False)


def standing_of(connection: Connection, record: Record) -> Standing:
    """How its delivery stands."""
    row = connection.execute(select(award_delivery).where(award_delivery.c.order_id == record.order_id)).one_or_none()
    voided = connection.execute(select(exists().where(award_void.c.order_id == record.order_id))).scalar_one()
    result = None if row is None or row.result is None else json.loads(row.result)
    return Standing(
        record.award_state, record.award_time_ms, bool(voided), None if row is None else row.state, result
    )


def claim_award(
    connection: Connection, split: SplitTables, record: Record, award: Award, contact: Contact, *, now_ms: int
) -> None:
    """Write down where it goes; another contact takes the place of the former, until it is shipped.

    Raises BadInput (it is not claimed, or not any more), ClaimExpired, Duplicate (it was shipped to another contact).
    """
    if award.kind != PHYSICAL:
        raise BadInput("This award needs no claim; it comes by itself.")
    record = _record(connection, split, record.user_id, record.order_id, lock=True)
    if record.award_state == "fail":
        raise BadInput("This award was taken back; it cannot be claimed.")
    told = json.dumps(contact._asdict(), ensure_ascii=False)
    row = _delivery(connection, record.order_id)
    if row is None:
        _refuse_late(record, award, now_ms)
        connection.execute(insert(award_delivery).values(_claimed(record, award, told, now_ms)))
    elif row.state == "claimed":
        if row.contact != told:
            _change(connection, record.order_id, contact=told, update_time_ms=now_ms)
    elif row.contact not in (None, told):
        raise Duplicate("This award was shipped already, so its contact cannot be changed.")


def _refuse_late(record: Record, award: Award, now_ms: int) -> None:
    if record.award_state != "create":
        raise BadInput("This award was handed over already.")
    before_ms = claim_before_ms(award, award_time_ms=record.award_time_ms)
    if before_ms is not None and now_ms >= before_ms:
        raise ClaimExpired(f"This award had to be claimed within {award.claim_days} days.")


def _claimed(record: Record, award: Award, contact: str, now_ms: int) -> dict[str, Any]:
    message = SendAward(
        record.user_id,
        record.order_id,
        record.activity_id,
        record.epoch,
        record.award_id,
        award.kind,
        record.award_title,
        _config_of(record, award),
    )
    return {
        "order_id": record.order_id,
        "user_id": record.user_id,
        "activity_id": record.activity_id,
        "award_id": record.award_id,
        "award_key": PHYSICAL,
        "place": PHYSICAL,
        "message": encode(message).decode(),
        "state": "claimed",
        "next_at_ms": now_ms,
        "contact": contact,
        "create_time_ms": now_ms,
        "update_time_ms": now_ms,
    }


def ship_award(stores: Stores, order_id: str, *, carrier: str, tracking: str, correct: bool, now_ms: int) -> Shipped:
    """Write down that a claimed thing went, which completes its award; ``correct`` changes what was told before.

    Raises NotFound (nobody claimed it), BadInput (it was voided), Duplicate (something else was told before).
    """
    store, user_id = _claimant_of(stores, order_id)
    result = {"carrier": carrier, "tracking": tracking}
    with store.updating() as connection:
        _record(connection, store.split, user_id, order_id, lock=True)
        row = _delivery(connection, order_id)
        if row is None or row.state not in ("claimed", "done"):
            raise BadInput("This award was taken back; do not ship it.")
        before = None if row.result is None else json.loads(row.result)
        if before not in (None, result) and not correct:
            raise Duplicate(f"It was shipped already, by {before['carrier']} as {before['tracking']}.")
        told = json.dumps(result, ensure_ascii=False)
        if row.state == "claimed":
            _change(connection, order_id, state="done", result=told, next_at_ms=now_ms, update_time_ms=now_ms)
            _complete(connection, store.split.table_of(user_award_record, user_id), order_id)
        elif before != result:
            _change(connection, order_id, result=told, update_time_ms=now_ms)
    return Shipped(order_id, user_id, carrier, tracking, repeated=row.state == "done" and before == result)


def claims(stores: Stores, *, state: DeliveryState | None) -> Iterator[Claim]:
    """Claims in this state (None: in any), shard by shard, oldest draw first; read page by page."""
    columns = award_delivery.c
    for store in stores.shards:
        after = ""
        while True:
            query = select(award_delivery).where(_BY_HAND, columns.order_id > after)
            if state is not None:
                query = query.where(columns.state == state)
            with store.reading() as connection:
                rows = connection.execute(query.order_by(columns.order_id).limit(PAGE)).all()
            yield from map(_claim, rows)
            if len(rows) < PAGE:
                break
            after = rows[-1].order_id


def unclaimed(
    stores: Stores, *, state: Literal["unclaimed", "expired"], award_of: AwardOf, now_ms: int
) -> Iterator[Unclaimed]:
    """Things that can still be claimed, or not any more, shard by shard, oldest draw first; players see that state.

    Goes through all award records, page by page: a page of each split table is in memory.
    """
    for store in stores.shards:
        parts = [_undelivered(store, part_of(user_award_record, suffix)) for suffix in store.split.suffixes]
        for record in merge(*parts, key=attrgetter("order_id")):
            award = award_of(record.activity_id, record.revision_id, record.award_id)
            standing = Standing(record.award_state, record.award_time_ms, False, None, None)
            view = delivery_view(standing, award, now_ms=now_ms)
            if award is not None and view is not None and view.state == state:
                yield _unclaimed(record, award, view.claim_before_ms)


def _undelivered(store: Store, table: Table) -> Iterator[Record]:
    """Award records of one table that wait and of which no delivery is written down, in order."""
    after: str | None = ""
    while after is not None:
        with store.reading() as connection:
            found, after = _undelivered_page(connection, table, after)
        yield from found


def _undelivered_page(connection: Connection, table: Table, after: str) -> tuple[Sequence[Record], str | None]:
    """Those among the next ``PAGE`` records, and where the next page begins (None: there is none).

    A page counts records in any state, so that no query takes long where few wait.
    """
    columns = table.c
    page = select(columns.order_id).where(columns.order_id > after).order_by(columns.order_id)
    last = connection.execute(_by_key(page.offset(PAGE - 1).limit(1), table)).scalar_one_or_none()
    query = (
        select(*(columns[name] for name in Record._fields))
        .where(columns.order_id > after, columns.award_state == "create")
        .where(~exists().where(award_delivery.c.order_id == columns.order_id))
        .order_by(columns.order_id)
        .limit(PAGE)
    )
    if last is not None:
        query = query.where(columns.order_id <= last)
    return [Record(*row) for row in connection.execute(_by_key(query, table))], last


def erase_contacts(connection: Connection, *, before_ms: int, limit: int) -> int:
    """Erase up to ``limit`` contacts of things that were shipped or voided before that; how many."""
    columns = award_delivery.c
    over = (_BY_HAND, columns.state.in_(("done", "void")), columns.next_at_ms < before_ms)
    query = select(columns.order_id).where(*over, columns.contact.is_not(None)).limit(limit)
    ids = connection.execute(query).scalars().all()
    if ids:
        connection.execute(update(award_delivery).where(columns.order_id.in_(ids), *over).values(contact=None))
    return len(ids)


def _claimant_of(stores: Stores, order_id: str) -> tuple[Store, str]:
    query = select(award_delivery.c.user_id).where(award_delivery.c.order_id == order_id, _BY_HAND)
    for store in stores.shards:
        with store.reading() as connection:
            user_id = connection.execute(query).scalar_one_or_none()
        if user_id is not None:
            return store, user_id
    raise NotFound(f"Nobody has claimed an award {order_id}.")


def _record(connection: Connection, split: SplitTables, user_id: str, order_id: str, *, lock: bool) -> Record:
    table = split.table_of(user_award_record, user_id)
    query = select(*(table.c[name] for name in Record._fields))
    query = query.where(table.c.order_id == order_id, table.c.user_id == user_id)
    row = connection.execute(_locked(query, table) if lock else query).one_or_none()
    if row is None:
        raise NotFound("This user has won nothing by that order.")
    return Record(*row)


def _delivery(connection: Connection, order_id: str) -> Row[Any] | None:
    query = select(award_delivery).where(award_delivery.c.order_id == order_id)
    return connection.execute(_locked(query, award_delivery)).one_or_none()


def _locked(query: Select[Any], table: Table) -> Select[Any]:
    return _by_key(query, table).with_for_update()


def _by_key(query: Select[Any], table: Table) -> Select[Any]:
    return query.with_hint(table, "FORCE INDEX (PRIMARY)", "mysql")


def _change(connection: Connection, order_id: str, **values: object) -> None:
    """The row is locked; a delivery that is void stays as it is all the same."""
    this = (award_delivery.c.order_id == order_id, award_delivery.c.state != "void")
    if connection.execute(update(award_delivery).where(*this).values(values)).rowcount != 1:
        raise Contention("The delivery changed although it was locked; nothing was written.")


def _complete(connection: Connection, table: Table, order_id: str) -> None:
    this = (table.c.order_id == order_id, table.c.award_state == "create")
    if connection.execute(update(table).where(*this).values(award_state="completed")).rowcount != 1:
        raise Contention("The award record changed although it was locked; nothing was written.")


def _config_of(record: Record, award: Award) -> str:
    return award.config if record.award_config is None else record.award_config


def _unclaimed(record: Record, award: Award, before_ms: int | None) -> Unclaimed:
    return Unclaimed(
        record.order_id,
        record.user_id,
        record.activity_id,
        record.award_id,
        record.award_title,
        _config_of(record, award),
        record.award_time_ms,
        before_ms,
    )


def _claim(row: Row[Any]) -> Claim:
    won = decode(body_of(row.message))
    result: Mapping[str, str] = {} if row.result is None else json.loads(row.result)
    return Claim(
        row.order_id,
        row.user_id,
        row.activity_id,
        row.award_id,
        won.award_title,
        won.award_config,
        row.state,
        None if row.contact is None else Contact(**json.loads(row.contact)),
        result.get("carrier"),
        result.get("tracking"),
        row.create_time_ms,
        row.update_time_ms,
    )
