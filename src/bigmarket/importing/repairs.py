"""Pure: mends what a campaign's data is known to get wrong, only where it is wrong, and says what was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bigmarket.activity.armory import KindCheck

Draft = dict[str, Any]

LOCK, STOCK, LUCK = "rule_lock", "rule_stock", "rule_luck_award"
ALLOW, TAKE_OVER = "ALLOW", "TAKE_OVER"
BY_HAND = "physical"
_CONFIG_MAX = 128


def repair_draft(draft: Draft, kinds: Mapping[str, KindCheck]) -> list[str]:
    """Change ``draft`` in place; one line for each change."""
    return [
        *_deliver_by_hand(draft, kinds),
        *_drop_impossible(draft),
        *_unlimit_given(draft),
        *_mend_trees(draft),
        *_unlimit_treeless(draft),
        *_renumber(draft),
        *_drop_twin_rebates(draft),
    ]


def _deliver_by_hand(draft: Draft, kinds: Mapping[str, KindCheck]) -> Iterator[str]:
    for award in draft["awards"]:
        check = kinds.get(award["kind"])
        fault = "unknown kind" if check is None else check(award.get("config", ""))
        if fault is None:
            continue
        was = f"{award['kind']}:{award.get('config', '')}"
        yield f"award {award['award_id']}: an operator hands it over, for `{was}` cannot be delivered here ({fault})"
        award["kind"], award["config"] = BY_HAND, was[:_CONFIG_MAX]


def _drop_impossible(draft: Draft) -> Iterator[str]:
    """A sector with rate 0 is never rolled there, and cannot be written here."""
    strategy = draft["strategy"]
    for award in [award for award in strategy["awards"] if float(award["rate"]) == 0]:
        yield f"award {award['award_id']}: left out, its rate is 0"
        strategy["awards"].remove(award)


def _unlimit_given(draft: Draft) -> Iterator[str]:
    """What a rule gives outright must never run out."""
    givers = [*draft["strategy"]["chain"], *(node for tree in draft["strategy"]["trees"] for node in tree["nodes"])]
    given = {rule["award_id"] for rule in givers if "award_id" in rule}
    for award in draft["strategy"]["awards"]:
        if award["award_id"] in given and "stock" in award:
            yield f"award {award['award_id']}: unlimited, not {award.pop('stock')}: a fallback must not run out"


def _unlimit_treeless(draft: Draft) -> Iterator[str]:
    """The reference counts no unit of a prize without a tree."""
    for award in draft["strategy"]["awards"]:
        if "tree" not in award and "stock" in award:
            yield f"award {award['award_id']}: unlimited, not {award.pop('stock')}: no tree counts its units"


def _mend_trees(draft: Draft) -> Iterator[str]:
    """Lock, then stock, then the fallback: the lines of the usual tree, where its nodes are there."""
    for tree in draft["strategy"]["trees"]:
        nodes = {node["rule"] for node in tree["nodes"]}
        if LUCK not in nodes:
            continue
        if LOCK in nodes:
            if STOCK in nodes and tree["root"] == LOCK:
                yield from _lead(tree, LOCK, ALLOW, STOCK)
            yield from _lead(tree, LOCK, TAKE_OVER, LUCK)
        if STOCK in nodes:
            yield from _lead(tree, STOCK, ALLOW, LUCK)


def _lead(tree: Draft, source: str, when: str, target: str) -> Iterator[str]:
    """Make that line the only one from there."""
    lines = [line for line in tree["lines"] if (line["from"], line["when"]) == (source, when)]
    if [line["to"] for line in lines] == [target]:
        return
    was = f"led to {', '.join(line['to'] for line in lines)}" if lines else "was missing"
    yield f"{tree['tree_id']}: the line {source} {when} {was}, now leads to {target}"
    tree["lines"] = [line for line in tree["lines"] if line not in lines]
    tree["lines"].append({"from": source, "when": when, "to": target})


def _renumber(draft: Draft) -> Iterator[str]:
    awards = draft["strategy"]["awards"]
    places = [award["sort"] for award in awards]
    if len(set(places)) == len(places) and min(places, default=1) >= 1:
        return
    yield f"the sectors are numbered 1 to {len(places)}: places were taken twice or below 1 ({places})"
    for place, award in enumerate(awards, start=1):
        award["sort"] = place


def _drop_twin_rebates(draft: Draft) -> Iterator[str]:
    """A behavior's second rebate of a type would be taken for a repeat of the first."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for rebate in draft["rebates"]:
        key = (rebate["behavior"], rebate["type"])
        if key in seen:
            yield f"rebate {rebate['behavior']} {rebate['type']}: a second one is left out"
            continue
        seen.add(key)
        kept.append(rebate)
    draft["rebates"] = kept
