"""What a user still has to do for an award: which draw of the day opens it, how many are missing."""

from __future__ import annotations

from bigmarket.strategy.rules import RuleLock, RuleStock
from bigmarket.strategy.wheel import Wheel


def lock_count(wheel: Wheel, award_id: int) -> int | None:
    """The draw of the day from which the award can be won; None when no lock is on the way to it.

    It is the first lock that a walk meets; what comes after ``rule_stock`` is not on the way any more.
    """
    tree_id = wheel.sectors[award_id].tree
    node = wheel.roots.get(tree_id) if tree_id else None
    while node is not None and not isinstance(node.rule, RuleStock):
        if isinstance(node.rule, RuleLock):
            return node.rule.unlock_at_draw
        node = node.ways.get("ALLOW")
    return None


def draws_missing(wheel: Wheel, award_id: int, *, drawn_today: int) -> int:
    """Draws that a user who has made ``drawn_today`` is short of ``lock_count``; 0 when there is no lock.

    The draw that can win counts among them, so an award that opens with the third draw misses 1 after two, and can
    be won by the third.
    """
    return max(0, (lock_count(wheel, award_id) or 0) - drawn_today)
