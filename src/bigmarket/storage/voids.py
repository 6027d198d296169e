"""Voids on any engine: an award is taken back, with its compensations, in one transaction of its user's shard.

The record is locked first, as by everybody who delivers, then the user's credits, as by everybody who buys, then the
user's account, as by everybody who draws; the row of ``award_void`` is the idempotency key; the rows that other users
want too come last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, case, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.award.void import VoidAsked, Voided, trade_number
from bigmarket.credit.model import CreditAccountClosed, CreditShort, in_credits
from bigmarket.errors import Contention, NotFound
from bigmarket.storage import schema as t
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores
from bigmarket.storage.routing import SplitTables

PAGE = 500

_VOID = tuple(t.award_void.c[name] for name in Voided._fields[:-1])


def void_award(
    stores: Stores, asked: VoidAsked, *, user_id: str | None, now_ms: int, new_id: Callable[[int], str]
) -> Voided:
    """Void the award; the same order again gives what was done the first time, whatever is asked.

    ``user_id`` says whose it must be (None: anybody's). Raises NotFound; CreditShort or CreditAccountClosed when the
    credits cannot be taken back; Contention. Nothing is voided then.
    """
    store, owner = _owner_of(stores, asked.order_id)
    if user_id not in (None, owner):
        raise NotFound(f"There is no award record {asked.order_id} of that user.")
    with store.updating() as connection:
        return _Voiding(connection, store.split, asked, owner, now_ms).run(trade_id=new_id(now_ms))


def voids(stores: Stores) -> Iterator[Voided]:
    """Every void, shard by shard, oldest order first; read page by page."""
    for store in stores.shards:
        after = ""
        while True:
            query = select(*_VOID).where(t.award_void.c.order_id > after).order_by(t.award_void.c.order_id)
            with store.reading() as connection:
                page = [_voided(row) for row in connection.execute(query.limit(PAGE))]
            yield from page
            if len(page) < PAGE:
                break
            after = page[-1].order_id


def void_of(connection: Connection, order_id: str) -> Voided | None:
    """The void of this order's award."""
    row = connection.execute(select(*_VOID).where(t.award_void.c.order_id == order_id)).one_or_none()
    return None if row is None else _voided(row)


def _voided(row: Row[Any]) -> Voided:
    void = Voided(*row)
    return void._replace(stock_returned=bool(void.stock_returned), quota_returned=bool(void.quota_returned))


def _owner_of(stores: Stores, order_id: str) -> tuple[Store, str]:
    record = t.user_award_record.c
    for store in stores.shards:
        with store.reading() as connection:
            owner = connection.execute(select(record.user_id).where(record.order_id == order_id)).scalar_one_or_none()
        if owner is not None:
            return store, owner
    raise NotFound(f"There is no award record {order_id}.")


class _Voiding:
    """One void in an open transaction."""

    def __init__(
        self, connection: Connection, split: SplitTables, asked: VoidAsked, user_id: str, now_ms: int
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._user_id = user_id
        self._now_ms = now_ms
        self._record = split.table_of(t.user_award_record, user_id)
        self._raffle_order = split.table_of(t.user_raffle_order, user_id)
        self._credit_order = split.table_of(t.user_credit_order, user_id)

    def run(self, *, trade_id: str) -> Voided:
        record = self._locked_record()
        earlier = void_of(self._connection, self._asked.order_id)
        if earlier is not None:
            return earlier._replace(repeated=True)
        cents = self._given_cents() if self._asked.credits else 0
        if cents:
            self._lock_credits()
        self._lock_account(record.activity_id)
        void = Voided(
            self._asked.order_id,
            self._user_id,
            record.activity_id,
            record.award_id,
            self._asked.stock,
            self._asked.quota,
            cents,
            self._asked.reason,
            self._now_ms,
        )
        self._note(void)
        self._end_delivery()
        if void.quota_returned:
            self._return_draw(record.activity_id)
        if cents:
            self._take_credits(cents, trade_id=trade_id)
        if void.stock_returned:
            self._return_unit(record.strategy_id, record.award_id)
        return void

    def _locked_record(self) -> Row[Any]:
        query = select(self._record).where(self._record.c.order_id == self._asked.order_id)
        query = query.with_hint(self._record, "FORCE INDEX (PRIMARY)", "mysql").with_for_update()
        return self._connection.execute(query).one()

    def _lock_credits(self) -> None:
        account = t.user_credit_account
        query = select(account.c.available_cents).where(account.c.user_id == self._user_id)
        self._connection.execute(query.with_hint(account, "FORCE INDEX (PRIMARY)", "mysql").with_for_update()).all()

    def _lock_account(self, activity_id: int) -> None:
        """The user draws nothing meanwhile: draws count what the user has won, and how often."""
        account = t.raffle_activity_account
        query = select(account.c.total_count).where(account.c.user_id == self._user_id)
        query = query.where(account.c.activity_id == activity_id)
        self._connection.execute(query.with_hint(account, "FORCE INDEX (PRIMARY)", "mysql").with_for_update()).all()

    def _note(self, void: Voided) -> None:
        """The key that lets it happen once."""
        values = {name: value for name, value in void._asdict().items() if name != "repeated"}
        try:
            self._connection.execute(insert(t.award_void).values(values))
        except IntegrityError as error:
            raise Contention("Somebody else voided this award at the same time; nothing was changed.") from error

    def _end_delivery(self) -> None:
        """Nothing of it goes out any more: whoever delivers looks at the record or the delivery, locked, first."""
        this = self._record.c.order_id == self._asked.order_id
        self._connection.execute(update(self._record).where(this).values(award_state="fail"))
        self._connection.execute(delete(t.task).where(t.task.c.message_id == self._asked.order_id))
        row = t.award_delivery.c
        change = update(t.award_delivery).where(row.order_id == self._asked.order_id)
        self._connection.execute(change.values(state="void", next_at_ms=self._now_ms, update_time_ms=self._now_ms))

    def _return_draw(self, activity_id: int) -> None:
        """Cancel the raffle order; the month's and the day's counters get it back while they are those it was of."""
        order = self._raffle_order.c
        this = (order.order_id == self._asked.order_id, order.order_state == "used")
        day = self._connection.execute(select(order.order_day).where(*this)).scalar_one_or_none()
        cancel = update(self._raffle_order).where(*this).values(order_state="cancel")
        if day is None or self._connection.execute(cancel).rowcount != 1:
            raise NotFound("Its draw was not used, or was cancelled before; nothing was voided. Keep the draw.")
        account = t.raffle_activity_account.c
        of_month, of_day = account.month == day[:7], account.day == day
        change = (
            update(t.raffle_activity_account)
            .where(account.user_id == self._user_id, account.activity_id == activity_id)
            .where(account.total_count_surplus < account.total_count)
            .where(or_(~of_month, account.month_count_surplus < account.month_count))
            .where(or_(~of_day, account.day_count_surplus < account.day_count))
            .values(
                total_count_surplus=account.total_count_surplus + 1,
                month_count_surplus=account.month_count_surplus + case((of_month, 1), else_=0),
                day_count_surplus=account.day_count_surplus + case((of_day, 1), else_=0),
            )
        )
        if self._connection.execute(change).rowcount != 1:
            raise NotFound("The user's account tells of no such draw; nothing was voided. Keep the draw.")

    def _given_cents(self) -> int:
        """What the award gave; 0 when it was none of credits, or is not delivered yet."""
        order = self._credit_order.c
        query = select(order.amount_cents).where(order.out_business_no == self._asked.order_id)
        return self._connection.execute(query).scalar_one_or_none() or 0

    def _take_credits(self, cents: int, *, trade_id: str) -> None:
        self._connection.execute(
            insert(self._credit_order).values(
                order_id=trade_id,
                user_id=self._user_id,
                trade_name="void",
                trade_type="reverse",
                amount_cents=-cents,
                out_business_no=trade_number(self._asked.order_id),
                create_time_ms=self._now_ms,
            )
        )
        account = t.user_credit_account.c
        covered = (account.account_status == "open", account.available_cents >= cents)
        change = update(t.user_credit_account).where(account.user_id == self._user_id, *covered)
        if self._connection.execute(change.values(available_cents=account.available_cents - cents)).rowcount == 1:
            return
        query = select(account.available_cents, account.account_status).where(account.user_id == self._user_id)
        left = self._connection.execute(query).one_or_none()
        if left is not None and left.account_status != "open":
            raise CreditAccountClosed("The user's credit account is not open; nothing was voided. Keep the credits.")
        available = in_credits(left.available_cents if left else 0)
        raise CreditShort(
            f"The award gave {in_credits(cents)} credits, and the user has only {available} left; nothing was "
            "voided. Keep the credits."
        )

    def _return_unit(self, strategy_id: int, award_id: int) -> None:
        """Units sold never become fewer, which carries the proof of "sold out" (escrow.py): there is one more."""
        won = t.user_award_count.c
        whose = (won.user_id == self._user_id, won.strategy_id == strategy_id, won.award_id == award_id, won.won > 0)
        self._connection.execute(update(t.user_award_count).where(*whose).values(won=won.won - 1))
        stock = t.award_stock.c
        this = (stock.strategy_id == strategy_id, stock.award_id == award_id, stock.returned < stock.sold)
        change = update(t.award_stock).where(*this).values(alloc=stock.alloc + 1, returned=stock.returned + 1)
        if self._connection.execute(change).rowcount != 1:
            raise NotFound("No unit of this prize was sold here; nothing was voided. Keep the unit.")
