"""Several databases: stock that moves between them, users that stay in theirs, layouts that cannot be mixed up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from bigmarket.app import KIND_CHECKS, World, open_stores
from bigmarket.draw import Drawn
from bigmarket.errors import ConfigurationInvalid, SkuSoldOut, Trouble
from bigmarket.ids import Ids
from bigmarket.storage import arming, checks, installation, schema, transfers
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.campaigns import load_live, write_campaign
from bigmarket.storage.doctor import examine
from bigmarket.storage.escrow import Escrow
from bigmarket.storage.escrowed import StockOfAll
from bigmarket.storage.installation import Stores, prepare
from bigmarket.storage.replays import stored_draw
from databases import Databases
from sharded import (
    CAR,
    CAR_STOCK,
    LAYOUTS,
    POINTS,
    SKU,
    SKU_STOCK,
    WAIT,
    Crash,
    arm,
    bring,
    broken,
    cars,
    draw,
    draw_all,
    fragile,
    free_units,
    laid_out,
    settings_of,
    users,
    won,
    world_of,
)
from support import NOON, SEED


@pytest.fixture(params=LAYOUTS)
def world(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[World]:
    with laid_out(request.param, tmp_path, databases) as settings, world_of(settings) as running:
        yield running


only_two = pytest.mark.parametrize("world", ["sqlite-2"], indirect=True)


# --- drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["hub", "first", "last"])
def test_a_single_grand_prize_has_exactly_one_winner(world: World, where: str) -> None:
    arm(world, cars(1))
    shards = range(len(world.stores.shards))
    names = [name for shard in shards for name in users(world, shard, 6)]
    if where != "hub":
        bring(world, 0 if where == "first" else shards[-1], 1)
    answers = draw_all(world, names * 2)
    awards = [a.award_id if isinstance(a, Drawn) else a for a in answers]
    assert awards.count(CAR) == won(world.stores) == 1
    assert awards.count(POINTS) > len(names)
    late = [a for a in awards if a not in (CAR, POINTS)]  # on a busy machine
    assert all(isinstance(a, Trouble) and a.outcome == "none" for a in late)
    assert not broken(world.stores)


def test_a_unit_is_found_in_whichever_shard_it_is(world: World) -> None:
    shards = len(world.stores.shards)
    for where in range(shards):
        arm(world, cars(where + 1))
        bring(world, where, 1)
        (name,) = users(world, (where + 1) % shards, 1)
        assert draw(world, name) == CAR
    assert won(world.stores) == shards
    assert not broken(world.stores)


def test_nobody_is_consoled_while_units_are_left_anywhere(world: World) -> None:
    arm(world, cars(50))
    shards = range(len(world.stores.shards))
    bring(world, shards[-1], 20)
    names = [name for shard in shards for name in users(world, shard, 2)]
    assert [draw(world, names[turn % len(names)]) for turn in range(50)] == [CAR] * 50, "one after the other"
    assert world.stores.stock_left(9)[CAR] == 0
    (late,) = users(world, 0, 1)
    assert draw(world, late) == POINTS
    assert not broken(world.stores)


def test_all_shards_may_want_the_last_units_at_once(world: World) -> None:
    arm(world, cars(37))
    names = [name for shard in range(len(world.stores.shards)) for name in users(world, shard, 40)]
    answers = draw_all(world, names)
    assert won(world.stores) == sum(isinstance(a, Drawn) and a.award_id == CAR for a in answers)
    troubles = [a for a in answers if not isinstance(a, Drawn)]
    assert all(isinstance(a, Trouble) and a.outcome == "none" for a in troubles)
    if any(isinstance(a, Drawn) and a.award_id == POINTS for a in answers):
        assert won(world.stores) == 37, "somebody was consoled, so every unit must be won"
    assert not broken(world.stores)


@only_two
def test_a_draw_that_may_not_have_the_prize_asks_nobody_for_it(world: World) -> None:
    """Locked until the second draw of a day: the unit stays where it is until somebody can take it."""
    arm(world, cars(1, tree="locked"))
    bring(world, 1, 1)
    (name,) = users(world, 0, 1)
    assert draw(world, name) == POINTS
    assert free_units(world.stores) == (0, [0, 1])
    assert draw(world, name) == CAR
    assert not broken(world.stores)


@only_two
def test_nobody_gets_two_where_units_have_to_be_fetched(world: World) -> None:
    """A draw that misses a unit here is drawn again; it counts once."""
    arm(world, cars(1_000, tree="one_each"))
    names = [name for shard in range(len(world.stores.shards)) for name in users(world, shard, 5)]
    for _ in range(3):
        draw_all(world, names)
    assert [draw(world, name) for name in names] == [POINTS] * len(names)
    assert won(world.stores) == len(names)
    assert not broken(world.stores)


@only_two
def test_what_a_shard_takes_leaves_something_for_the_others(world: World) -> None:
    arm(world, cars(1_000))
    (name,) = users(world, 0, 1)
    draw(world, name)
    hub, frees = free_units(world.stores)
    assert hub > 500
    assert frees[0] > 100
    with world.stores.config.reading() as connection:
        moves = connection.execute(text("SELECT COUNT(*) FROM stock_transfer WHERE strategy_id = 9")).scalar_one()
    assert moves == 1
    for _ in range(9):
        draw(world, name)
    with world.stores.config.reading() as connection:
        assert (
            moves
            == connection.execute(text("SELECT COUNT(*) FROM stock_transfer WHERE strategy_id = 9")).scalar_one()
        ), "it had enough for the rest"


# --- the totals ---------------------------------------------------------------------------------------------------


def test_stock_raised_after_it_ran_out_is_won(world: World) -> None:
    arm(world, cars(1))
    first, second = users(world, 0, 1)[0], users(world, 1, 1)[0]
    assert [draw(world, first), draw(world, second), draw(world, first)] == [CAR, POINTS, POINTS]
    arm(world, cars(3))
    time.sleep(1.0)
    assert [draw(world, second), draw(world, first), draw(world, second)] == [CAR, CAR, POINTS]
    assert not broken(world.stores)


def test_stock_may_be_lowered_to_what_is_won_and_no_further(world: World) -> None:
    arm(world, cars(40))
    first, second = users(world, 0, 1)[0], users(world, 1, 1)[0]
    for name in (first, second, first):
        assert draw(world, name) == CAR
    revision = world.live.current[1].revision
    with pytest.raises(ConfigurationInvalid, match="stock below what is already won: 3 units of award_id 4"):
        arm(world, cars(2))
    world.live.refresh()
    assert world.live.current[1].revision == revision, "what was live stays live"
    assert not broken(world.stores)
    arm(world, cars(4))
    assert sum(free_units(world.stores)[1]) + free_units(world.stores)[0] == 1
    assert [draw(world, second), draw(world, second), draw(world, first)] == [CAR, POINTS, POINTS]
    assert not broken(world.stores)


def test_a_limit_can_be_taken_off_and_put_on(world: World) -> None:
    arm(world, cars(1))
    first, second = users(world, 0, 1)[0], users(world, 1, 1)[0]
    assert [draw(world, first), draw(world, second)] == [CAR, POINTS]
    arm(world, cars(None))
    assert not broken(world.stores)
    assert world.stores.stock_left(9) == {POINTS: None, CAR: None}
    assert [draw(world, first), draw(world, second), draw(world, second)] == [CAR] * 3
    with pytest.raises(ConfigurationInvalid, match="4 units"):
        arm(world, cars(3))
    assert draw(world, first) == CAR, "still without a limit"
    arm(world, cars(6))
    assert not broken(world.stores)
    time.sleep(0.6)
    assert [draw(world, second), draw(world, first)] == [CAR, POINTS]
    arm(world, cars(None))
    assert draw(world, first) == CAR
    assert not broken(world.stores)


def test_arming_again_changes_nothing(world: World) -> None:
    arm(world, cars(5))
    (name,) = users(world, 0, 1)
    draw(world, name)
    before = free_units(world.stores)
    assert not world.arm(1).changed
    assert free_units(world.stores) == before
    assert not broken(world.stores)


def test_totals_change_under_load_without_overselling(world: World) -> None:
    arm(world, cars(30))
    names = [name for shard in range(len(world.stores.shards)) for name in users(world, shard, 8)]
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(draw_all, world, names * 3)
        for stock in (200, 60, None, 400):
            try:
                arm(world, cars(stock))
            except (ConfigurationInvalid, Trouble):
                arm(world, cars(None))
        answers = drawing.result()
    assert all(isinstance(a, Drawn) or (isinstance(a, Trouble) and a.outcome == "none") for a in answers)
    assert not broken(world.stores)


# --- skus ---------------------------------------------------------------------------------------------------------


def test_a_sku_is_sold_out_only_when_no_shard_has_a_unit(world: World) -> None:
    shards = len(world.stores.shards)
    arm(world, cars(1, skus=shards + 3))
    bring(world, shards - 1, 2, SKU_STOCK)
    for shard in range(shards):
        users(world, shard, 1)
    with world.stores.looking_at_shelves() as tx:
        assert tx.units_left([SKU, 99]) == {SKU: 3}
    users(world, 0, 4)  # the first of them was credited before
    with pytest.raises(SkuSoldOut):
        users(world, 1, 2)
    arm(world, cars(1, skus=shards + 4))
    users(world, 1, 2)
    assert not broken(world.stores)


@only_two
def test_recharges_at_once_get_every_unit(world: World) -> None:
    arm(world, cars(1, skus=20))
    names = [f"r{n}" for n in range(24)]

    def credited(name: str) -> bool:
        try:
            world.recharge(name, sku=SKU, out_business_no=name)
        except SkuSoldOut:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(credited, names)) == 20
    assert not broken(world.stores)


# --- databases that do not answer ---------------------------------------------------------------------------------


class Reached:
    """Stands before a store; ``fault`` is what happens to whoever wants to read or write."""

    def __init__(self, store: Any, fault: Callable[[], None]) -> None:
        self._store = store
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        self._fault()
        with self._store.reading() as connection:
            yield connection

    @contextmanager
    def updating(self) -> Iterator[Connection]:
        self._fault()
        with self._store.updating() as connection:
            yield connection


def refuse() -> None:
    raise Trouble("The database does not answer; nothing was spent.")


def cut_off(world: World, *, hub: bool = False, shard: int | None = None, fault: Callable[[], None] = refuse) -> None:
    """Take databases away from whoever moves stock; lanes still reach their own."""
    escrow = world.escrow
    assert escrow is not None
    if hub:
        escrow._hub = Reached(escrow._hub, fault)  # type: ignore[assignment]
    if shard is not None:
        shards: list[Any] = list(escrow._shards)
        shards[shard] = Reached(shards[shard], fault)
        escrow._shards = tuple(shards)


@only_two
def test_without_the_hub_only_those_fail_who_need_it(world: World) -> None:
    arm(world, cars(200))
    names = users(world, 0, 10)
    bring(world, 0, 4)
    hub, (free, _) = free_units(world.stores)
    cut_off(world, hub=True)
    answers = draw_all(world, names * 10)
    drawn = [a for a in answers if isinstance(a, Drawn)]
    troubles = [a for a in answers if isinstance(a, Trouble)]
    assert len(drawn) == free, "what is in the shard is given out"
    assert {a.award_id for a in drawn} == {CAR}, "nobody is consoled while units may be left"
    assert len(troubles) == 100 - free
    assert {a.outcome for a in troubles} == {"none"}
    assert free_units(world.stores) == (hub, [0, 0])
    assert not broken(world.stores)


@only_two
def test_what_is_known_to_be_sold_out_needs_no_hub(world: World) -> None:
    arm(world, cars(1))
    (name,) = users(world, 0, 1)
    assert [draw(world, name), draw(world, name)] == [CAR, POINTS]
    cut_off(world, hub=True)
    time.sleep(0.6)
    assert [draw(world, name) for _ in range(3)] == [POINTS] * 3


@only_two
def test_a_frozen_hub_does_not_hold_up_a_lane(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.storage.errands.ERRAND_SECONDS", 0.8)
    arm(world, cars(100))
    (name,) = users(world, 0, 1)

    thawed = threading.Event()

    def freeze() -> None:
        thawed.wait(2 * WAIT)
        refuse()

    cut_off(world, hub=True, fault=freeze)
    try:
        for _ in range(3):
            with pytest.raises(Trouble) as trouble:
                draw(world, name)
            assert trouble.value.outcome == "none", "answered by the lane, while the hub is frozen"
    finally:
        thawed.set()


@only_two
def test_a_shard_that_does_not_answer_may_have_units(world: World) -> None:
    arm(world, cars(2))
    bring(world, 1, 2)
    (name,) = users(world, 0, 1)
    cut_off(world, shard=1)
    with pytest.raises(Trouble) as raised:
        draw(world, name)
    assert raised.value.outcome == "none"
    assert won(world.stores) == 0


@pytest.mark.parametrize("world", ["sqlite-8"], indirect=True)
def test_units_of_a_third_shard_are_found_when_another_does_not_answer(world: World) -> None:
    arm(world, cars(1))
    bring(world, 5, 1)
    (name,) = users(world, 0, 1)
    cut_off(world, shard=2)
    assert draw(world, name) == CAR
    cut_off(world, shard=3)
    assert draw(world, name) == POINTS, "the only unit is known to be won, whatever the others have"


@only_two
def test_an_award_without_a_row_in_the_hub_is_trouble(world: World) -> None:
    arm(world, cars(1))
    (name,) = users(world, 0, 1)
    assert draw(world, name) == CAR
    arm(world, cars(5))
    with world.stores.config.writing() as connection:
        connection.execute(text("DELETE FROM stock_hub WHERE item_id = 4"))
    with pytest.raises(Trouble):
        draw(world, name)


@only_two
def test_an_award_without_a_row_in_a_shard_is_trouble_there(world: World) -> None:
    arm(world, cars(5))
    (name,) = users(world, 0, 1)
    with world.stores.shards[0].writing() as connection:
        connection.execute(text("DELETE FROM award_stock WHERE award_id = 4"))
    with pytest.raises(Trouble):
        draw(world, name)
    assert [finding.name for finding in broken(world.stores)] == ["S3"]
    world.arm(1)
    assert draw(world, name) == CAR


# --- rebalancing --------------------------------------------------------------------------------------------------


@only_two
def test_surplus_goes_back_where_another_shard_is_short(world: World) -> None:
    arm(world, cars(100))
    bring(world, 0, 100)
    assert free_units(world.stores) == (0, [100, 0])
    assert world.escrow is not None
    assert world.escrow.rebalance() == 0, "not more than twice its share"
    arm(world, cars(104))
    bring(world, 1, 4)
    names = users(world, 1, 1)
    for _ in range(4):
        draw(world, names[0])
    assert free_units(world.stores)[1][1] == 0
    assert not broken(world.stores)


@pytest.mark.parametrize("world", ["sqlite-8"], indirect=True)
def test_rebalancing_is_moderate(world: World) -> None:
    arm(world, cars(80))
    bring(world, 0, 80)
    assert world.escrow is not None
    assert world.escrow.rebalance() == 1
    assert free_units(world.stores) == (70, [10, 0, 0, 0, 0, 0, 0, 0])
    assert world.escrow.rebalance() == 0
    assert not broken(world.stores)


# --- crashes ------------------------------------------------------------------------------------------------------


def crashes(run: Callable[[Stores], object], stores: Stores) -> Iterator[int]:
    """Let ``run`` end at its first half step, its second and so on, until it gets through; yields after each."""
    for ends_at in range(200):
        dying = fragile(stores, ends_at)
        try:
            run(dying)
        except Crash:
            yield ends_at
        else:
            return
    raise AssertionError("it never got through")


def an_escrow(stores: Stores) -> Escrow:
    return Escrow(stores, ids=Ids(), now_ms=lambda: NOON)


@pytest.mark.parametrize("world", ["sqlite-2", "mysql-2"], indirect=True)
def test_a_transfer_that_ends_at_any_step_is_finished(world: World) -> None:
    """From the hub, from the other shard, and back to the hub: no unit is lost, none comes twice."""
    arm(world, cars(60))
    stores = world.stores

    def moves(dying: Stores) -> None:
        an_escrow(dying).fetch(0, {CAR_STOCK: 20})
        an_escrow(dying).fetch(1, {CAR_STOCK: 40})
        an_escrow(dying).recall(CAR_STOCK, 1)

    ends = 0
    for _ in crashes(moves, stores):
        ends += 1
        assert not broken(stores), "half-way, units are on their way"
        an_escrow(stores).sweep()
        hub, frees = free_units(stores)
        assert hub + sum(frees) == 60
        assert not broken(stores)
        assert an_escrow(stores).sweep() == 0
    assert ends > 10


@pytest.mark.parametrize("before", [None, 40, "nothing"])
@pytest.mark.parametrize("after", [None, 2, 90])
@only_two
def test_arming_that_ends_at_any_step_is_finished_by_arming_again(
    world: World, before: int | str | None, after: int | None
) -> None:
    stores = world.stores
    if before != "nothing":
        arm(world, cars(None if before is None else int(before)))
        (name,) = users(world, 0, 1)
        assert draw(world, name) == CAR
    with stores.config.writing() as connection:
        write_campaign(connection, cars(after))

    def arming_again(dying: Stores) -> None:
        arm_installation(dying, 1, kinds=KIND_CHECKS, now_ms=NOON, new_seed=lambda: SEED)

    for _ in crashes(arming_again, stores):
        assert not broken(stores)
        world.live.refresh()
        if before != "nothing":
            assert draw(world, name) in ((CAR, POINTS) if after == 2 and won(stores) >= 2 else (CAR,))
            if won(stores) == 2 and after == 2:
                break  # the cars of the new total are won
    world.arm(1)
    assert stores.stock_left(9)[CAR] == (None if after is None else after - won(stores))
    assert not broken(stores)


@only_two
def test_two_who_arm_at_once_do_not_lose_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has prepared the shards for a limit when another takes it off and the campaign is changed back."""
    arm(world, cars(None))
    (name,) = users(world, 0, 1)
    make_room = arming._Arming._make_room
    arm(world, cars(20))
    with world.stores.config.writing() as connection:
        write_campaign(connection, cars(10))
    overtaken = False

    def late(self: Any, plan: Any) -> None:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            arm(world, cars(None))
            with world.stores.config.writing() as connection:
                write_campaign(connection, cars(10))
        make_room(self, plan)

    monkeypatch.setattr(arming._Arming, "_make_room", late)
    world.arm(1)
    assert not broken(world.stores), "no shard is without a limit"
    assert [draw(world, name) for _ in range(3)] == [CAR] * 3


