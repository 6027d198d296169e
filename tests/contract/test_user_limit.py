"""Nobody wins more of a prize than one user may: in a batch, over batches, over configurations, over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from sqlalchemy import text

from bigmarket.activity.campaign import parse_campaign
from bigmarket.activity.model import Campaign, LiveActivity
from bigmarket.activity.stock import GuardMissed
from bigmarket.app import KIND_CHECKS
from bigmarket.desks import DrawDesk
from bigmarket.draw import SETTLED_MS, Answer, Drawn, DrawRequest, Outcome, WinKey, Winning, draw_batch
from bigmarket.ids import Ids
from bigmarket.lanes import LaneSet, LaneSettings, LaneShard
from bigmarket.preview import preview
from bigmarket.storage.bulk import Bulk, Row, Write
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import examine
from databases import Databases, on_mysql, open_store, split_of
from support import DAY, IDS, NOON, assert_healthy, count, give, install

POINTS, MUG, CAR = 1, 2, 3
MUGS_EACH = 2

LIMITED = f"{{rule: rule_user_limit, at_most: {MUGS_EACH}}}, "
LINES = """
        - {from: rule_user_limit, to: rule_stock, when: ALLOW}
        - {from: rule_user_limit, to: rule_luck_award, when: TAKE_OVER}"""

#: Nine of ten rolls are a mug, of which a user may win two; the fifth draw is a car, of which there is one.
CAMPAIGN = """
activity:
  {activity_id: 1, name: mugs, time_zone: Asia/Shanghai, begin: "2026-01-01 00:00:00", end: "2027-01-01 00:00:00"}
skus:
  - {sku: 11, stock: 1000, total_count: 40, month_count: 40, day_count: 40}
strategy:
  strategy_id: 9
  name: mugs
  chain:
    - {rule: rule_weight, tiers: [{at_draw: 5, awards: [3]}]}
  awards:
    - {award_id: 1, title: points, rate: "0.099999999", sort: 1}
    - {award_id: 2, title: mug, rate: "0.9", stock: 5000, sort: 2, tree: mugs}
    - {award_id: 3, title: car, rate: "0.000000001", stock: 1, sort: 3, tree: cars}
  trees:
    - tree_id: mugs
      root: ROOT
      nodes: [LIMITED{rule: rule_stock}, {rule: rule_luck_award, award_id: 1, config: "0.01"}]
      lines:
        - {from: rule_stock, to: rule_luck_award, when: ALLOW}LINES
    - tree_id: cars
      root: rule_user_limit
      nodes: [{rule: rule_user_limit, at_most: 1}, {rule: rule_stock}, {rule: rule_luck_award, award_id: 1}]
      lines:
        - {from: rule_user_limit, to: rule_stock, when: ALLOW}
        - {from: rule_user_limit, to: rule_luck_award, when: TAKE_OVER}
        - {from: rule_stock, to: rule_luck_award, when: ALLOW}
awards:
  - {award_id: 1, kind: user_credit_blacklist, config: "1"}
  - {award_id: 2, kind: physical}
  - {award_id: 3, kind: physical}
