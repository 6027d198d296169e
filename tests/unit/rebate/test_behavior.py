"""Days, numbers and what they earn: across month ends, clocks that change, and zones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from behaving import rewarding_campaign
from bigmarket.activity.behavior import (
    Behaved,
    BehaviorKey,
    BehaviorOutcome,
    BehaviorRequest,
    days_now,
    decide,
    keys_of,
    plan,
)
from bigmarket.activity.model import LiveActivity
from bigmarket.errors import (
    ActivityClosed,
    BadInput,
    BigmarketError,
    Duplicate,
    NotArmed,
    NotFound,
    OutOfWindow,
)
from bigmarket.rebate.behavior import (
    BEHAVIOR_MAX,
    NUMBER_MAX,
    biz_id_of,
    clean_behavior,
    day_before,
    day_of,
    earned,
    number_of,
)
from bigmarket.rebate.model import IntegralRebate, SkuRebate
from bigmarket.storage.schema import user_behavior_rebate_order
from bigmarket.text import KEY_MAX
from support import DAY, HOUR, IDS, NOON, live_of

EVERY = IntegralRebate(behavior="sign", type="integral", credits=1)
SEVENTH = IntegralRebate(behavior="sign", type="integral", credits=9, streak_days=7)


def take(
    *asked: tuple[str, int | None, str | None],
    live: Mapping[int, LiveActivity],
    now_ms: int,
    streaks: dict[BehaviorKey, int] | None = None,
) -> list[Behaved | BigmarketError]:
    """Answers to ann's behaviors in one batch; ``streaks`` are what was done before, and become those after it."""
    requests = [BehaviorRequest(IDS.make(now_ms), "ann", *one) for one in asked]
    planned = plan(requests, live=live, now_ms=now_ms)
    known = {} if streaks is None else streaks
    seen = {key: known[key] for key in keys_of(planned) if key in known}
    answers = decide(planned, seen, outcome=BehaviorOutcome(now_ms), new_id=lambda: IDS.make(now_ms))
    known |= seen
    return answers


def activity(**changes: object) -> LiveActivity:
    return replace(live_of(rewarding_campaign()), **changes)  # type: ignore[arg-type]


def sign(live: LiveActivity, now_ms: int, streaks: dict[BehaviorKey, int]) -> Behaved | BigmarketError:
    (answer,) = take(("sign", None, None), live={live.activity_id: live}, now_ms=now_ms, streaks=streaks)
    return answer


def at(moment: str, zone: str) -> int:
    return int(datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


# --- numbers and days ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "before"),
    [
        ("20260301", "20260228"), ("20240301", "20240229"), ("20260101", "20251231"), ("20260401", "20260331"),
        ("20260230", None), ("2026-01-01", None), ("p-77", None), ("", None), ("٢٠٢٦٠١٠١", None), ("00010101", None),
    ],
)  # fmt: skip
def test_the_day_before(number: str, before: str | None) -> None:
    assert day_before(number) == before


@given(st.dates())
def test_a_day_is_its_number(day: object) -> None:
    assert day_of(number_of(str(day))) == day


@pytest.mark.parametrize(("streak", "both"), [(1, False), (6, False), (7, True), (8, False), (14, True)])
def test_a_streak_rebate_is_earned_on_every_nth_day(streak: int, both: bool) -> None:
    assert earned([EVERY, SEVENTH], streak=streak) == ([EVERY, SEVENTH] if both else [EVERY])


def test_a_key_names_user_activity_behavior_rebate_and_number() -> None:
    sku = SkuRebate(behavior="sign", type="sku", sku=5)
    assert biz_id_of("ann", 7, sku, "20260101") == "ann_7_sign_sku_20260101"
    assert biz_id_of("ann", 7, SEVENTH, "20260101") == "ann_7_sign_integral7_20260101"


@pytest.mark.parametrize(("days", "kept"), [(None, None), (0, None), (2, 2), (366, 366)])
def test_no_streak_and_zero_days_are_the_same(days: int | None, kept: int | None) -> None:
    assert IntegralRebate(behavior="sign", type="integral", credits=1, streak_days=days).streak_days == kept


@pytest.mark.parametrize("days", [-1, 1, 367])
def test_streaks_that_make_no_sense_are_refused(days: int) -> None:
    with pytest.raises(ValidationError):
        IntegralRebate(behavior="sign", type="integral", credits=1, streak_days=days)


def test_the_longest_key_fits_its_column() -> None:
    behavior, number = "b" * BEHAVIOR_MAX, "n" * NUMBER_MAX
    rebate = IntegralRebate(behavior=behavior, type="integral", credits=1, streak_days=366)
    longest = biz_id_of("u" * KEY_MAX, 2**53 - 1, rebate, number)
    assert len(longest) <= user_behavior_rebate_order.c.biz_id.type.length  # type: ignore[attr-defined]
    assert clean_behavior("u" * KEY_MAX, behavior, number) == ("u" * KEY_MAX, behavior, number)


def test_what_comes_from_outside_is_cleaned() -> None:
    assert clean_behavior(" ann ", "SIGN", "20260131") == ("ann", "sign", "20260131")
    assert clean_behavior("ann", "OPENAI_PAY", " p-1 ") == ("ann", "openai_pay", "p-1")
    assert clean_behavior("ann", "sign") == ("ann", "sign", None)


@pytest.mark.parametrize(
    "asked",
    [("", "sign", None), ("ann", "", None), ("ann", "x" * 33, None), ("ann", "sign", "today"), ("ann", "pay", "\0"),
     ("ann", "sign", "20260230"), (7, "sign", None), ("ann", "pay", "n" * 101)],
)  # fmt: skip
def test_what_cannot_be_a_behavior_is_refused(asked: tuple[object, object, object]) -> None:
    with pytest.raises(BadInput):
        clean_behavior(*asked)


