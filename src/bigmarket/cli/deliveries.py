"""``deliveries``: awards that other systems deliver, their logs, and what a person can do about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from bigmarket.app import now_ms
from bigmarket.award.deliveries import STATES
from bigmarket.award.kinds import OUTSIDE_KINDS
from bigmarket.cli.console import Document, counted
from bigmarket.cli.results import moment, pairs, table
from bigmarket.cli.session import Json, Session
from bigmarket.errors import NotFound
from bigmarket.storage.deliveries import (
    AttemptRow,
    DeliveryRow,
    drop_deliveries,
    find_delivery,
    list_deliveries,
    replay_deliveries,
)
from bigmarket.storage.installation import Stores

LIMIT_MAX = 1_000
DROPPED_AT_ONCE = 500
_STYLES = {"due": "yellow", "parked": "red", "done": "green", "void": "dim", "claimed": "cyan"}

deliveries = typer.Typer(help="Awards that take more than a transaction to deliver: by webhook, by code.")

_ORDER_ID: Any = typer.Argument(metavar="ORDER", help="Order id of the award.", parser=str.upper)
OrderId = Annotated[str, _ORDER_ID]
MaybeOrderId = Annotated[str | None, _ORDER_ID]
Everything = Annotated[bool, typer.Option("--all", help="Everything that is parked.")]
Place = Annotated[
    str | None, typer.Option("--place", metavar="NAME", help="Only what goes there: an endpoint, a pool of codes.")
]


class Found(NamedTuple):
    """A delivery and its shard."""

    shard: int
    row: DeliveryRow


@deliveries.command("list")
def deliveries_list(
    ctx: typer.Context,
    state: Annotated[
        str, typer.Option("--state", metavar="STATE", help=f"One of {', '.join(STATES)}, or all.")
    ] = "parked",
    place: Place = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=LIMIT_MAX, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """List deliveries, the newest first; those that are parked unless another state is asked for."""
    session: Session = ctx.obj
    if state != "all" and state not in STATES:
        raise typer.BadParameter(f"--state must be one of {', '.join(STATES)}, or all")
    found: list[Found] = []
    with session.stores() as stores:
        for index, shard in enumerate(stores.shards):
            with shard.reading() as connection:
                states = [known for known in STATES if state in (known, "all")]
                rows = list_deliveries(connection, states=states, place=place, limit=limit)
            found += [Found(index, row) for row in rows]
    found = sorted(found, key=lambda one: one.row.order_id, reverse=True)[:limit]
    what = "No delivery" if state == "all" else f"No delivery is {state}"
    nothing = None if found else Text(f"{what}.", "green" if state == "parked" else "")
    session.answer({"deliveries": [_document(one) for one in found]}, nothing or _table(found), as_json=as_json)


@deliveries.command("show")
def deliveries_show(ctx: typer.Context, order_id: OrderId, as_json: Json = False) -> None:
    """Show a delivery and the log of its attempts."""
    session: Session = ctx.obj
    with session.stores() as stores:
        for index, shard in enumerate(stores.shards):
            with shard.reading() as connection:
                found = find_delivery(connection, order_id)
            if found is not None:
                one, log = Found(index, found[0]), found[1]
                document = {**_document(one), "log": [_attempt(line) for line in log]}
                session.answer(document, pairs(_facts(one)), _log_table(log), as_json=as_json)
                return
    raise NotFound(f"There is no delivery {order_id}. An award that a task delivers at once has none.")


@deliveries.command("replay")
def deliveries_replay(
    ctx: typer.Context,
    order_id: MaybeOrderId = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything that is parked or waits for its next attempt.")
    ] = False,
    place: Place = None,
    as_json: Json = False,
) -> None:
    """Make a delivery due again, under the same id: a parked or done one, one that waits, or all but those done."""
    session: Session = ctx.obj
    _choose_one(order_id, everything=everything)
    count = 0
    with session.stores() as stores:
        for shard in stores.shards:
            with shard.writing() as connection:
                count += replay_deliveries(
                    connection, order_id=order_id, place=place, kinds=tuple(OUTSIDE_KINDS), now_ms=now_ms()
                )
    _found_or_refuse(order_id, count, "parked, done or waiting for its next attempt")
    line = f"{count:,} {'delivery is' if count == 1 else 'deliveries are'} due again; whoever works begins at once."
    session.answer({"replayed": count}, Text(line), as_json=as_json)


@deliveries.command("drop")
def deliveries_drop(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    order_id: MaybeOrderId = None,
    everything: Everything = False,
    place: Place = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Drop without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Give a parked delivery up for good, or all of them: what was won is not delivered, and its record says so.

    In a terminal it asks first; elsewhere --all needs --yes.
    """
    session: Session = ctx.obj
    _choose_one(order_id, everything=everything)
    if not session.may_drop(None if everything else f"delivery {order_id}", yes=yes, as_json=as_json):
        return
    with session.stores() as stores:
        count = _drop(stores, order_id, place)
    _found_or_refuse(order_id, count, "parked")
    session.answer({"dropped": count}, Text(f"Dropped: {count:,}."), as_json=as_json)


