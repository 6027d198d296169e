"""v1 of what a player has had: draws, awards and their delivery, credits, and where draws came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Connection, Row

from bigmarket.api.v1.asking import EXAMPLE_ACTIVITY, Calls, body_of, credits_of, iso_of
from bigmarket.api.v1.paging import ActivityPageIn, PageIn, cursor_of, limit_of, place_of
from bigmarket.app import World
from bigmarket.award.claims import Contact, DeliveryView, Standing, delivery_view
from bigmarket.storage import history
from bigmarket.storage.history import Place, Slice
from bigmarket.storage.routing import SplitTables

calls = Calls()

T = TypeVar("T")
Query = Callable[[Connection, SplitTables, str, Slice], Sequence[Row[Any]]]

_ID = "01M7WJEJC60262T3B0C2JRSPPB"
_TIME = "2026-11-21T04:26:27.000+00:00"
_UNCLAIMED = {
    "state": "unclaimed",
    "claimBefore": "2026-12-21T04:26:27.000+00:00",
    "code": None,
    "tracking": None,
    "carrier": None,
}


class Page(msgspec.Struct, Generic[T], frozen=True, rename="camel"):
    """Part of a list, newest first; ``nextCursor`` is null on the last page."""

    items: list[T]
    next_cursor: str | None


class DrawnOut(msgspec.Struct, frozen=True, rename="camel"):
    """A draw of the user's, and what it won."""

    order_id: str
    activity_id: int
    order_time: str
    order_state: str
    award_id: int
    award_title: str


class DeliveryOut(msgspec.Struct, frozen=True, rename="camel"):
    """How the delivery of an award stands.

    ``waiting``, ``unclaimed`` (until ``claimBefore``), ``claimed``, ``shipped``, ``delivered``, ``failed``,
    ``expired`` or ``void``. ``code`` is a redemption code, ``carrier`` and ``tracking`` are of a parcel.
    """

    state: str
    claim_before: str | None
    code: str | None
    tracking: str | None
    carrier: str | None


class AwardRecordOut(msgspec.Struct, frozen=True, rename="camel"):
    """An award that the user won; ``delivery`` is null where there is nothing to deliver."""

    order_id: str
    activity_id: int
    award_id: int
    award_title: str
    award_time: str
    award_state: str
    award_key: str | None
    delivery: DeliveryOut | None


class ContactIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """Where a thing goes to; it is erased some time after it was shipped."""

    name: str
    phone: str
    address: str
    note: str | None = None


class ClaimIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """An award of the user's, by its order id, and where it goes to."""

    order_id: str
    contact: ContactIn


class CreditOrderOut(msgspec.Struct, frozen=True, rename="camel"):
    """A movement of credits: ``forward`` gives, ``reverse`` takes, and then ``tradeAmount`` is below 0."""

    order_id: str
    trade_name: str
    trade_type: str
    trade_amount: float
    out_business_no: str
    trade_time: str


class QuotaOrderOut(msgspec.Struct, frozen=True, rename="camel"):
    """One unit of a sku: the draws that it credited, and the credits that it cost."""

    order_id: str
    activity_id: int
    sku: int
    total_count: int
    month_count: int
    day_count: int
    pay_amount: float
    state: str
    out_business_no: str
    order_time: str


@calls.of_users(
    "/activity/query_user_award_record",
    asks=ActivityPageIn,
    read=body_of,
    body_example=EXAMPLE_ACTIVITY,
    summary="A user's awards and how their delivery stands, newest first",
    data=Page[AwardRecordOut],
    example={
        "items": [
            {
                "orderId": _ID,
                "activityId": 100301,
                "awardId": 104,
                "awardTitle": "小米台灯",
                "awardTime": _TIME,
                "awardState": "create",
                "awardKey": "physical",
                "delivery": _UNCLAIMED,
            }
        ],
        "nextCursor": None,
    },
    codes=("0002",),
)
def query_user_award_record(world: World, user_id: str, asked: ActivityPageIn) -> Page[AwardRecordOut]:
    """Everything that was won; `awardKey` is the kind that delivers it."""
    now_ms = world.now_ms()

    def shown(row: Row[Any]) -> AwardRecordOut:
        award = world.award_of(row.activity_id, row.revision_id, row.award_id)
        result = None if row.result is None else msgspec.json.decode(row.result)
        standing = Standing(row.award_state, row.time_ms, bool(row.voided), row.delivery_state, result)
        view = delivery_view(standing, award, now_ms=now_ms)
        return AwardRecordOut(
            row.order_id,
            row.activity_id,
            row.award_id,
            row.award_title,
            iso_of(row.time_ms),
            row.award_state,
            award.kind if award else None,
            None if view is None else _delivery(view),
        )

    return _page(world, user_id, asked, history.award_records, shown)


