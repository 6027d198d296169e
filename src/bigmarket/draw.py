"""One draw, start to finish. Read this first.

A lane (lanes.py) collects the requests that queued up while its last transaction committed and gives them to
``draw_batch`` inside one new transaction:

1. ``tx.load``        accounts, open raffle orders and earlier outcomes of the batch's users, locked;
2. ``admit``          MAY they draw? Quota, then the chain of rules and the roll: pure;
3. ``tx.load_wins``   how often the users won what they rolled; only of awards that have a limit per user;
4. ``tx.load_stock``  the stock of the awards that were rolled, and of no others;
5. ``decide``         WHICH award? The tree of rules against those wins and that stock: pure;
6. ``tx.apply``       everything that follows, in bulk, guards in the statements.

Then the lane commits and answers. ``admit`` and ``decide`` go through the batch in order over one snapshot, so two
draws of one user, or two for the last unit, simply work. They see no database, no clock and no randomness: the
same facts give the same award for ever, which ``explain`` shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from bigmarket.activity.admission import open_activity
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Account, Period, period_of, refusal, roll_over, spend
from bigmarket.activity.revision import Revision
from bigmarket.activity.stock import StockKey
from bigmarket.award.kinds import KINDS
from bigmarket.award.message import SEND_AWARD, SendAward, encode
from bigmarket.errors import BigmarketError, Duplicate, QuotaExhausted
from bigmarket.outbox.task import BatchResult, Task
from bigmarket.strategy import dice
from bigmarket.strategy.chain import Pick, pick
from bigmarket.strategy.rules.base import Entry
from bigmarket.strategy.tree import Won, walk

AccountKey = tuple[str, int]  # user_id, activity_id
WinKey = tuple[str, int, int]  # user_id, strategy_id, award_id

SETTLED_MS = 60_000  # so long after an epoch began, every process goes by the revision that it began with


class DrawRequest(msgspec.Struct, frozen=True, gc=False):
    """Somebody wants to draw. ``order_id`` is made before anything else, so that its fate can be looked up."""

    order_id: str
    user_id: str
    activity_id: int
    request_id: str | None


class Drawn(msgspec.Struct, frozen=True, gc=False):
    """What a request won: the answer to it, for ever."""

    order_id: str
    user_id: str
    activity_id: int
    award_id: int
    award_title: str
    award_index: int


class OpenOrder(msgspec.Struct, frozen=True, gc=False):
    """A raffle order in state ``create``: quota was taken, the draw is still owed."""

    order_id: str
    day: str


@dataclass(slots=True)
class Snapshot:
    """What the batch's users have, as loaded; ``admit`` works on it in place."""

    accounts: dict[AccountKey, Account]
    open_orders: dict[AccountKey, list[OpenOrder]]
    settled: dict[tuple[str, str], Drawn]  # by (user_id, request_id)


class Ticket(msgspec.Struct, eq=False, gc=False):
    """The right to one draw, with what was rolled for it.

    ``quota`` is the period whose quota it takes; None when its raffle order was open before, and took it then.
    ``asked_as`` is the order id of its request, which is another in that case.
    """

    order_id: str
    asked_as: str
    user_id: str
    request_id: str | None
    activity: LiveActivity
    revision: Revision
    quota: Period | None
    ordinal: int
    ordinal_today: int
    pick: Pick


Admission = Ticket | Drawn | BigmarketError
Answer = Drawn | BigmarketError


class RaffleOrderRow(NamedTuple):
    """A new row of ``user_raffle_order``."""

    order_id: str
    user_id: str
    activity_id: int
    order_state: str
    order_day: str
    order_time_ms: int
    request_id: str | None


class AwardRecordRow(NamedTuple):
    """A new row of ``user_award_record``."""

    order_id: str
    user_id: str
    activity_id: int
    strategy_id: int
    award_id: int
    award_title: str
    award_index: int
    award_config: str | None
    award_state: str
    award_time_ms: int
    revision_id: str
    epoch: int
    rolled: int | None
    trace: str