@only_two
def test_teeth_a_receipt_that_does_not_count_gives_units_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    arm(world, cars(5))
    dying = fragile(world.stores, 4)  # sent and received, but the hub does not know
    with pytest.raises(Crash):
        an_escrow(dying).fetch(0, {CAR_STOCK: 5})
    received = transfers._received

    def always(*args: Any, **more: Any) -> bool:
        received(*args, **more)
        return True

    assert not broken(world.stores)
    monkeypatch.setattr(transfers, "_received", always)
    an_escrow(world.stores).sweep()
    (finding,) = broken(world.stores)
    assert finding.name == "S3"
    assert "alloc other than its receipts" in str(finding.rows)
    assert free_units(world.stores)[1][0] == 10, "ten of five"


# --- doctor, explain, odds ----------------------------------------------------------------------------------------


def test_a_user_in_the_wrong_shard_is_found(world: World) -> None:
    arm(world, cars(5))
    (name,) = users(world, 1, 1)
    with world.stores.shards[1].reading() as connection:
        row = dict(connection.execute(text("SELECT * FROM raffle_activity_account")).mappings().one())
    columns = ", ".join(row)
    with world.stores.shards[0].writing() as connection:
        bound = ", ".join(f":{column}" for column in row)
        connection.execute(text(f"INSERT INTO raffle_activity_account ({columns}) VALUES ({bound})"), row)
    found = {finding.name: finding for finding in broken(world.stores)}
    assert found["P3"].rows[0]["shard"] == 0
    assert found["P3"].rows[0]["user_id"] == name
    assert found["P3"].count == 1


