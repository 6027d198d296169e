"""``parked``: what failed too often, listed, sent out again or given up."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from bigmarket.app import broker_parkings, now_ms
from bigmarket.cli import parking as lots
from bigmarket.cli import results
from bigmarket.cli.console import counted
from bigmarket.cli.session import Json, Session, Stopped
from bigmarket.errors import Trouble

parked_commands = typer.Typer(help="Tasks that failed too often and wait for a person.")

ParkedId = Annotated[str | None, typer.Argument(metavar="ID", help="Id of the parked task.")]


@parked_commands.command("list")
def parked_list(ctx: typer.Context, as_json: Json = False) -> None:
    """List what is parked, in the stores and in the broker, with the reason of each."""
    session: Session = ctx.obj
    brokers = broker_parkings(session.settings())
    with session.stores() as stores:
        found = lots.in_stores(stores)
    try:
        found += lots.in_broker(brokers)
    except Trouble as trouble:
        raise Stopped(trouble, results.parked_documents(found), results.parked_table(found)) from trouble
    nothing = Text("Nothing is parked.", "green") if not found else None
    session.answer(results.parked_documents(found), nothing or results.parked_table(found), as_json=as_json)


@parked_commands.command("redrive")
def parked_redrive(
    ctx: typer.Context,
    message_id: ParkedId = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is parked.")] = False,
    as_json: Json = False,
) -> None:
    """Send a parked task out again, or all of them; whoever relays finds them within a second."""
    session: Session = ctx.obj
    _choose_one(message_id, everything=everything)
    brokers = broker_parkings(session.settings())
    with session.stores() as stores:
        count = lots.redrive(stores, brokers, message_id=message_id, now_ms=now_ms())
    again = "task is" if count.done == 1 else "tasks are"
    line = f"{count.done:,} {again} due again; whoever relays delivers within a second."
    _answer_count(session, "redriven", count, Text(line), as_json=as_json)


@parked_commands.command("drop")
def parked_drop(
    ctx: typer.Context,
    message_id: ParkedId = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is parked.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Drop without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Give a parked task up for good, or all of them: what was won is not delivered, and its record says so.

    In a terminal it asks first; elsewhere --all needs --yes.
    """
    session: Session = ctx.obj
    _choose_one(message_id, everything=everything)
    if not session.may_drop(None if everything else f"task {message_id}", yes=yes, as_json=as_json):
        return
    brokers = broker_parkings(session.settings())
    with session.stores() as stores:
        count = lots.drop(stores, brokers, message_id=message_id, now_ms=now_ms())
    _answer_count(session, "dropped", count, Text(f"Dropped: {counted(count.done, 'task')}."), as_json=as_json)


def _choose_one(message_id: str | None, *, everything: bool) -> None:
    if (message_id is None) is not everything:
        raise typer.BadParameter("give the ID of a parked task, or --all")


def _answer_count(session: Session, name: str, count: lots.Count, line: Text, *, as_json: bool) -> None:
    """What was done; when the broker then did not answer, that too."""
    if count.trouble is not None:
        raise Stopped(count.trouble, {name: count.done}, line)
    session.answer({name: count.done}, line, as_json=as_json)
