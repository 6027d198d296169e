"""Ten thousand users sign in at once, and one user two hundred times: each earns once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from behaving import rewarding_campaign
from bigmarket.activity.behavior import Behaved
from bigmarket.api.health import Readiness
from bigmarket.api.metrics import Metrics
from bigmarket.app import World
from bigmarket.errors import Contention, Duplicate
from bigmarket.settings import Settings
from bigmarket.storage.doctor import examine
from databases import Databases
from flows.broker import broker_settings
from support import NOON, count, install

USERS = 10_000
DUPLICATES = 200
WAIT = 60.0


@pytest.fixture(params=["sqlite", "mysql", "mysql and rabbitmq"])
def world(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[World]:
    """A server's World without HTTP, which has room for everybody."""
    with ExitStack() as stack:
        url = stack.enter_context(databases.url(request.param.split()[0]))
        settings = Settings(home=tmp_path, database=url, queue_max=USERS, draw_deadline_seconds=60)
        if "rabbitmq" in request.param:
            settings = settings.model_copy(update=stack.enter_context(broker_settings(tmp_path)))
        with World(settings, clock=lambda: NOON) as running:
            campaign = rewarding_campaign()
            skus = tuple(sku.model_copy(update={"stock": 2 * USERS}) for sku in campaign.skus)
            install(running.stores.config, campaign.model_copy(update={"skus": skus}))
            running.live.refresh()
            yield running


def sign_in(world: World, users: list[str]) -> list[Any]:
    """All at once; their answers. Whom a stalled machine sends away, unspent, asks once more."""
    answers = _asked(world, users)
    sent_away = [place for place, answer in enumerate(answers) if isinstance(answer, Contention)]
    for place, answer in zip(sent_away, _asked(world, [users[place] for place in sent_away]), strict=True):
        answers[place] = answer
    return answers


def _asked(world: World, users: list[str]) -> list[Any]:
    futures: list[Future[Any]] = [Future() for _ in users]
    for user, future in zip(users, futures, strict=True):
        world.rebates.submit(user, "sign", None, None, reply=future)
    return [future.result(WAIT) for future in futures]


def settle(world: World) -> None:
    """Wait until everything is delivered."""
    give_up_at = time.monotonic() + WAIT
    store = world.stores.config
    waiting = "SELECT COUNT(*) FROM user_behavior_rebate_order WHERE state = 'create'"
    while count(store, "SELECT COUNT(*) FROM task") or count(store, waiting):
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def assert_sound(world: World, users: int) -> None:
    """Everybody has each rebate once, and doctor finds nothing."""
    store = world.stores.config
    assert count(store, "SELECT COUNT(*) FROM user_behavior") == users
    assert count(store, "SELECT COUNT(*) FROM user_behavior_rebate_order WHERE state = 'completed'") == 2 * users
    accounts = "SELECT COUNT(*) FROM raffle_activity_account WHERE total_count = 10 AND total_count_surplus = 10"
    assert count(store, accounts) == users
    assert count(store, "SELECT COUNT(*) FROM user_credit_account WHERE available_cents = 500") == users
    assert [finding for finding in examine(world.stores, now_ms=NOON, grace_ms=0) if not finding.ok] == []


def test_ten_thousand_sign_in_at_once(world: World) -> None:
    users = [f"user{number:05}" for number in range(USERS)]
    assert all(isinstance(answer, Behaved) for answer in sign_in(world, users))
    settle(world)
    assert_sound(world, USERS)


def test_two_hundred_times_at_once_is_once(world: World) -> None:
    answers = sign_in(world, ["ann"] * DUPLICATES)
    assert Counter(type(answer) for answer in answers) == {Behaved: 1, Duplicate: DUPLICATES - 1}
    settle(world)
    assert_sound(world, 1)
    told = Metrics(world, {}).text().decode()
    assert 'bigmarket_lane_answers_total{answer="made",kind="behavior"} 1.0' in told
    assert f'bigmarket_lane_answers_total{{answer="refused",kind="behavior"}} {DUPLICATES - 1:.1f}' in told
    assert 'bigmarket_lane_queued{kind="behavior"} 0.0' in told
    assert Readiness(world).reasons() == []
