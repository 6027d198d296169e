"""The stock's hub frozen and killed: what shards have is drawn, what they lack is trouble, nobody loses by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmarket.app import World
from bigmarket.draw import Answer, Drawn
from bigmarket.errors import Trouble
from faults.services import MariaDbProcess
from sharded import (
    CAR,
    POINTS,
    arm,
    bring,
    broken,
    cars,
    draw,
    draw_all,
    free_units,
    settings_of,
    users,
    won,
    world_of,
)
from waiting import eventually

pytestmark = pytest.mark.faults

CARS = 60
ANSWER_SECONDS = 5.0  # a store by itself waits 6 for a frozen server
BACK_SECONDS = 45.0


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[MariaDbProcess]:
    MariaDbProcess.require()
    with MariaDbProcess(tmp_path / "mariadb") as server:
        yield server


@pytest.fixture
def world(hub: MariaDbProcess, tmp_path: Path) -> Iterator[World]:
    shards = [f"sqlite:///{tmp_path}/{number}.db" for number in range(2)]
    with world_of(settings_of(tmp_path, hub.create_database("hub"), shards)) as running:
        yield running


def timed_draws(world: World, names: list[str]) -> list[Answer]:
    """A draw of each at once, answered in time."""
    begun = time.monotonic()
    answers = draw_all(world, names)
    assert time.monotonic() - begun < ANSWER_SECONDS
    return answers


@pytest.mark.parametrize("fault", ["frozen", "killed"])
def test_without_the_hub_draws_go_on(world: World, hub: MariaDbProcess, fault: str) -> None:
    arm(world, cars(CARS))
    short, stocked = users(world, 0, 4), users(world, 1, 4)
    bring(world, 1, 8)
    _, (lacking, free) = free_units(world.stores)
    assert lacking == 0
    if fault == "frozen":
        hub.pause()
    else:
        hub.kill()

    answers = timed_draws(world, short + stocked)
    assert all(isinstance(a, Trouble) and a.outcome == "none" for a in answers[:4])
    assert {a.award_id for a in answers[4:] if isinstance(a, Drawn)} == {CAR}
    drawn = 4
    for _ in range(5):  # until the other shard runs out as well
        drawn += sum(isinstance(a, Drawn) for a in timed_draws(world, stocked))
    assert drawn <= free
    assert not isinstance(timed_draws(world, stocked)[0], Drawn) or drawn < free

    if fault == "frozen":
        hub.resume()
    else:
        hub.start()
        hub.wait_ready()
    eventually(lambda: _can_draw(world, short[0]), seconds=BACK_SECONDS)
    while won(world.stores) < CARS:
        draw_all(world, short + stocked)
    assert draw(world, short[0]) == POINTS
    assert world.escrow is not None
    eventually(lambda: _swept(world), seconds=BACK_SECONDS)
    assert not broken(world.stores)


def _can_draw(world: World, name: str) -> bool:
    try:
        assert draw(world, name) == CAR
    except Trouble:
        return False
    return True


def _swept(world: World) -> bool:
    assert world.escrow is not None
    try:
        return world.escrow.sweep() == 0
    except Trouble:
        return False
