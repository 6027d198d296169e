"""Writes stages: which activity a channel's source shows. A stage that is here already is left alone."""

from __future__ import annotations

from collections.abc import Container, Sequence

from bigmarket.errors import BadInput
from bigmarket.importing import reference as r
from bigmarket.importing.terms import Options, Target
from bigmarket.storage.stages import NAME_MAX, Place, StageState, keep_stage
from bigmarket.text import clean_text

STAGES = "raffle_activity_stage"

_STATES: dict[str, StageState] = {"create": "create", "active": "active", "expire": "expire"}


def load_stages(
    rows: Sequence[r.Row], activities: Container[int], target: Target, options: Options
) -> dict[int, str]:
    """What became of the rows, by their place: those of activities that are not here are left out.

    Of several that are active in one place the last one is, as in the reference system.
    """
    fates: dict[int, str] = {}
    wanted: dict[tuple[Place, int], tuple[int, StageState]] = {}
    for number, row in enumerate(rows):
        assert isinstance(row, r.StageRow)
        place = _place_of(row)
        if place is not None and row.activity_id in activities and row.state in _STATES:
            wanted[place, row.activity_id] = (number, _STATES[row.state])
            fates[number] = "imported"
    if target.stores is None or options.dry_run or not wanted:
        return fates
    with target.stores.config.writing() as connection:
        for (place, activity_id), (number, state) in wanted.items():
            if not keep_stage(connection, place, activity_id=activity_id, state=state):
                fates[number] = "there already"
    return fates


def _place_of(row: r.StageRow) -> Place | None:
    try:
        return Place(
            clean_text(row.channel, name="channel", max_length=NAME_MAX),
            clean_text(row.source, name="source", max_length=NAME_MAX),
        )
    except BadInput:
        return None
