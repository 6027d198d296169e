"""Lanes on a real store: order, isolation of poison, settlement, drain."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from bigmarket.activity.stock import GuardMissed
from bigmarket.desks import DrawDesk
from bigmarket.draw import Answer, Drawn, Outcome
from bigmarket.errors import Contention, OutcomeUnknown, Overloaded, StorageFull, Trouble
from bigmarket.ids import Ids
from bigmarket.lanes import SPREAD_AT, SPREAD_SECONDS, LaneSet, LaneSettings, LaneShard, Submission
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.sqlite import SqliteStore
from databases import on_mysql
from support import NOON, assert_healthy, count, give, install, small_campaign
from waiting import eventually

WAIT = 20.0


@pytest.fixture
def users(store: Store) -> list[str]:
    install(store, small_campaign())
    names = [f"u{n:02}" for n in range(32)]
    give(store, *names)
    return names


def lanes_on(store: Any, *, settings: LaneSettings | None = None) -> LaneSet[Drawn]:
    with store.reading() as connection:
        live = load_live(connection, {})
    return LaneSet(
        [LaneShard(DrawDesk(store, live=lambda: live), lambda _: None)],
        shard_of=lambda _: 0,
        now_ms=lambda: NOON,
        ids=Ids(),
        settings=settings or LaneSettings(queue_seconds=WAIT),
    )


def submit(lanes: LaneSet[Drawn], users: Sequence[str], *, request_id: str | None = None) -> list[Future[Answer]]:
    futures: list[Future[Answer]] = [Future() for _ in users]
    for user, future in zip(users, futures, strict=True):
        lanes.submit(user, 1, request_id, reply=future)
    return futures


def answers(futures: Sequence[Future[Answer]]) -> list[Answer]:
    return [future.result(WAIT) for future in futures]


def test_what_queued_up_shares_one_transaction_and_every_one_is_answered(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store)
    futures = submit(lanes, users)
    lanes.start()
    assert [a.user_id for a in answers(futures) if isinstance(a, Drawn)] == users
    assert lanes.stats()[0].batches == 1
    assert lanes.stop(timeout_seconds=WAIT)
    assert_healthy(store)


def test_stopping_draws_what_is_queued_and_then_takes_no_more(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store, settings=LaneSettings(batch_max=4, queue_seconds=WAIT))
    futures = submit(lanes, users)
    lanes.start()
    assert lanes.stop(timeout_seconds=WAIT)
    assert all(isinstance(a, Drawn) for a in answers(futures))
    with pytest.raises(Overloaded):
        submit(lanes, users[:1])


def test_a_full_queue_refuses_at_once(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store, settings=LaneSettings(queue_max=5, queue_seconds=WAIT))
    futures = submit(lanes, users[:5])
    with pytest.raises(Overloaded):
        submit(lanes, users[5:6])
    lanes.start()
    assert len(answers(futures)) == 5
    assert lanes.stop(timeout_seconds=WAIT)
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == 5


def test_many_users_are_hashed_to_several_lanes_and_all_draw(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store, settings=LaneSettings(lanes=3, queue_seconds=WAIT))
    futures = submit(lanes, users * (2 * SPREAD_AT // len(users)))
    lanes.start()
    assert all(isinstance(a, Drawn) for a in answers(futures))
    assert lanes.stop(timeout_seconds=WAIT)
    assert all(stats.made for stats in lanes.stats())
    assert_healthy(store)


def test_few_share_the_transactions_of_the_first_lane(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store, settings=LaneSettings(lanes=3, queue_seconds=WAIT))
    futures = submit(lanes, users)
    lanes.start()
    assert all(isinstance(a, Drawn) for a in answers(futures))
    assert lanes.stop(timeout_seconds=WAIT)
    assert [stats.batches for stats in lanes.stats()] == [1, 0, 0]


def test_where_few_are_a_whole_batch_the_others_help(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store, settings=LaneSettings(lanes=3, batch_max=2, queue_seconds=WAIT))
    futures = submit(lanes, users * 3)
    lanes.start()
    assert all(isinstance(a, Drawn) for a in answers(futures))
    assert lanes.stop(timeout_seconds=WAIT)
    assert all(stats.made for stats in lanes.stats())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that give up after their attempts and never for the time these take, however slow the machine is."""
    monkeypatch.setattr("bigmarket.lanes.RETRY_SECONDS_MAX", 600.0)
    monkeypatch.setattr("bigmarket.lanes.SPLIT_SECONDS_MAX", 600.0)