class Spending(msgspec.Struct, frozen=True, gc=False):
    """Draws that an account loses, and the period its counters then belong to."""

    draws: int
    period: Period


class Winning(msgspec.Struct, frozen=True, gc=False):
    """Wins of one user that count towards the award's limit, and the epoch for which the count of all is kept.

    Epoch 0 stands for none: the next draw counts anew.
    """

    wins: int
    at_most: int
    epoch: int


@dataclass(slots=True)
class Outcome:
    """All that a batch changes."""

    now_ms: int
    orders: list[RaffleOrderRow] = field(default_factory=list)
    reused: list[Ticket] = field(default_factory=list)
    records: list[AwardRecordRow] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    spent: dict[AccountKey, Spending] = field(default_factory=dict)
    won: dict[WinKey, Winning] = field(default_factory=dict)  # of awards that have a limit per user
    taken: dict[StockKey, int] = field(default_factory=dict)
    missed: dict[StockKey, list[str]] = field(default_factory=dict)  # who wanted a unit and got none, by ``asked_as``


class DrawTx(Protocol):
    """One write transaction of a user shard, as a draw needs it."""

    def load(self, requests: Sequence[DrawRequest]) -> Snapshot:
        """What the users of ``requests`` have; the accounts are locked until the transaction ends."""
        ...

    def load_wins(self, wanted: Mapping[WinKey, int]) -> dict[WinKey, int]:
        """How often each user won the award; what was not counted for this epoch is counted anew from the records."""
        ...

    def load_stock(self, wanted: Mapping[StockKey, int]) -> dict[StockKey, int | None]:
        """Units left here of each award (None: unlimited), of which so many may be taken."""
        ...

    def apply(self, outcome: Outcome) -> None:
        """Write it all. Raises ``GuardMissed`` when a guard in a statement refuses.

        Raises ``StockShort`` when units were missed here that may be left in other shards.
        """
        ...


def draw_batch(
    tx: DrawTx, requests: Sequence[DrawRequest], *, live: Mapping[int, LiveActivity], now_ms: int
) -> BatchResult[Drawn]:
    """Draw for every request inside ``tx``; the caller commits before it lets an answer out."""
    snapshot = tx.load(requests)
    admissions = admit(requests, snapshot, live=live, now_ms=now_ms)
    tickets = list(dict.fromkeys(a for a in admissions if type(a) is Ticket))
    limited = {_win_key(t): t.activity.epoch for t in tickets if t.pick.award_id in t.revision.wheel.limits}
    wins = tx.load_wins(limited) if limited else {}
    stock = tx.load_stock(Counter((t.revision.wheel.strategy_id, t.pick.award_id) for t in tickets))
    outcome = decide(tickets, wins, stock, now_ms=now_ms)
    if tickets:
        tx.apply(outcome)
    return BatchResult(answers_to(admissions, outcome), outcome.tasks)


def admit(
    requests: Sequence[DrawRequest], snapshot: Snapshot, *, live: Mapping[int, LiveActivity], now_ms: int
) -> list[Admission]:
    """For each request: the earlier outcome of its request id, a refusal, or a ticket with its roll.

    A request id that stands twice in the batch gets one ticket, listed twice.
    """
    periods: dict[int, Period] = {}
    claimed: dict[tuple[str, str], Ticket] = {}
    admissions: list[Admission] = []
    for request in requests:
        try:
            admissions.append(_repeat(request, snapshot, claimed) or _enter(request, snapshot, live, periods, now_ms))
        except BigmarketError as error:
            admissions.append(error.with_traceback(None))  # a traceback would keep the whole batch alive
            continue
        ticket = admissions[-1]
        if request.request_id is not None and type(ticket) is Ticket:
            claimed[request.user_id, request.request_id] = ticket
    return admissions


