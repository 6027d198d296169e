"""``stages``: which activity each channel and source shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bigmarket.activity.orders import SKU_MAX
from bigmarket.app import KIND_CHECKS, new_seed, now_ms
from bigmarket.cli.console import Document
from bigmarket.cli.results import table
from bigmarket.cli.session import Json, Session
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.stages import Stage, activate_stage, add_stage, expire_stage
from bigmarket.storage.stages import stages as all_stages

_STYLES = {"active": "green", "expire": "dim"}

stages = typer.Typer(help="Which activity each channel and source shows.")

StageId = Annotated[int, typer.Argument(metavar="STAGE", min=1, max=SKU_MAX, help="Id of the stage.")]


@stages.command("list")
def stages_list(ctx: typer.Context, as_json: Json = False) -> None:
    """List the stages, newest first."""
    session: Session = ctx.obj
    with session.stores() as stores, stores.config.reading() as connection:
        found = all_stages(connection)
    nothing = Text("There are no stages.") if not found else None
    session.answer({"stages": [_document(stage) for stage in found]}, nothing or _table(found), as_json=as_json)


@stages.command("add")
def stages_add(
    ctx: typer.Context,
    channel: Annotated[str, typer.Option("--channel", metavar="NAME", help="The channel, such as c01.")],
    source: Annotated[str, typer.Option("--source", metavar="NAME", help="The source within it, such as s01.")],
    activity_id: Annotated[
        int, typer.Option("--activity", metavar="ACTIVITY", min=1, max=SKU_MAX, help="Id of the activity.")
    ],
    as_json: Json = False,
) -> None:
    """Add a stage: an activity that the channel's source may show. It shows once it is activated."""
    session: Session = ctx.obj
    with session.stores() as stores, stores.config.updating() as connection:
        stage = add_stage(connection, channel=channel, source=source, activity_id=activity_id)
    _answer(session, stage, as_json=as_json)


@stages.command("activate")
def stages_activate(ctx: typer.Context, stage_id: StageId, as_json: Json = False) -> None:
    """Arm a stage's activity and let the place show it; what the place showed before expires."""
    session: Session = ctx.obj
    with session.stores() as stores:
        arm = partial(arm_installation, stores, kinds=KIND_CHECKS, now_ms=now_ms(), new_seed=new_seed)
        stage = activate_stage(stores.config, stage_id, arm=arm)
    _answer(session, stage, as_json=as_json)


@stages.command("expire")
def stages_expire(ctx: typer.Context, stage_id: StageId, as_json: Json = False) -> None:
    """Let a place not show a stage any more; the activity itself goes on."""
    session: Session = ctx.obj
    with session.stores() as stores, stores.config.updating() as connection:
        stage = expire_stage(connection, stage_id)
    _answer(session, stage, as_json=as_json)


def _answer(session: Session, stage: Stage, *, as_json: bool) -> None:
    session.answer(_document(stage), _table([stage]), as_json=as_json)


def _document(stage: Stage) -> Document:
    return stage._asdict()


def _table(found: Sequence[Stage]) -> Table:
    made = table("stage", "channel", "source", "activity", "state", right=("stage", "activity"))
    for stage in found:
        state = Text(stage.state, _STYLES.get(stage.state, ""))
        made.add_row(str(stage.stage_id), Text(stage.channel), Text(stage.source), str(stage.activity_id), state)
    return made
