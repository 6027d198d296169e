"""The stock web front end, unmodified, through a whole day: real server processes, on a file and on real services."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from databases import Databases
from faults.processes import ServerProcess, WorkProcess, run_cli
from flows.broker import broker_settings
from flows.front_end import REFRESH_AFTER_EXCHANGE_SECONDS, REFRESH_AFTER_SIGN_IN_SECONDS, FrontEnd

ACTIVITY = 7
SIGNED, SMALL, LAST, DEAR = 71, 72, 73, 74  # skus
POINTS = (2, 3)  # awards of the first tier: 2 credits each
LOCKED = 8
ARRIVES_SECONDS = 10.0
USERS_TIMED = 7

AWARDS = "\n".join(
    f'    - {{award_id: {number}, title: prize {number}, rate: "{rate}", sort: {number}}}'
    for number, rate in ((1, "0.3"), (2, "0.05"), (3, "0.05"), (4, "0.2"), (5, "0.2"), (6, "0.1"), (7, "0.09"))
)


def campaign() -> str:
    """An activity where it is about noon: no midnight comes in between."""
    hours = 12 - datetime.now(UTC).hour
    return f"""
activity:
  activity_id: {ACTIVITY}
  name: a day
  time_zone: Etc/GMT{-hours:+d}
  begin: "2020-01-01 00:00:00"
  end: "2099-01-01 00:00:00"
skus:
  - {{sku: {SIGNED}, stock: 1000, total_count: 3, month_count: 3, day_count: 3}}
  - {{sku: {SMALL}, stock: 1000, price: "4.5", total_count: 3, month_count: 3, day_count: 2}}
  - {{sku: {LAST}, stock: 1000, price: "2", total_count: 1, month_count: 2, day_count: 2}}
  - {{sku: {DEAR}, stock: 1000, price: "500", total_count: 9, month_count: 9, day_count: 9}}
strategy:
  strategy_id: 70
  name: a day
  chain:
    - {{rule: rule_weight, tiers: [{{at_draw: 3, awards: [2, 3]}}, {{at_draw: 5, awards: [{LOCKED}]}}]}}
  awards:
{AWARDS}
    - {{award_id: {LOCKED}, title: locked prize, rate: "0.01", stock: 100, sort: 8, tree: locked}}
  trees:
    - tree_id: locked
      root: rule_lock
      nodes: [{{rule: rule_lock, unlock_at_draw: 2}}, {{rule: rule_stock}}, {{rule: rule_luck_award, award_id: 1}}]
      lines:
        - {{from: rule_lock, to: rule_stock, when: ALLOW}}
        - {{from: rule_lock, to: rule_luck_award, when: TAKE_OVER}}
        - {{from: rule_stock, to: rule_luck_award, when: ALLOW}}
awards:
  - {{award_id: 1, kind: nothing}}
  - {{award_id: 2, kind: user_credit_random, config: "2,2"}}
  - {{award_id: 3, kind: user_credit_random, config: "2,2"}}
  - {{award_id: 4, kind: nothing}}
  - {{award_id: 5, kind: nothing}}
  - {{award_id: 6, kind: nothing}}
  - {{award_id: 7, kind: nothing}}
  - {{award_id: {LOCKED}, kind: physical}}
rebates:
  - {{behavior: sign, type: sku, sku: {SIGNED}}}
  - {{behavior: sign, type: integral, credits: 10}}
"""


@dataclass(frozen=True)
class Site:
    """Where the server is, and how the command line finds its data."""

    url: str
    home: Path
    given: dict[str, Any]

    def bigmarket(self, *arguments: str) -> Any:
        """A command's JSON."""
        ran = run_cli(self.home, *arguments, "--json", **self.given)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout)

    @contextmanager
    def page(self, user_id: str) -> Iterator[FrontEnd]:
        front_end = FrontEnd(self.url, user_id, ACTIVITY)
        try:
            yield front_end
        finally:
            front_end.close()


