"""``admit`` and ``decide``: pure functions over plain data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigmarket.activity.campaign import parse_campaign
from bigmarket.activity.quota import Account, Period
from bigmarket.app import KIND_CHECKS
from bigmarket.draw import (
    SETTLED_MS,
    Admission,
    Drawn,
    DrawRequest,
    OpenOrder,
    Outcome,
    Snapshot,
    Ticket,
    Winning,
    admit,
    decide,
)
from bigmarket.errors import (
    ActivityClosed,
    BigmarketError,
    DayQuotaExhausted,
    Duplicate,
    MonthQuotaExhausted,
    NotArmed,
    NotFound,
    OutOfWindow,
    QuotaExhausted,
)
from support import DAY, NOON, SMALL, live_of, small_campaign

ACTIVITY = live_of(small_campaign())
LIVE = {1: ACTIVITY}


def account(*, total: int = 10, month: int = 10, day: int = 10, used: int = 0) -> Account:
    return Account(total, total - used, "2026-11", month, max(0, month - used), "2026-11-20", day, max(0, day - used))


def snapshot(**accounts: Account) -> Snapshot:
    return Snapshot({(user, 1): held for user, held in accounts.items()}, {}, {})


def ask(user: str, number: int = 1, request_id: str | None = None, activity_id: int = 1) -> DrawRequest:
    return DrawRequest(f"order-{user}-{number}", user, activity_id, request_id)


def enter(requests: list[DrawRequest], held: Snapshot, *, now_ms: int = NOON) -> list[Admission]:
    return admit(requests, held, live=LIVE, now_ms=now_ms)


def tickets(admissions: list[Admission]) -> list[Ticket]:
    assert all(isinstance(a, Ticket) for a in admissions), admissions
    return [a for a in admissions if isinstance(a, Ticket)]


def stock(*, mug: int = 30, lamp: int = 3, car: int = 1) -> dict[tuple[int, int], int | None]:
    return {(9, 1): None, (9, 2): mug, (9, 3): lamp, (9, 4): car}


def settle(given: list[Ticket], left: dict[tuple[int, int], int | None] | None = None) -> Outcome:
    return decide(given, {}, left if left is not None else stock(), now_ms=NOON)


def test_draws_of_one_user_in_one_batch_count_up() -> None:
    given = tickets(enter([ask("ann", n) for n in range(1, 6)], snapshot(ann=account(used=2))))
    assert [t.ordinal for t in given] == [3, 4, 5, 6, 7]
    assert [t.ordinal_today for t in given] == [3, 4, 5, 6, 7]
    outcome = settle(given)
    assert outcome.spent[("ann", 1)].draws == 5
    assert len(outcome.records) == len(outcome.orders) == 5


def test_a_batch_spends_no_more_than_the_account_holds() -> None:
    admissions = enter([ask("ann", n) for n in range(1, 5)], snapshot(ann=account(total=2)))
    assert [type(a) for a in admissions] == [Ticket, Ticket, QuotaExhausted, QuotaExhausted]


@pytest.mark.parametrize(
    ("held", "error"),
    [
        (account(total=3, used=3), QuotaExhausted),
        (account(month=3, used=3), MonthQuotaExhausted),
        (account(day=3, used=3), DayQuotaExhausted),
    ],
)
def test_quota_is_refused_by_name(held: Account, error: type[BigmarketError]) -> None:
    assert isinstance(enter([ask("ann")], snapshot(ann=held))[0], error)


def test_a_user_without_account_has_no_quota() -> None:
    assert isinstance(enter([ask("bob")], snapshot())[0], QuotaExhausted)


def test_the_day_and_the_month_begin_anew_and_the_total_does_not() -> None:
    held = account(total=10, month=2, day=1, used=2)
    assert isinstance(enter([ask("ann")], snapshot(ann=held))[0], MonthQuotaExhausted)
    (ticket,) = tickets(enter([ask("ann")], snapshot(ann=held), now_ms=NOON + 11 * DAY))
    assert (ticket.ordinal, ticket.ordinal_today, ticket.quota) == (3, 1, Period("2026-12", "2026-12-01"))
    assert (held.total_left, held.month_left, held.day_left) == (7, 1, 0)


def test_a_clock_that_goes_back_gives_no_second_day() -> None:
    held = account(day=1, used=1)
    assert isinstance(enter([ask("ann")], snapshot(ann=held), now_ms=NOON - DAY)[0], DayQuotaExhausted)


@pytest.mark.parametrize(
    ("activity", "now_ms", "error"),
    [
        (replace(ACTIVITY, state="close"), NOON, ActivityClosed),
        (replace(ACTIVITY, state="create"), NOON, ActivityClosed),
        (ACTIVITY, ACTIVITY.end_ms, OutOfWindow),
        (ACTIVITY, ACTIVITY.begin_ms - 1, OutOfWindow),
        (replace(ACTIVITY, revision=None), NOON, NotArmed),
    ],
)
def test_an_activity_that_takes_no_draws_says_why(activity: object, now_ms: int, error: type[BigmarketError]) -> None:
    held = snapshot(ann=account())
    (refused,) = admit([ask("ann")], held, live={1: activity}, now_ms=now_ms)  # type: ignore[dict-item]
    assert isinstance(refused, error)
    assert held.accounts[("ann", 1)].total_left == 10


def test_an_unknown_activity_is_not_found() -> None:
    assert isinstance(enter([ask("ann", activity_id=7)], snapshot())[0], NotFound)


def test_a_request_id_twice_in_a_batch_is_one_draw() -> None:
    first, second = enter([ask("ann", 1, "r1"), ask("ann", 2, "r1")], snapshot(ann=account()))
    assert first is second


def test_a_refused_request_id_is_judged_again() -> None:
    admissions = enter([ask("ann", 1, "r1"), ask("ann", 2, "r1")], snapshot(ann=account(total=1, used=1)))
    assert [type(a) for a in admissions] == [QuotaExhausted, QuotaExhausted]


def test_an_earlier_outcome_is_given_again() -> None:
    earlier = Drawn("old", "ann", 1, 2, "mug", 2)
    held = snapshot(ann=account(total=1, used=1))
    held.settled[("ann", "r1")] = earlier
    assert enter([ask("ann", 1, "r1")], held) == [earlier]


def test_a_request_id_of_another_activity_is_refused() -> None:
    held = snapshot(ann=account())
    held.settled[("ann", "r1")] = Drawn("old", "ann", 77, 2, "mug", 2)
    assert isinstance(enter([ask("ann", 1, "r1")], held)[0], Duplicate)


def test_open_orders_are_used_first_and_cost_nothing() -> None:
    held = snapshot(ann=account(used=2))
    held.open_orders[("ann", 1)] = [OpenOrder("open-1", "2026-11-20"), OpenOrder("open-2", "2026-11-20")]
    given = tickets(enter([ask("ann", n) for n in range(1, 4)], held))
    assert [(t.order_id, t.quota is None, t.ordinal) for t in given] == [
        ("open-1", True, 1),
        ("open-2", True, 2),
        ("order-ann-3", False, 3),
    ]
    outcome = settle(given)
    assert outcome.spent[("ann", 1)].draws == 1
    assert [t.order_id for t in outcome.reused] == ["open-1", "open-2"]


def test_tiers_are_rolled_on_exactly_their_draw() -> None:
    given = tickets(enter([ask("ann", n) for n in range(1, 7)], snapshot(ann=account())))
    assert [t.pick.table for t in given] == ["all", "all", "tier:3", "all", "tier:5", "all"]
    assert given[2].pick.award_id in {2, 3}
    assert given[4].pick.award_id == 4


def test_a_tier_goes_through_lock_and_stock_like_any_other_roll() -> None:
    given = tickets(enter([ask("ann", n) for n in range(1, 6)], snapshot(ann=account())))
    fifth = settle(given, stock(car=0)).records[4]
    assert (fifth.award_id, fifth.trace) == (
        1,
        "5/5|tier:5|rule_lock:ALLOW|rule_stock:ALLOW|rule_luck_award:TAKE_OVER",
    )


def test_a_listed_user_gets_the_fixed_award_without_a_roll() -> None:
    (ticket,) = tickets(enter([ask("mallory")], snapshot(mallory=account())))
    record = settle([ticket]).records[0]
    assert (record.award_id, record.award_config, record.rolled) == (1, "0.5", None)
    assert record.trace == "1/1|rule_blacklist"


def test_the_last_unit_of_a_batch_goes_to_the_first_who_rolled_it() -> None:
    users = {f"u{n}": account(used=4) for n in range(20)}
    given = tickets(enter([ask(user) for user in users], snapshot(**users)))
    outcome = settle(given, stock(car=1))
    assert [r.award_id for r in outcome.records].count(4) == 1
    assert outcome.records[0].award_id == 4
    assert outcome.taken == {(9, 4): 1, (9, 1): 19}


CARS_ONLY = "[" + ", ".join(f"{{at_draw: {n}, awards: [4]}}" for n in range(4, 10)) + "]"
LIMITED_CARS = parse_campaign(
    SMALL.replace("root: rule_lock", "root: rule_user_limit")
    .replace("nodes: [{rule: rule_lock", "nodes: [{rule: rule_user_limit, at_most: 2}, {rule: rule_lock")
    .replace(
        "        - {from: rule_lock, to: rule_stock, when: ALLOW}",
        "        - {from: rule_lock, to: rule_stock, when: ALLOW}\n"
        "        - {from: rule_user_limit, to: rule_lock, when: ALLOW}\n"
        "        - {from: rule_user_limit, to: rule_luck_award, when: TAKE_OVER}",
    )
    .replace("[{at_draw: 3, awards: [2, 3]}, {at_draw: 5, awards: [4]}]", CARS_ONLY),
    kinds=KIND_CHECKS,
)


def draw_cars(
    users: dict[str, int], *, draws: int, cars: int = 9, epoch_open_ms: int = 0
) -> tuple[list[tuple[str, int, str]], Outcome]:
    """Draws that roll nothing but cars, of which a user may win two and ``users`` won so many: who got what, why."""
    live = {1: replace(live_of(LIMITED_CARS), epoch=7, epoch_open_ms=epoch_open_ms)}
    held = snapshot(**{user: account(used=3) for user in users})
    admissions = admit([ask(user, n) for n in range(draws) for user in users], held, live=live, now_ms=NOON)
    wins = {(user, 9, 4): won for user, won in users.items()}
    outcome = decide(tickets(admissions), wins, stock(car=cars), now_ms=NOON)
    return [(r.user_id, r.award_id, r.trace) for r in outcome.records], outcome


def test_a_limit_counts_earlier_wins_and_those_of_the_batch() -> None:
    records, outcome = draw_cars({"ann": 0, "bob": 1, "joe": 5}, draws=3)
    assert [award for user, award, _ in records if user == "ann"] == [4, 4, 1]
    assert [award for user, award, _ in records if user == "bob"] == [4, 1, 1]
    assert [award for user, award, _ in records if user == "joe"] == [1, 1, 1]
    assert outcome.won == {("ann", 9, 4): Winning(2, 2, 7), ("bob", 9, 4): Winning(1, 2, 7)}


def test_what_a_limit_was_judged_by_stands_in_the_trace() -> None:
    records, _ = draw_cars({"bob": 1}, draws=2)
    assert [trace for _, _, trace in records] == [
        "4/4/1|tier:4|rule_user_limit:ALLOW|rule_lock:ALLOW|rule_stock:TAKE_OVER",
        "5/5/2|tier:5|rule_user_limit:TAKE_OVER|rule_luck_award:TAKE_OVER",
    ]


def test_a_prize_that_was_sold_out_is_not_counted_as_won() -> None:
    records, outcome = draw_cars({"ann": 0, "bob": 0}, draws=1, cars=1)
    assert [award for _, award, _ in records] == [4, 1]
    assert outcome.won == {("ann", 9, 4): Winning(1, 2, 7)}


@pytest.mark.parametrize(("age_ms", "epoch"), [(0, 0), (SETTLED_MS - 1, 0), (SETTLED_MS, 7)])
def test_a_count_is_kept_for_an_epoch_that_everybody_knows(age_ms: int, epoch: int) -> None:
    _, outcome = draw_cars({"ann": 0}, draws=1, epoch_open_ms=NOON - age_ms)
    assert outcome.won == {("ann", 9, 4): Winning(1, 2, epoch)}


def test_who_is_not_on_the_allow_list_gets_the_fixed_award_without_a_roll() -> None:
    listed = parse_campaign(SMALL.replace("rule_blacklist", "rule_allowlist"), kinds=KIND_CHECKS)
    held = snapshot(mallory=account(used=4), ann=account(used=4))
    given = tickets(admit([ask("mallory"), ask("ann")], held, live={1: live_of(listed)}, now_ms=NOON))
    records = settle(given).records
    assert [(r.award_id, r.award_config, r.trace) for r in records] == [
        (4, None, "5/5|tier:5|rule_lock:ALLOW|rule_stock:TAKE_OVER"),
        (1, "0.5", "5/5|rule_allowlist"),
    ]


def test_an_award_without_a_stock_row_is_not_given() -> None:
    (ticket,) = tickets(enter([ask("u")], snapshot(u=account(used=4))))
    assert settle([ticket], {}).records[0].award_id == 1


def test_only_awards_that_need_it_get_a_task() -> None:
    given = tickets(enter([ask("ann", n) for n in range(1, 11)], snapshot(ann=account())))
    outcome = settle(given)
    credited = [r.order_id for r in outcome.records if r.award_id == 1]
    assert [task.message_id for task in outcome.tasks] == credited
    assert 0 < len(credited) < 10


def test_the_same_facts_give_the_same_outcome() -> None:
    def run() -> Outcome:
        return settle(tickets(enter([ask("ann", n) for n in range(1, 11)], snapshot(ann=account()))))

    assert run() == run()
