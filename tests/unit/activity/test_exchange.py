"""``decide`` of exchanges: a pure function over plain data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigmarket.activity.delivery import WaitingOrder
from bigmarket.activity.exchange import (
    Exchanged,
    ExchangeRequest,
    ExchangeSnapshot,
    Purchases,
    bundles_of,
    decide,
)
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Counts, Period
from bigmarket.activity.stock import SKUS
from bigmarket.credit.model import CreditAccount, CreditAccountClosed, CreditShort, clean_number, in_credits
from bigmarket.errors import (
    ActivityClosed,
    BadInput,
    BigmarketError,
    Duplicate,
    NotArmed,
    NotFound,
    OutOfWindow,
    SkuSoldOut,
)
from purchases import FEW, FEW_PRICE, GIFT, PLENTY, PRICE, shop
from support import DAY, NOON, live_of

ACTIVITY = live_of(shop())
UNITS = {PLENTY: 1_000, FEW: 2, GIFT: 9}


def ask(number: int = 1, *, user: str = "ann", sku: int = PLENTY, request_id: str | None = None) -> ExchangeRequest:
    return ExchangeRequest(f"order-{number}", user, sku, request_id)


def held(cents: int = 1_000, *, waiting: WaitingOrder | None = None) -> ExchangeSnapshot:
    orders = {(waiting.user_id, waiting.sku): waiting} if waiting else {}
    return ExchangeSnapshot({"ann": CreditAccount(cents), "bob": CreditAccount(cents)}, orders, {})


def decided(
    *requests: ExchangeRequest,
    snapshot: ExchangeSnapshot | None = None,
    units: dict[int, int] | None = None,
    activity: LiveActivity = ACTIVITY,
    now_ms: int = NOON,
) -> tuple[list[Exchanged | BigmarketError], Purchases]:
    live = {1: activity}
    return decide(
        requests,
        held() if snapshot is None else snapshot,
        UNITS if units is None else units,
        live=live,
        bundles=bundles_of(live),
        now_ms=now_ms,
    )


def refused(*requests: ExchangeRequest, **given: object) -> type[object]:
    answers, purchases = decided(*requests, **given)  # type: ignore[arg-type]
    assert not any((purchases.payments, purchases.bought, purchases.paid))
    return type(answers[-1])


def waiting_order(*, pay_cents: int = 70, paid: bool = False) -> WaitingOrder:
    return WaitingOrder("old", "ann", 1, PLENTY, Counts(3, 3, 3), pay_cents, "no-1", paid)


def test_what_is_bought_is_paid_in_the_same_breath() -> None:
    (answer,), purchases = decided(ask())
    assert answer == Exchanged("order-1", "ann", 1, PLENTY, Counts(10, 10, 10), PRICE, "exchange_order-1")
    (grant,), (payment,) = purchases.bought, purchases.payments
    assert (grant.order_id, grant.pay_cents, grant.period) == ("order-1", PRICE, Period("2026-11", "2026-11-20"))
    assert (payment.order_id, payment.amount_cents, payment.trade_type) == ("order-1", -PRICE, "reverse")
    assert grant.out_business_no == payment.out_business_no


def test_a_batch_spends_each_credit_once() -> None:
    answers, purchases = decided(*(ask(number) for number in range(5)), snapshot=held(3 * PRICE))
    assert [type(answer) for answer in answers] == [Exchanged] * 3 + [CreditShort] * 2
    assert sum(payment.amount_cents for payment in purchases.payments) == -3 * PRICE


def test_a_batch_sells_each_unit_once_and_tells_who_missed_one() -> None:
    answers, purchases = decided(*(ask(number, sku=FEW) for number in range(4)))
    assert [type(answer) for answer in answers] == [Exchanged] * 2 + [SkuSoldOut] * 2
    assert purchases.missed == {(SKUS, FEW): ["order-2", "order-3"]}
    assert (purchases.taken[FEW], len(purchases.payments)) == (2, 2)


def test_whoever_missed_a_unit_keeps_the_credits_for_something_else() -> None:
    answers, _ = decided(ask(1, sku=FEW), ask(2), snapshot=held(FEW_PRICE), units={PLENTY: 1, FEW: 0})
    assert [type(answer) for answer in answers] == [SkuSoldOut, Exchanged]


@pytest.mark.parametrize("window", [NOON - 400 * DAY, NOON + 400 * DAY])
def test_outside_its_window_an_activity_sells_nothing(window: int) -> None:
    assert refused(ask(), now_ms=window) is OutOfWindow


def test_refusals() -> None:
    assert refused(ask(sku=99)) is NotFound
    assert refused(ask(sku=GIFT)) is BadInput
    assert refused(ask(user="nobody")) is CreditShort
    assert refused(ask(), snapshot=held(PRICE - 1)) is CreditShort
    closed = ExchangeSnapshot({"ann": CreditAccount(1_000, "close")}, {}, {})
    assert refused(ask(), snapshot=closed) is CreditAccountClosed
    assert refused(ask(), activity=replace(ACTIVITY, state="close")) is ActivityClosed
    assert refused(ask(), units={}) is NotArmed
    assert refused(ask(), activity=replace(ACTIVITY, revision=None)) is NotFound


def test_a_request_id_that_stands_twice_in_a_batch_buys_once() -> None:
    answers, purchases = decided(ask(1, request_id="r"), ask(2, request_id="r"), ask(3, sku=FEW, request_id="r"))
    first = answers[0]
    assert isinstance(first, Exchanged)
    assert answers[1] == first._replace(repeated=True)
    assert isinstance(answers[2], Duplicate)
    assert len(purchases.payments) == 1


def test_a_refused_request_may_be_repeated() -> None:
    snapshot = held(0)
    assert refused(ask(request_id="r"), snapshot=snapshot) is CreditShort
    snapshot.accounts["ann"] = CreditAccount(PRICE)
    (answer,), _ = decided(ask(request_id="r"), snapshot=snapshot)
    assert isinstance(answer, Exchanged)
    assert not answer.repeated


def test_an_earlier_purchase_is_answered_again_whatever_has_changed() -> None:
    earlier = Exchanged("old", "ann", 1, PLENTY, Counts(1, 1, 1), 5, "exchange_3_ann_r")
    snapshot = ExchangeSnapshot({}, {}, {"exchange_3_ann_r": earlier, "exchange_3_ann_q": None})
    closed = replace(ACTIVITY, state="close")
    (again,), _ = decided(ask(request_id="r"), snapshot=snapshot, activity=closed)
    assert again == earlier._replace(repeated=True)
    assert refused(ask(request_id="q"), snapshot=snapshot) is Duplicate


def test_a_waiting_order_is_paid_at_its_own_price_and_takes_no_unit() -> None:
    snapshot = held(70, waiting=waiting_order())
    answers, purchases = decided(ask(1, request_id="r"), ask(2), snapshot=snapshot, units={PLENTY: 0})
    assert answers[0] == Exchanged("old", "ann", 1, PLENTY, Counts(3, 3, 3), 70, "exchange_3_ann_r")
    assert isinstance(answers[1], CreditShort)
    assert [grant.out_business_no for grant in purchases.paid] == ["no-1"]
    assert not purchases.bought
    assert purchases.payments[0].order_id == "old"


def test_a_waiting_order_that_was_paid_is_not_paid_again() -> None:
    (answer,), purchases = decided(ask(), snapshot=held(waiting=waiting_order(paid=True)))
    assert isinstance(answer, Exchanged)
    assert answer.order_id == "order-1"
    assert not purchases.paid


def test_no_two_users_share_a_number_however_they_name_their_requests() -> None:
    assert ask(user="a_b", request_id="c").out_business_no != ask(user="a", request_id="b_c").out_business_no


def test_nobody_else_may_use_the_number_of_an_exchange() -> None:
    with pytest.raises(BadInput, match="kept for exchanges"):
        clean_number(ask(user="ann", request_id="r").out_business_no)


def test_numbers_fit_their_column_and_differ() -> None:
    long = [ask(user="u" * 128, request_id=f"{'r' * 60}{n}").out_business_no for n in range(3)]
    assert len(set(long)) == 3
    assert max(map(len, long)) <= 128


@pytest.mark.parametrize(("cents", "said"), [(0, "0.00"), (5, "0.05"), (1250, "12.50"), (-199, "-1.99")])
def test_credits_in_words(cents: int, said: str) -> None:
    assert in_credits(cents) == said
