"""Derives a draw again from what is stored, with the functions that made it, and says rule by rule why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from bigmarket.activity.revision import Revision
from bigmarket.draw import roll_award
from bigmarket.strategy.chain import Pick, pick
from bigmarket.strategy.rules import (
    RuleAllowlist,
    RuleBlacklist,
    RuleLock,
    RuleLuckAward,
    RuleStock,
    RuleUserLimit,
    RuleWeight,
    TreeRule,
)
from bigmarket.strategy.rules.base import Entry, Given, Narrowed
from bigmarket.strategy.tree import Won, walk


class StoredDraw(NamedTuple):
    """What the store holds of one draw: its raffle order, its award record, and where its dice came from.

    Times are epoch milliseconds; ``document`` is the revision's canonical JSON.
    """

    order_id: str
    user_id: str
    activity_id: int
    activity_name: str
    time_zone: str
    request_id: str | None
    order_day: str
    order_time_ms: int
    award_time_ms: int
    award_id: int
    award_title: str
    award_config: str | None
    award_state: str
    revision_id: str
    revision_sha256: str
    document: str
    epoch: int
    seed: bytes
    seed_sha256: str
    epoch_open: bool
    rolled: int | None
    trace: str


class Facts(NamedTuple):
    """What a trace says the draw was judged by: which draw of the user's it was, in all and that day.

    ``won_before`` is how often the user had won the picked award, where that is limited (0 elsewhere).
    """

    ordinal: int
    ordinal_today: int
    won_before: int
    unit_taken: bool
    path: str


@dataclass(frozen=True, slots=True)
class Step:
    """One judgement: the rule, the facts it saw, its verdict and why."""

    rule: str
    facts: str
    verdict: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The draw derived again; ``differences`` lists where it is not what is stored, which must never happen."""

    steps: tuple[Step, ...]
    award_id: int
    award_title: str
    differences: tuple[str, ...]

    @property
    def matches(self) -> bool:
        """Whether the same award, roll and path came out."""
        return not self.differences


def read_trace(trace: str) -> Facts:
    """The facts of ``ordinal/ordinal today|table|rule:VERDICT|...``, or ``ordinal/ordinal today/won before|...``."""
    head, path = trace.split("|", 1)
    ordinal, ordinal_today, *counted = map(int, head.split("/"))
    return Facts(ordinal, ordinal_today, sum(counted), "rule_stock:TAKE_OVER" in path.split("|"), path)


def explain(stored: StoredDraw, revision: Revision) -> Explanation:
    """Draw again with the stored revision, seed and facts, and compare."""
    facts = read_trace(stored.trace)
    wheel = revision.wheel
    picked = pick(wheel, Entry(stored.user_id, facts.ordinal), roll=partial(roll_award, stored.seed, stored.order_id))
    won = walk(
        wheel,
        picked,
        ordinal_today=facts.ordinal_today,
        won_before=facts.won_before,
        take_unit=lambda _: facts.unit_taken,
    )
    steps = (
        *_chain_steps(stored, facts, revision),
        _roll_step(picked, revision),
        *_tree_steps(facts, picked, won, revision),
    )
    return Explanation(
        steps,
        won.award_id,
        wheel.sectors[won.award_id].title,
        tuple(_differences(stored, facts, picked, won)),
    )


def _differences(stored: StoredDraw, facts: Facts, picked: Pick, won: Won) -> list[str]:
    pairs = {
        "award": (stored.award_id, won.award_id),
        "award config": (stored.award_config, won.config),
        "rolled number": (stored.rolled, picked.rolled),
        "path": (facts.path, won.path),
    }
    return [
        f"{name}: stored {before}, derived again {again}"
        for name, (before, again) in pairs.items()
        if before != again
    ]


def _chain_steps(stored: StoredDraw, facts: Facts, revision: Revision) -> list[Step]:
    steps = []
    for rule in revision.wheel.chain:
        answer = rule.judge(Entry(stored.user_id, facts.ordinal))
        match rule:
            case RuleAllowlist() | RuleBlacklist():
                seen = f"user {stored.user_id}"
                why = "the user is on the list" if stored.user_id in rule.users else "the user is not on the list"
            case RuleWeight():
                seen = f"draw {facts.ordinal} of the user in this activity"
                tiers = ", ".join(str(tier.at_draw) for tier in rule.tiers)
                why = "this draw reaches a tier" if answer else f"tiers are reached on draws {tiers}"
        steps.append(Step(rule.rule, seen, _chain_verdict(answer), why))
        if answer is not None:
            break
    return steps


def _chain_verdict(answer: Given | Narrowed | None) -> str:
    match answer:
        case Given(award_id=award_id):
            return f"gives award {award_id}"
        case Narrowed(table=table):
            return f"narrows the roll to {table}"
        case None:
            return "passes on"


def _roll_step(picked: Pick, revision: Revision) -> Step:
    if picked.rolled is None:
        return Step("roll", "none", f"award {picked.award_id}", f"{picked.table} gave it outright")
    table = revision.wheel.tables[picked.table]
    odds = table.odds()[picked.award_id]
    return Step(
        "roll",
        f"table {picked.table}, a die of {table.total:,} faces",
        f"rolled {picked.rolled:,}: award {picked.award_id}",
        f"its chance was {odds} ({float(odds):.6%})",
    )


def _tree_steps(facts: Facts, picked: Pick, won: Won, revision: Revision) -> list[Step]:
    """The nodes that the walk visited, with what each saw."""
    wheel = revision.wheel
    verdicts = [part.split(":")[1] for part in won.path.removeprefix(picked.table).split("|")[1:]]
    tree_id = wheel.sectors[picked.award_id].tree
    node = wheel.roots.get(tree_id) if tree_id else None
    steps = []
    for verdict in verdicts:
        assert node is not None, won.path
        seen, why = _node_said(node.rule, facts, revision)
        steps.append(Step(node.rule.rule, seen, verdict, why))
        node = node.ways.get(verdict)
    return steps


def _node_said(rule: TreeRule, facts: Facts, revision: Revision) -> tuple[str, str]:
    match rule:
        case RuleLock(unlock_at_draw=at):
            return f"draw {facts.ordinal_today} of the user's day", f"the award is unlocked from draw {at} of the day"
        case RuleUserLimit(at_most=at_most):
            return f"won {facts.won_before} before", f"one user may win {at_most} of it"
        case RuleStock():
            return "one unit wanted", "a unit was taken" if facts.unit_taken else "no unit was left"
        case RuleLuckAward(award_id=award_id):
            return "the rolled award could not be had", f"the fallback is {revision.wheel.sectors[award_id].title}"