class _Wrapped:
    """A store whose draw transactions can be made to fail in one way."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Held(_Wrapped):
    """Lets the transaction of one user wait until it is ``released``."""

    def __init__(self, store: Store, user_id: str) -> None:
        super().__init__(store)
        self._user_id = user_id
        self.begun, self.released = threading.Event(), threading.Event()

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        with self._store.drawing() as tx:
            load = tx.load

            def held(requests: Sequence[Any]) -> Any:
                if any(r.user_id == self._user_id for r in requests):
                    self.begun.set()
                    assert self.released.wait(WAIT)
                return load(requests)

            tx.load = held  # type: ignore[method-assign]
            yield tx


@on_mysql
@pytest.mark.parametrize("spreads", [True, False], ids=["as it is", "switched off"])
def test_while_the_first_lane_is_held_up_the_others_go_on(
    store: Store, users: list[str], monkeypatch: pytest.MonkeyPatch, spreads: bool
) -> None:
    """On MySQL, as SQLite has one writer; who is hashed to the first lane waits all the same."""
    if not spreads:
        monkeypatch.setattr("bigmarket.lanes.SPREAD_SECONDS", 600.0)
    held = _Held(store, users[0])
    lanes = lanes_on(held, settings=LaneSettings(lanes=2, queue_seconds=WAIT))
    lanes.start()
    (first,) = submit(lanes, users[:1])
    assert held.begun.wait(WAIT)
    time.sleep(2 * SPREAD_SECONDS)
    others = submit(lanes, users[1:])
    if spreads:
        hashed = [crc32(user.encode()) % 2 for user in users[1:]]
        beside = [future for future, lane in zip(others, hashed, strict=True) if lane == 1]
        assert all(isinstance(a, Drawn) for a in answers(beside))
    else:
        assert lanes.lanes[0].waiting == len(others)
    assert not first.done()
    held.released.set()
    assert all(isinstance(a, Drawn) for a in answers([first, *others]))
    assert lanes.stop(timeout_seconds=WAIT)
    assert_healthy(store)


class _Poisoned(_Wrapped):
    """Fails, as a broken row would, whenever a certain user is in the batch."""

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        with self._store.drawing() as tx:
            load = tx.load

            def poisoned(requests: Sequence[Any]) -> Any:
                if any(r.user_id == "u13" for r in requests):
                    raise ValueError("poison")
                return load(requests)

            tx.load = poisoned  # type: ignore[method-assign]
            yield tx


def test_poison_fails_alone(store: Store, users: list[str]) -> None:
    lanes = lanes_on(_Poisoned(store))
    futures = submit(lanes, users)
    lanes.start()
    got = answers(futures)
    assert [user for user, a in zip(users, got, strict=True) if not isinstance(a, Drawn)] == ["u13"]
    poisoned = got[13]
    assert isinstance(poisoned, Trouble)
    assert poisoned.outcome == "none"
    assert lanes.stop(timeout_seconds=WAIT)
    assert_healthy(store)


class _Guarded(_Wrapped):
    """Has a guard that refuses whatever is written for a certain user: another key was used up, say."""

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        with self._store.drawing() as tx:
            apply = tx.apply

            def refused(outcome: Outcome) -> None:
                if any(order.user_id == "u13" for order in outcome.orders):
                    raise GuardMissed("user_raffle_order")
                apply(outcome)

            tx.apply = refused  # type: ignore[method-assign]
            yield tx


@pytest.mark.usefixtures("patient")
def test_a_guard_that_never_gives_way_refuses_one_and_not_its_neighbours(store: Store, users: list[str]) -> None:
    lanes = lanes_on(_Guarded(store))
    futures = submit(lanes, users)
    lanes.start()
    got = answers(futures)
    assert [user for user, a in zip(users, got, strict=True) if not isinstance(a, Drawn)] == ["u13"]
    assert isinstance(got[13], Contention)
    assert lanes.stop(timeout_seconds=WAIT)
    assert_healthy(store)


class _Flaky(_Wrapped):
    """Loses the race a given number of times, then works."""

    def __init__(self, store: Store, *, losses: int) -> None:
        super().__init__(store)
        self.losses = losses

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        with self._store.drawing() as tx:
            yield tx
            if self.losses:
                self.losses -= 1
                raise Contention("lost a race")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("losses", "wins"), [(1, True), (3, True), (4, False)])
def test_a_lost_race_is_run_again_a_few_times(store: Store, users: list[str], losses: int, wins: bool) -> None:
    lanes = lanes_on(_Flaky(store, losses=losses))
    futures = submit(lanes, users)
    lanes.start()
    assert all(isinstance(a, Drawn if wins else Contention) for a in answers(futures))
    assert lanes.stop(timeout_seconds=WAIT)
    assert lanes.stats()[0].retries == losses
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == (len(users) if wins else 0)
    assert_healthy(store)


def test_a_race_that_took_too_long_to_lose_is_not_run_again(
    store: Store, users: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmarket.lanes.RETRY_SECONDS_MAX", 0.0)
    lanes = lanes_on(_Flaky(store, losses=1))
    futures = submit(lanes, users)
    lanes.start()
    assert all(isinstance(a, Contention) for a in answers(futures))
    assert lanes.stats()[0].retries == 1
    assert all(isinstance(a, Drawn) for a in answers(submit(lanes, users))), "the next batch begins anew"
    assert lanes.stop(timeout_seconds=WAIT)
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == len(users)
    assert_healthy(store)


class _LosesTheCommit(_Wrapped):
    """The connection goes at the commit: ``committed`` says on which side of it, ``found`` whether one can look."""

    def __init__(self, store: Store, *, committed: bool, found: bool = True) -> None:
        super().__init__(store)
        self.committed = committed
        self.found = found

    @contextmanager
    def drawing(self) -> Iterator[Any]:
        try:
            with self._store.drawing() as tx:
                yield tx
                if not self.committed:
                    raise KeyError
        except KeyError:
            pass
        raise OutcomeUnknown("the connection went")

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        if not self.found:
            raise Contention("nobody answers")
        return self._store.find_draws(draws)


def test_a_commit_of_unknown_fate_that_happened_is_answered(store: Store, users: list[str]) -> None:
    lanes = lanes_on(_LosesTheCommit(store, committed=True))
    futures = submit(lanes, users)
    lanes.start()
    assert all(isinstance(a, Drawn) for a in answers(futures))
    assert lanes.stop(timeout_seconds=WAIT)
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == len(users)


def test_a_commit_of_unknown_fate_that_did_not_happen_spent_nothing(store: Store, users: list[str]) -> None:
    lanes = lanes_on(_LosesTheCommit(store, committed=False))
    futures = submit(lanes, users)
    lanes.start()
    assert {(type(a), getattr(a, "outcome", "")) for a in answers(futures)} == {(Trouble, "none")}
    assert lanes.stop(timeout_seconds=WAIT)
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 0


def test_a_commit_that_stays_unknown_says_so_and_the_request_id_settles_it(store: Store, users: list[str]) -> None:
    lanes = lanes_on(_LosesTheCommit(store, committed=True, found=False))
    futures = submit(lanes, users[:2], request_id="r1")
    lanes.start()
    assert all(isinstance(a, OutcomeUnknown) for a in answers(futures))
    assert lanes.stop(timeout_seconds=WAIT)
    healthy = lanes_on(store)
    healthy.start()
    assert all(isinstance(a, Drawn) for a in answers(submit(healthy, users[:2], request_id="r1")))
    assert healthy.stop(timeout_seconds=WAIT)
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 2


def test_a_full_disk_is_an_error_that_spent_nothing_and_passes(tmp_path: Path) -> None:
    from bigmarket.storage.migrate import migrate  # noqa: PLC0415

    store = SqliteStore(tmp_path / "full.db")
    migrate(store)
    install(store, small_campaign())
    users = [f"u{n:03}" for n in range(200)]
    give(store, *users)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    lanes = lanes_on(store)
    lanes.start()
    got = [a for _ in range(8) for a in answers(submit(lanes, users))]
    full = [a for a in got if isinstance(a, StorageFull)]
    assert full
    assert {a.outcome for a in full} == {"none"}
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert isinstance(answers(submit(lanes, users[:1]))[0], Drawn)
    assert lanes.stop(timeout_seconds=WAIT)
    assert_healthy(store)
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == sum(isinstance(a, Drawn) for a in got) + 1
    store.close()


def test_draws_wait_in_a_thread_of_their_own(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store)
    lanes.start()
    drawn: list[Drawn] = []
    threads = [
        threading.Thread(target=lambda u=user: drawn.append(lanes.ask(u, 1, None, timeout_seconds=WAIT)))  # type: ignore[misc]
        for user in users
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(d.user_id for d in drawn) == users
    assert lanes.stop(timeout_seconds=WAIT)


def test_a_draw_that_waited_too_long_is_refused_unspent(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store)
    futures = [Future[Answer]() for _ in users[:6]]
    for number, (user, future) in enumerate(zip(users, futures, strict=False)):
        ago = 2 * WAIT if number < 4 else 0
        lanes.lanes[0]._queue.put(Submission((user, 1, None), time.monotonic() - ago, future))
    lanes.start()
    assert [type(a) for a in answers(futures)] == [Overloaded] * 4 + [Drawn] * 2
    assert lanes.stop(timeout_seconds=WAIT)
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == 2


def test_a_hand_over_that_breaks_does_not_end_the_lane(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store)
    broken: list[object] = [None]  # not a future
    lanes.submit(users[0], 1, "r1", reply=broken)
    lanes.start()
    eventually(lambda: lanes.stats()[0].made == 1)  # apart from the others, whose answers would be lost, too
    assert all(isinstance(a, Drawn) for a in answers(submit(lanes, users[1:3])))
    assert isinstance(answers(submit(lanes, users[:1], request_id="r1"))[0], Drawn)
    assert lanes.stop(timeout_seconds=WAIT)
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == 3


def test_a_caller_that_cancelled_breaks_nothing(store: Store, users: list[str]) -> None:
    lanes = lanes_on(store)
    futures = submit(lanes, users[:3])
    assert futures[1].cancel()
    lanes.start()
    assert isinstance(futures[0].result(WAIT), Drawn)
    assert isinstance(futures[2].result(WAIT), Drawn)
    assert lanes.stop(timeout_seconds=WAIT)
