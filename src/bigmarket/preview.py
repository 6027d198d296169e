"""What a user's next draw could give, exactly and with reasons: the draw's own functions, asked before the roll."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from bigmarket.activity.admission import open_activity
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Counts, credit, empty_account, period_of, refusal, roll_over
from bigmarket.activity.revision import Revision
from bigmarket.activity.stock import StockKey
from bigmarket.draw import DrawRequest, DrawTx, Snapshot, Ticket, admit
from bigmarket.errors import BigmarketError
from bigmarket.strategy.forecast import Chance, forecast, odds_of
from bigmarket.strategy.rules import RuleLock
from bigmarket.strategy.rules.base import Entry
from bigmarket.strategy.wheel import ALL_AWARDS, Node, Wheel


class Prospect(NamedTuple):
    """One award of the wheel: the chance that the next draw gives it, and why it is that."""

    award_id: int
    title: str
    chance: Fraction
    why: str


@dataclass(frozen=True, slots=True)
class Preview:
    """The user's next draw: which one it is (in all, and today), and every award's chance; they sum to 1.

    ``refused`` says why it cannot be made now; the odds are those it would have if it could.
    """

    user_id: str
    activity_id: int
    revision_id: str
    ordinal: int
    ordinal_today: int
    refused: BigmarketError | None
    prospects: tuple[Prospect, ...]


def preview(tx: DrawTx, *, user_id: str, activity_id: int, live: Mapping[int, LiveActivity], now_ms: int) -> Preview:
    """The odds that ``user_id`` has now; writes nothing.

    Raises NotFound, ActivityClosed, OutOfWindow or NotArmed when nobody may draw.
    """
    activity, revision = open_activity(activity_id, live=live, now_ms=now_ms)
    request = DrawRequest("", user_id, activity_id, None)
    snapshot = tx.load([request])
    refused = _grant(snapshot, request, activity=activity, now_ms=now_ms)
    (ticket,) = admit([request], snapshot, live=live, now_ms=now_ms)
    assert isinstance(ticket, Ticket), ticket
    wheel = revision.wheel
    won = tx.load_wins({(user_id, wheel.strategy_id, award_id): activity.epoch for award_id in wheel.limits})
    stock = tx.load_stock({(wheel.strategy_id, award_id): 1 for award_id in wheel.sectors})
    lines = forecast(
        wheel,
        Entry(user_id, ticket.ordinal),
        ordinal_today=ticket.ordinal_today,
        wins={award_id: times_won for (_, _, award_id), times_won in won.items()},
        has_unit=lambda award_id: _has_unit(stock, (wheel.strategy_id, award_id)),
    )
    prospects = tuple(_prospects(revision, lines, ordinal_today=ticket.ordinal_today))
    return Preview(
        user_id, activity_id, revision.revision_id, ticket.ordinal, ticket.ordinal_today, refused, prospects
    )


def _grant(snapshot: Snapshot, request: DrawRequest, *, activity: LiveActivity, now_ms: int) -> BigmarketError | None:
    """Credit one draw in memory, so that the odds can be asked for whatever is left; why none could be made."""
    period = period_of(now_ms, zone=activity.zone)
    key = (request.user_id, request.activity_id)
    account = snapshot.accounts.setdefault(key, empty_account(period))
    roll_over(account, period)
    refused = None if snapshot.open_orders.get(key) else refusal(account)
    credit(account, Counts(1, 1, 1))
    return refused


def _has_unit(stock: Mapping[StockKey, int | None], key: StockKey) -> bool:
    left = stock.get(key, 0)
    return left is None or left > 0


def _prospects(revision: Revision, lines: tuple[Chance, ...], *, ordinal_today: int) -> Iterator[Prospect]:
    """Every sector in the wheel's order, also those that cannot be won now."""
    wheel, odds = revision.wheel, odds_of(lines)
    for award_id, sector in sorted(wheel.sectors.items(), key=lambda item: item[1].sort):
        chance = odds.get(award_id, Fraction(0))
        why = _why(wheel, award_id, lines, ordinal_today=ordinal_today)
        yield Prospect(award_id, sector.title, chance, why)


def _why(wheel: Wheel, award_id: int, lines: tuple[Chance, ...], *, ordinal_today: int) -> str:
    own = [line for line in lines if line.rolled_award_id == award_id]
    reasons = [_own_reason(wheel, line, ordinal_today=ordinal_today) for line in own]
    if not own:
        reasons.append(f"not on {_table_name(_table_of(lines))}")
    from_others = [line for line in lines if line.award_id == award_id != line.rolled_award_id]
    if from_others:
        listed = ", ".join(str(line.rolled_award_id) for line in from_others)
        reasons.append(f"{sum(line.chance for line in from_others)} of it in place of {listed}")
    return "; ".join(reason for reason in reasons if reason)


def _own_reason(wheel: Wheel, line: Chance, *, ordinal_today: int) -> str:
    table, *verdicts = line.path.split("|")
    if line.rolled_award_id == line.award_id:
        return "" if table == ALL_AWARDS else f"by {_table_name(table)}"
    instead = f"gives {line.award_id} instead of its {line.chance}"
    if "rule_lock:TAKE_OVER" in verdicts:
        wait = _unlock_at(wheel, line.rolled_award_id) - ordinal_today
        return f"locked until {wait} more draw{'s' if wait > 1 else ''} today, {instead}"
    if "rule_user_limit:TAKE_OVER" in verdicts:
        return f"one user may win {wheel.limits[line.rolled_award_id]} and this one has, {instead}"
    if "rule_stock:ALLOW" in verdicts:
        return f"sold out, {instead}"
    return instead


def _table_of(lines: tuple[Chance, ...]) -> str:
    return lines[0].path.split("|", 1)[0]


def _table_name(table: str) -> str:
    """A roll table, or the rule that gave the award outright, in words."""
    if table == ALL_AWARDS:
        return "the wheel"
    kind, _, at_draw = table.partition(":")
    return f"the guaranteed tier of draw {at_draw}" if at_draw else kind


def _unlock_at(wheel: Wheel, award_id: int) -> int:
    """The draw of the day from which the award's lock opens."""
    tree_id = wheel.sectors[award_id].tree
    assert tree_id is not None, award_id
    waiting: list[Node] = [wheel.roots[tree_id]]
    while waiting:  # a tree has no cycle
        node = waiting.pop()
        if isinstance(node.rule, RuleLock):
            return node.rule.unlock_at_draw
        waiting.extend(node.ways.values())
    raise AssertionError(f"no lock in {tree_id}")
