"""A thing that was won is claimed in time, shipped once, and where it went is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import insert, text

from bigmarket.activity.campaign import Campaign, parse_campaign
from bigmarket.app import KIND_CHECKS, World
from bigmarket.award.claims import DAY_MS, ClaimExpired, Contact, DeliveryView
from bigmarket.award.void import VoidAsked
from bigmarket.errors import BadInput, Duplicate, NotFound
from bigmarket.storage import claims as claims_module
from bigmarket.storage import schema as t
from bigmarket.storage.claims import Unclaimed, claims, unclaimed
from bigmarket.storage.doctor import examine
from bigmarket.storage.replays import IMPORTED_REVISION
from databases import Databases
from sharded import CARS, arm, draw, laid_out, settings_of, users
from support import NOON

HOME = Contact("Ann Lee", "13800138000", "1 West Lake Road, Hangzhou")
WORK = Contact("Ann Lee", "13800138000", "2 Binjiang Road, Hangzhou", "ring twice")


def campaign(*, claim_days: int) -> Campaign:
    told = CARS.replace("STOCK", "stock: 50,").replace("SKUS_LEFT", "99").replace("TREE", "stocked")
    told = told.replace("kind: physical", f"kind: physical, claim_days: {claim_days}")
    return parse_campaign(told, kinds=KIND_CHECKS)


@dataclass
class Clock:
    now: int = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "sqlite-2x4", "mysql", "mysql-2"])
def world(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases, clock: Clock) -> Iterator[World]:
    """One database or several; everything is a car, which is claimed within ten days."""
    if "-" in request.param:
        with laid_out(request.param, tmp_path, databases) as settings, World(settings, clock=clock) as running:
            arm(running, campaign(claim_days=10))
            yield running
        return
    with databases.url(request.param) as url:
        settings = settings_of(tmp_path, url, [])
        with World(settings, clock=clock) as running:
            arm(running, campaign(claim_days=10))
            yield running


def win(world: World, number: int = 1) -> tuple[str, list[str]]:
    """A user and the orders by which they won cars."""
    (user,) = users(world, len(world.stores.shards) - 1, 1)
    for _ in range(number):
        draw(world, user)
    with world.stores.of(user).reading() as connection:
        query = text("SELECT order_id FROM user_award_record WHERE user_id = :user ORDER BY order_id")
        return user, list(connection.execute(query, {"user": user}).scalars())


def healthy(world: World) -> bool:
    return not [finding for finding in examine(world.stores, now_ms=world.now_ms()) if not finding.ok]


def stored(world: World, column: str) -> list[Any]:
    found: list[Any] = []
    for shard in world.stores.shards:
        with shard.reading() as connection:
            found += connection.execute(text(f"SELECT {column} FROM award_delivery ORDER BY order_id")).scalars()
    return found


def test_a_claimed_thing_is_shipped_which_completes_the_award(world: World, clock: Clock) -> None:
    user, (order,) = win(world)
    assert world.claim(user, order, HOME) == DeliveryView("claimed")
    (claim,) = claims(world.stores, state="claimed")
    assert (claim.order_id, claim.user_id, claim.award_title, claim.contact) == (order, user, "car", HOME)
    clock.now += 1
    assert not world.ship(order, carrier="SF", tracking="SF1").repeated
    assert list(claims(world.stores, state="claimed")) == []
    (claim,) = claims(world.stores, state=None)
    assert (claim.state, claim.carrier, claim.tracking) == ("done", "SF", "SF1")
    assert world.claim(user, order, HOME) == DeliveryView("shipped", carrier="SF", tracking="SF1")
    assert healthy(world)


def test_the_same_claim_again_changes_nothing_and_another_counts_until_it_is_shipped(
    world: World, clock: Clock
) -> None:
    user, (order,) = win(world)
    world.claim(user, order, HOME)
    clock.now += 5
    world.claim(user, order, HOME)
    assert stored(world, "update_time_ms") == [NOON]
    clock.now += 10 * DAY_MS  # in time is in time
    world.claim(user, order, WORK)
    (claim,) = claims(world.stores, state="claimed")
    assert (claim.contact, claim.claim_time_ms) == (WORK, NOON)
    world.ship(order, carrier="SF", tracking="SF1")
    with pytest.raises(Duplicate, match="shipped already"):
        world.claim(user, order, HOME)
    assert healthy(world)


def test_only_the_winner_claims_only_what_is_claimed_and_only_in_time(world: World, clock: Clock) -> None:
    user, (first, second) = win(world, 2)
    with pytest.raises(NotFound):
        world.claim("somebody", first, HOME)
    with pytest.raises(NotFound):
        world.claim(user, "01AAAAAAAAAAAAAAAAAAAAAAAA", HOME)
    with pytest.raises(BadInput, match="phone"):
        world.claim(user, first, HOME._replace(phone="-"))
    clock.now = NOON + 10 * DAY_MS - 1
    world.claim(user, first, HOME)
    clock.now += 1
    with pytest.raises(ClaimExpired, match="within 10 days"):
        world.claim(user, second, HOME)
    assert stored(world, "state") == ["claimed"]


def test_what_comes_by_itself_is_not_claimed(world: World) -> None:
    user, (order,) = win(world)
    with world.stores.of(user).writing() as connection:
        record = world.stores.of(user).split.table_of(t.user_award_record, user)
        connection.execute(record.update().values(award_id=1))
    with pytest.raises(BadInput, match="needs no claim"):
        world.claim(user, order, HOME)


def test_shipping_twice_is_once(world: World) -> None:
    user, (order,) = win(world)
    with pytest.raises(NotFound, match="Nobody has claimed"):
        world.ship(order, carrier="SF", tracking="SF1")
    world.claim(user, order, HOME)
    with ThreadPoolExecutor(4) as pool:
        ship: Callable[[int], bool] = lambda _: world.ship(order, carrier="SF", tracking="SF1").repeated  # noqa: E731
        assert sorted(pool.map(ship, range(4))) == [False, True, True, True]
    with pytest.raises(Duplicate, match="shipped already, by SF as SF1"):
        world.ship(order, carrier="SF", tracking="SF2")
    assert not world.ship(order, carrier="SF", tracking="SF2", correct=True).repeated
    assert world.claim(user, order, HOME).tracking == "SF2"
    assert healthy(world)


def test_what_is_voided_is_neither_claimed_nor_shipped(world: World) -> None:
    user, (claimed, unclaimed) = win(world, 2)
    world.claim(user, claimed, HOME)
    for order in (claimed, unclaimed):
        world.void(VoidAsked(order, "a mistake", stock=True))
        with pytest.raises(BadInput, match="taken back"):
            world.claim(user, order, HOME)
    with pytest.raises(BadInput, match="do not ship it"):
        world.ship(claimed, carrier="SF", tracking="SF1")
    assert stored(world, "state") == ["void"]
    assert healthy(world)


def test_a_void_beside_shipping_leaves_one_or_the_other(world: World) -> None:
    user, orders = win(world, 8)
    for order in orders:
        world.claim(user, order, HOME)

    def ship(order: str) -> None:
        try:
            world.ship(order, carrier="SF", tracking=order)
        except BadInput:
            return

    with ThreadPoolExecutor(4) as pool:
        shipped = [pool.submit(ship, order) for order in orders]
        voided = [pool.submit(world.void, VoidAsked(order, "x", stock=True, quota=True)) for order in orders]
        for future in [*shipped, *voided]:
            future.result(30)
    assert stored(world, "state") == ["void"] * 8
    assert healthy(world)


def test_contacts_are_erased_some_time_after_shipping(world: World, clock: Clock) -> None:
    user, (shipped, voided, waiting) = win(world, 3)
    for order in (shipped, voided, waiting):
        world.claim(user, order, HOME)
    world.ship(shipped, carrier="SF", tracking="SF1")
    world.void(VoidAsked(voided, "x"))
    (job,) = (job for job in world._jobs() if job.name == "contacts")
    clock.now += 90 * DAY_MS
    job.run(1)
    assert None not in stored(world, "contact")
    clock.now += 1
    job.run(1)
    assert [contact is None for contact in stored(world, "contact")] == [True, True, False]
    assert [claim.contact for claim in claims(world.stores, state=None)] == [None, None, HOME]
    assert world.claim(user, shipped, WORK) == DeliveryView("shipped", carrier="SF", tracking="SF1")


def test_claims_are_read_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "PAGE", 2)
    user, orders = win(world, 5)
    for order in orders:
        world.claim(user, order, HOME)
    assert [claim.order_id for claim in claims(world.stores, state="claimed")] == orders


def listed(world: World, state: Literal["unclaimed", "expired"]) -> list[Unclaimed]:
    return list(unclaimed(world.stores, state=state, award_of=world.award_of, now_ms=world.now_ms()))


def test_what_nobody_claimed_is_listed_by_whether_it_still_can_be(world: World, clock: Clock) -> None:
    user, (claimed, shipped, voided, waiting) = win(world, 4)
    for order in (claimed, shipped):
        world.claim(user, order, HOME)
    world.ship(shipped, carrier="SF", tracking="SF1")
    world.void(VoidAsked(voided, "x"))
    deadline = NOON + 10 * DAY_MS
    expected = [Unclaimed(waiting, user, 1, 4, "car", "", NOON, deadline)]
    assert (listed(world, "unclaimed"), listed(world, "expired")) == (expected, [])
    clock.now = deadline - 1
    assert (listed(world, "unclaimed"), listed(world, "expired")) == (expected, [])
    clock.now = deadline
    assert (listed(world, "unclaimed"), listed(world, "expired")) == ([], expected)
    world.void(VoidAsked(waiting, "expired", stock=True))
    assert listed(world, "expired") == []
    assert healthy(world)


def test_a_things_own_revision_says_until_when_it_can_be_claimed(world: World, clock: Clock) -> None:
    user, (old,) = win(world)
    arm(world, campaign(claim_days=20))
    draw(world, user)
    clock.now = NOON + 10 * DAY_MS
    assert [one.order_id for one in listed(world, "expired")] == [old]
    (new,) = listed(world, "unclaimed")
    assert new.claim_before_ms == NOON + 20 * DAY_MS
    with world.stores.of(user).writing() as connection:
        record = world.stores.of(user).split.table_of(t.user_award_record, user)
        connection.execute(record.update().values(revision_id=IMPORTED_REVISION))
    assert [one.order_id for one in listed(world, "unclaimed")] == [old, new.order_id], "it goes by what is live"


def test_what_comes_by_itself_is_not_listed_as_unclaimed(world: World) -> None:
    user, _ = win(world)
    with world.stores.of(user).writing() as connection:
        record = world.stores.of(user).split.table_of(t.user_award_record, user)
        connection.execute(record.update().values(award_id=1))
    assert (listed(world, "unclaimed"), listed(world, "expired")) == ([], [])


@pytest.mark.parametrize("wins", [3, 4, 5])
def test_what_nobody_claimed_is_read_page_by_page_from_every_table(
    world: World, monkeypatch: pytest.MonkeyPatch, wins: int
) -> None:
    """Also where whole pages hold nothing of it."""
    monkeypatch.setattr(claims_module, "PAGE", 2)
    expected: list[str] = []
    for shard in range(len(world.stores.shards)):
        names = users(world, shard, 3)
        for _ in range(wins):
            for name in names:
                draw(world, name)
        with world.stores.shards[shard].reading() as connection:
            query = text("SELECT order_id, user_id FROM user_award_record ORDER BY order_id")
            won = connection.execute(query).tuples().all()
        for order, user in won[: 2 * wins]:
            world.claim(user, order, HOME)
        expected += [order for order, _ in won[2 * wins :]]
    assert len(expected) == wins * len(world.stores.shards)
    assert [one.order_id for one in listed(world, "unclaimed")] == expected


def test_teeth_a_completed_thing_that_nobody_shipped_is_seen(world: World) -> None:
    user, (order,) = win(world)
    store = world.stores.of(user)
    with store.writing() as connection:
        record = store.split.table_of(t.user_award_record, user)
        connection.execute(record.update().values(award_state="completed"))
    assert not healthy(world)
    with store.writing() as connection:
        row = {"order_id": order, "user_id": user, "activity_id": 1, "award_id": 4, "award_key": "physical"}
        times = {"next_at_ms": 1, "create_time_ms": 1, "update_time_ms": 1}
        connection.execute(
            insert(t.award_delivery).values(place="physical", message="{}", state="done", **row, **times)
        )
    assert healthy(world)