def test_every_table_of_users_is_looked_through() -> None:
    of_users = {table for table in schema.metadata.tables.values() if "user_id" in table.c}
    assert of_users == {*checks.WHOLE, *schema.SPLIT}


@pytest.mark.parametrize("world", ["sqlite-2x4"], indirect=True)
def test_a_row_in_the_wrong_table_is_found(world: World) -> None:
    arm(world, cars(5))
    routing = world.stores.routing
    name = next(f"u{n}" for n in range(100) if (routing.shard_of(f"u{n}"), routing.table_of(f"u{n}")) == (0, 2))
    world.recharge(name, sku=SKU, out_business_no="x")
    with world.stores.shards[0].writing() as connection:
        connection.execute(text("INSERT INTO raffle_activity_order_003 SELECT * FROM raffle_activity_order_002"))
        connection.execute(text("DELETE FROM raffle_activity_order_002"))
    (finding,) = broken(world.stores)
    assert finding.name == "P3"
    assert finding.rows[0]["table"] == "raffle_activity_order_003"


def test_doctor_says_which_shard_it_looks_at(world: World) -> None:
    arm(world, cars(5))
    heard: list[str] = []
    findings = examine(world.stores, now_ms=NOON, grace_ms=0, progress=heard.append)
    assert len({finding.name for finding in findings}) == len(findings)
    assert f"S1 stock: 0 <= sold <= allotted, shard {len(world.stores.shards) - 1}" in heard


