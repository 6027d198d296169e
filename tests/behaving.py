"""A campaign with rebates, and lanes that take behaviors, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from bigmarket.activity.behavior import Behaved
from bigmarket.activity.campaign import Campaign, parse_campaign
from bigmarket.app import KIND_CHECKS
from bigmarket.bus.in_process import InProcessBus
from bigmarket.desks import BehaviorDesk
from bigmarket.errors import BigmarketError
from bigmarket.ids import Ids
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.lanes import LaneSet, LaneSettings, LaneShard
from bigmarket.outbox.task import GRACE_MS
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from support import NOON, SMALL, facts

WAIT = 20.0
CAMPAIGN = f"""{SMALL}
rebates:
  - {{behavior: sign, type: sku, sku: 11}}
  - {{behavior: sign, type: integral, credits: 5}}
  - {{behavior: sign, type: integral, credits: 70, streak_days: 3}}
  - {{behavior: openai_pay, type: integral, credits: 20}}
  - {{behavior: visit, type: integral, credits: 1, description: a visit}}
"""

Answers = list[Behaved | BigmarketError]


def rewarding_campaign() -> Campaign:
    """The campaign of ``CAMPAIGN``."""
    return parse_campaign(CAMPAIGN, kinds=KIND_CHECKS)


@contextmanager
def lanes_on(store: Any, *, now_ms: int = NOON, lanes: int = 1, started: bool = True) -> Iterator[LaneSet[Behaved]]:
    """Lanes on one shard that leave every task to the store; they drain at the end."""
    with store.reading() as connection:
        live = load_live(connection, {})
    made = LaneSet(
        [LaneShard(BehaviorDesk(store, live=lambda: live, ids=Ids()), lambda _: None)],
        shard_of=lambda _: 0,
        now_ms=lambda: now_ms,
        ids=Ids(),
        settings=LaneSettings(lanes=lanes, queue_seconds=WAIT),
    )
    if started:
        made.start()
    yield made
    assert made.stop(timeout_seconds=WAIT)


def submit(
    lanes: LaneSet[Behaved],
    users: Sequence[str],
    behavior: str = "sign",
    *,
    activity: int | None = None,
    no: str | None = None,
) -> list[Future[Behaved | BigmarketError]]:
    """Submit one behavior of each of the users."""
    futures: list[Future[Behaved | BigmarketError]] = [Future() for _ in users]
    for user, future in zip(users, futures, strict=True):
        lanes.submit(user, behavior, activity, no, reply=future)
    return futures


def ask(store: Any, user: str, behavior: str = "sign", *, now_ms: int = NOON, no: str | None = None) -> Behaved:
    """One behavior and its answer."""
    with lanes_on(store, now_ms=now_ms) as lanes:
        return lanes.ask(user, behavior, None, no, timeout_seconds=WAIT)


def answers(futures: Sequence[Future[Behaved | BigmarketError]]) -> Answers:
    """Wait for all of them."""
    return [future.result(WAIT) for future in futures]


def bus_on(store: Store, *, now_ms: int = NOON) -> InProcessBus:
    """The bus that has rebates given."""
    return InProcessBus(store, CONSUMERS, now_ms=lambda: now_ms, facts=facts(store))


def give_all(store: Store, *, now_ms: int = NOON) -> int:
    """Deliver every task that waits; how many there were."""
    tasks = store.due_tasks(now_ms + GRACE_MS, limit=100_000)
    if tasks:
        bus_on(store, now_ms=now_ms).deliver(tasks)
    return len(tasks)
