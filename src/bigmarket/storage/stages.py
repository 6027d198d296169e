"""Stages: which activity a channel's source shows now. They live in the configuration database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.errors import Contention, Duplicate, NotFound
from bigmarket.storage.contract import Store
from bigmarket.storage.schema import raffle_activity, raffle_activity_stage
from bigmarket.text import clean_text

STAGES_MAX = 1000
NAME_MAX = 32

StageState = Literal["create", "active", "expire"]


class Place(NamedTuple):
    """Where activities are shown: a source of a channel."""

    channel: str
    source: str


class Stage(NamedTuple):
    """An activity in a place: ``create`` until it is made ``active``, ``expire`` once another is."""

    stage_id: int
    channel: str
    source: str
    activity_id: int
    state: StageState


def stages(connection: Connection) -> Sequence[Stage]:
    """The newest stages, by id."""
    s = raffle_activity_stage.c
    return [Stage(*row) for row in connection.execute(select(*s).order_by(s.stage_id.desc()).limit(STAGES_MAX))]


def staged_activity(connection: Connection, channel: str, source: str) -> int | None:
    """The activity that is active in this place."""
    s = raffle_activity_stage.c
    here = (s.channel == channel, s.source == source, s.state == "active")
    return connection.execute(select(s.activity_id).where(*here)).scalar_one_or_none()


def add_stage(connection: Connection, *, channel: str, source: str, activity_id: int) -> Stage:
    """A new stage. Raises BadInput, NotFound for an unknown activity, Duplicate when the place has it already."""
    place = Place(
        clean_text(channel, name="channel", max_length=NAME_MAX),
        clean_text(source, name="source", max_length=NAME_MAX),
    )
    activity = raffle_activity.c.activity_id
    if connection.execute(select(activity).where(activity == activity_id)).scalar_one_or_none() is None:
        raise NotFound(f"There is no activity {activity_id}; load its campaign file with `bigmarket apply`.")
    if (known := _find(connection, place, activity_id)) is not None:
        raise Duplicate(f"Stage {known} already has activity {activity_id} for {place.channel}/{place.source}.")
    return _add(connection, Stage(0, *place, activity_id, "create"))


def keep_stage(connection: Connection, place: Place, *, activity_id: int, state: StageState) -> bool:
    """Bring a stage over as it is, unless it is here; whether it was not. One that is active expires the others."""
    if _find(connection, place, activity_id) is not None:
        return False
    if state == "active":
        _expire_all(connection, place)
    _add(connection, Stage(0, *place, activity_id, state))
    return True


def _find(connection: Connection, place: Place, activity_id: int) -> int | None:
    s = raffle_activity_stage.c
    this = (s.channel == place.channel, s.source == place.source, s.activity_id == activity_id)
    return connection.execute(select(s.stage_id).where(*this)).scalar_one_or_none()


def _add(connection: Connection, stage: Stage) -> Stage:
    last = connection.execute(select(func.max(raffle_activity_stage.c.stage_id))).scalar_one()
    stage = stage._replace(stage_id=(last or 0) + 1)
    try:
        connection.execute(insert(raffle_activity_stage).values(stage._asdict()))
    except IntegrityError:
        raise Contention("Somebody else added a stage at the same moment; nothing was changed. Try again.") from None
    return stage


def _expire_all(connection: Connection, place: Place) -> None:
    """Let the place show nothing; its rows are locked, so that those who change what it shows take turns."""
    s = raffle_activity_stage.c
    here = (s.channel == place.channel, s.source == place.source)
    connection.execute(select(s.stage_id).where(*here).order_by(s.stage_id).with_for_update()).all()
    connection.execute(update(raffle_activity_stage).where(*here, s.state == "active").values(state="expire"))


def activate_stage(config: Store, stage_id: int, *, arm: Callable[[int], object]) -> Stage:
    """Arm the stage's activity, then make the stage the only active one of its place, at once.

    Raises NotFound for an unknown stage, and whatever ``arm`` does; then the place shows what it showed before.
    """
    with config.reading() as connection:
        stage = _stage(connection, stage_id)
    arm(stage.activity_id)
    with config.updating() as connection:
        _expire_all(connection, Place(stage.channel, stage.source))
        _set_state(connection, stage_id, "active")
    return stage._replace(state="active")


def expire_stage(connection: Connection, stage_id: int) -> Stage:
    """Let the stage's place show nothing of it any more. Raises NotFound for an unknown stage."""
    stage = _stage(connection, stage_id)
    _set_state(connection, stage_id, "expire")
    return stage._replace(state="expire")


def _stage(connection: Connection, stage_id: int) -> Stage:
    query = select(*raffle_activity_stage.c).where(raffle_activity_stage.c.stage_id == stage_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"There is no stage {stage_id}; `bigmarket stages list` shows them.")
    return Stage(*row)


def _set_state(connection: Connection, stage_id: int, state: StageState) -> None:
    change = update(raffle_activity_stage).where(raffle_activity_stage.c.stage_id == stage_id)
    connection.execute(change.values(state=state))
