"""``exchange``, ``place`` and ``orders``: credits become draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy import Row

from bigmarket.activity.orders import SKU_MAX
from bigmarket.cli.console import Document, working
from bigmarket.cli.drawing import REQUEST_ID_MAX
from bigmarket.cli.results import moment, table
from bigmarket.cli.session import Json, Session
from bigmarket.credit.model import in_credits
from bigmarket.storage import history
from bigmarket.storage.history import Slice
from bigmarket.text import KEY_MAX, clean_text

User = Annotated[str, typer.Option("--user", metavar="USER", help="The user's id.")]
SkuId = Annotated[int, typer.Option("--sku", metavar="SKU", min=1, max=SKU_MAX, help="The bundle of draws.")]

_STYLES = {"wait_pay": "yellow", "expired": "dim"}


def exchange(
    ctx: typer.Context,
    user: User,
    sku: SkuId,
    request_id: Annotated[
        str | None, typer.Option("--request-id", metavar="ID", help="Repeating it gives the same answer.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pay a unit of a sku with a user's credits; the draws are there at once."""
    session: Session = ctx.obj
    user_id = clean_text(user, name="user", max_length=KEY_MAX)
    request = None if request_id is None else clean_text(request_id, name="request id", max_length=REQUEST_ID_MAX)
    with session.running_world() as world:
        made = world.exchanges.ask(user_id, sku, request, timeout_seconds=world.settings.draw_deadline_seconds)
    price = in_credits(made.pay_cents)
    line = (
        Text(f"This was bought before, for {price} credits; nothing was changed.", "yellow")
        if made.repeated
        else Text(f"{user_id} bought {made.counts.total:,} draws for {price} credits.", "green")
    )
    document = {
        "order_id": made.order_id,
        "user_id": user_id,
        "activity_id": made.activity_id,
        "sku": made.sku,
        "draws": made.counts.total,
        "paid": price,
        "out_business_no": made.out_business_no,
        "repeated": made.repeated,
    }
    session.answer(document, line, as_json=as_json)


def place(
    ctx: typer.Context,
    user: User,
    sku: SkuId,
    out_business_no: Annotated[
        str,
        typer.Option("--out-business-no", metavar="NUMBER", help="Your number for this order; counts only once."),
    ],
    as_json: Json = False,
) -> None:
    """Place an order that is paid later: it holds a unit until it is paid or expires."""
    session: Session = ctx.obj
    with working("Ordering"), session.world() as world:
        order = world.place_order(user, sku=sku, out_business_no=out_business_no)
    price = in_credits(order.pay_cents)
    told = {
        "wait_pay": f"The order {order.out_business_no} waits for {price} credits.",
        "completed": f"The order {order.out_business_no} is paid.",
        "expired": f"The order {order.out_business_no} has expired; place another one.",
    }
    document = {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "activity_id": order.activity_id,
        "sku": order.sku,
        "price": price,
        "state": order.state,
        "out_business_no": order.out_business_no,
        "repeated": order.repeated,
    }
    session.answer(document, Text(told[order.state], "yellow" if order.repeated else "green"), as_json=as_json)


def orders(
    ctx: typer.Context,
    user: User,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=history.PAGE_MAX, help="How many orders.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List where a user's draws came from, newest first: recharges, rebates, what was bought and what waits."""
    session: Session = ctx.obj
    user_id = clean_text(user, name="user", max_length=KEY_MAX)
    with session.stores() as stores:
        store = stores.of(user_id)
        with store.reading() as connection:
            found = history.quota_orders(connection, store.split, user_id, Slice(None, limit))
    document = {"user_id": user_id, "orders": [_document(order) for order in found]}
    nothing = Text(f"{user_id} has no orders.") if not found else None
    session.answer(document, nothing or _table(found), as_json=as_json)


def _document(order: Row[Any]) -> Document:
    return {
        "order_id": order.order_id,
        "time": moment(order.time_ms),
        "activity_id": order.activity_id,
        "sku": order.sku,
        "draws": order.total_count,
        "price": in_credits(order.pay_cents),
        "state": order.state,
        "out_business_no": order.out_business_no,
    }


def _table(found: Sequence[Row[Any]]) -> Table:
    made = table("time", "activity", "sku", "draws", "credits", "state", "number", right=("draws", "credits"))
    for order in found:
        made.add_row(
            moment(order.time_ms),
            str(order.activity_id),
            str(order.sku),
            f"{order.total_count:,}",
            in_credits(order.pay_cents) if order.pay_cents else "",
            Text(order.state, _STYLES.get(order.state, "green")),
            Text(order.out_business_no),
        )
    return made
