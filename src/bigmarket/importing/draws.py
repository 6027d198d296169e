"""Pure: a user's draws in one activity: raffle orders, award records, and the tasks that still deliver them."""

from __future__ import annotations

from dataclasses import dataclass

from bigmarket.activity.quota import period_of
from bigmarket.award.kinds import KINDS
from bigmarket.award.message import SEND_AWARD, SendAward, encode
from bigmarket.importing import reference as r
from bigmarket.importing.part import Part, Values
from bigmarket.importing.report import Fault
from bigmarket.importing.tasks import PendingAward
from bigmarket.importing.users import NewRow
from bigmarket.storage import schema as t
from bigmarket.storage.doctor import IMPORTED

OPEN_MAX_MS = 24 * 3600 * 1000

NO_ORDER = Fault("D1", "award record without a raffle order", "a used raffle order of the record's time is written")
NO_RECORD = Fault(
    "D1", "used raffle order without an award record", "the order is cancelled, the draw not given back"
)
NOT_USED = Fault("D1", "award record whose raffle order is not used", "the order counts as used")
LEFT_OPEN = Fault("D5", "raffle order open for more than a day", "the order is cancelled and the draw given back")
UNDELIVERED = Fault(
    "M1",
    "award that a task delivers here, neither delivered nor in the outbox",
    "a task delivers it (or see --undelivered)",
)

_RAFFLE_STATES = {"create": "create", "used": "used", "cancel": "cancel"}
_RECORD_STATES = {"create": "create", "completed": "completed", "complete": "completed", "fail": "fail"}


@dataclass(frozen=True, slots=True)
class Draws:
    """``rows`` to write; ``orders`` are the raffle orders among them, of which ``given_back`` were cancelled now."""

    rows: list[NewRow]
    orders: list[Values]
    given_back: int


def map_draws(part: Part, pending: dict[str, PendingAward]) -> Draws:
    """Orders, then records, then tasks; ``pending`` tasks that are used are taken out of it."""
    orders = {
        row["order_id"]: row for row in (_raffle_order(part, row) for row in part.mine(r.RaffleOrderRow)) if row
    }
    records = {row["order_id"]: row for row in (_record(part, row) for row in part.mine(r.RecordRow)) if row}
    made = _settle(part, orders, records)
    given_back = _cancel_open(part, orders)
    tasks = [task for record in records.values() if (task := _deliver(part, record, pending)) is not None]
    rows = [
        *(NewRow(t.user_raffle_order, "user_raffle_order", values) for values in orders.values()),
        *(NewRow(t.user_raffle_order, None, values) for values in made),
        *(NewRow(t.user_award_record, "user_award_record", values) for values in records.values()),
        *tasks,
    ]
    return Draws(rows, [*orders.values(), *made], given_back)


def _raffle_order(part: Part, row: r.RaffleOrderRow) -> Values | None:
    table = "user_raffle_order"
    state = part.state(table, row.order_state, _RAFFLE_STATES, row.order_id)
    when = part.when(table, row.order_time, row)
    if state is None or when is None:
        return None
    return _raffle_values(part, part.number(table, row.order_id), state, when)


def _raffle_values(part: Part, order_id: str, state: str, when: int) -> Values:
    return {
        "order_id": order_id,
        "user_id": part.user.user_id,
        "activity_id": part.activity_id,
        "order_state": state,
        "order_day": period_of(when, zone=part.facts.zone).day,
        "order_time_ms": when,
        "request_id": None,
    }


def _record(part: Part, row: r.RecordRow) -> Values | None:
    table = "user_award_record"
    state = part.state(table, row.award_state, _RECORD_STATES, row.order_id)
    when = part.when(table, row.award_time, row)
    if state is None or when is None:
        return None
    return {
        "order_id": part.number(table, row.order_id),
        "user_id": part.user.user_id,
        "activity_id": part.activity_id,
        "strategy_id": row.strategy_id,
        "award_id": row.award_id,
        "award_title": row.award_title,
        "award_index": part.facts.places.get(row.award_id, 0),
        "award_config": None,
        "award_state": state,
        "award_time_ms": when,
        "revision_id": IMPORTED,
        "epoch": 0,
        "rolled": None,
        "trace": IMPORTED,
    }