@pytest.fixture(scope="module", params=["sqlite", "mysql + rabbitmq"])
def site(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A server process that delivers too; with services, the delivering is another process's."""
    home = tmp_path_factory.mktemp("day") / "home"
    home.mkdir()
    with ExitStack() as stack:
        given: dict[str, Any] = {}
        if request.param != "sqlite":
            given = {"database": stack.enter_context(databases.bare()), **stack.enter_context(broker_settings(home))}
        one = Site("", home, given)
        file = home / "day.yaml"
        file.write_text(campaign())
        one.bigmarket("apply", str(file), "--yes")
        server = stack.enter_context(ServerProcess(home, **given, work=not given))
        if given:
            stack.enter_context(WorkProcess(home, **given))
        yield Site(f"http://127.0.0.1:{server.port}", home, given)


def arrives(condition: Callable[[], bool]) -> float:
    """How long it took to come about, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < ARRIVES_SECONDS, "did not come about in time"
        time.sleep(0.01)
    return time.monotonic() - began


def spin(page: FrontEnd) -> dict[str, Any]:
    sector = page.spin()
    assert isinstance(sector, dict), sector
    return sector


def test_a_day(site: Site) -> None:
    with site.page("xiaofuge") as page:
        page.arm()
        page.load()
        assert page.refresh() == (0, 0, False)
        assert page.spin() == "ERR_BIZ_006"
        assert [(sku["sku"], sku["productAmount"], sku["activityCount"]["dayCount"]) for sku in page.skus()] == [
            (SIGNED, 0, 3),
            (SMALL, 4.5, 2),
            (LAST, 2, 2),
            (DEAR, 500, 9),
        ]

        assert page.sign_in() == "0000"
        arrives(lambda: page.refresh() == (3, 10, True))
        assert page.sign_in() == "0003"

        won = 0
        for number in (1, 2):
            assert page.awards()[LOCKED - 1]["waitUnLockCount"] == 3 - number
            assert not page.awards()[LOCKED - 1]["isAwardUnlock"]
            won += spin(page)["awardId"] in POINTS
            assert [tier["userActivityAccountTotalUseCount"] for tier in page.tiers()] == [number] * 2
        assert page.awards()[LOCKED - 1]["isAwardUnlock"]

        nearest = page.tiers()[0]
        assert nearest["ruleWeightCount"] == 3
        tier = spin(page)
        assert {"awardId": tier["awardId"], "awardTitle": tier["awardTitle"]} in nearest["strategyAwards"]
        won += 1
        arrives(lambda: page.credits() == 10 + 2 * won)

        assert page.spin() == "ERR_BIZ_006"
        assert page.exchange(DEAR) == "ERR_CREDIT_001"
        assert page.exchange(SMALL) == "0000"
        arrives(lambda: page.refresh()[:2] == (2, 5.5 + 2 * won))
        won += spin(page)["awardId"] in POINTS
        assert spin(page)["awardId"] == LOCKED, "the fifth draw"

        assert page.spin() == "ERR_BIZ_008", "one is left in all, none today"
        assert page.exchange(LAST) == "0000"
        arrives(lambda: page.day_left() == 2)
        spin(page)
        spin(page)
        assert page.spin() == "ERR_BIZ_006"
        assert page.refresh()[0] == 0
        assert page.alerts == ["ERR_BIZ_006", "ERR_BIZ_006", "ERR_CREDIT_001", "ERR_BIZ_008", "ERR_BIZ_006"]
    arrives(lambda: bool(site.bigmarket("doctor")["ok"]))


def test_what_is_earned_and_bought_is_there_when_the_page_looks(site: Site) -> None:
    signed, bought = [], []
    for number in range(USERS_TIMED):
        with site.page(f"timed{number}") as page:
            page.arm()
            page.load()
            assert page.sign_in() == "0000"
            signed.append(arrives(lambda page=page: page.refresh() == (3, 10, True)))  # type: ignore[misc]
            assert page.exchange(SMALL) == "0000"
            bought.append(arrives(lambda page=page: page.refresh()[:2] == (5, 5.5)))  # type: ignore[misc]
    assert statistics.median(signed) < REFRESH_AFTER_SIGN_IN_SECONDS, signed
    assert statistics.median(bought) < REFRESH_AFTER_EXCHANGE_SECONDS, bought
    assert site.bigmarket("doctor")["ok"]
