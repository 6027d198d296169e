"""Pure: a user's account, recharges, draws and awards in one activity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bigmarket.activity.quota import Counts, Period, period_of
from bigmarket.award.kinds import KINDS
from bigmarket.award.message import SEND_AWARD, SendAward, encode
from bigmarket.errors import BadInput
from bigmarket.importing import reference as r
from bigmarket.importing.report import Fault, Report
from bigmarket.importing.tasks import PendingAward
from bigmarket.importing.terms import ActivityFacts, Terms
from bigmarket.importing.users import NewRow, UserRows, moment_ms, opening_id, opening_number
from bigmarket.storage import schema as t

IMPORTED = "imported"  # in place of a revision and of a trace
OPEN_MAX_MS = 24 * 3600 * 1000
NO_SKU = 0

UNKNOWN_ACTIVITY = "its activity is not here"
HISTORY = "of a month or day that is over: raffle orders tell it"

USED = Fault("Q2", "draws used are not as many as raffle orders", "the orders are what was used; what is left stays")
NO_ACCOUNT = Fault("Q2", "raffle orders of a user without an account", "an account with nothing left is opened")
BEYOND = Fault("Q1", "fewer draws left than none", "none are left")
ABOVE = Fault("Q1", "more draws left than were credited", "what is left stays, so many count as credited")
UNSOURCED = Fault(
    "Q3", "credited draws that no completed order explains", "an order import-opening-<user>-<activity> explains them"
)
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

_QUOTA_STATES = {"completed": "completed", "complete": "completed", "wait_pay": "wait_pay"}
_RAFFLE_STATES = {"create": "create", "used": "used", "cancel": "cancel"}
_RECORD_STATES = {"create": "create", "completed": "completed", "complete": "completed", "fail": "fail"}

Values = dict[str, Any]


def map_activities(
    user: UserRows, terms: Terms, report: Report, pending: dict[str, PendingAward]
) -> Iterator[NewRow]:
    """The rows of all activities; ``pending`` tasks that are used are taken out of it."""
    found: set[int] = set()
    for table, rows in user.rows.items():
        for row in rows:
            activity_id: int | None = getattr(row, "activity_id", None)
            if activity_id is not None and activity_id in terms.activities:
                found.add(activity_id)
            elif activity_id is not None:
                report.skip(table, reason=UNKNOWN_ACTIVITY, key=f"{user.user_id} activity {activity_id}")
    for activity_id in sorted(found):
        yield from _Activity(user, activity_id, terms.activities[activity_id], terms, report).rows(pending)


@dataclass(slots=True)
class _Activity:
    """One user in one activity."""

    user: UserRows
    activity_id: int
    facts: ActivityFacts
    terms: Terms
    report: Report

    def rows(self, pending: dict[str, PendingAward]) -> Iterator[NewRow]:
        """The account first, so that who is there already is known; then what belongs to it."""
        quota = [row for row in map(self._quota_order, self._mine(r.QuotaOrderRow)) if row is not None]
        raffle = {row["order_id"]: row for row in map(self._raffle_order, self._mine(r.RaffleOrderRow)) if row}
        records = {row["order_id"]: row for row in map(self._record, self._mine(r.RecordRow)) if row}
        made = self._settle(raffle, records)
        given_back = self._cancel_open(raffle)
        account, opening = self._account(quota, [*raffle.values(), *made], given_back)
        source = "raffle_activity_account" if self._mine(r.AccountRow) else None
        if account is not None:
            yield NewRow(t.raffle_activity_account, source, account)
        for values in quota:
            yield NewRow(t.raffle_activity_order, "raffle_activity_order", values)
        if opening is not None:
            yield NewRow(t.raffle_activity_order, None, opening)
        for values in raffle.values():
            yield NewRow(t.user_raffle_order, "user_raffle_order", values)
        for values in made:
            yield NewRow(t.user_raffle_order, None, values)
        tasks = [task for values in records.values() if (task := self._deliver(values, pending)) is not None]
        for values in records.values():
            yield NewRow(t.user_award_record, "user_award_record", values)
        yield from tasks

    def _mine(self, kind: type[r.R]) -> list[r.R]:
        return [row for row in self.user.of(kind) if getattr(row, "activity_id", None) == self.activity_id]

    def _key(self, number: str = "") -> str:
        return f"{self.user.user_id} {number or f'activity {self.activity_id}'}"

    # --- rows that have a counterpart -----------------------------------------------------------------------------

    def _quota_order(self, row: r.QuotaOrderRow) -> Values | None:
        table = "raffle_activity_order"
        state = self._state(table, row.state, _QUOTA_STATES, row.order_id)
        when = self._when(table, row.order_time, row)
        if state is None or when is None:
            return None
        business = self.terms.number(table, row.out_business_no, self.user.user_id)
        return {
            "order_id": self._number(table, row.order_id),
            "user_id": self.user.user_id,
            "activity_id": self.activity_id,
            "sku": row.sku,
            "total_count": row.total_count,
            "month_count": row.month_count,
            "day_count": row.day_count,
            "pay_cents": 0 if row.pay_amount is None else int(row.pay_amount * 100),
            "state": state,
            "out_business_no": business,
            "order_time_ms": when,
        }

    def _raffle_order(self, row: r.RaffleOrderRow) -> Values | None:
        table = "user_raffle_order"
        state = self._state(table, row.order_state, _RAFFLE_STATES, row.order_id)
        when = self._when(table, row.order_time, row)
        if state is None or when is None:
            return None
        return self._raffle_values(self._number(table, row.order_id), state, when)

    def _raffle_values(self, order_id: str, state: str, when: int) -> Values:
        return {
            "order_id": order_id,
            "user_id": self.user.user_id,
            "activity_id": self.activity_id,
            "order_state": state,
            "order_day": period_of(when, zone=self.facts.zone).day,
            "order_time_ms": when,
            "request_id": None,
        }

    def _record(self, row: r.RecordRow) -> Values | None:
        table = "user_award_record"
        state = self._state(table, row.award_state, _RECORD_STATES, row.order_id)
        when = self._when(table, row.award_time, row)
        if state is None or when is None:
            return None
        return {
            "order_id": self._number(table, row.order_id),
            "user_id": self.user.user_id,
            "activity_id": self.activity_id,
            "strategy_id": row.strategy_id,
            "award_id": row.award_id,
            "award_title": row.award_title,
            "award_index": self.facts.places.get(row.award_id, 0),
            "award_config": None,
            "award_state": state,
            "award_time_ms": when,
            "revision_id": IMPORTED,
            "epoch": 0,
            "rolled": None,
            "trace": IMPORTED,
        }

    def _number(self, table: str, number: str) -> str:
        given = self.terms.number(table, number, self.user.user_id)
        if given != number:
            self.report.note(
                f"another user has its number in another table: {table} gets a new one", key=self._key(given)
            )
        return given

    def _state(self, table: str, state: str, known: dict[str, str], number: str) -> str | None:
        if state not in known:
            self.report.skip(table, reason=f"its state is `{state}`", key=self._key(number))
        return known.get(state)

    def _when(self, table: str, text: str, row: r.QuotaOrderRow | r.RaffleOrderRow | r.RecordRow) -> int | None:
        key = f"{table} {self._key(row.order_id)}"
        try:
            return moment_ms(text, created=row.create_time, terms=self.terms, report=self.report, key=key)
        except BadInput as bad:
            self.report.skip(table, reason=f"its time cannot be read: {bad}", key=self._key(row.order_id))
            return None

    # --- draws and awards -----------------------------------------------------------------------------------------

    def _fault(self, fault: Fault, number: str = "") -> bool:
        """Tell it; whether it is to be repaired."""
        self.report.fault(fault, key=self._key(number), mended=self.terms.repair)
        return self.terms.repair

    def _settle(self, raffle: dict[str, Values], records: dict[str, Values]) -> list[Values]:
        """Used orders and records one to one; the orders that a repair writes."""
        made = []
        for order_id, record in records.items():
            order = raffle.get(order_id)
            if order is None:
                if self._fault(NO_ORDER, order_id):
                    made.append(self._raffle_values(order_id, "used", record["award_time_ms"]))
            elif order["order_state"] != "used" and self._fault(NOT_USED, order_id):
                order["order_state"] = "used"
        for order_id, order in raffle.items():
            if order["order_state"] == "used" and order_id not in records and self._fault(NO_RECORD, order_id):
                order["order_state"] = "cancel"
        return made

    def _cancel_open(self, raffle: dict[str, Values]) -> int:
        """How many draws are given back."""
        given_back = 0
        for order_id, order in raffle.items():
            old = order["order_time_ms"] < self.terms.now_ms - OPEN_MAX_MS
            if order["order_state"] == "create" and old and self._fault(LEFT_OPEN, order_id):
                order["order_state"] = "cancel"
                given_back += 1
        return given_back

    def _deliver(self, record: Values, pending: dict[str, PendingAward]) -> NewRow | None:
        """The task that a record still needs; its state may become ``completed`` instead."""
        order_id = record["order_id"]
        task = pending.pop(order_id, None)
        award = self.facts.awards.get(record["award_id"])
        by_task = award is not None and KINDS[award.kind].delivery == "task"
        if record["award_state"] != "create":
            if task is not None:
                self.report.skip("task", reason="its award is delivered already", key=task.key)
            return None
        if task is not None and not by_task:
            self.report.skip("task", reason="an operator hands this award over", key=task.key)
        if task is None and by_task:
            mended = self.terms.undelivered != "keep"
            self.report.fault(UNDELIVERED, key=self._key(order_id), mended=mended)
        if task is None and self.terms.undelivered == "complete":
            record["award_state"] = "completed"
            self.report.note("award not delivered yet: counts as delivered", key=self._key(order_id))
        elif by_task and (task is not None or self.terms.undelivered == "deliver"):
            return self._task(record, task)
        elif not by_task:
            self.report.note("award waits for an operator to hand it over", key=self._key(order_id))
        return None

    def _task(self, record: Values, task: PendingAward | None) -> NewRow | None:
        award = self.facts.awards[record["award_id"]]
        if self.facts.epoch is None:
            reason = "its activity is not armed, and the dice of its amount need a seed"
            if task is not None:
                self.report.skip("task", reason=reason, key=task.key)
            else:
                self.report.note(f"award not delivered: {reason}", key=self._key(record["order_id"]))
            return None
        config = task.config if task is not None and task.config is not None else award.config
        if KINDS[award.kind].check(config) is not None:
            config = award.config
        message = SendAward(
            user_id=self.user.user_id,
            order_id=record["order_id"],
            activity_id=self.activity_id,
            epoch=self.facts.epoch,
            award_id=record["award_id"],
            award_key=award.kind,
            award_title=record["award_title"],
            award_config=config,
        )
        values = {
            "message_id": record["order_id"],
            "user_id": self.user.user_id,
            "topic": SEND_AWARD,
            "message": encode(message).decode(),
            "state": "create",
            "attempts": 0,
            "next_at_ms": self.terms.now_ms,
            "reason": None,
        }
        return NewRow(t.task, None if task is None else "task", values)

    # --- the account ----------------------------------------------------------------------------------------------

    def _account(
        self, quota: list[Values], raffle: list[Values], given_back: int
    ) -> tuple[Values | None, Values | None]:
        """The account's row and, as a repair, the opening order."""
        period = period_of(self.terms.now_ms, zone=self.facts.zone)
        month_used, day_used = self._used_now(period)
        orders = _count_orders(raffle, period)
        rows = self._mine(r.AccountRow)
        if not rows:
            if not (quota or raffle) or not self._fault(NO_ACCOUNT):
                return None, None
            count, left, allowed = orders.total, 0, Counts(0, orders.month, orders.day)
        else:
            count, left = rows[0].total_count, rows[0].total_count_surplus
            allowed = Counts(0, max(0, rows[0].month_count), max(0, rows[0].day_count))
        if left < 0:
            self._fault(BEYOND)
            left = 0
        if left > count and not self._fault(ABOVE):
            self.report.skip("raffle_activity_account", reason="more draws left than were credited", key=self._key())
            return None, None
        # Used more than allowed: nothing is left.
        month_left, day_left = max(0, allowed.month - month_used), max(0, allowed.day - day_used)
        if rows and (count - left, allowed.month - month_left, allowed.day - day_left) != orders:
            self._fault(USED)
        if self.terms.repair:
            left += given_back
            count = left + orders.total
            allowed = Counts(0, max(allowed.month, orders.month), max(allowed.day, orders.day))
            month_left, day_left = allowed.month - orders.month, allowed.day - orders.day
        account = {
            "user_id": self.user.user_id,
            "activity_id": self.activity_id,
            "total_count": count,
            "total_count_surplus": left,
            "month": period.month,
            "month_count": allowed.month,
            "month_count_surplus": month_left,
            "day": period.day,
            "day_count": allowed.day,
            "day_count_surplus": day_left,
        }
        return account, self._opening(quota, Counts(count, allowed.month, allowed.day))

    def _used_now(self, period: Period) -> tuple[int, int]:
        """Used this month and today, by the reference's counters; those of other periods are history."""
        month = self._merged(
            "raffle_activity_account_month", self._mine(r.MonthRow), lambda row: row.month == period.month
        )
        day = self._merged("raffle_activity_account_day", self._mine(r.DayRow), lambda row: row.day == period.day)
        return (
            sum(row.month_count - row.month_count_surplus for row in month),
            sum(row.day_count - row.day_count_surplus for row in day),
        )

    def _merged(self, table: str, rows: list[r.R], is_now: Callable[[r.R], bool]) -> list[r.R]:
        """The rows of now, which become part of the account's."""
        kept = []
        for row in rows:
            if is_now(row):
                kept.append(row)
                self.report.table(table).merged += 1
            else:
                self.report.skip(table, reason=HISTORY, key=self._key())
        return kept

    def _opening(self, quota: list[Values], credited: Counts) -> Values | None:
        done = [row for row in quota if row["state"] == "completed"]
        missing = Counts(
            *(
                credited[place] - sum(row[f"{name}_count"] for row in done)
                for place, name in enumerate(Counts._fields)
            )
        )
        if not any(missing) or not self._fault(UNSOURCED):
            return None
        return {
            "order_id": opening_id(self.user.user_id, self.activity_id),
            "user_id": self.user.user_id,
            "activity_id": self.activity_id,
            "sku": NO_SKU,
            "total_count": missing.total,
            "month_count": missing.month,
            "day_count": missing.day,
            "pay_cents": 0,
            "state": "completed",
            "out_business_no": opening_number(self.user.user_id, self.activity_id),
            "order_time_ms": self.terms.now_ms,
        }


def _count_orders(raffle: list[Values], period: Period) -> Counts:
    """Draws used, by the orders: in all, this month, today."""
    days = [row["order_day"] for row in raffle if row["order_state"] != "cancel"]
    return Counts(len(days), sum(day[:7] == period.month for day in days), sum(day == period.day for day in days))