def _repeat(
    request: DrawRequest, snapshot: Snapshot, claimed: Mapping[tuple[str, str], Ticket]
) -> Drawn | Ticket | None:
    """What the same request id came to before, in the store or in this batch."""
    if request.request_id is None:
        return None
    key = (request.user_id, request.request_id)
    earlier = snapshot.settled.get(key)
    ticket = claimed.get(key)
    before = earlier.activity_id if earlier else ticket.activity.activity_id if ticket else request.activity_id
    if before != request.activity_id:
        raise Duplicate(f"This request id was used for activity {before}; use a new one for each draw.")
    return earlier or ticket


def _enter(
    request: DrawRequest,
    snapshot: Snapshot,
    live: Mapping[int, LiveActivity],
    periods: dict[int, Period],
    now_ms: int,
) -> Ticket:
    """Take an open order of the user's, else one draw of quota; then let the chain and the dice speak."""
    activity, revision = open_activity(request.activity_id, live=live, now_ms=now_ms)
    period = periods.get(activity.activity_id)
    if period is None:
        period = periods[activity.activity_id] = period_of(now_ms, zone=activity.zone)
    key = (request.user_id, request.activity_id)
    account = snapshot.accounts.get(key)
    if account is None:
        raise QuotaExhausted("This user has no draws in this activity yet; earn or recharge some.")
    roll_over(account, period)
    owed = snapshot.open_orders.get(key, [])
    if owed:
        # Their quota is spent already, so an open order counts as the first draw not yet made.
        ordinal = account.used - len(owed) + 1
        ordinal_today = account.used_today - sum(order.day == account.day for order in owed) + 1
        order_id, quota = owed.pop(0).order_id, None
    else:
        no = refusal(account)
        if no is not None:
            raise no
        spend(account)
        ordinal, ordinal_today = account.used, account.used_today
        order_id = request.order_id
        # A clock that went back leaves the account in its later period.
        quota = period if account.day == period.day else Period(account.day[:7], account.day)
    picked = pick(
        revision.wheel,
        Entry(request.user_id, ordinal),
        roll=partial(roll_award, activity.seed, order_id),
    )
    return Ticket(
        order_id,
        request.order_id,
        request.user_id,
        request.request_id,
        activity,
        revision,
        quota,
        ordinal,
        ordinal_today,
        picked,
    )


def roll_award(seed: bytes, order_id: str, faces: int) -> int:
    """The order's roll for its award; ``explain`` rolls it again."""
    return dice.roll(seed, order_id, purpose="award", faces=faces)


def decide(
    tickets: Iterable[Ticket],
    wins: Mapping[WinKey, int],
    stock: Mapping[StockKey, int | None],
    *,
    now_ms: int,
) -> Outcome:
    """Walk each ticket's tree against earlier wins and what is left of the stock, and write down all that follows."""
    outcome = Outcome(now_ms)
    for ticket in tickets:
        wheel = ticket.revision.wheel
        won_before = _won_before(wins, outcome, ticket) if ticket.pick.award_id in wheel.limits else None
        won = walk(
            wheel,
            ticket.pick,
            ordinal_today=ticket.ordinal_today,
            won_before=won_before or 0,
            take_unit=partial(_has_unit, stock, outcome, ticket),
        )
        key = (wheel.strategy_id, won.award_id)
        outcome.taken[key] = outcome.taken.get(key, 0) + 1
        if won.award_id in wheel.limits:
            _count_win(ticket, outcome)
        _write_order(ticket, outcome)
        _write_award(ticket, won_before, won, outcome)
    return outcome


def _win_key(ticket: Ticket) -> WinKey:
    return (ticket.user_id, ticket.revision.wheel.strategy_id, ticket.pick.award_id)


