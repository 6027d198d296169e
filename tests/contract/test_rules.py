"""Rules on a real store: what a tier or a list gives takes its unit, and a tier is reached by one draw only."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from sqlalchemy import insert, text

from bigmarket.activity.campaign import parse_campaign
from bigmarket.activity.model import Campaign, LiveActivity
from bigmarket.app import KIND_CHECKS
from bigmarket.draw import Answer, DrawRequest, draw_batch
from bigmarket.storage import schema as t
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from support import IDS, NOON, SMALL, assert_healthy, count, give, install, small_campaign


def armed(store: Store, campaign: Campaign | None = None) -> dict[int, LiveActivity]:
    install(store, campaign or small_campaign())
    with store.reading() as connection:
        return load_live(connection, {})


def draw(store: Store, live: Mapping[int, LiveActivity], users: Sequence[str]) -> list[Answer]:
    requests = [DrawRequest(IDS.make(NOON), user, 1, None) for user in users]
    with store.drawing() as tx:
        return draw_batch(tx, requests, live=live, now_ms=NOON).answers


def sold(store: Store) -> dict[int, int]:
    with store.reading() as connection:
        return {row.award_id: row.sold for row in connection.execute(text("SELECT award_id, sold FROM award_stock"))}


def tables(store: Store) -> Counter[str]:
    """How many draws were rolled with each table, or given by a rule."""
    with store.reading() as connection:
        traces = connection.execute(text("SELECT trace FROM user_award_record")).scalars().all()
    return Counter(trace.split("|")[1] for trace in traces)


def test_what_a_tier_gives_takes_its_unit(store: Store) -> None:
    """The fifth draw of everybody is the car, of which there is one."""
    live = armed(store)
    users = [f"u{n}" for n in range(12)]
    give(store, *users)
    for _ in range(5):
        draw(store, live, users)
    assert tables(store)["tier:5"] == 12
    assert sold(store)[4] == count(store, "SELECT COUNT(*) FROM user_award_record WHERE award_id = 4") == 1
    assert_healthy(store)


@pytest.mark.parametrize(("rule", "fixed"), [("rule_blacklist", "mallory"), ("rule_allowlist", "ann")])
def test_what_a_list_gives_takes_its_unit(store: Store, rule: str, fixed: str) -> None:
    live = armed(store, parse_campaign(SMALL.replace("rule_blacklist", rule), kinds=KIND_CHECKS))
    give(store, "mallory", "ann")
    draw(store, live, [fixed] * 4)
    assert tables(store) == {rule: 4}
    assert sold(store) == {1: 4, 2: 0, 3: 0, 4: 0}
    draw(store, live, ["mallory", "ann"])
    assert tables(store)[rule] == 5
    assert_healthy(store)


def test_of_requests_at_once_one_reaches_the_tier(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    draw(store, live, ["ann"])
    threads = [threading.Thread(target=draw, args=(store, live, ["ann"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tables(store) == {"all": 3, "tier:3": 1, "tier:5": 1}
    assert count(store, "SELECT COUNT(DISTINCT SUBSTR(trace, 1, 2)) FROM user_award_record") == 5
    assert_healthy(store)


def test_an_open_order_is_the_draw_that_reaches_the_tier(store: Store) -> None:
    """Its quota was spent as the third draw; a request that comes beside it is the fourth."""
    live = armed(store)
    give(store, "ann")
    draw(store, live, ["ann"] * 2)
    with store.writing() as connection:
        connection.execute(
            insert(store.split.table_of(t.user_raffle_order, "ann")).values(
                order_id="OPEN",
                user_id="ann",
                activity_id=1,
                order_state="create",
                order_day="2026-11-20",
                order_time_ms=NOON,
            )
        )
        connection.execute(
            text("""UPDATE raffle_activity_account SET open_orders = 1, total_count_surplus = total_count_surplus - 1,
                    month_count_surplus = month_count_surplus - 1, day_count_surplus = day_count_surplus - 1""")
        )
    draw(store, live, ["ann", "ann"])
    assert tables(store) == {"all": 3, "tier:3": 1}
    assert count(store, "SELECT COUNT(*) FROM user_award_record WHERE order_id = 'OPEN' AND trace LIKE '3/3|tier:3%'")
    assert_healthy(store)
