"""Users in bulk: accounts with draws to spend, credits, and a history as years of play would have left it.

A handful of INSERT .. SELECT over a list of the users, so that a million users with ten draws each take minutes. What
is written agrees with itself: quota orders, raffle orders, award records and stock add up, and doctor finds nothing.
The history is written down as imported, because no dice were rolled for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from bigmarket.activity.campaign import Campaign
from bigmarket.app import KIND_CHECKS, new_seed, now_ms
from bigmarket.storage import schema
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.campaigns import write_campaign
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores, whole
from bigmarket.storage.replays import IMPORTED_REVISION
from bigmarket.storage.routing import SplitTables
from campaign import ACTIVITY, FALLBACK_AWARD, STRATEGY, bench_campaign

GIFT_SKU = 1  # of no campaign: quota orders of it hold no stock
DRAWS_EACH = 10_000_000
CREDITS_CENTS_EACH = 100_000_000
HISTORY_ENDED_DAYS_AGO = 40  # in another month, so that today's counters are whole
USERS_PER_INSERT = 20_000

_LISTED = Table(
    "bench_user",
    MetaData(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("user_id", String(128), nullable=False),
)


def prepare(store: Store, users: Sequence[str]) -> None:
    """Install the bench campaign in the one database of an installation, and give its users draws and credits."""
    install(whole(store), bench_campaign())
    populate(whole(store), users)


def install(stores: Stores, campaign: Campaign) -> None:
    """Write the campaign and arm it."""
    with stores.config.writing() as connection:
        write_campaign(connection, campaign)
    arm_installation(stores, campaign.activity.activity_id, kinds=KIND_CHECKS, now_ms=now_ms(), new_seed=new_seed)


def populate(
    stores: Stores,
    users: Sequence[str],
    *,
    draws_before: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Give each user ten million draws, a million credits, and ``draws_before`` draws made in earlier months."""
    shards: dict[int, list[tuple[int, str]]] = {}
    for number, user in enumerate(users):
        shards.setdefault(stores.routing.shard_of(user), []).append((number, user))
    for shard, some in shards.items():
        store = stores.shards[shard]
        assert store.split == SplitTables(store.split.routing), "order tables that are split are not written here"
        _list_users(store, some)
        with store.writing() as connection:
            _accounts(connection, draws_before=draws_before)
            _credits(connection)
        for number in range(draws_before):
            say(f"writing history: {number * len(some):,} of {draws_before * len(some):,} draws")
            _history(store, _day_before(HISTORY_ENDED_DAYS_AGO + draws_before - number), number=number)
        with store.writing() as connection:
            _take_stock(connection, units=draws_before * len(some))
            _LISTED.drop(connection)


def _list_users(store: Store, users: Sequence[tuple[int, str]]) -> None:
    with store.writing() as connection:
        _LISTED.create(connection)
    for start in range(0, len(users), USERS_PER_INSERT):
        rows = [{"number": number, "user_id": user} for number, user in users[start : start + USERS_PER_INSERT]]
        with store.writing() as connection:
            connection.execute(insert(_LISTED), rows)


def _accounts(connection: Connection, *, draws_before: int) -> None:
    today = _day_before(0)
    each = literal(DRAWS_EACH)
    _fill(
        connection,
        schema.raffle_activity_order,
        order_id=_id("A", 0),
        user_id=_LISTED.c.user_id,
        activity_id=literal(ACTIVITY),
        sku=literal(GIFT_SKU),
        total_count=each,
        month_count=each,
        day_count=each,
        pay_cents=literal(0),
        state=literal("completed"),
        out_business_no=literal("bench-").concat(_LISTED.c.user_id),
        order_time_ms=literal(_ms(_day_before(400))),
    )
    _fill(
        connection,
        schema.raffle_activity_account,
        user_id=_LISTED.c.user_id,
        activity_id=literal(ACTIVITY),
        total_count=each,
        total_count_surplus=literal(DRAWS_EACH - draws_before),
        month=literal(f"{today:%Y-%m}"),
        month_count=each,
        month_count_surplus=each,
        day=literal(f"{today:%Y-%m-%d}"),
        day_count=each,
        day_count_surplus=each,
    )


def _credits(connection: Connection) -> None:
    cents = literal(CREDITS_CENTS_EACH)
    _fill(
        connection,
        schema.user_credit_order,
        order_id=_id("B", 0),
        user_id=_LISTED.c.user_id,
        trade_name=literal("adjust"),
        trade_type=literal("forward"),
        amount_cents=cents,
        out_business_no=literal("bench-").concat(_LISTED.c.user_id),
        create_time_ms=literal(now_ms()),
    )
    _fill(
        connection,
        schema.user_credit_account,
        user_id=_LISTED.c.user_id,
        total_cents=cents,
        available_cents=cents,
        account_status=literal("open"),
    )


def _history(store: Store, day: datetime, *, number: int) -> None:
    """A draw of each user on that day."""
    same = {"order_id": _id("C", number), "user_id": _LISTED.c.user_id, "activity_id": literal(ACTIVITY)}
    with store.writing() as connection:
        _fill(
            connection,
            schema.user_raffle_order,
            **same,
            order_state=literal("used"),
            order_day=literal(f"{day:%Y-%m-%d}"),
            order_time_ms=literal(_ms(day)),
        )
        _fill(
            connection,
            schema.user_award_record,
            **same,
            strategy_id=literal(STRATEGY),
            award_id=literal(FALLBACK_AWARD),
            award_title=literal("earlier"),
            award_index=literal(1),
            award_state=literal("completed"),
            award_time_ms=literal(_ms(day)),
            revision_id=literal(IMPORTED_REVISION),
            epoch=literal(0),
            trace=literal(""),
        )


def _take_stock(connection: Connection, *, units: int) -> None:
    stock = schema.award_stock
    own = (stock.c.strategy_id == STRATEGY) & (stock.c.award_id == FALLBACK_AWARD)
    connection.execute(update(stock).where(own).values(sold=stock.c.sold + units))


def _fill(connection: Connection, table: Table, **columns: ColumnElement[Any]) -> None:
    """A row for each listed user, in the order of their numbers."""
    rows = select(*columns.values()).select_from(_LISTED).order_by(_LISTED.c.number)
    connection.execute(insert(table).from_select(list(columns), rows))


def _id(series: str, number: int) -> ColumnElement[str]:
    """26 characters that sort as ids of earlier years do: a series, a number in it and the user's number."""
    padded = cast(_LISTED.c.number + literal(10**9), String(10))
    return literal(f"01H0000{series}{number:09}").concat(func.substr(padded, 2))


def _day_before(days: int) -> datetime:
    """Noon in the time zone of the campaign (UTC+8), so many days ago."""
    local = datetime.fromtimestamp(now_ms() / 1000, tz=UTC) + timedelta(hours=8)
    return local.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=days)


def _ms(noon: datetime) -> int:
    return round((noon - timedelta(hours=8)).timestamp() * 1000)