def test_a_waiting_award_without_its_task_is_broken_at_once_without_a_broker(world: World) -> None:
    arm(world, cars(1))
    (name,) = users(world, 1, 1)
    assert [draw(world, name), draw(world, name)] == [CAR, POINTS]
    with world.stores.shards[1].writing() as connection:
        connection.execute(text("DELETE FROM task"))
    assert {finding.name for finding in broken(world.stores)} == {"M1"}
    with_broker = examine(world.stores, now_ms=NOON, grace_ms=60_000)
    assert all(finding.ok for finding in with_broker)


def test_a_draw_is_explained_from_whichever_shard_has_it(world: World) -> None:
    arm(world, cars(5))
    for shard in range(len(world.stores.shards)):
        (name,) = users(world, shard, 1)
        drawn = world.lanes.ask(name, 1, None, timeout_seconds=20)
        stored = stored_draw(world.stores, drawn.order_id)
        assert stored is not None
        assert (stored.user_id, stored.award_id, stored.activity_name) == (name, drawn.award_id, "cars")
    assert stored_draw(world.stores, "0" * 26) is None


@only_two
def test_odds_count_the_units_of_all_shards(world: World) -> None:
    arm(world, cars(1))
    bring(world, 1, 1)
    with world.stores.shards[0].drawing() as tx:
        seen = StockOfAll(tx, stock_left=world.stores.stock_left).load_stock({CAR_STOCK: 1, (9, POINTS): 1})
    assert seen == {CAR_STOCK: 1, (9, POINTS): None}


