"""The delivery's transaction on any engine: the order of its statements, which an engine's own file words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigmarket.activity.delivery import DrawGrant, RebateKey, SettledRebate, WaitingOrder
from bigmarket.activity.message import sold_out_task
from bigmarket.activity.quota import Counts
from bigmarket.award.deliveries import AwardDelivery
from bigmarket.award.records import RecordKey
from bigmarket.credit.model import CreditAccountClosed, CreditTrade
from bigmarket.errors import Contention, NotFound
from bigmarket.outbox.task import Task
from bigmarket.storage.bulk import Bulk
from bigmarket.storage.draw_tx import task_row
from bigmarket.storage.routing import SplitTables, at, user_first

SCARCE = 1_000  # where fewer units than that may be left afterwards, the row is locked before anything is decided


@dataclass(frozen=True, slots=True)
class DeliveryStatements:
    """The templates of one engine (bulk.py). Keys and values stand in the order that ``SqlDeliveryTx`` gives them in.

    ``find_accounts`` locks; ``move_accounts`` leaves an account alone that is not open, and counts ``moved_counts``
    for each that it moves, but not for one that is not open.
    """

    find_records: str
    complete_records: str
    insert_trades: str
    find_accounts: str
    move_accounts: str
    find_units: str
    lock_units: str
    insert_quota_orders: str
    credit_draws: str
    take_units: str
    insert_tasks: str
    insert_deliveries: str
    lock_unpaid: str
    find_waiting: str
    complete_orders: str
    forget_unpaid: str
    find_rebates: str
    settle_rebates: str
    finish_tasks: str
    moved_counts: int


def _quota_order(grant: DrawGrant, now_ms: int) -> tuple[object, ...]:
    sku, activity_id, counts, _ = grant.bundle
    order = (grant.order_id, grant.user_id, activity_id, sku, *counts)
    return (*order, grant.pay_cents, "completed", grant.out_business_no, now_ms)


def _sold_out(grant: DrawGrant) -> Task:
    sku, activity_id, _, _ = grant.bundle
    return sold_out_task(sku, activity_id=activity_id, user_id=grant.user_id, order_id=grant.order_id)


def _waiting(row: list[Any]) -> WaitingOrder:
    order_id, user_id, activity_id, sku, total, month, day, pay_cents, out_business_no, paid = row
    counts = Counts(total, month, day)
    return WaitingOrder(order_id, user_id, activity_id, sku, counts, pay_cents, out_business_no, bool(paid))


class SqlDeliveryTx:
    """``DeliveryTx`` (activity/delivery.py) on an open transaction."""

    def __init__(self, bulk: Bulk, statements: DeliveryStatements, *, split: SplitTables) -> None:
        self._bulk = bulk
        self._sql = statements
        self._split = split
        self._few: dict[int, int] = {}  # units left of the skus whose rows this transaction has locked

    def complete_records(self, records: Sequence[RecordKey]) -> set[str]:
        """Order ids of those whose record was ``create``. Raises NotFound for an order without a record."""
        waiting = self._waiting_records(records)
        mine = [record for record in records if record[1] in waiting]
        for suffix, some in self._split.parts(mine, user_first):
            keys = sorted((order_id,) for _, order_id in some)
            if self._bulk.write(at(self._sql.complete_records, suffix), keys) != len(keys):
                raise Contention("An award record changed although it was locked; nothing was delivered.")
        return waiting

    def add_deliveries(self, deliveries: Sequence[AwardDelivery], *, now_ms: int) -> None:
        """Insert those that are not there yet and whose record still waits."""
        waiting = self._waiting_records([(delivery.user_id, delivery.order_id) for delivery in deliveries])
        rows = [
            (*one[:6], one.message.decode(), "due", now_ms, now_ms, now_ms)
            for one in sorted(deliveries)
            if one.order_id in waiting
        ]
        self._bulk.write(self._sql.insert_deliveries, rows)

    def add_credits(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        """Orders first, as they carry the idempotency key; then each account once. Amounts must be above 0."""
        assert all(trade.amount_cents > 0 for trade in trades), "taking points needs a guard against an empty account"
        self._insert_trades(trades, now_ms=now_ms)
        earned: dict[str, int] = {}
        for trade in trades:
            earned[trade.user_id] = earned.get(trade.user_id, 0) + trade.amount_cents
        self._move(earned)

    def units_left(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """Units left of each sku; a row of which few are left is locked, so that whoever takes the last one knows."""
        left: dict[int, int] = dict(self._bulk.select(self._sql.find_units, [(sku,) for sku in sorted(wanted)]))
        scarce = [(sku,) for sku in sorted(left) if 0 < left[sku] < SCARCE + wanted[sku]]
        locked = dict(self._bulk.select(self._sql.lock_units, scarce)) if scarce else {}
        self._few |= locked
        return left | locked

    def add_draws(self, grants: Sequence[DrawGrant], *, now_ms: int) -> None:
        """Orders first, as they carry the idempotency key; then each account once, the hot stock rows last."""
        self._insert_orders(grants, now_ms=now_ms)
        self._credit_draws(grants)
        self._take_units(grants, now_ms=now_ms)

    def waiting_orders(self, users: Collection[str]) -> list[WaitingOrder]:
        """Orders of these users that wait for their payment; the rows that say so are locked."""
        locked = self._bulk.select(self._sql.lock_unpaid, [(user_id,) for user_id in sorted(users)])
        found: list[WaitingOrder] = []
        for suffix, some in self._split.parts(locked, user_first):
            keys = sorted((order_id,) for _, order_id in some)
            found += map(_waiting, self._bulk.select(at(self._sql.find_waiting, suffix), keys))
        return found

    def complete_orders(self, grants: Sequence[DrawGrant]) -> None:
        """Turn waiting orders into completed ones and credit their draws; their units were taken before."""
        self._settle_orders(grants)
        self._credit_draws(grants)

    def waiting_rebates(self, rebates: Sequence[RebateKey]) -> set[str]:
        """Order ids of those that wait, now locked. Raises NotFound for an order that there is not."""
        states: dict[str, str] = {}
        for suffix, some in self._split.parts(rebates, user_first):
            keys = sorted((order_id,) for _, order_id in some)
            states |= dict(self._bulk.select(at(self._sql.find_rebates, suffix), keys))
        if missing := {order_id for _, order_id in rebates} - states.keys():
            raise NotFound(f"There is no rebate order {min(missing)}.")
        return {order_id for order_id, state in states.items() if state == "create"}

    def settle_rebates(self, settled: Sequence[SettledRebate]) -> None:
        """Turn waiting orders into completed or failed ones."""
        for suffix, some in self._split.parts(settled, user_first):
            rows = sorted((rebate.order_id, rebate.state, rebate.reason) for rebate in some)
            if self._bulk.write(at(self._sql.settle_rebates, suffix), rows) != len(rows):
                raise Contention("A rebate order changed although it was locked; nothing was given.")

    def closed_accounts(self, users: Collection[str]) -> set[str]:
        """Users whose credit account is not open; the accounts are locked."""
        found = self._bulk.select(self._sql.find_accounts, [(user_id,) for user_id in sorted(users)])
        return {user_id for user_id, state in found if state != "open"}

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete the tasks, whatever state they are in."""
        self._bulk.write(self._sql.finish_tasks, [(message_id,) for message_id in sorted(message_ids)])

    def _waiting_records(self, records: Sequence[RecordKey]) -> set[str]:
        """Order ids of those that are ``create``, now locked. Raises NotFound for an order without a record."""
        states: dict[str, str] = {}
        for suffix, some in self._split.parts(records, user_first):
            keys = sorted((order_id,) for _, order_id in some)
            states |= dict(self._bulk.select(at(self._sql.find_records, suffix), keys))
        if missing := {order_id for _, order_id in records} - states.keys():
            raise NotFound(f"There is no award record {min(missing)}.")
        return {order_id for order_id, state in states.items() if state == "create"}

    def _move(self, earned: dict[str, int]) -> None:
        """Move each account once, opening those that are missing; when they were not all there and open, look why."""
        accounts = [(user_id, cents, cents) for user_id, cents in sorted(earned.items())]
        moved = self._bulk.write(self._sql.move_accounts, accounts)
        if moved != len(accounts) * self._sql.moved_counts and self.closed_accounts(earned):
            raise CreditAccountClosed("The user's credit account is not open; nothing was credited.")

    def _insert_trades(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        for suffix, some in self._split.parts(trades, lambda trade: trade.user_id):
            rows = [(*trade, trade.trade_type, now_ms) for trade in some]
            self._bulk.write(at(self._sql.insert_trades, suffix), rows)

    def _insert_orders(self, grants: Sequence[DrawGrant], *, now_ms: int) -> None:
        for suffix, some in self._split.parts(grants, lambda grant: grant.user_id):
            rows = [_quota_order(grant, now_ms) for grant in some]
            self._bulk.write(at(self._sql.insert_quota_orders, suffix), rows)

    def _settle_orders(self, grants: Sequence[DrawGrant]) -> None:
        """``wait_pay`` -> ``completed``, and they wait no more."""
        for suffix, some in self._split.parts(grants, lambda grant: grant.user_id):
            rows = sorted((grant.order_id,) for grant in some)
            if self._bulk.write(at(self._sql.complete_orders, suffix), rows) != len(rows):
                raise Contention("A waiting order changed although it was locked; nothing was credited.")
        waiting = sorted((grant.user_id, grant.bundle.sku) for grant in grants)
        if self._bulk.write(self._sql.forget_unpaid, waiting) != len(waiting):
            raise Contention("A waiting order was no longer waiting; nothing was credited.")

    def _credit_draws(self, grants: Sequence[DrawGrant]) -> None:
        """Each account once, opening those that are missing."""
        credited: dict[tuple[str, int], list[int]] = {}
        for grant in grants:
            sums = credited.setdefault((grant.user_id, grant.bundle.activity_id), [0, 0, 0])
            for place, number in enumerate(grant.counts):
                sums[place] += number
        periods = {grant.bundle.activity_id: grant.period for grant in grants}
        self._bulk.write(
            self._sql.credit_draws,
            [
                (*key, total, total, periods[key[1]].month, month, month, periods[key[1]].day, day, day)
                for key, (total, month, day) in sorted(credited.items())
            ],
        )

    def _take_units(self, grants: Sequence[DrawGrant], *, now_ms: int) -> None:
        """A unit for each, and a task for each sku whose last one that was. Raises Contention when they are gone."""
        taken = sorted(Counter(grant.bundle.sku for grant in grants).items())
        if self._bulk.write(self._sql.take_units, taken) != len(taken):
            raise Contention("Others took the last units of a sku meanwhile; nothing was credited.")
        for sku, units in taken:
            if sku in self._few:
                self._few[sku] -= units
        emptied = {grant.bundle.sku: grant for grant in grants if self._few.get(grant.bundle.sku) == 0}
        self._bulk.write(self._sql.insert_tasks, [task_row(_sold_out(grant), now_ms) for grant in emptied.values()])
