"""Pure: a user's points and what their behavior earned."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from bigmarket.errors import BadInput
from bigmarket.importing import reference as r
from bigmarket.importing.report import Fault, Report
from bigmarket.importing.terms import Terms
from bigmarket.importing.users import NewRow, UserRows, moment_ms, opening_id, opening_number
from bigmarket.rebate.behavior import CALENDAR, day_before
from bigmarket.storage import schema as t

BALANCE = Fault(
    "C1", "points that no credit order explains", "an order import-opening-<user> explains them; the balance stays"
)
BELOW_NOTHING = Fault(
    "C1", "a balance below 0, or above what was ever earned", "it is 0 at least, and what was earned at least as much"
)
NO_ACCOUNT = Fault("C1", "credit orders of a user without an account", "an account with their sum is opened")

#: The reference's names of a trade.
_TRADES = {"行为返利": "rebate", "兑换抽奖": "exchange"}
OPENING = "opening"
_TRADE_MAX = 32
_TRADE_TYPES = ("forward", "reverse")

Values = dict[str, Any]


def map_points(user: UserRows, terms: Terms, report: Report) -> Iterator[NewRow]:
    """The credit account first, so that who is there already is known; then its orders, what behavior earned, and
    the behaviors themselves, which only their rebates tell of."""
    orders = [values for row in user.of(r.CreditOrderRow) if (values := _order(row, terms, report)) is not None]
    account = _account(user, orders, terms, report)
    if account is not None:
        source = "user_credit_account" if user.of(r.CreditAccountRow) else None
        yield NewRow(t.user_credit_account, source, account)
    for values in orders:
        yield NewRow(t.user_credit_order, "user_credit_order", values)
    if account is not None and (opening := _opening(account, orders, terms, report)) is not None:
        yield NewRow(t.user_credit_order, None, opening)
    rebates = [values for row in user.of(r.RebateOrderRow) if (values := _rebate(row, terms, report)) is not None]
    _give_homes(rebates, terms)
    for values in rebates:
        yield NewRow(t.user_behavior_rebate_order, "user_behavior_rebate_order", values)
    for values in _behaviors(rebates):
        yield NewRow(t.user_behavior, None, values)


def _order(row: r.CreditOrderRow, terms: Terms, report: Report) -> Values | None:
    table, key = "user_credit_order", f"{row.user_id} {row.order_id}"
    if row.trade_type not in _TRADE_TYPES:
        report.skip(table, reason=f"its trade type is `{row.trade_type}`", key=key)
        return None
    when = _created(table, row, terms, report, key=key)
    if when is None:
        return None
    return {
        "order_id": terms.number(table, row.order_id, row.user_id),
        "user_id": row.user_id,
        "trade_name": _TRADES.get(row.trade_name, row.trade_name[:_TRADE_MAX]),
        "trade_type": row.trade_type,
        "amount_cents": _cents(row.trade_amount),
        "out_business_no": terms.number(table, row.out_business_no, row.user_id),
        "create_time_ms": when,
    }


def _account(user: UserRows, orders: list[Values], terms: Terms, report: Report) -> Values | None:
    ordered = sum(order["amount_cents"] for order in orders)
    earned = sum(order["amount_cents"] for order in orders if order["amount_cents"] > 0)
    rows = user.of(r.CreditAccountRow)
    if rows:
        total, available = _cents(rows[0].total_amount), _cents(rows[0].available_amount)
    elif orders:
        report.fault(NO_ACCOUNT, key=user.user_id, mended=terms.repair)
        if not terms.repair:
            return None
        total, available = earned, max(0, ordered)
    else:
        return None
    if not 0 <= available <= total:
        report.fault(BELOW_NOTHING, key=user.user_id, mended=terms.repair)
        if not terms.repair:
            report.skip("user_credit_account", reason=BELOW_NOTHING.title, key=user.user_id)
            return None
        available = max(0, available)
        total = max(total, available)
    return {
        "user_id": user.user_id,
        "total_cents": total,
        "available_cents": available,
        "account_status": "close" if rows and rows[0].account_status != "open" else "open",
    }


def _opening(account: Values, orders: list[Values], terms: Terms, report: Report) -> Values | None:
    missing = account["available_cents"] - sum(order["amount_cents"] for order in orders)
    if not missing:
        return None
    user_id = account["user_id"]
    report.fault(BALANCE, key=user_id, mended=terms.repair)
    if not terms.repair:
        return None
    return {
        "order_id": opening_id(user_id),
        "user_id": user_id,
        "trade_name": OPENING,
        "trade_type": "forward" if missing > 0 else "reverse",
        "amount_cents": missing,
        "out_business_no": opening_number(user_id),
        "create_time_ms": terms.now_ms,
    }


def _rebate(row: r.RebateOrderRow, terms: Terms, report: Report) -> Values | None:
    table, key = "user_behavior_rebate_order", f"{row.user_id} {row.order_id}"
    when = _created(table, row, terms, report, key=key)
    if when is None:
        return None
    own_number = row.biz_id.removeprefix(f"{row.user_id}_{row.rebate_type}_")
    return {
        "order_id": terms.number(table, row.order_id, row.user_id),
        "user_id": row.user_id,
        "behavior_type": row.behavior_type,
        "rebate_type": row.rebate_type,
        "rebate_config": row.rebate_config,
        "rebate_desc": row.rebate_desc,
        "out_business_no": row.out_business_no or own_number,
        "biz_id": terms.number(table, row.biz_id, row.user_id),
        "state": "completed",
        "create_time_ms": when,
    }


def _give_homes(rebates: list[Values], terms: Terms) -> None:
    """Say which activity each rebate is of: that of its sku, or of the sku that the same behavior earned, else the
    first that rewards the behavior; 0 when there is none."""
    owner = {str(sku): activity_id for activity_id, facts in terms.activities.items() for sku in facts.skus}
    homes: dict[tuple[str, str], int] = {}
    for values in rebates:
        if values["rebate_type"] == "sku" and values["rebate_config"] in owner:
            homes[_done(values)] = owner[values["rebate_config"]]
    for values in rebates:
        behavior = values["behavior_type"]
        rewarding = sorted(id_ for id_, facts in terms.activities.items() if behavior in facts.behaviors)
        values["activity_id"] = homes.get(_done(values), rewarding[0] if rewarding else 0)


def _behaviors(rebates: list[Values]) -> Iterator[Values]:
    """What the user did to earn them, each once, with the days in a row of sign-ins."""
    found: dict[tuple[int, str, str], Values] = {}
    for values in sorted(rebates, key=lambda values: str(values["out_business_no"])):
        key = (values["activity_id"], *_done(values))
        if values["activity_id"] == 0 or key in found:
            continue
        before = day_before(key[2]) if key[1] in CALENDAR else None
        earlier = found.get((key[0], key[1], before or ""))
        found[key] = {
            "user_id": values["user_id"],
            "activity_id": key[0],
            "behavior_type": key[1],
            "out_business_no": key[2],
            "streak": 1 + (earlier["streak"] if earlier else 0),
            "create_time_ms": values["create_time_ms"],
        }
    yield from found.values()


def _done(values: Values) -> tuple[str, str]:
    return values["behavior_type"], values["out_business_no"]


def _created(table: str, row: r.UserRow, terms: Terms, report: Report, *, key: str) -> int | None:
    """When the database made the row."""
    try:
        return moment_ms(row.create_time or "", created=None, terms=terms, report=report, key=key)
    except BadInput as bad:
        report.skip(table, reason=f"its time cannot be read: {bad}", key=key)
        return None


def _cents(amount: Decimal) -> int:
    """Hundredths; the reference keeps no finer ones."""
    return int(amount.quantize(Decimal("0.01")) * 100)