# --- layouts ------------------------------------------------------------------------------------------------------


def sqlite_urls(folder: Path, number: int) -> list[str]:
    return [f"sqlite:///{folder}/db{at}.db" for at in range(number)]


def opened(folder: Path, config: str, shards: list[str], *, tables: int = 1) -> None:
    open_stores(settings_of(folder, config, shards, tables=tables)).close()


def test_a_layout_cannot_be_changed(tmp_path: Path) -> None:
    config, *shards = sqlite_urls(tmp_path, 6)
    opened(tmp_path, config, shards[:2])
    opened(tmp_path, config, shards[:2])
    with pytest.raises(Trouble, match=r"shard 0 was set up for another layout \(shard is 1, not 0\)"):
        opened(tmp_path, config, shards[1::-1])
    with pytest.raises(Trouble, match="shards is 2, not 4"):
        opened(tmp_path, config, shards[:4])
    with pytest.raises(Trouble, match="tables is 1, not 2"):
        opened(tmp_path, config, shards[:2], tables=2)
    with pytest.raises(Trouble, match="shards is 2, not 1"):
        opened(tmp_path, config, shards[:1])
    with pytest.raises(Trouble, match="shard is config, not 0"):
        opened(tmp_path, config, [config, shards[1]])
    with pytest.raises(Trouble, match="shard is 0, not config"):
        opened(tmp_path, shards[0], shards[1:3])


