"""``claims``: things that were won, where their winners want them, and that they were shipped."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Literal, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from bigmarket.award.deliveries import DeliveryState
from bigmarket.cli.console import Document, note, print_json_list
from bigmarket.cli.results import moment, table
from bigmarket.cli.session import Json, Session
from bigmarket.storage.claims import Claim, Unclaimed, claims, unclaimed

SHOWN_MAX = 200
STATES: tuple[DeliveryState, ...] = ("claimed", "done", "void")
UNCLAIMED_STATES: tuple[Literal["unclaimed", "expired"], ...] = ("unclaimed", "expired")
_CHOICES = f"{', '.join(STATES)}, all (of these), {' or '.join(UNCLAIMED_STATES)}"
_COLUMNS = (
    "order_id", "user_id", "activity_id", "award_id", "award", "config", "state", "name", "phone", "address", "note",
    "carrier", "tracking", "claimed", "changed",
)  # fmt: skip
_UNCLAIMED_COLUMNS = (
    "order_id", "user_id", "activity_id", "award_id", "award", "config", "state", "won", "claim_before",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

claim_commands = typer.Typer(help="Things that were won: where they go, and that they were shipped.")


class Look(NamedTuple):
    """How a list looks as CSV and for people."""

    columns: Sequence[str]
    table: Callable[[Iterable[Document]], Table]


@claim_commands.command("list")
def claims_list(
    ctx: typer.Context,
    state: Annotated[str, typer.Option("--state", metavar="STATE", help=f"One of {_CHOICES}.")] = "claimed",
    as_csv: Annotated[bool, typer.Option("--csv", help="Every one of them as CSV, for the warehouse.")] = False,
    as_json: Json = False,
) -> None:
    """List what was claimed and waits to be shipped, with name, phone and address; --csv and --json list all.

    With --state unclaimed or expired: what nobody claimed, yet or in time.
    """
    session: Session = ctx.obj
    wanted: DeliveryState | None = next((known for known in STATES if known == state), None)
    waiting = next((known for known in UNCLAIMED_STATES if known == state), None)
    if wanted is None and waiting is None and state != "all":
        raise typer.BadParameter(f"--state must be one of {_CHOICES}")
    if as_csv and as_json:
        raise typer.BadParameter("choose --csv or --json")
    if waiting is not None:
        with session.world() as world:
            open_ones = unclaimed(world.stores, state=waiting, award_of=world.award_of, now_ms=world.now_ms())
            found = (_unclaimed_document(one, waiting) for one in open_ones)
            _print(session, found, Look(_UNCLAIMED_COLUMNS, _unclaimed_table), state, as_csv=as_csv, as_json=as_json)
        return
    with session.stores() as stores:
        found = (_document(claim) for claim in claims(stores, state=wanted))
        _print(session, found, Look(_COLUMNS, _table), state, as_csv=as_csv, as_json=as_json)


@claim_commands.command("ship")
def claims_ship(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="Order id of the award.")],
    carrier: Annotated[str, typer.Option("--carrier", metavar="NAME", help="Who takes it there.")],
    tracking: Annotated[str, typer.Option("--tracking", metavar="NUMBER", help="The carrier's number for it.")],
    correct: Annotated[bool, typer.Option("--correct", help="Replace what was noted before.")] = False,
    as_json: Json = False,
) -> None:
    """Note that a claimed thing went; the award is completed, and its winner sees carrier and number."""
    session: Session = ctx.obj
    with session.world() as world:
        shipped = world.ship(order_id.upper(), carrier=carrier, tracking=tracking, correct=correct)
    line = f"{shipped.order_id} of {shipped.user_id} goes by {shipped.carrier} as {shipped.tracking}"
    told = Text(f"{line}; noted before.", "yellow") if shipped.repeated else Text(f"{line}.", "green")
    session.answer(shipped._asdict(), told, as_json=as_json)


def _print(
    session: Session, found: Iterator[Document], look: Look, state: str, *, as_csv: bool, as_json: bool
) -> None:
    """As they come, or the first of them as a table."""
    if as_json:
        session.answered = True
        print_json_list("claims", found)
    elif as_csv:
        session.answered = True
        _print_csv(found, look.columns)
    else:
        shown = list(islice(found, SHOWN_MAX + 1))
        nothing = None if shown else Text("Nothing is claimed." if state == "all" else f"Nothing is {state}.")
        session.answer({}, nothing or look.table(shown[:SHOWN_MAX]), as_json=False)
        if len(shown) > SHOWN_MAX:
            note(f"These are the first {SHOWN_MAX}; --csv or --json lists all.")


def _document(claim: Claim) -> Document:
    contact = claim.contact
    return {
        "order_id": claim.order_id,
        "user_id": claim.user_id,
        "activity_id": claim.activity_id,
        "award_id": claim.award_id,
        "award": claim.award_title,
        "config": claim.award_config,
        "state": claim.state,
        "name": contact and contact.name,
        "phone": contact and contact.phone,
        "address": contact and contact.address,
        "note": contact and contact.note,
        "carrier": claim.carrier,
        "tracking": claim.tracking,
        "claimed": moment(claim.claim_time_ms),
        "changed": moment(claim.update_time_ms),
    }


def _unclaimed_document(one: Unclaimed, state: str) -> Document:
    before_ms = one.claim_before_ms
    return {
        "order_id": one.order_id,
        "user_id": one.user_id,
        "activity_id": one.activity_id,
        "award_id": one.award_id,
        "award": one.award_title,
        "config": one.award_config,
        "state": state,
        "won": moment(one.award_time_ms),
        "claim_before": None if before_ms is None else moment(before_ms),
    }


def _print_csv(found: Iterable[Document], columns: Sequence[str]) -> None:
    """A cell that a spreadsheet would take for a formula gets an apostrophe in front; a phone number is none."""
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    for document in found:
        cells = ((name, "" if document[name] is None else str(document[name])) for name in columns)
        writer.writerow(
            [f"'{cell}" if cell.startswith(_FORMULA) and name != "phone" else cell for name, cell in cells]
        )


def _table(found: Iterable[Document]) -> Table:
    made = table("order", "user", "award", "state", "to", "phone", "address", "shipped", "claimed")
    for claim in found:
        to = ("erased", "", "") if claim["name"] is None else (claim["name"], claim["phone"], claim["address"])
        shipped = f"{claim['carrier']} {claim['tracking']}" if claim["carrier"] else ""
        cells = (claim["order_id"], claim["user_id"], _award(claim), claim["state"], *to, shipped, claim["claimed"])
        made.add_row(*map(Text, cells))
    return made


def _unclaimed_table(found: Iterable[Document]) -> Table:
    made = table("order", "user", "activity", "award", "state", "won", "claim before", right=("activity",))
    for one in found:
        cells = (one["order_id"], one["user_id"], str(one["activity_id"]), _award(one), one["state"], one["won"])
        made.add_row(*map(Text, cells), one["claim_before"] or "")
    return made


def _award(document: Document) -> str:
    return f"{document['award']} {document['config']}".rstrip()