"""


def campaign(*, limited: bool = True) -> Campaign:
    """With mugs limited per user, or as many as there are."""
    written = CAMPAIGN.replace("LIMITED", LIMITED if limited else "").replace("LINES", LINES if limited else "")
    written = written.replace("ROOT", "rule_user_limit" if limited else "rule_stock")
    return parse_campaign(written, kinds=KIND_CHECKS)


def armed(store: Store, *, limited: bool = True, now_ms: int = NOON - DAY) -> dict[int, LiveActivity]:
    install(store, campaign(limited=limited), now_ms=now_ms)
    with store.reading() as connection:
        return load_live(connection, {})


def ask(users: Sequence[str]) -> list[DrawRequest]:
    return [DrawRequest(IDS.make(NOON), user, 1, None) for user in users]


def draw(store: Store, live: Mapping[int, LiveActivity], users: Sequence[str], *, now_ms: int = NOON) -> list[Drawn]:
    """One batch."""
    with store.drawing() as tx:
        answers = draw_batch(tx, ask(users), live=live, now_ms=now_ms).answers
    drawn = [answer for answer in answers if isinstance(answer, Drawn)]
    assert len(drawn) == len(users), answers
    return drawn


def mugs(answers: Sequence[Answer]) -> Counter[str]:
    """How many each user won."""
    return Counter(a.user_id for a in answers if isinstance(a, Drawn) and a.award_id == MUG)


def kept(store: Store) -> dict[tuple[str, int], tuple[int, int]]:
    """The counts: user, award -> won, epoch."""
    with store.reading() as connection:
        rows = connection.execute(text("SELECT user_id, award_id, won, epoch FROM user_award_count")).all()
    return {(row.user_id, row.award_id): (row.won, row.epoch) for row in rows}


def broken(store: Store) -> set[str]:
    return {finding.name for finding in examine(store, now_ms=NOON) if not finding.ok}


def test_a_user_wins_as_many_in_one_batch_as_one_user_may(store: Store) -> None:
    live = armed(store)
    give(store, "ann", "bob", "joe")
    answers = draw(store, live, ["ann", "bob"] * 12 + ["joe"])
    assert mugs(answers)["ann"] == mugs(answers)["bob"] == MUGS_EACH
    assert {user: won for (user, award), (won, _) in kept(store).items() if award == MUG} == dict(mugs(answers))
    assert_healthy(store)


def test_a_user_wins_as_many_over_batches_as_one_user_may(store: Store) -> None:
    live = armed(store)
    give(store, "ann", "bob")
    answers = [drawn for n in range(15) for drawn in draw(store, live, ["ann", "bob"][: 1 + n % 2], now_ms=NOON + n)]
    assert mugs(answers) == {"ann": MUGS_EACH, "bob": MUGS_EACH}
    assert_healthy(store)


def test_what_a_tier_gives_counts_and_is_limited_too(store: Store) -> None:
    live = armed(store)
    give(store, "ann", "bob")
    answers = draw(store, live, ["ann"] * 5)
    assert answers[4].award_id == CAR
    assert kept(store)["ann", CAR] == (1, 1)
    assert draw(store, live, ["bob"] * 5)[4].award_id == POINTS, "the car is gone"
    assert ("bob", CAR) not in kept(store), "what was given in its place does not count as a car"
    assert_healthy(store)


def test_a_wheel_without_limits_runs_no_statement_more(store: Store) -> None:
    live = armed(store)
    revision = live[1].revision
    assert revision is not None
    unlimited = {1: replace(live[1], revision=replace(revision, wheel=replace(revision.wheel, limits={})))}
    give(store, "ann", "bob")

    def statements(configured: Mapping[int, LiveActivity], user: str) -> list[str]:
        with store.drawing() as tx:
            spy = _Spy(tx._bulk)  # type: ignore[attr-defined]
            tx._bulk = spy  # type: ignore[attr-defined]
            draw_batch(tx, ask([user]), live=configured, now_ms=NOON)
        return spy.templates

    assert not any("user_award_count" in template for template in statements(unlimited, "ann"))
    spent = 0
    while not any("INSERT INTO user_award_count" in template for template in statements(live, "bob")):
        assert (spent := spent + 1) < 10


class _Spy:
    """Notes the templates that are run over any row."""

    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk
        self.templates: list[str] = []

    def select(self, template: str, keys: Sequence[Row]) -> list[list[Any]]:
        self.templates.append(template)
        return self._bulk.select(template, keys)

    def finish(self, writes: Sequence[Write]) -> None:
        self.templates += [write.template for write in writes if write.rows]
        self._bulk.finish(writes)


# --- configurations that come and go ------------------------------------------------------------------------------


def test_wins_from_before_the_limit_count(store: Store) -> None:
    before = armed(store, limited=False)
    give(store, "ann", "bob", "joe")
    earlier = mugs(draw(store, before, ["ann"] * 10 + ["bob"]))
    assert earlier["ann"] > MUGS_EACH
    live = armed(store, now_ms=NOON)
    later = mugs(draw(store, live, ["ann", "bob", "joe"] * 8, now_ms=NOON + SETTLED_MS))
    assert later["ann"] == 0
    assert earlier["bob"] + later["bob"] == later["joe"] == MUGS_EACH
    assert_healthy(store)


def test_wins_from_while_the_limit_was_off_count(store: Store) -> None:
    """The same configuration as at first is armed again: its counts of then are not believed."""
    live = armed(store)
    give(store, "ann")
    while not mugs(draw(store, live, ["ann"])):
        pass
    assert kept(store)["ann", MUG] == (1, 1)
    without = armed(store, limited=False, now_ms=NOON + 1)
    assert mugs(draw(store, without, ["ann"] * 9, now_ms=NOON + SETTLED_MS))["ann"] > MUGS_EACH
    again = armed(store, now_ms=NOON + SETTLED_MS + 1)
    assert not mugs(draw(store, again, ["ann"] * 10, now_ms=NOON + DAY))
    assert_healthy(store)


def test_a_draw_by_the_configuration_of_a_second_ago_counts(store: Store) -> None:
    """A process that has not heard of the limit yet draws without counting, after others began to count."""
    before = armed(store, limited=False)
    live = armed(store, now_ms=NOON)
    give(store, "ann")
    while not mugs(draw(store, live, ["ann"], now_ms=NOON + 1)):
        pass
    assert kept(store)["ann", MUG] == (1, 0), "not believed later"
    won = 1 + mugs(draw(store, before, ["ann"] * 9, now_ms=NOON + 2))["ann"]
    assert won > MUGS_EACH
    assert_healthy(store)
    assert not mugs(draw(store, live, ["ann"] * 9, now_ms=NOON + SETTLED_MS))
    assert_healthy(store)


def test_counts_are_believed_once_everybody_knows_the_limit(store: Store) -> None:
    live = armed(store, now_ms=NOON)
    give(store, "ann", "bob")
    while not mugs(draw(store, live, ["ann"], now_ms=NOON + SETTLED_MS - 1)):
        pass
    while not mugs(draw(store, live, ["bob"], now_ms=NOON + SETTLED_MS)):
        pass
    assert kept(store)["ann", MUG] == (1, 0)
    assert kept(store)["bob", MUG] == (1, live[1].epoch)
    while mugs(draw(store, live, ["ann"], now_ms=NOON + DAY))["ann"] == 0:
        pass
    assert kept(store)["ann", MUG] == (2, live[1].epoch)
    assert_healthy(store)


# --- the odds -----------------------------------------------------------------------------------------------------


def test_the_odds_know_what_the_user_won_and_write_nothing(store: Store) -> None:
    live = armed(store)
    give(store, "ann", "bob")
    draw(store, live, ["ann"] * 12)

    def mug_of(user: str) -> tuple[Fraction, str]:
        with store.drawing() as tx:
            seen = preview(tx, user_id=user, activity_id=1, live=live, now_ms=NOON)
        assert sum(prospect.chance for prospect in seen.prospects) == 1
        (prospect,) = [p for p in seen.prospects if p.award_id == MUG]
        return prospect.chance, prospect.why

    before = kept(store)
    assert mug_of("bob") == (Fraction(9, 10), "")
    assert mug_of("ann") == (Fraction(0), "one user may win 2 and this one has, gives 1 instead of its 9/10")
    assert kept(store) == before


# --- the guard ----------------------------------------------------------------------------------------------------


class _Around:
    """A draw transaction, with some of its methods replaced."""

    def __init__(self, tx: Any) -> None:
        self.tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tx, name)


class _Forgetful(_Around):
    """Believes that nobody won anything, as a stale snapshot would."""

    def load_wins(self, wanted: Mapping[WinKey, int]) -> dict[WinKey, int]:
        self.tx.load_wins(wanted)
        return dict.fromkeys(wanted, 0)


class _Toothless(_Forgetful):
    """The same, without the guard in the statement."""

    def apply(self, outcome: Outcome) -> None:
        outcome.won = {key: Winning(now.wins, 1_000_000, now.epoch) for key, now in outcome.won.items()}
        self.tx.apply(outcome)


class _Uncounted(_Around):
    """Leaves the count out of the draw's transaction."""

    def apply(self, outcome: Outcome) -> None:
        outcome.won = {}
        self.tx.apply(outcome)