# --- days in a row ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Asia/Shanghai", "2026-01-29 12:00:00"),  # a month's end
        ("UTC", "2026-02-26 23:59:59"),  # February
        ("America/New_York", "2026-03-06 00:00:00"),  # the clock goes forward on the 8th
        ("America/New_York", "2026-10-30 23:30:00"),  # and back on November 1st
        ("Australia/Lord_Howe", "2026-04-03 01:45:00"),  # by half an hour
        ("America/St_Johns", "2026-10-30 00:01:00"),
    ],
)
def test_days_in_a_row_are_those_of_the_activitys_clock(zone: str, start: str) -> None:
    live, streaks = activity(zone=ZoneInfo(zone)), {}  # type: ignore[var-annotated]
    first = datetime.fromisoformat(start)
    for number in range(6):
        moment = (first + timedelta(days=number)).replace(tzinfo=ZoneInfo(zone))  # the same time by the wall clock
        answer = sign(live, int(moment.timestamp() * 1000), streaks)
        assert isinstance(answer, Behaved)
        assert answer.streak == number + 1
        assert answer.done[0].out_business_no == f"{moment:%Y%m%d}"


def test_a_day_of_25_hours_is_one_day() -> None:
    live, streaks = activity(zone=ZoneInfo("America/New_York")), {}  # type: ignore[var-annotated]
    midnight = at("2026-11-01 00:00:00", "America/New_York")
    assert isinstance(sign(live, midnight, streaks), Behaved)
    assert isinstance(sign(live, midnight + 25 * HOUR - 1, streaks), Duplicate)
    assert isinstance(sign(live, midnight + 25 * HOUR, streaks), Behaved)


def test_the_same_moment_is_another_day_elsewhere() -> None:
    moment = at("2026-05-05 23:30:00", "UTC")
    here, there = activity(zone=ZoneInfo("UTC")), activity(activity_id=2, zone=ZoneInfo("Pacific/Kiritimati"))
    (answer,) = take(("sign", None, None), live={1: here, 2: there}, now_ms=moment)
    assert isinstance(answer, Behaved)
    assert [(row.activity_id, row.out_business_no) for row in answer.done] == [(1, "20260505"), (2, "20260506")]
    assert days_now({1: here, 2: there}, now_ms=moment) == [
        (1, datetime(2026, 5, 5, tzinfo=UTC).date()),
        (2, datetime(2026, 5, 6, tzinfo=UTC).date()),
    ]


def test_yesterday_and_today_in_one_batch_are_two_days_in_a_row() -> None:
    days = [("sign", None, number) for number in ("20261118", "20261119", "20261120", "20261119")]
    answers = take(*days, live={1: activity()}, now_ms=NOON)
    assert [a.streak if isinstance(a, Behaved) else type(a) for a in answers] == [1, 2, 3, Duplicate]


@given(st.lists(st.integers(0, 40), max_size=60))
def test_a_streak_is_the_days_in_a_row_that_were_signed_in_order(days: list[int]) -> None:
    live, streaks = activity(begin_ms=0, end_ms=2**50), {}  # type: ignore[var-annotated]
    signed: set[int] = set()
    for day in sorted(days):
        answer = sign(live, NOON + day * DAY, streaks)
        if day in signed:
            assert isinstance(answer, Duplicate)
            continue
        signed.add(day)
        expected = next(n for n in range(1, 50) if day - n not in signed)
        assert isinstance(answer, Behaved)
        assert answer.streak == expected
        assert len(answer.orders) == (3 if expected % 3 == 0 else 2)


# --- where it counts ----------------------------------------------------------------------------------------------


def test_a_behavior_counts_in_every_open_activity_that_rewards_it() -> None:
    live = {1: activity(), 2: activity(activity_id=2), 3: activity(activity_id=3, state="close")}
    streaks: dict[BehaviorKey, int] = {}
    (first,) = take(("sign", 2, None), live=live, now_ms=NOON, streaks=streaks)
    assert isinstance(first, Behaved)
    assert [row.activity_id for row in first.done] == [2]
    (rest,) = take(("sign", None, None), live=live, now_ms=NOON, streaks=streaks)
    assert isinstance(rest, Behaved)
    assert [row.activity_id for row in rest.done] == [1]
    (none,) = take(("sign", None, None), live=live, now_ms=NOON, streaks=streaks)
    assert isinstance(none, Duplicate)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"state": "close"}, ActivityClosed),
        ({"begin_ms": NOON + 1}, OutOfWindow),
        ({"end_ms": NOON}, OutOfWindow),
        ({"revision": None}, NotArmed),
    ],
)
def test_an_activity_that_takes_nothing_says_why(changes: dict[str, object], error: type[BigmarketError]) -> None:
    live = {1: activity(**changes)}
    (named,) = take(("sign", 1, None), live=live, now_ms=NOON)
    assert type(named) is error
    (anywhere,) = take(("sign", None, None), live=live, now_ms=NOON)
    assert type(anywhere) is (NotFound if error is NotArmed else error)


def test_what_nothing_rewards_is_refused() -> None:
    live = {1: activity(), 2: activity(activity_id=2, state="close"), 3: activity(activity_id=3, state="create")}
    answers = take(("nap", None, None), ("nap", 1, "x"), ("sign", 9, None), live=live, now_ms=NOON)
    assert [type(answer) for answer in answers] == [NotFound] * 3
    (closed,) = take(("sign", None, None), live={2: live[2], 3: live[3]}, now_ms=NOON)
    assert type(closed) is ActivityClosed