def test_a_lost_or_misnamed_database_is_not_set_up_anew(tmp_path: Path) -> None:
    config, *shards = sqlite_urls(tmp_path, 6)
    opened(tmp_path, config, shards[:2])
    with pytest.raises(Trouble, match="database of shard 1 is empty, though it was set up before"):
        opened(tmp_path, config, [shards[0], shards[4]])
    with pytest.raises(Trouble, match="configuration database is new, but shard 0, shard 1 is in use"):
        opened(tmp_path, shards[4], shards[:2])
    opened(tmp_path, config, shards[:2])


def test_databases_of_two_installations_cannot_be_mixed(tmp_path: Path) -> None:
    ours, theirs = sqlite_urls(tmp_path, 3), sqlite_urls(tmp_path / "theirs", 3)
    opened(tmp_path, ours[0], ours[1:])
    opened(tmp_path, theirs[0], theirs[1:])
    with pytest.raises(Trouble, match="belong to different installations"):
        opened(tmp_path, ours[0], [ours[1], theirs[2]])


def test_two_names_of_one_database_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    one, again = f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/x/../one.db"
    with pytest.raises(Trouble, match="two of the URLs name one database"):
        opened(tmp_path, one, [one, again])


def test_a_shard_may_hold_the_configuration_too_or_not(tmp_path: Path) -> None:
    urls = sqlite_urls(tmp_path, 2)
    opened(tmp_path, urls[0], urls)
    with pytest.raises(Trouble, match="configuration database is new"):
        opened(tmp_path, f"sqlite:///{tmp_path}/another.db", urls)


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
@pytest.mark.parametrize("tables", [1, 4])
def test_a_set_up_that_broke_off_is_finished(
    tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch, engine: str, tables: int
) -> None:
    """It ends after every statement that makes a table, drops one or makes a view, on engines that commit each."""
    with ExitStack() as stack:
        urls = sqlite_urls(tmp_path, 2)
        if engine == "mysql":
            urls = [stack.enter_context(databases.bare()) for _ in range(3)]
        settings = settings_of(tmp_path, urls[-1] if engine == "mysql" else urls[0], urls[:2], tables=tables)
        write = installation._write
        split = installation._split
        calls = iter(range(3))

        def broken_write(*args: Any, **more: Any) -> dict[str, str]:
            if next(calls, None) is not None:
                raise Crash
            return write(*args, **more)

        def broken_split(connection: Connection, table: Any, how: Any) -> None:
            split(connection, table, how)
            if next(calls, None) is not None:
                raise Crash

        monkeypatch.setattr(installation, "_write", broken_write)
        monkeypatch.setattr(installation, "_split", broken_split)
        for _ in range(3):
            with pytest.raises(Crash):
                open_stores(settings)
        stores = open_stores(settings)
        stores.close()
        with world_of(settings) as world:
            arm(world, cars(3))
            names = [name for shard in range(2) for name in users(world, shard, 4)]
            assert len(draw_all(world, names)) == 8
            assert won(world.stores) == 3
            assert not broken(world.stores)
            for table in ("user_raffle_order", "user_award_record"):
                assert _is_view(world.stores, table) == (tables > 1)