def _won_before(wins: Mapping[WinKey, int], outcome: Outcome, ticket: Ticket) -> int:
    """How often the user won the picked award, in this batch too."""
    key = _win_key(ticket)
    in_batch = outcome.won.get(key)
    return wins[key] + (in_batch.wins if in_batch else 0)


def _has_unit(stock: Mapping[StockKey, int | None], outcome: Outcome, ticket: Ticket, award_id: int) -> bool:
    """Whether a unit is left after what this batch took; the award that is won is counted by ``decide``."""
    key = (ticket.revision.wheel.strategy_id, award_id)
    left = stock.get(key, 0)
    if left is None or outcome.taken.get(key, 0) < left:
        return True
    outcome.missed.setdefault(key, []).append(ticket.asked_as)
    return False


def _count_win(ticket: Ticket, outcome: Outcome) -> None:
    """Count the picked award as won: one that has a limit is never given in place of another (armory refuses it).

    While others may still draw by the revision before, and count nothing, the count is not kept.
    """
    key, activity = _win_key(ticket), ticket.activity
    before = outcome.won.get(key)
    wins = before.wins + 1 if before else 1
    settled = outcome.now_ms >= activity.epoch_open_ms + SETTLED_MS
    outcome.won[key] = Winning(wins, ticket.revision.wheel.limits[key[2]], activity.epoch if settled else 0)


def _write_order(ticket: Ticket, outcome: Outcome) -> None:
    quota = ticket.quota
    if quota is None:
        outcome.reused.append(ticket)
        return
    activity_id = ticket.activity.activity_id
    outcome.orders.append(
        RaffleOrderRow(
            ticket.order_id, ticket.user_id, activity_id, "used", quota.day, outcome.now_ms, ticket.request_id
        )
    )
    key = (ticket.user_id, activity_id)
    before = outcome.spent.get(key)
    draws = before.draws + 1 if before else 1
    outcome.spent[key] = Spending(draws, quota)


def _write_award(ticket: Ticket, won_before: int | None, won: Won, outcome: Outcome) -> None:
    activity, revision = ticket.activity, ticket.revision
    sector = revision.wheel.sectors[won.award_id]
    delivery = KINDS[revision.awards[won.award_id].kind].delivery
    record = AwardRecordRow(
        ticket.order_id,
        ticket.user_id,
        activity.activity_id,
        revision.wheel.strategy_id,
        won.award_id,
        sector.title,
        sector.sort,
        won.config,
        "completed" if delivery == "none" else "create",
        outcome.now_ms,
        revision.revision_id,
        activity.epoch,
        ticket.pick.rolled,
        _trace(ticket, won_before, won),
    )
    outcome.records.append(record)
    if delivery == "task":
        outcome.tasks.append(delivery_task(record, revision))


def _trace(ticket: Ticket, won_before: int | None, won: Won) -> str:
    """The facts that decided, and the path that they led to (replay.py reads it)."""
    counted = "" if won_before is None else f"/{won_before}"
    return f"{ticket.ordinal}/{ticket.ordinal_today}{counted}|{won.path}"


def delivery_task(record: AwardRecordRow, revision: Revision) -> Task:
    """The task that has a record's award delivered."""
    award = revision.awards[record.award_id]
    message = SendAward(
        record.user_id,
        record.order_id,
        record.activity_id,
        record.epoch,
        record.award_id,
        award.kind,
        record.award_title,
        record.award_config if record.award_config is not None else award.config,
    )
    return Task(record.order_id, record.user_id, SEND_AWARD, encode(message))


def answers_to(admissions: Sequence[Admission], outcome: Outcome) -> list[Answer]:
    """An answer for each admission, in order."""
    drawn = {
        record.order_id: Drawn(
            record.order_id,
            record.user_id,
            record.activity_id,
            record.award_id,
            record.award_title,
            record.award_index,
        )
        for record in outcome.records
    }
    return [drawn[a.order_id] if type(a) is Ticket else a for a in admissions]  # type: ignore[misc]
