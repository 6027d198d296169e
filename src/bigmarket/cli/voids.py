"""``void`` and ``voids``: awards that an operator takes back."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bigmarket.award.void import VoidAsked, Voided
from bigmarket.cli.console import Document, note, print_json_list
from bigmarket.cli.results import moment, table
from bigmarket.cli.session import Json, Session
from bigmarket.credit.model import in_credits
from bigmarket.storage.voids import voids

SHOWN_MAX = 200

void_commands = typer.Typer(help="Awards that were taken back.")


def void(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="Order id of the award.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays with the void.")],
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Refuse unless it is this user's.")
    ] = None,
    stock: Annotated[bool, typer.Option("--return-stock", help="The unit can be won again.")] = False,
    quota: Annotated[bool, typer.Option("--return-draw", help="The user has the draw back.")] = False,
    take: Annotated[bool, typer.Option("--take-credits", help="Take back the credits that it gave.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Void without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Take an award back, once: it is not delivered any more, and what is chosen is given back."""
    session: Session = ctx.obj
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here; add --yes to void it")
    asked = VoidAsked(order_id.upper(), reason, stock=stock, quota=quota, credits=take)
    if not yes and not typer.confirm(f"Void {asked.order_id} for good?", err=True):
        session.answer({"voided": False}, Text("Nothing was voided."), as_json=as_json)
        return
    with session.world() as world:
        done = world.void(asked, user_id=user)
    session.answer({"voided": True, **_document(done), "repeated": done.repeated}, _line(done), as_json=as_json)


@void_commands.command("list")
def voids_list(ctx: typer.Context, as_json: Json = False) -> None:
    """List awards that were voided, with what was given back; --json lists all."""
    session: Session = ctx.obj
    with session.stores() as stores:
        found = voids(stores)
        if as_json:
            session.answered = True
            print_json_list("voids", map(_document, found))
            return
        shown = list(islice(found, SHOWN_MAX + 1))
        session.answer({}, _table(shown[:SHOWN_MAX]) if shown else Text("Nothing is voided."), as_json=False)
        if len(shown) > SHOWN_MAX:
            note(f"These are the first {SHOWN_MAX}; --json lists all.")


def void_document(done: Voided | None) -> Document | None:
    """What ``explain`` says of an award that was voided."""
    return None if done is None else {"time": moment(done.void_time_ms), "reason": done.reason}


def void_line(done: Voided | None) -> Text | None:
    """The same for people."""
    if done is None:
        return None
    return Text(f"It was voided at {moment(done.void_time_ms)} ({done.reason}); {_given_back(done)}.", "yellow")


def _document(done: Voided) -> Document:
    return {
        "order_id": done.order_id,
        "user_id": done.user_id,
        "activity_id": done.activity_id,
        "award_id": done.award_id,
        "stock_returned": done.stock_returned,
        "draw_returned": done.quota_returned,
        "credits_taken": in_credits(done.credit_cents),
        "reason": done.reason,
        "time": moment(done.void_time_ms),
    }


def _line(done: Voided) -> Text:
    what = f"Award {done.award_id} of {done.user_id} ({done.order_id})"
    if done.repeated:
        return Text(f"{what} was voided before, at {moment(done.void_time_ms)}; {_given_back(done)}.", "yellow")
    return Text(f"{what} is voided; {_given_back(done)}.", "green")


def _given_back(done: Voided) -> str:
    parts = ["its unit can be won again"] if done.stock_returned else []
    parts += ["the draw was given back"] if done.quota_returned else []
    parts += [f"{in_credits(done.credit_cents)} credits were taken back"] if done.credit_cents else []
    return ", ".join(parts) or "nothing was given back"


def _table(found: Iterable[Voided]) -> Table:
    made = table(
        "order", "user", "activity", "award", "unit", "draw", "credits", "reason", "voided", right=("credits",)
    )
    for one in found:
        made.add_row(
            Text(one.order_id),
            Text(one.user_id),
            str(one.activity_id),
            str(one.award_id),
            "back" if one.stock_returned else "",
            "back" if one.quota_returned else "",
            in_credits(-one.credit_cents) if one.credit_cents else "",
            Text(one.reason),
            moment(one.void_time_ms),
        )
    return made
