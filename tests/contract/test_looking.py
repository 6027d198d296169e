"""Looks on every engine: a batch sees what each look alone would, beside writers and after them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pytest
from sqlalchemy import text

from bigmarket.activity.looking import AccountLook, AccountSeen, ShelfLook, look_at_accounts, look_at_shelves
from bigmarket.activity.quota import Account, empty_account, period_of, roll_over
from bigmarket.desks import AccountDesk, DrawDesk, ShelfDesk
from bigmarket.draw import Drawn, DrawRequest, draw_batch
from bigmarket.errors import NotFound, Overloaded, Trouble
from bigmarket.lanes import LaneSet, LaneSettings, LaneShard
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import whole
from bigmarket.storage.queries import account_of
from databases import on_mysql
from support import DAY, HOUR, IDS, NOON, assert_healthy, count, give, install, small_campaign

WAIT = 20.0
MIDNIGHT = NOON + 12 * HOUR  # where the activity is
SKU, FEW = 11, 12


@pytest.fixture
def store(store: Store) -> Store:
    install(store, small_campaign())
    return store


def lanes_on(store: Store, *, settings: LaneSettings | None = None) -> LaneSet[AccountSeen]:
    with store.reading() as connection:
        live = load_live(connection, {})
    return LaneSet(
        [LaneShard(AccountDesk(store, live=lambda: live), lambda _: None)],
        shard_of=lambda _: 0,
        now_ms=lambda: NOON,
        ids=IDS,
        settings=settings or LaneSettings(queue_seconds=WAIT),
    )


def look(store: Store, users: Sequence[str], *, now_ms: int = NOON) -> list[Account]:
    with store.reading() as connection:
        live = load_live(connection, {})
    looks = [AccountLook("", user, 1, True) for user in users]
    with store.looking() as tx:
        answers = look_at_accounts(tx, looks, live=live, now_ms=now_ms).answers
    return [answer.account for answer in answers if isinstance(answer, AccountSeen)]


def alone(store: Store, user: str, *, now_ms: int) -> Account:
    """The account as any other reader finds it."""
    with store.reading() as connection:
        zone = load_live(connection, {})[1].zone
        period = period_of(now_ms, zone=zone)
        account = account_of(connection, user, 1) or empty_account(period)
    roll_over(account, period)
    return account


def draw(store: Store, users: Sequence[str], *, now_ms: int = NOON) -> None:
    with store.reading() as connection:
        live = load_live(connection, {})
    with store.drawing() as tx:
        requests = [DrawRequest(IDS.make(now_ms), user, 1, None) for user in users]
        answers = draw_batch(tx, requests, live=live, now_ms=now_ms).answers
    assert all(isinstance(answer, Drawn) for answer in answers)


def shelf(store: Store) -> dict[int, int]:
    with store.reading() as connection:
        live = load_live(connection, {})
    with whole(store).looking_at_shelves() as tx:
        (seen,) = look_at_shelves(tx, [ShelfLook("", "", 1)], live=live).answers
    assert isinstance(seen, tuple)
    return {offer.bundle.sku: offer.left for offer in seen}


@pytest.mark.parametrize("now_ms", [NOON, MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 10 * DAY])
def test_hundreds_in_one_batch_see_what_each_alone_would(store: Store, now_ms: int) -> None:
    users = [f"user-{number:03}" for number in range(300)]  # more than fit in one statement
    give(store, *users[::2])
    draw(store, users[::4])
    draw(store, users[::8])
    assert look(store, users[::-1], now_ms=now_ms) == [alone(store, user, now_ms=now_ms) for user in users[::-1]]


def test_a_user_who_was_never_credited_has_zeros(store: Store) -> None:
    assert look(store, ["nobody"]) == [Account(0, 0, "2026-11", 0, 0, "2026-11-20", 0, 0)]


def test_odd_names_are_told_apart(store: Store) -> None:
    names = ["ann", "Ann", "änn", "a'n\\n", 'a"n', "安"]
    for number, name in enumerate(names):
        give(store, name)
        draw(store, [name] * number)
    assert [account.used for account in look(store, names)] == list(range(len(names)))


def test_what_was_drawn_is_seen_at_once(store: Store) -> None:
    give(store, "ann")
    for drawn in range(1, 6):
        draw(store, ["ann"])
        assert [account.used_today for account in look(store, ["ann"])] == [drawn]


def test_a_look_waits_for_no_writer_and_keeps_none_waiting(store: Store) -> None:
    give(store, "ann")
    with store.reading() as connection:
        live = load_live(connection, {})
    with store.looking() as tx:
        assert tx.accounts_of([("ann", 1)])["ann", 1].used == 0
        with store.drawing() as writer:
            draw_batch(writer, [DrawRequest(IDS.make(NOON), "ann", 1, None)], live=live, now_ms=NOON)
            assert [account.used for account in look(store, ["ann"])] == [0]  # it has the row locked; nothing is kept
    assert [account.used for account in look(store, ["ann"])] == [1]
    assert_healthy(store)


def test_a_look_cannot_leave_anything_open(store: Store) -> None:
    give(store, "ann")
    for _ in range(40):  # more than there are connections
        with pytest.raises(KeyError), store.looking() as tx:
            tx.accounts_of([("ann", 1)])
            raise KeyError
    draw(store, ["ann"])
    assert [account.used for account in look(store, ["ann"])] == [1]


def test_a_shelf_shows_the_units_left(store: Store) -> None:
    assert shelf(store) == {SKU: 1000, FEW: 5}
    give(store, "ann", "bob", sku=FEW)
    assert shelf(store) == {SKU: 1000, FEW: 3}


def test_a_sku_that_was_dropped_since_is_sold_as_it_was_armed(store: Store) -> None:
    with store.writing() as connection:
        connection.execute(text("DELETE FROM raffle_activity_sku WHERE sku = 12"))
    assert shelf(store) == {SKU: 1000, FEW: 5}


def test_what_queued_up_shares_one_transaction(store: Store) -> None:
    give(store, "ann")
    lanes = lanes_on(store)
    futures: list[Future[object]] = [Future() for _ in range(64)]
    for number, future in enumerate(futures):
        lanes.submit("ann" if number % 2 else f"u{number}", 1 if number % 3 else 7, True, reply=future)
    lanes.start()
    found = [future.result(WAIT) for future in futures]
    assert lanes.stop(timeout_seconds=WAIT)
    assert lanes.stats()[0].batches == 1
    assert [type(answer) for answer in found[:3]] == [NotFound, AccountSeen, AccountSeen]
    assert lanes.stats()[0].refusals == len(range(0, 64, 3))


def test_what_is_said_of_looks_that_wait_is_true_of_them(store: Store) -> None:
    lanes = lanes_on(store, settings=LaneSettings(queue_max=1, queue_seconds=WAIT))
    with pytest.raises(Overloaded, match="The account look is late; nothing was spent"):
        lanes.ask("ann", 1, True, timeout_seconds=0.01)
    with pytest.raises(Overloaded, match="Too many account looks are waiting; nothing was spent"):
        lanes.ask("ann", 1, True, timeout_seconds=0.01)
    lanes.start()
    assert lanes.stop(timeout_seconds=WAIT)


def test_whether_it_writes_is_what_tells_a_late_look_from_a_late_draw() -> None:
    assert [desk.writes for desk in (DrawDesk, AccountDesk, ShelfDesk)] == [True, False, False]


@on_mysql
def test_a_connection_that_was_lost_in_the_pool_is_replaced(store: Store) -> None:
    give(store, "ann")
    with store.examining() as connection:
        others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        for number in connection.execute(text(others)).scalars().all():
            connection.execute(text(f"KILL {number}"))
    with store.looking() as tx:
        assert tx.accounts_of([("ann", 1)])["ann", 1].total_count == 10


def test_a_database_that_is_gone_is_trouble(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = lanes_on(store)
    monkeypatch.setattr(lanes.lanes[0]._desk, "open", _gone)
    lanes.start()
    with pytest.raises(Trouble) as trouble:
        lanes.ask("ann", 1, True, timeout_seconds=WAIT)
    assert trouble.value.outcome == "none"
    assert lanes.stop(timeout_seconds=WAIT)


def _gone() -> None:
    raise Trouble("The database does not answer; nothing was spent.")


def test_readers_and_writers_at_once_see_whole_accounts(store: Store) -> None:
    """An account that was credited ten and drawn from is never seen half-way: what is used is used today."""
    give(store, "ann")
    seen: list[Account] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.extend(look(store, ["ann"]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(10):
            draw(store, ["ann"])
    finally:
        done.set()
        watcher.join(WAIT)
    used = [account.used for account in seen]
    assert used == sorted(used)
    assert all(account.used == account.used_today for account in seen)
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == 10