def delivery_of(stores: Stores, user_id: str, order_id: str) -> Document | None:
    """What `explain` tells of an award's delivery, if it takes more than a transaction."""
    with stores.of(user_id).reading() as connection:
        found = find_delivery(connection, order_id)
    if found is None:
        return None
    row = found[0]
    return {"state": row.state, "place": row.place, "attempts": row.attempts, "reason": row.reason}


def delivery_line(delivery: Document | None) -> Text | None:
    """The same for people."""
    if delivery is None:
        return None
    tried = f" after {counted(delivery['attempts'], 'attempt')}" if delivery["attempts"] else ""
    why = f": {delivery['reason']}" if delivery["reason"] else ""
    state = delivery["state"]
    return Text.assemble("Delivery to ", delivery["place"], ": ", (state, _STYLES[state]), f"{tried}{why}.")


def _drop(stores: Stores, order_id: str | None, place: str | None) -> int:
    """In pieces, so that no transaction is long."""
    count = 0
    for shard in stores.shards:
        while True:
            with shard.writing() as connection:
                dropped = drop_deliveries(
                    connection,
                    order_id=order_id,
                    place=place,
                    limit=DROPPED_AT_ONCE,
                    now_ms=now_ms(),
                    split=shard.split,
                )
            count += dropped
            if not dropped:
                break
    return count


def _choose_one(order_id: str | None, *, everything: bool) -> None:
    if (order_id is None) is not everything:
        raise typer.BadParameter("give the ORDER of a delivery, or --all")


def _found_or_refuse(order_id: str | None, count: int, states: str) -> None:
    if order_id is not None and not count:
        raise NotFound(f"No delivery {order_id} is {states}.")


def _table(found: Sequence[Found]) -> Table:
    made = table("order", "kind", "place", "user", "state", "attempts", "next", "reason", right=("attempts",))
    for _, row in found:
        made.add_row(
            Text(row.order_id),
            Text(row.award_key),
            Text(row.place),
            Text(row.user_id),
            Text(row.state, _STYLES[row.state]),
            str(row.attempts),
            moment(row.next_at_ms) if row.state == "due" else "",
            Text(row.reason or "", "red"),
        )
    return made


def _facts(one: Found) -> dict[str, object]:
    document = _document(one)
    if document["result"] is not None:
        document["result"] = json.dumps(document["result"], ensure_ascii=False)
    return {name.replace("_", " "): value for name, value in document.items() if value is not None}


def _log_table(log: Sequence[AttemptRow]) -> Table:
    made = table("attempt", "at", "status", "took", "outcome", right=("attempt", "took"))
    for line in log:
        made.add_row(
            str(line.attempt),
            moment(line.time_ms),
            "" if line.status is None else str(line.status),
            f"{line.duration_ms:,} ms",
            Text("delivered", "green") if line.reason is None else Text(line.reason, "red"),
        )
    return made


def _document(one: Found) -> Document:
    row = one.row
    return {
        "order_id": row.order_id,
        "state": row.state,
        "kind": row.award_key,
        "place": row.place,
        "user_id": row.user_id,
        "activity_id": row.activity_id,
        "award_id": row.award_id,
        "attempts": row.attempts,
        "next_at": moment(row.next_at_ms) if row.state == "due" else None,
        "reason": row.reason,
        "result": None if row.result is None else dict(row.result),
        "created": moment(row.create_time_ms),
        "changed": moment(row.update_time_ms),
        "shard": one.shard,
    }


def _attempt(line: AttemptRow) -> Document:
    return {
        "attempt": line.attempt,
        "at": moment(line.time_ms),
        "status": line.status,
        "duration_ms": line.duration_ms,
        "reason": line.reason,
    }
