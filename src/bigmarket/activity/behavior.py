"""What users did, start to finish: a batch of behaviors becomes rebate orders, and tasks that have them given.

``behave_batch`` is to a behavior what ``draw_batch`` is to a draw: ``plan`` says what each request concerns,
``tx.load`` what was done before, ``decide`` (pure) what follows, ``tx.apply`` writes it. The rebates themselves are
given by the consumers of ``send_rebate`` (rebates.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple, Protocol

from bigmarket.activity.admission import open_activity
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import period_of
from bigmarket.errors import ActivityClosed, BadInput, BigmarketError, Duplicate, NotFound
from bigmarket.outbox.task import BatchResult, Task
from bigmarket.rebate.behavior import CALENDAR, biz_id_of, day_before, earned, number_of
from bigmarket.rebate.message import SEND_REBATE, SendRebate, encode
from bigmarket.rebate.model import Rebate

BehaviorKey = tuple[str, int, str, str]  # user_id, activity_id, behavior_type, out_business_no


class BehaviorRequest(NamedTuple):
    """Somebody did something, in one activity or (None) in all that are open and reward it.

    ``behavior`` and ``out_business_no`` are as ``clean_behavior`` leaves them; no number stands for the day that it
    is by the activity's clock.
    """

    order_id: str
    user_id: str
    behavior: str
    activity_id: int | None
    out_business_no: str | None


class BehaviorRow(NamedTuple):
    """A new row of ``user_behavior``; ``streak`` is days in a row, 1 where days do not count."""

    user_id: str
    activity_id: int
    behavior_type: str
    out_business_no: str
    streak: int
    create_time_ms: int


class RebateOrder(NamedTuple):
    """A new row of ``user_behavior_rebate_order``."""

    order_id: str
    user_id: str
    activity_id: int
    behavior_type: str
    rebate_type: str
    rebate_config: str
    rebate_desc: str | None
    out_business_no: str
    biz_id: str
    state: str
    create_time_ms: int


class Behaved(NamedTuple):
    """The answer to a request: what was done anew, in each activity, and what that earned, perhaps nothing."""

    order_id: str
    user_id: str
    behavior: str
    done: tuple[BehaviorRow, ...]
    orders: tuple[RebateOrder, ...]

    @property
    def streak(self) -> int:
        """Days in a row, in the activity where they are most."""
        return max(row.streak for row in self.done)


@dataclass(slots=True)
class BehaviorOutcome:
    """All that a batch changes."""

    now_ms: int
    behaviors: list[BehaviorRow] = field(default_factory=list)
    orders: list[RebateOrder] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)


class BehaviorTx(Protocol):
    """One write transaction of a user shard, as behaviors need it."""

    def load(self, keys: Sequence[BehaviorKey]) -> dict[BehaviorKey, int]:
        """Those of ``keys`` that were done, with their streak."""
        ...

    def apply(self, outcome: BehaviorOutcome) -> None:
        """Write it all. Raises ``GuardMissed`` when another process wrote one of the behaviors first."""
        ...


class Concern(NamedTuple):
    """An activity that a behavior concerns: the number of its day, and what the behavior earns there."""

    activity_id: int
    today: str
    rebates: tuple[Rebate, ...]


Plan = Sequence[tuple[BehaviorRequest, Sequence[Concern] | BigmarketError]]


def behave_batch(
    tx: BehaviorTx,
    requests: Sequence[BehaviorRequest],
    *,
    live: Mapping[int, LiveActivity],
    now_ms: int,
    new_id: Callable[[], str],
) -> BatchResult[Behaved]:
    """Take every request's behavior inside ``tx``; the caller commits before it lets an answer out."""
    planned = plan(requests, live=live, now_ms=now_ms)
    keys = keys_of(planned)
    outcome = BehaviorOutcome(now_ms)
    answers = decide(planned, tx.load(keys) if keys else {}, outcome=outcome, new_id=new_id)
    if outcome.behaviors:
        tx.apply(outcome)
    return BatchResult(answers, outcome.tasks)


def plan(requests: Sequence[BehaviorRequest], *, live: Mapping[int, LiveActivity], now_ms: int) -> Plan:
    """Each request with the activities that it concerns, or the reason why nothing comes of it."""
    known: dict[tuple[str, int | None], Sequence[Concern] | BigmarketError] = {}
    planned = []
    for request in requests:
        asked = (request.behavior, request.activity_id)
        if asked not in known:
            try:
                known[asked] = _concerns(*asked, live=live, now_ms=now_ms)
            except BigmarketError as error:
                known[asked] = error.with_traceback(None)  # a traceback would keep the whole batch alive
        planned.append((request, known[asked]))
    return planned


