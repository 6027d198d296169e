"""``behave`` and ``rebates``: what a user did, and what it earned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text
from sqlalchemy import Row

from bigmarket.activity.behavior import Behaved
from bigmarket.app import World
from bigmarket.cli.console import Document
from bigmarket.cli.results import moment, table
from bigmarket.rebate.behavior import clean_behavior


def behave(
    world: World, user: str, behavior: str, *, activity_id: int | None, out_business_no: str | None
) -> Behaved:
    """Take a behavior through the lanes, and wait for the answer. Raises its refusal."""
    asked = clean_behavior(user, behavior, out_business_no)
    return world.rebates.ask(
        asked[0], asked[1], activity_id, asked[2], timeout_seconds=world.settings.draw_deadline_seconds
    )


def behaved_document(behaved: Behaved) -> Document:
    """A behavior that was taken, as JSON."""
    return {
        "user_id": behaved.user_id,
        "behavior": behaved.behavior,
        "activities": [
            {"activity_id": row.activity_id, "out_business_no": row.out_business_no, "streak": row.streak}
            for row in behaved.done
        ],
        "rebates": [
            {
                "order_id": order.order_id,
                "activity_id": order.activity_id,
                "type": order.rebate_type,
                "gives": order.rebate_config,
                "biz_id": order.biz_id,
            }
            for order in behaved.orders
        ],
    }


def behaved_views(behaved: Behaved) -> tuple[RenderableType | None, ...]:
    """A behavior that was taken, for people."""
    where = ", ".join(f"{row.activity_id} ({row.out_business_no})" for row in behaved.done)
    days = f", {behaved.streak} days in a row" if behaved.streak > 1 else ""
    line = Text(f"`{behaved.behavior}` of {behaved.user_id} was taken in activity {where}{days}.", "green")
    if not behaved.orders:
        return (line, Text("It earned nothing this time."))
    made = table("order", "activity", "earned")
    for order in behaved.orders:
        made.add_row(
            Text(order.order_id), str(order.activity_id), Text(gives(order.rebate_type, order.rebate_config))
        )
    return (line, made)


def rebates_document(user_id: str, orders: Sequence[Row[Any]]) -> Document:
    """A user's rebates as JSON."""
    fields = ("order_id", "activity_id", "biz_id", "state", "reason")
    found = [
        {
            **{name: getattr(order, name) for name in fields},
            "behavior": order.behavior_type,
            "type": order.rebate_type,
            "gives": order.rebate_config,
            "time": moment(order.create_time_ms),
        }
        for order in orders
    ]
    return {"user_id": user_id, "rebates": found}


def rebates_view(orders: Sequence[Row[Any]]) -> RenderableType:
    """A user's rebates for people."""
    if not orders:
        return Text("This user has earned no rebate yet.")
    made = table("time", "activity", "behavior", "earned", "state", "reason")
    styles = {"completed": "green", "fail": "red"}
    for order in orders:
        made.add_row(
            moment(order.create_time_ms),
            str(order.activity_id),
            Text(f"{order.behavior_type} {order.out_business_no}"),
            Text(gives(order.rebate_type, order.rebate_config)),
            Text(order.state, styles.get(order.state, "yellow")),
            Text(order.reason or ""),
        )
    return made


def gives(rebate_type: str, rebate_config: str) -> str:
    """What a rebate is for, in words."""
    return f"a unit of sku {rebate_config}" if rebate_type == "sku" else f"{rebate_config} credits"