def test_a_split_that_broke_off_between_its_statements_is_finished(databases: Databases) -> None:
    """MySQL commits with each: here the parts are made and the whole table is gone, but there is no view yet."""
    from bigmarket.storage.migrate import migrate  # noqa: PLC0415
    from bigmarket.storage.routing import Routing, SplitTables  # noqa: PLC0415
    from bigmarket.storage.schema import user_raffle_order  # noqa: PLC0415
    from databases import open_store  # noqa: PLC0415

    split = SplitTables(Routing(1, 4))
    with databases.bare() as url:
        store = open_store(url, split=split)
        try:
            migrate(store)
            with store.migrating() as connection:
                connection.execute(text("CREATE TABLE user_raffle_order_000 LIKE user_raffle_order"))
                connection.execute(text("DROP INDEX uq_raffle_order_request_id ON user_raffle_order_000"))
                user_raffle_order.drop(connection)
            prepare(Stores(store, (store,), split.routing), now_ms=NOON)
            with store.reading() as connection:
                assert connection.execute(text("SELECT COUNT(*) FROM user_raffle_order")).scalar_one() == 0
                made = str(connection.execute(text("SHOW CREATE TABLE user_raffle_order_003")).one()[1])
            assert "uq_raffle_order_request_id" in made
        finally:
            store.close()


def _is_view(stores: Stores, table: str) -> bool:
    from sqlalchemy import inspect  # noqa: PLC0415

    with stores.shards[1].reading() as connection:
        return table in inspect(connection).get_view_names()


def test_live_configuration_names_no_table_of_users(tmp_path: Path) -> None:
    """The configuration database holds no users when it is apart from the shards, and shards no campaigns."""
    config, *shards = sqlite_urls(tmp_path, 3)
    with world_of(settings_of(tmp_path, config, shards)) as world:
        arm(world, cars(5))
        (name,) = users(world, 0, 1)
        draw(world, name)
        with world.stores.config.reading() as connection:
            assert connection.execute(text("SELECT COUNT(*) FROM raffle_activity_account")).scalar_one() == 0
            assert connection.execute(text("SELECT COUNT(*) FROM award_stock")).scalar_one() == 0
            assert load_live(connection, {})[1].revision is not None
        for shard in world.stores.shards:
            with shard.reading() as connection:
                assert connection.execute(text("SELECT COUNT(*) FROM raffle_activity")).scalar_one() == 0
