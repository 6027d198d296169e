"""A stored draw is derived again, and a stored draw that was tampered with is not believed."""

from __future__ import annotations

import pytest

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Account
from bigmarket.draw import AwardRecordRow, DrawRequest, Snapshot, Ticket, admit, decide
from bigmarket.replay import StoredDraw, explain
from support import NOON, SEED, SMALL, limited_campaign, live_of, small_campaign

ACTIVITY = live_of(small_campaign())
assert ACTIVITY.revision is not None
REVISION = ACTIVITY.revision

#: Mugs and lamps: one of each per user; and only a list of users may draw.
LIMITED = live_of(limited_campaign(SMALL.replace("rule_blacklist", "rule_allowlist"), at_most=1))
assert LIMITED.revision is not None


def drawn(
    user: str, *, draws: int, cars: int = 1, activity: LiveActivity = ACTIVITY, mugs: int = 0
) -> list[AwardRecordRow]:
    wins = {(user, 9, 2): mugs, (user, 9, 3): 0}
    held = Snapshot({(user, 1): Account(99, 99, "2026-11", 99, 99, "2026-11-20", 99, 99)}, {}, {})
    requests = [DrawRequest(f"order-{user}-{n}", user, 1, None) for n in range(draws)]
    tickets = [t for t in admit(requests, held, live={1: activity}, now_ms=NOON) if isinstance(t, Ticket)]
    return decide(tickets, wins, {(9, 1): None, (9, 2): 30, (9, 3): 3, (9, 4): cars}, now_ms=NOON).records


def stored(record: AwardRecordRow) -> StoredDraw:
    return StoredDraw(
        order_id=record.order_id,
        user_id=record.user_id,
        activity_id=1,
        activity_name="small",
        time_zone="Asia/Shanghai",
        request_id=None,
        order_day="2026-11-20",
        order_time_ms=NOON,
        award_time_ms=NOON,
        award_id=record.award_id,
        award_title=record.award_title,
        award_config=record.award_config,
        award_state=record.award_state,
        revision_id=record.revision_id,
        revision_sha256=REVISION.sha256,
        document=REVISION.document,
        epoch=1,
        seed=SEED,
        seed_sha256="",
        epoch_open=True,
        rolled=record.rolled,
        trace=record.trace,
    )


@pytest.mark.parametrize("user", ["ann", "mallory"])
def test_every_draw_is_derived_again(user: str) -> None:
    for record in drawn(user, draws=20):
        explanation = explain(stored(record), REVISION)
        assert explanation.matches, explanation.differences
        assert explanation.award_title == record.award_title
        assert [step.rule for step in explanation.steps].count("roll") == 1


@pytest.mark.parametrize(
    "change", [{"award_id": 4}, {"rolled": 99}, {"award_config": "999"}, {"trace": "9/9|tier:5"}]
)
def test_a_changed_record_is_not_believed(change: dict[str, object]) -> None:
    for record in drawn("ann", draws=4):
        assert not explain(stored(record)._replace(**change), REVISION).matches  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"seed": b"another seed of thirty-two bytes"}, {"order_id": "another"}])
def test_other_dice_do_not_roll_the_same(change: dict[str, object]) -> None:
    """Each roll of a ten-sided die may agree by chance, twenty of them do not."""
    records = drawn("ann", draws=20)
    agree = [explain(stored(record)._replace(**change), REVISION).matches for record in records]  # type: ignore[arg-type]
    assert sum(agree) < len(records) / 2


def test_limited_draws_are_derived_again_from_what_was_won_before() -> None:
    assert LIMITED.revision is not None
    for record in drawn("mallory", draws=20, activity=LIMITED, mugs=1):
        explanation = explain(stored(record), LIMITED.revision)
        assert explanation.matches, explanation.differences


@pytest.mark.parametrize("mugs", [0, 1])
def test_another_number_of_earlier_wins_is_not_believed(mugs: int) -> None:
    assert LIMITED.revision is not None
    records = drawn("mallory", draws=20, activity=LIMITED, mugs=mugs)
    judged = [r for r in records if f"/{mugs}|all|rule_user_limit" in r.trace]
    assert judged
    for record in judged:
        other = record.trace.replace(f"/{mugs}|", f"/{1 - mugs}|")
        assert not explain(stored(record)._replace(trace=other), LIMITED.revision).matches


def test_the_steps_of_limits_and_lists_say_why() -> None:
    assert LIMITED.revision is not None
    records = drawn("mallory", draws=20, activity=LIMITED, mugs=1)
    beyond = next(r for r in records if "all|rule_user_limit:TAKE_OVER" in r.trace)
    steps = explain(stored(beyond), LIMITED.revision).steps
    assert [(step.rule, step.facts, step.verdict, step.why) for step in steps if "rule" in step.rule] == [
        ("rule_allowlist", "user mallory", "passes on", "the user is on the list"),
        ("rule_weight", steps[1].facts, "passes on", "tiers are reached on draws 3, 5"),
        ("rule_user_limit", "won 1 before", "TAKE_OVER", "one user may win 1 of it"),
        ("rule_luck_award", "the rolled award could not be had", "TAKE_OVER", "the fallback is points"),
    ]
    (fixed,) = drawn("ann", draws=1, activity=LIMITED)
    assert explain(stored(fixed), LIMITED.revision).steps[0].why == "the user is not on the list"


def test_the_steps_say_why() -> None:
    fifth = explain(stored(drawn("ann", draws=5, cars=0)[4]), REVISION)
    assert [(step.rule, step.verdict) for step in fifth.steps] == [
        ("rule_blacklist", "passes on"),
        ("rule_weight", "narrows the roll to tier:5"),
        ("roll", "rolled 0: award 4"),
        ("rule_lock", "ALLOW"),
        ("rule_stock", "ALLOW"),
        ("rule_luck_award", "TAKE_OVER"),
    ]
    assert fifth.steps[4].why == "no unit was left"