def _concerns(
    behavior: str, activity_id: int | None, *, live: Mapping[int, LiveActivity], now_ms: int
) -> list[Concern]:
    """The activity that is named, or all that are open and reward the behavior. Raises why there is none."""
    if activity_id is not None:
        activity, revision = open_activity(activity_id, live=live, now_ms=now_ms)
        found = _concern(activity, revision.rebates, behavior, now_ms)
        if found is None:
            raise NotFound(f"Activity {activity_id} has no rebate for `{behavior}`.")
        return [found]
    concerns: list[Concern] = []
    closed: list[BigmarketError] = []
    for one in sorted(live.values(), key=lambda activity: activity.activity_id):
        found = None if one.revision is None else _concern(one, one.revision.rebates, behavior, now_ms)
        if found is None:
            continue
        try:
            open_activity(one.activity_id, live=live, now_ms=now_ms)
        except BigmarketError as error:
            closed.append(error)
        else:
            concerns.append(found)
    if concerns:
        return concerns
    if len(closed) == 1:
        raise closed[0]
    if closed:
        raise ActivityClosed(f"None of the {len(closed)} activities that reward `{behavior}` is open now.")
    raise NotFound(f"No activity rewards `{behavior}`; add it to the rebates of a campaign and arm that.")


def _concern(activity: LiveActivity, rebates: Sequence[Rebate], behavior: str, now_ms: int) -> Concern | None:
    wanted = tuple(rebate for rebate in rebates if rebate.behavior == behavior)
    if not wanted:
        return None
    return Concern(activity.activity_id, number_of(period_of(now_ms, zone=activity.zone).day), wanted)


def keys_of(planned: Plan) -> list[BehaviorKey]:
    """What must be known of the past: each behavior that is asked for, and that of the day before."""
    keys: set[BehaviorKey] = set()
    for request, concerns in planned:
        if isinstance(concerns, BigmarketError):
            continue
        for concern in concerns:
            for number in _numbers(request, concern):
                if number is not None:
                    keys.add((request.user_id, concern.activity_id, request.behavior, number))
    return sorted(keys)


def _numbers(request: BehaviorRequest, concern: Concern) -> tuple[str, str | None]:
    """The number of the behavior, and that of the day before where days count."""
    number = request.out_business_no or concern.today
    return number, day_before(number) if request.behavior in CALENDAR else None


def decide(
    planned: Plan,
    streaks: MutableMapping[BehaviorKey, int],
    *,
    outcome: BehaviorOutcome,
    new_id: Callable[[], str],
) -> list[Behaved | BigmarketError]:
    """An answer for each request, in order; what follows goes into ``outcome``.

    ``streaks`` are of what was done before, and become those after the batch.
    """
    answers: list[Behaved | BigmarketError] = []
    for request, concerns in planned:
        if isinstance(concerns, BigmarketError):
            answers.append(concerns)
        else:
            early = _too_early(request, concerns)
            answers.append(early or _behave(request, concerns, streaks, outcome, new_id))
    return answers


def _too_early(request: BehaviorRequest, concerns: Sequence[Concern]) -> BadInput | None:
    """A day to come would be taken from the user who signs in then."""
    number = request.out_business_no
    if number is None or request.behavior not in CALENDAR:
        return None
    for concern in concerns:
        if number > concern.today:
            return BadInput(f"{number} is a day to come: today is {concern.today} in activity {concern.activity_id}.")
    return None


def _behave(
    request: BehaviorRequest,
    concerns: Sequence[Concern],
    streaks: MutableMapping[BehaviorKey, int],
    outcome: BehaviorOutcome,
    new_id: Callable[[], str],
) -> Behaved | BigmarketError:
    user_id, behavior = request.user_id, request.behavior
    done: list[BehaviorRow] = []
    orders: list[RebateOrder] = []
    for concern in concerns:
        activity_id = concern.activity_id
        number, before = _numbers(request, concern)
        key = (user_id, activity_id, behavior, number)
        if key in streaks:
            continue
        streak = 1 if before is None else 1 + streaks.get((user_id, activity_id, behavior, before), 0)
        streaks[key] = streak
        done.append(BehaviorRow(*key, streak, outcome.now_ms))
        for rebate in earned(concern.rebates, streak=streak):
            biz_id = biz_id_of(user_id, activity_id, rebate, number)
            orders.append(
                RebateOrder(
                    new_id(),
                    user_id,
                    activity_id,
                    behavior,
                    rebate.type,
                    rebate.config,
                    rebate.description,
                    number,
                    biz_id,
                    "create",
                    outcome.now_ms,
                )
            )
    if not done:
        return Duplicate(f"This `{behavior}` was taken before; what it earned stands.")
    outcome.behaviors += done
    outcome.orders += orders
    outcome.tasks += [rebate_task(order) for order in orders]
    return Behaved(request.order_id, user_id, behavior, tuple(done), tuple(orders))


def days_now(
    live: Mapping[int, LiveActivity], *, now_ms: int, activity_id: int | None = None
) -> list[tuple[int, date]]:
    """The day that it is in that activity, or (None) in each."""
    wanted = live.values() if activity_id is None else [live[activity_id]] if activity_id in live else []
    return [(a.activity_id, date.fromisoformat(period_of(now_ms, zone=a.zone).day)) for a in wanted]


def rebate_task(order: RebateOrder) -> Task:
    """The task that has a rebate given."""
    message = SendRebate(
        order.user_id, order.order_id, order.activity_id, order.rebate_type, order.rebate_config, order.biz_id
    )
    return Task(order.order_id, order.user_id, SEND_REBATE, encode(message))