def draw_through(store: Store, live: Mapping[int, LiveActivity], around: type[_Around]) -> None:
    for _ in range(12):
        with store.drawing() as tx:
            draw_batch(around(tx), ask(["ann"]), live=live, now_ms=NOON)


def test_a_stale_count_is_refused_by_the_guard(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    with pytest.raises(GuardMissed):
        draw_through(store, live, _Forgetful)
    assert kept(store)["ann", MUG] == (MUGS_EACH, 1)
    assert_healthy(store)


def test_teeth_without_the_guard_doctor_sees_who_won_too_much(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    draw_through(store, live, _Toothless)
    assert kept(store)["ann", MUG][0] > MUGS_EACH
    assert broken(store) == {"D8"}


def test_teeth_without_the_count_doctor_sees_what_was_not_counted(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    while not mugs(draw(store, live, ["ann"])):
        pass
    draw_through(store, live, _Uncounted)
    assert broken(store) == {"D8"}


# --- several at once ----------------------------------------------------------------------------------------------


def lanes_on(store: Store) -> LaneSet[Drawn]:
    with store.reading() as connection:
        live = load_live(connection, {})
    return LaneSet(
        [LaneShard(DrawDesk(store, live=lambda: live), lambda _: None)],
        shard_of=lambda _: 0,
        now_ms=lambda: NOON,
        ids=Ids(),
        settings=LaneSettings(lanes=2, batch_max=8, queue_seconds=30),
    )


@on_mysql
@pytest.mark.parametrize("begun_ms", [NOON - DAY, NOON], ids=["settled", "just armed"])
def test_two_processes_with_two_lanes_each_keep_to_the_limit(
    backend: str, databases: Databases, begun_ms: int
) -> None:
    users = ["ann", "bob", "joe"]
    with databases.url(backend) as url:
        stores = [open_store(url, split=split_of(backend)) for _ in range(2)]
        armed(stores[0], now_ms=begun_ms)
        give(stores[0], *users)
        sets = [lanes_on(store) for store in stores]
        for lanes in sets:
            lanes.start()
        with ThreadPoolExecutor(12) as pool:
            asked = [
                pool.submit(sets[n % 2].ask, users[n // 2 % 3], 1, None, timeout_seconds=30) for n in range(3 * 36)
            ]
            answers = [future.result() for future in asked]
        for lanes in sets:
            assert lanes.stop(timeout_seconds=30)
        assert mugs(answers) == dict.fromkeys(users, MUGS_EACH)
        assert count(stores[0], "SELECT COUNT(*) FROM user_award_record") == 3 * 36
        assert_healthy(stores[0])
        for store in stores:
            store.close()