def _settle(part: Part, raffle: dict[str, Values], records: dict[str, Values]) -> list[Values]:
    """Used orders and records one to one; the orders that a repair writes."""
    made = []
    for order_id, record in records.items():
        order = raffle.get(order_id)
        if order is None:
            if part.fault(NO_ORDER, order_id):
                made.append(_raffle_values(part, order_id, "used", record["award_time_ms"]))
        elif order["order_state"] != "used" and part.fault(NOT_USED, order_id):
            order["order_state"] = "used"
    for order_id, order in raffle.items():
        if order["order_state"] == "used" and order_id not in records and part.fault(NO_RECORD, order_id):
            order["order_state"] = "cancel"
    return made


def _cancel_open(part: Part, raffle: dict[str, Values]) -> int:
    """How many draws are given back."""
    given_back = 0
    for order_id, order in raffle.items():
        old = order["order_time_ms"] < part.terms.now_ms - OPEN_MAX_MS
        if order["order_state"] == "create" and old and part.fault(LEFT_OPEN, order_id):
            order["order_state"] = "cancel"
            given_back += 1
    return given_back


def _deliver(part: Part, record: Values, pending: dict[str, PendingAward]) -> NewRow | None:
    """The task that a record still needs; its state may become ``completed`` instead."""
    order_id = record["order_id"]
    task = pending.pop(order_id, None)
    award = part.facts.awards.get(record["award_id"])
    by_task = award is not None and KINDS[award.kind].delivery == "task"
    if record["award_state"] != "create":
        if task is not None:
            part.report.skip("task", reason="its award is delivered already", key=task.key)
        return None
    if task is not None and not by_task:
        part.report.skip("task", reason="an operator hands this award over", key=task.key)
    if task is None and by_task:
        how = part.terms.undelivered
        mended = how == "complete" or (how == "deliver" and part.facts.epoch is not None)
        part.report.fault(UNDELIVERED, key=part.key(order_id), mended=mended)
    if task is None and part.terms.undelivered == "complete":
        record["award_state"] = "completed"
        part.report.note("award not delivered yet: counts as delivered", key=part.key(order_id))
    elif by_task and (task is not None or part.terms.undelivered == "deliver"):
        return _task(part, record, task)
    elif not by_task:
        part.report.note("award waits for an operator to hand it over", key=part.key(order_id))
    return None


def _task(part: Part, record: Values, task: PendingAward | None) -> NewRow | None:
    award = part.facts.awards[record["award_id"]]
    if part.facts.epoch is None:
        reason = "its activity is not armed, and the dice of its amount need a seed"
        if task is not None:
            part.report.skip("task", reason=reason, key=task.key)
        else:
            part.report.note(f"award not delivered: {reason}", key=part.key(record["order_id"]))
        return None
    config = task.config if task is not None and task.config is not None else award.config
    if KINDS[award.kind].check(config) is not None:
        config = award.config
    message = SendAward(
        user_id=part.user.user_id,
        order_id=record["order_id"],
        activity_id=part.activity_id,
        epoch=part.facts.epoch,
        award_id=record["award_id"],
        award_key=award.kind,
        award_title=record["award_title"],
        award_config=config,
    )
    values = {
        "message_id": record["order_id"],
        "user_id": part.user.user_id,
        "topic": SEND_AWARD,
        "message": encode(message).decode(),
        "state": "create",
        "attempts": 0,
        "next_at_ms": part.terms.now_ms,
        "reason": None,
    }
    return NewRow(t.task, None if task is None else "task", values)
