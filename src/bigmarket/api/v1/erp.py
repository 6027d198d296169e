"""v1 for operators: the draws of all users."""

from __future__ import annotations

import msgspec
from fastapi import Response

from bigmarket.api.v1.asking import Calls, iso_of, parameters_of, reply
from bigmarket.api.v1.paging import PageIn, cursor_of, limit_of, place_of
from bigmarket.app import World
from bigmarket.storage.history import Place, latest_raffle_orders

calls = Calls()

NEXT_CURSOR = "Bigmarket-Next-Cursor"
_LIMIT = 10


class RaffleOrderOut(msgspec.Struct, frozen=True, rename="camel"):
    """The right to draw once: ``create`` until it is ``used``, or ``cancel``."""

    user_id: str
    activity_id: int
    activity_name: str | None
    strategy_id: int | None
    order_id: str
    order_time: str
    order_state: str
    create_time: str
    update_time: str


@calls.of_operators(
    "/erp/query_user_raffle_order",
    method="GET",
    asks=PageIn,
    read=parameters_of,
    summary="The draws of all users, newest first",
    data=list[RaffleOrderOut],
    example=[
        {
            "userId": "xiaofuge",
            "activityId": 100301,
            "activityName": "测试活动",
            "strategyId": 100006,
            "orderId": "01M7WJEJC60262T3B0C2JRSPPB",
            "orderTime": "2026-11-21T04:26:27.000+00:00",
            "orderState": "used",
            "createTime": "2026-11-21T04:26:27.000+00:00",
            "updateTime": "2026-11-21T04:26:27.000+00:00",
        }
    ],
    codes=("0002",),
    response_headers={NEXT_CURSOR: "The `cursor` of the next page; missing on the last one."},
)
def query_user_raffle_order(world: World, asked: PageIn) -> Response:
    """From the databases themselves, all shards together. Ten orders, or `limit`, which is 100 at most."""
    limit = limit_of(asked, default=_LIMIT)
    after = place_of(asked)
    rows = latest_raffle_orders(
        world.stores.shards, after=after and after.order_id, limit=limit + 1, now_ms=world.now_ms()
    )
    live = world.live.current
    found = []
    for row in rows[:limit]:
        activity = live.get(row.activity_id)
        made = iso_of(row.order_time_ms)
        found.append(
            RaffleOrderOut(
                row.user_id,
                row.activity_id,
                activity.name if activity else None,
                activity.strategy_id if activity else None,
                row.order_id,
                made,
                row.order_state,
                made,
                made if row.award_time_ms is None else iso_of(row.award_time_ms),
            )
        )
    answer = reply(found)
    if len(rows) > limit:
        last = rows[limit - 1]
        answer.headers[NEXT_CURSOR] = cursor_of(Place(last.order_time_ms, last.order_id))
    return answer
