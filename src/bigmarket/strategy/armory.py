"""Checks a strategy, finding all its faults at once, and compiles a sound one into a Wheel."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from decimal import Decimal
from graphlib import CycleError, TopologicalSorter

from bigmarket.errors import Problem
from bigmarket.strategy.model import RuleTree, Strategy, StrategyAward
from bigmarket.strategy.odds import table_of
from bigmarket.strategy.rules import (
    ChainRule,
    RuleLock,
    RuleLuckAward,
    RuleStock,
    RuleUserLimit,
    RuleWeight,
    TreeRule,
)
from bigmarket.strategy.wheel import ALL_AWARDS, Node, Wheel

RATES_APART_MAX = 10**9
_NAMED_MAX = 5  # awards named in one message

Sectors = dict[int, StrategyAward]
Limits = dict[int, int]  # award -> how often one user may win it
Ways = dict[str, dict[str, str]]  # node -> verdict -> next node


def inspect_strategy(strategy: Strategy) -> list[Problem]:
    """Every fault that a schema cannot see; paths are relative to the strategy. Empty: it can be compiled."""
    sectors = {award.award_id: award for award in strategy.awards}
    limits = _limits_of(strategy)
    return [
        *_inspect_awards(strategy),
        *_inspect_chain(strategy.chain, sectors=sectors, limits=limits),
        *_inspect_trees(strategy, sectors=sectors, limits=limits),
    ]


def warnings_of(strategy: Strategy) -> list[Problem]:
    """What is allowed but probably not meant."""
    found = []
    total = sum((award.rate for award in strategy.awards), Decimal(0))
    if total != 1:
        reason = f"rates sum to {plain(total)}, not 1"
        found.append(
            Problem("awards", reason, "Every chance is its rate divided by that sum; adjust them if not meant")
        )
    if sorted(award.sort for award in strategy.awards) != list(range(1, len(strategy.awards) + 1)):
        reason = f"sort does not run from 1 to {len(strategy.awards)}"
        found.append(Problem("awards", reason, "A page that draws one sector per award will point beside the prize"))
    used = {award.tree for award in strategy.awards}
    found += [
        Problem(f"trees[{i}]", f"no award uses the tree `{tree.tree_id}`", "Remove it, or name it in an award")
        for i, tree in enumerate(strategy.trees)
        if tree.tree_id not in used
    ]
    return found


def compile_strategy(strategy: Strategy) -> Wheel:
    """The wheel of a strategy without problems: a table of all awards and one per tier, sectors, trees."""
    rates = {award.award_id: award.rate for award in strategy.awards}
    tiers = [tier for rule in strategy.chain if isinstance(rule, RuleWeight) for tier in rule.tiers]
    return Wheel(
        strategy_id=strategy.strategy_id,
        chain=strategy.chain,
        tables={
            ALL_AWARDS: table_of(rates),
            **{tier.table: table_of({award_id: rates[award_id] for award_id in tier.awards}) for tier in tiers},
        },
        sectors={award.award_id: award for award in strategy.awards},
        roots={tree.tree_id: _compile_tree(tree) for tree in strategy.trees},
        limits=_limits_of(strategy),
    )


def plain(number: Decimal) -> str:
    """An exact decimal as text, without exponent or trailing zeros."""
    text = format(number, "f")
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def repeats(keys: Iterable[Hashable]) -> Iterator[tuple[int, int]]:
    """(place, place of its first occurrence) of every key that came before."""
    first: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        if first.setdefault(key, place) != place:
            yield place, first[key]


def _compile_tree(tree: RuleTree) -> Node:
    rules: dict[str, TreeRule] = {rule.rule: rule for rule in tree.nodes}
    ways = _ways(tree)

    def node(name: str) -> Node:
        return Node(rules[name], {verdict: node(target) for verdict, target in ways.get(name, {}).items()})

    return node(tree.root)


def _limits_of(strategy: Strategy) -> Limits:
    by_tree = {
        tree.tree_id: node.at_most
        for tree in strategy.trees
        for node in tree.nodes
        if isinstance(node, RuleUserLimit)
    }
    return {award.award_id: by_tree[award.tree] for award in strategy.awards if award.tree in by_tree}


def _ways(tree: RuleTree) -> Ways:
    ways: Ways = {}
    for line in tree.lines:
        ways.setdefault(line.source, {}).setdefault(line.when, line.target)
    return ways


# --- the sectors --------------------------------------------------------------------------------------------------


def _inspect_awards(strategy: Strategy) -> Iterator[Problem]:
    awards = strategy.awards
    for place, first in repeats(award.award_id for award in awards):
        reason = f"award {awards[place].award_id} is on the wheel already, as awards[{first}]"
        yield Problem(f"awards[{place}].award_id", reason, "Give each sector an award of its own")
    for place, first in repeats(award.sort for award in awards):
        reason = f"place {awards[place].sort} is taken already, by awards[{first}]"
        yield Problem(f"awards[{place}].sort", reason, "Number the sectors 1, 2, 3 and so on")
    yield from _inspect_rates(awards)
    trees = {tree.tree_id for tree in strategy.trees}
    for place, award in enumerate(awards):
        if award.tree is not None and award.tree not in trees:
            reason = f"there is no tree `{award.tree}`"
            yield Problem(f"awards[{place}].tree", reason, "Name a tree of `trees`, or add this one")
        elif award.tree is None and award.stock is not None:
            reason = "limited prize without a fallback: it has stock but no tree"
            yield Problem(f"awards[{place}].tree", reason, "Name a tree that passes rule_stock, or leave `stock` out")


def _inspect_rates(awards: Sequence[StrategyAward]) -> Iterator[Problem]:
    rates = [award.rate for award in awards]
    if max(rates) > min(rates) * RATES_APART_MAX:
        place = rates.index(min(rates))
        reason = f"more than 10^9 times rarer than awards[{rates.index(max(rates))}]"
        yield Problem(f"awards[{place}].rate", reason, "Raise it, or remove the sector")


# --- the chain ----------------------------------------------------------------------------------------------------


def _inspect_chain(chain: Sequence[ChainRule], *, sectors: Sectors, limits: Limits) -> Iterator[Problem]:
    for place, first in repeats(rule.rule for rule in chain):
        reason = f"{chain[place].rule} is in the chain already, as chain[{first}]"
        yield Problem(f"chain[{place}].rule", reason, "Keep one of the two")
    for place, rule in enumerate(chain):
        path = f"chain[{place}]"
        if isinstance(rule, RuleWeight):
            yield from _inspect_tiers(rule, path=path, sectors=sectors)
        else:
            yield from _inspect_given(rule.award_id, path=f"{path}.award_id", sectors=sectors, limits=limits)


def _inspect_tiers(rule: RuleWeight, *, path: str, sectors: Sectors) -> Iterator[Problem]:
    for place, first in repeats(tier.at_draw for tier in rule.tiers):
        reason = f"draw {rule.tiers[place].at_draw} has a tier already, tiers[{first}]"
        yield Problem(f"{path}.tiers[{place}].at_draw", reason, "Keep one tier per draw")
    for place, tier in enumerate(rule.tiers):
        under = f"{path}.tiers[{place}].awards"
        for again, first in repeats(tier.awards):
            reason = f"award {tier.awards[again]} is in the tier already, as awards[{first}]"
            yield Problem(f"{under}[{again}]", reason, "Name each award once")
        for index, award_id in enumerate(tier.awards):
            yield from _inspect_sector(award_id, path=f"{under}[{index}]", sectors=sectors)


def _inspect_sector(award_id: int, *, path: str, sectors: Sectors) -> Iterator[Problem]:
    if award_id not in sectors:
        yield Problem(path, f"award {award_id} is not on the wheel", "Name an award of `strategy.awards`")


def _inspect_given(award_id: int, *, path: str, sectors: Sectors, limits: Limits) -> Iterator[Problem]:
    """An award that a rule gives outright must be on the wheel and must never run out."""
    yield from _inspect_sector(award_id, path=path, sectors=sectors)
    if award_id in sectors and sectors[award_id].stock is not None:
        reason = f"award {award_id} has stock, but what is given here must never run out"
        yield Problem(path, reason, "Name an award without `stock`")
    if award_id in limits:
        reason = f"award {award_id} has a limit per user, but what is given here must never run out"
        yield Problem(path, reason, "Name an award whose tree has no rule_user_limit")


# --- the trees ----------------------------------------------------------------------------------------------------


def _inspect_trees(strategy: Strategy, *, sectors: Sectors, limits: Limits) -> Iterator[Problem]:
    for place, first in repeats(tree.tree_id for tree in strategy.trees):
        reason = f"the tree `{strategy.trees[place].tree_id}` is defined already, as trees[{first}]"
        yield Problem(f"trees[{place}].tree_id", reason, "Give each tree a name of its own")
    limited: dict[str | None, list[int]] = {}
    for award in strategy.awards:
        if award.stock is not None:
            limited.setdefault(award.tree, []).append(award.award_id)
    for place, tree in enumerate(strategy.trees):
        path = f"trees[{place}]"
        misdrawn = list(_inspect_shape(tree, path=path))
        yield from misdrawn
        yield from _inspect_nodes(tree, path=path, sectors=sectors, limits=limits)
        if misdrawn:  # what a walk comes to is only worth saying of a tree that can be walked
            continue
        yield from _inspect_limit(tree, path=path)
        if tree.tree_id in limited:
            yield from _inspect_stock(tree, path=path, award_ids=limited[tree.tree_id])


def _inspect_shape(tree: RuleTree, *, path: str) -> Iterator[Problem]:
    """Nodes and lines that do not make a tree."""
    names: set[str] = {node.rule for node in tree.nodes}
    for place, _ in repeats(node.rule for node in tree.nodes):
        reason = f"{tree.nodes[place].rule} is a node of this tree already"
        yield Problem(f"{path}.nodes[{place}].rule", reason, "Keep one of the two")
    for place, first in repeats((line.source, line.when) for line in tree.lines):
        reason = f"lines[{first}] leads on from there already"
        yield Problem(f"{path}.lines[{place}]", reason, "Keep one line per node and verdict")
    if tree.root not in names:
        yield Problem(f"{path}.root", "is not a node of this tree", "Name the rule of one of its `nodes`")
    for place, line in enumerate(tree.lines):
        for end, name in (("from", line.source), ("to", line.target)):
            if name not in names:
                yield Problem(f"{path}.lines[{place}].{end}", "is not a node of this tree", "Name one of its `nodes`")
    yield from _inspect_reach(tree, path=path, names=names)


def _inspect_reach(tree: RuleTree, *, path: str, names: set[str]) -> Iterator[Problem]:
    ways = _ways(tree)
    try:
        TopologicalSorter({name: set(ways.get(name, {}).values()) for name in names}).prepare()
    except CycleError as cycle:
        around = " -> ".join(reversed(cycle.args[1]))
        yield Problem(f"{path}.lines", f"leads in a circle: {around}", "Remove one of these lines")
    if tree.root not in names:
        return
    reached = _reached(tree.root, ways=ways)
    for place, node in enumerate(tree.nodes):
        if node.rule not in reached:
            reason = f"no line from the root leads to {node.rule}"
            yield Problem(f"{path}.nodes[{place}]", reason, "Add a line to it, or remove it")


def _reached(root: str, *, ways: Ways) -> set[str]:
    reached, ahead = {root}, [root]
    while ahead:
        fresh = set(ways.get(ahead.pop(), {}).values()) - reached
        reached |= fresh
        ahead += fresh
    return reached


def _inspect_nodes(tree: RuleTree, *, path: str, sectors: Sectors, limits: Limits) -> Iterator[Problem]:
    """What each rule asks of its place in the tree."""
    ways = _ways(tree)
    names = {node.rule for node in tree.nodes}
    for place, node in enumerate(tree.nodes):
        after = ways.get(node.rule, {})
        if isinstance(node, RuleLuckAward):
            yield from _inspect_given(
                node.award_id, path=f"{path}.nodes[{place}].award_id", sectors=sectors, limits=limits
            )
            if after:
                reason = "the fallback is given already, yet a line leads on from rule_luck_award"
                yield Problem(f"{path}.lines", reason, "Remove the lines from rule_luck_award")
        elif isinstance(node, RuleStock) and "TAKE_OVER" in after:
            reason = "a unit is taken already, yet a line leads on from rule_stock TAKE_OVER"
            yield Problem(f"{path}.lines", reason, "Remove that line: the award is won there")
        elif isinstance(node, (RuleLock, RuleUserLimit)):
            target = after.get("TAKE_OVER")
            if target is None or (target in names and target != "rule_luck_award"):
                barred = "a locked prize" if isinstance(node, RuleLock) else "a prize beyond its limit"
                reason = f"{barred} would be won: {node.rule} TAKE_OVER does not lead to rule_luck_award"
                fix = f"Add the line {{from: {node.rule}, when: TAKE_OVER, to: rule_luck_award}}"
                yield Problem(f"{path}.lines", reason, fix)


def _inspect_limit(tree: RuleTree, *, path: str) -> Iterator[Problem]:
    """Where there is a limit per user, nothing is won before it was asked."""
    if all(node.rule != "rule_user_limit" for node in tree.nodes):
        return
    before = {name: after for name, after in _ways(tree).items() if name != "rule_user_limit"}
    if "rule_stock" in _reached(tree.root, ways=before):
        reason = "the limit comes too late: what rule_stock takes is won before rule_user_limit is asked"
        yield Problem(f"{path}.lines", reason, "Let the lines lead through rule_user_limit first, then to rule_stock")


def _inspect_stock(tree: RuleTree, *, path: str, award_ids: list[int]) -> Iterator[Problem]:
    """A limited prize is won only where a unit is taken, and where none is left something else is given."""
    ways = _ways(tree)
    reached = _reached(tree.root, ways=ways)
    who = f"(award {', '.join(map(str, award_ids[:_NAMED_MAX]))}{' and others' if award_ids[_NAMED_MAX:] else ''})"
    ends = [
        gate for gate in ("rule_lock", "rule_user_limit") if gate in reached and "ALLOW" not in ways.get(gate, {})
    ]
    if ends:
        reason = f"limited prize {who} would be won without taking a unit: no line leads on from {ends[0]} ALLOW"
        yield Problem(f"{path}.lines", reason, f"Add the line {{from: {ends[0]}, when: ALLOW, to: rule_stock}}")
    elif "rule_stock" not in reached:
        reason = f"limited prize {who}, but no way leads through rule_stock"
        yield Problem(f"{path}.nodes", reason, "Add a node rule_stock and a line to it, or leave `stock` out")
    elif ways.get("rule_stock", {}).get("ALLOW") != "rule_luck_award":
        reason = f"limited prize without a fallback {who}: rule_stock ALLOW does not lead to rule_luck_award"
        yield Problem(f"{path}.lines", reason, "Add the line {from: rule_stock, when: ALLOW, to: rule_luck_award}")
