"""``switches``: what can be changed while everything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from bigmarket.app import now_ms
from bigmarket.cli.console import Document
from bigmarket.cli.results import table
from bigmarket.cli.session import Json, Session
from bigmarket.storage.installation import Stores
from bigmarket.storage.switches import read_switches, turn_switch

switches = typer.Typer(help="What can be changed while everything runs.")


@switches.command("list")
def switches_list(ctx: typer.Context, as_json: Json = False) -> None:
    """List the switches as they stand, and whether an operator set them."""
    session: Session = ctx.obj
    with session.stores() as stores:
        found = _stand(session, stores)
    session.answer({"switches": found}, _table(found), as_json=as_json)


@switches.command("set")
def switches_set(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="SWITCH", help="Which one, such as degradeSwitch.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="What to turn it to, such as open; or default.")],
    as_json: Json = False,
) -> None:
    """Turn a switch; every process follows within a second. `default` is what the settings say."""
    session: Session = ctx.obj
    with session.stores() as stores:
        turn_switch(stores.config, key, value, now_ms=now_ms())
        (turned,) = [switch for switch in _stand(session, stores) if switch["switch"] == key]
    session.answer(turned, _table([turned]), as_json=as_json)


def _stand(session: Session, stores: Stores) -> list[Document]:
    with stores.config.reading() as connection:
        said = read_switches(connection)
    written = session.settings().switches.turned(said).written()
    return [{"switch": key, "value": value, "set": key in said} for key, value in written.items()]


def _table(found: Sequence[Document]) -> Table:
    made = table("switch", "value", "set by")
    for switch in found:
        made.add_row(switch["switch"], switch["value"], "an operator" if switch["set"] else "the settings")
    return made