@calls.of_users(
    "/activity/claim_award",
    asks=ClaimIn,
    read=body_of,
    body_example={
        "orderId": _ID,
        "contact": {"name": "小傅哥", "phone": "+86 138 0013 8000", "address": "北京市海淀区中关村大街1号"},
    },
    summary="Say where an award goes to",
    data=DeliveryOut,
    example={**_UNCLAIMED, "state": "claimed", "claimBefore": None},
    codes=("0001", "0002", "0003"),
    when={
        "0001": "The user has won nothing by that order.",
        "0002": "It cannot be claimed, or not any more; or a field is wrong. `info` says which.",
        "0003": "It was shipped to another contact already.",
    },
)
def claim_award(world: World, user_id: str, asked: ClaimIn) -> DeliveryOut:
    """Of a physical award, until `claimBefore`. Another contact takes the place of the former until it is shipped."""
    contact = asked.contact
    return _delivery(
        world.claim(user_id, asked.order_id, Contact(contact.name, contact.phone, contact.address, contact.note))
    )


@calls.of_users(
    "/activity/query_user_raffle_order",
    asks=ActivityPageIn,
    read=body_of,
    body_example=EXAMPLE_ACTIVITY,
    summary="A user's draws, newest first",
    data=Page[DrawnOut],
    example={
        "items": [
            {
                "orderId": _ID,
                "activityId": 100301,
                "orderTime": _TIME,
                "orderState": "used",
                "awardId": 101,
                "awardTitle": "随机积分",
            }
        ],
        "nextCursor": None,
    },
    codes=("0002",),
)
def query_user_raffle_order(world: World, user_id: str, asked: ActivityPageIn) -> Page[DrawnOut]:
    """Every draw that was made, with what it won."""
    return _page(
        world,
        user_id,
        asked,
        history.draws,
        lambda row: DrawnOut(
            row.order_id,
            row.activity_id,
            iso_of(row.order_time_ms),
            row.order_state,
            row.award_id,
            row.award_title,
        ),
    )


@calls.of_users(
    "/activity/query_user_credit_order",
    asks=PageIn,
    read=body_of,
    body_example={},
    summary="A user's credits: every movement of them, newest first",
    data=Page[CreditOrderOut],
    example={
        "items": [
            {
                "orderId": _ID,
                "tradeName": "exchange",
                "tradeType": "reverse",
                "tradeAmount": -1.68,
                "outBusinessNo": _ID,
                "tradeTime": _TIME,
            }
        ],
        "nextCursor": None,
    },
    codes=("0002",),
)
def query_user_credit_order(world: World, user_id: str, asked: PageIn) -> Page[CreditOrderOut]:
    """Together they are the balance."""
    return _page(
        world,
        user_id,
        asked,
        history.credit_orders,
        lambda row: CreditOrderOut(
            row.order_id,
            row.trade_name,
            row.trade_type,
            credits_of(row.amount_cents),
            row.out_business_no,
            iso_of(row.time_ms),
        ),
    )


@calls.of_users(
    "/activity/query_user_quota_order",
    asks=ActivityPageIn,
    read=body_of,
    body_example=EXAMPLE_ACTIVITY,
    summary="Where a user's draws came from, newest first",
    data=Page[QuotaOrderOut],
    example={
        "items": [
            {
                "orderId": _ID,
                "activityId": 100301,
                "sku": 9011,
                "totalCount": 10,
                "monthCount": 10,
                "dayCount": 10,
                "payAmount": 1.68,
                "state": "completed",
                "outBusinessNo": _ID,
                "orderTime": _TIME,
            }
        ],
        "nextCursor": None,
    },
    codes=("0002",),
)
def query_user_quota_order(world: World, user_id: str, asked: ActivityPageIn) -> Page[QuotaOrderOut]:
    """Draws given, earned and bought."""
    return _page(
        world,
        user_id,
        asked,
        history.quota_orders,
        lambda row: QuotaOrderOut(
            row.order_id,
            row.activity_id,
            row.sku,
            row.total_count,
            row.month_count,
            row.day_count,
            credits_of(row.pay_cents),
            row.state,
            row.out_business_no,
            iso_of(row.time_ms),
        ),
    )


def _delivery(view: DeliveryView) -> DeliveryOut:
    before = None if view.claim_before_ms is None else iso_of(view.claim_before_ms)
    return DeliveryOut(view.state, before, view.code, view.tracking, view.carrier)


def _page(
    world: World,
    user_id: str,
    asked: PageIn | ActivityPageIn,
    query: Query,
    shown: Callable[[Row[Any]], T],
) -> Page[T]:
    """One page: a row more is read than is shown, to know whether there is a next one."""
    limit = limit_of(asked)
    activity_id = asked.activity_id if isinstance(asked, ActivityPageIn) else None
    store = world.stores.of(user_id)
    with store.reading() as connection:
        rows = query(connection, store.split, user_id, Slice(place_of(asked), limit + 1, activity_id))
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(
        [shown(row) for row in rows[:limit]],
        None if last is None else cursor_of(Place(last.time_ms, last.order_id)),
    )
