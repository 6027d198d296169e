"""v1 of stages: which activity a channel's source shows, and how an operator changes it."""

from __future__ import annotations

import msgspec

from bigmarket.api.reader import Int64
from bigmarket.api.v1.asking import Calls, NothingIn, body_of, parameters_of
from bigmarket.app import World
from bigmarket.storage.stages import NAME_MAX, activate_stage, staged_activity, stages
from bigmarket.text import clean_text

calls = Calls()


class PlaceIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A place that shows an activity: a channel and a source of it, such as c01 and s01."""

    channel: str
    source: str


class StageIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A stage."""

    id: Int64


class StageOut(msgspec.Struct, frozen=True, rename="camel"):
    """An activity in a place: ``create`` until it is made ``active``, ``expire`` once another is."""

    id: int
    channel: str
    source: str
    activity_id: int
    state: str


@calls.of_all(
    "/activity/query_stage_activity_id",
    methods=["GET"],
    asks=PlaceIn,
    read=parameters_of,
    summary="Which activity a place shows",
    data=int | None,
    example=100301,
    codes=("0002",),
)
def query_stage_activity_id(world: World, asked: PlaceIn) -> int | None:
    """Null where no stage of the place is active."""
    channel = clean_text(asked.channel, name="channel", max_length=NAME_MAX)
    source = clean_text(asked.source, name="source", max_length=NAME_MAX)
    with world.stores.config.reading() as connection:
        return staged_activity(connection, channel, source)


@calls.of_operators(
    "/erp/query_raffle_activity_stage_list",
    method="GET",
    asks=NothingIn,
    read=parameters_of,
    summary="Every stage, the newest first",
    data=list[StageOut],
    example=[{"id": 1, "channel": "c01", "source": "s01", "activityId": 100301, "state": "active"}],
    codes=(),
)
def query_raffle_activity_stage_list(world: World, _: NothingIn) -> list[StageOut]:
    """By id, downwards; a thousand at most."""
    with world.stores.config.reading() as connection:
        return [StageOut(*stage) for stage in stages(connection)]


@calls.of_operators(
    "/erp/update_stage_activity_2_active",
    method="POST",
    asks=StageIn,
    read=body_of,
    body_example={"id": 1},
    summary="Let a place show the activity of a stage",
    data=bool,
    example=True,
    codes=("0001", "0002"),
    when={"0001": "No such stage.", "0002": "The activity cannot be armed; `info` says why. Or the id is missing."},
)
def update_stage_activity_2_active(world: World, asked: StageIn) -> bool:
    """Arms the activity, wheel and bundles; then this stage is active and what the place showed has expired."""
    activate_stage(world.stores.config, asked.id, arm=world.arm)
    return True
