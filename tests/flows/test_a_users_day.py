"""A user's days, over HTTP with a clock that the test moves: sign in, see the wheel, unlock, run out, come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from databases import BACKENDS, Databases
from serving import Served, install_small, placed, serving
from support import DAY, HOUR, NOON, assert_healthy, count
from waiting import eventually

RAFFLE = "/api/v1/raffle"
LATE_EVENING = NOON + 11 * HOUR + HOUR // 2  # 23:30 in Shanghai
CAR = 4


class Clock:
    """Stands still until the test moves it."""

    now_ms = LATE_EVENING

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=BACKENDS)
def served(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, databases: Databases) -> Iterator[Served]:
    with (
        placed(databases, request.param) as place,
        serving(tmp_path, clock=clock, work=True, **place) as running,
    ):
        install_small(running.world)
        yield running


def ask(served: Served, path: str, **body: object) -> Any:
    answer = served.client.post(f"{RAFFLE}/{path}", json={"userId": "ann", "activityId": 1, **body})
    assert (answer.status_code, answer.json()["code"]) == (200, "0000"), answer.text
    return answer.json()["data"]


def day_left(served: Served) -> int:
    return int(ask(served, "activity/query_user_activity_account")["dayCountSurplus"])


def car(served: Served) -> dict[str, Any]:
    (sector,) = [a for a in ask(served, "strategy/query_raffle_award_list") if a["awardId"] == CAR]
    return dict(sector)


def test_two_days_of_ann(served: Served, clock: Clock) -> None:
    # Nothing yet: no draws, and the car is locked behind two draws a day.
    assert day_left(served) == 0
    assert served.draw("ann").json()["code"] == "ERR_BIZ_006"
    assert (car(served)["isAwardUnlock"], car(served)["waitUnLockCount"]) == (False, 2)

    # She signs in, in the evening: 5 draws in all, 4 this month, 2 a day. Signing in twice gives nothing more.
    for repeated in (False, True):
        order = served.world.recharge("ann", sku=12, out_business_no="sign-ann-20261120")
        assert order.repeated is repeated
    assert day_left(served) == 2

    # Two draws, the second one sent twice; the car unlocks, and the day is over.
    assert served.draw("ann").json()["code"] == "0000"
    assert car(served)["waitUnLockCount"] == 1
    second = served.draw("ann", requestId="second")
    assert served.draw("ann", requestId="second").json() == second.json()
    assert car(served)["isAwardUnlock"] is True
    assert served.draw("ann").json()["code"] == "ERR_BIZ_008"
    assert day_left(served) == 0

    # Half an hour later it is tomorrow in Shanghai, though not in UTC: two more draws, and the car is locked again.
    clock.now_ms += HOUR
    assert (day_left(served), car(served)["waitUnLockCount"]) == (2, 2)
    assert [served.draw("ann").json()["code"] for _ in range(3)] == ["0000", "0000", "ERR_BIZ_007"]

    # Now the month is used up, also on the day after. Next month the last draw waits: her fifth, so the car's tier;
    # but the car is locked on the first draw of a day.
    clock.now_ms += DAY
    assert served.draw("ann").json()["code"] == "ERR_BIZ_007"
    clock.now_ms += 10 * DAY
    assert served.draw("ann").json()["data"]["awardId"] == 1
    assert served.draw("ann").json()["code"] == "ERR_BIZ_006"

    # What she won in points has arrived, once each, and every promise holds.
    won_points = count(served.world.stores.config, "SELECT COUNT(*) FROM user_award_record WHERE award_id = 1")
    eventually(lambda: count(served.world.stores.config, "SELECT COUNT(*) FROM user_credit_order") == won_points)
    with served.world.stores.config.reading() as connection:
        tables = connection.execute(text("SELECT trace FROM user_award_record ORDER BY order_id")).scalars().all()
    assert [trace.split("|")[:2] for trace in tables] == [
        ["1/1", "all"],
        ["2/2", "all"],
        ["3/1", "tier:3"],
        ["4/2", "all"],
        ["5/1", "tier:5"],
    ]
    assert_healthy(served.world.stores.config, now_ms=clock.now_ms)


def test_closing_and_opening_reach_a_running_server_within_a_second(served: Served) -> None:
    took = []
    for state, code in 2 * (("close", "ERR_BIZ_003"), ("open", "ERR_BIZ_006")):
        with served.world.stores.config.writing() as connection:
            connection.execute(text("UPDATE raffle_activity SET state = :state"), {"state": state})
        took.append(eventually(lambda code=code: served.draw("nobody").json()["code"] == code, seconds=20))
    # Each change follows the look that saw the one before, so it waits for a whole pause; a machine may stall, too.
    assert min(took[1:]) < 1
