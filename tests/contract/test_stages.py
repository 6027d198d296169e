"""Stages on every backend: one activity at a time is shown in a place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bigmarket.errors import BadInput, Duplicate, NotFound, Trouble
from bigmarket.storage.contract import Store
from bigmarket.storage.stages import (
    Place,
    activate_stage,
    add_stage,
    expire_stage,
    keep_stage,
    staged_activity,
    stages,
)
from support import install, small_campaign


@pytest.fixture
def staged(store: Store) -> Store:
    """Activities 1 and 2, the latter not armed; stages of both in c01/s01, and of 1 in c01/s02."""
    campaign = small_campaign()
    install(store, campaign)
    other = campaign.model_copy(
        update={
            "activity": campaign.activity.model_copy(update={"activity_id": 2}),
            "strategy": campaign.strategy.model_copy(update={"strategy_id": 29}),
            "skus": (),
        }
    )
    install(store, other)
    with store.updating() as connection:
        for activity_id, source in ((1, "s01"), (2, "s01"), (1, "s02")):
            add_stage(connection, channel="c01", source=source, activity_id=activity_id)
    return store


def states(store: Store) -> dict[int, str]:
    with store.reading() as connection:
        return {stage.stage_id: stage.state for stage in stages(connection)}


def shown(store: Store, source: str = "s01") -> int | None:
    with store.reading() as connection:
        return staged_activity(connection, "c01", source)


def test_a_place_shows_what_was_activated_last(staged: Store) -> None:
    assert list(states(staged).items()) == [(3, "create"), (2, "create"), (1, "create")]
    assert shown(staged) is None
    armed: list[int] = []
    assert activate_stage(staged, 1, arm=armed.append).state == "active"
    assert shown(staged) == 1
    activate_stage(staged, 3, arm=armed.append)
    activate_stage(staged, 2, arm=armed.append)
    assert (shown(staged), shown(staged, "s02")) == (2, 1)
    assert states(staged) == {1: "expire", 2: "active", 3: "active"}
    assert armed == [1, 1, 2]
    activate_stage(staged, 1, arm=armed.append)
    with staged.updating() as connection:
        assert expire_stage(connection, 3).state == "expire"
    assert (shown(staged), shown(staged, "s02")) == (1, None)


def test_what_cannot_be_armed_is_not_shown(staged: Store) -> None:
    activate_stage(staged, 1, arm=lambda _: None)

    def refuse(_: int) -> None:
        raise Trouble("no database")

    with pytest.raises(Trouble):
        activate_stage(staged, 2, arm=refuse)
    assert shown(staged) == 1


def test_only_one_of_those_activated_at_once_stays(staged: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda stage_id: activate_stage(staged, stage_id, arm=lambda _: None), [1, 2] * 8))
    assert sorted(states(staged)[stage_id] for stage_id in (1, 2)) == ["active", "expire"]


def test_what_is_wrong_is_said(staged: Store) -> None:
    with staged.updating() as connection:
        with pytest.raises(Duplicate, match="Stage 1 already has activity 1 for c01/s01"):
            add_stage(connection, channel=" c01 ", source="s01", activity_id=1)
        with pytest.raises(NotFound, match="no activity 9"):
            add_stage(connection, channel="c01", source="s01", activity_id=9)
        with pytest.raises(BadInput, match="channel is missing"):
            add_stage(connection, channel=" ", source="s01", activity_id=1)
        with pytest.raises(BadInput, match="at most 32"):
            add_stage(connection, channel="c01", source="s" * 33, activity_id=1)
        with pytest.raises(NotFound, match="no stage 7"):
            expire_stage(connection, 7)
    with pytest.raises(NotFound, match="no stage 7"):
        activate_stage(staged, 7, arm=lambda _: None)


def test_a_stage_is_brought_over_once(staged: Store) -> None:
    activate_stage(staged, 1, arm=lambda _: None)
    with staged.updating() as connection:
        assert not keep_stage(connection, Place("c01", "s01"), activity_id=2, state="active")
        assert keep_stage(connection, Place("c01", "s02"), activity_id=2, state="active")
    assert (shown(staged), shown(staged, "s02")) == (1, 2)
