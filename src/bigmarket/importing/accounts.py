"""Pure: a user's account in one activity, and the recharges that credited it."""

from __future__ import annotations

from bigmarket.activity.quota import Counts, Period, period_of
from bigmarket.importing import reference as r
from bigmarket.importing.draws import Draws
from bigmarket.importing.part import Part, Values
from bigmarket.importing.report import Fault
from bigmarket.importing.users import NewRow, opening_id, opening_number
from bigmarket.storage import schema as t

NO_SKU = 0  # of an opening order

HISTORY = "of a month or day that is over: raffle orders tell it"

USED = Fault("Q2", "draws used are not as many as raffle orders", "the orders are what was used; what is left stays")
NO_ACCOUNT = Fault("Q2", "raffle orders of a user without an account", "an account with nothing left is opened")
BEYOND = Fault("Q1", "fewer draws left than none", "none are left")
ABOVE = Fault("Q1", "more draws left than were credited", "what is left stays, so many count as credited")
UNSOURCED = Fault(
    "Q3", "credited draws that no completed order explains", "an order import-opening-<user>-<activity> explains them"
)

SUPERSEDED = "an unpaid order of a sku that the user ordered again later: it has expired"

_STATES = {"completed": "completed", "complete": "completed", "wait_pay": "wait_pay"}


def map_account(part: Part, draws: Draws) -> list[NewRow]:
    """The account's row first, if there is one; then quota orders."""
    quota = [values for row in part.mine(r.QuotaOrderRow) if (values := _quota_order(part, row)) is not None]
    account = _account(part, draws, ordered=bool(quota))
    rows = [NewRow(t.raffle_activity_order, "raffle_activity_order", values) for values in quota]
    rows += [NewRow(t.unpaid_order, None, values) for values in _waiting(part, quota)]
    if account is None:
        return rows
    opening = _opening(part, quota, account)
    if opening is not None:
        rows.append(NewRow(t.raffle_activity_order, None, opening))
    source = "raffle_activity_account" if part.mine(r.AccountRow) else None
    return [NewRow(t.raffle_activity_account, source, account), *rows]


def _quota_order(part: Part, row: r.QuotaOrderRow) -> Values | None:
    table = "raffle_activity_order"
    state = part.state(table, row.state, _STATES, row.order_id)
    when = part.when(table, row.order_time, row)
    if state is None or when is None:
        return None
    business = part.terms.number(table, row.out_business_no, part.user.user_id)
    return {
        "order_id": part.number(table, row.order_id),
        "user_id": part.user.user_id,
        "activity_id": part.activity_id,
        "sku": row.sku,
        "total_count": row.total_count,
        "month_count": row.month_count,
        "day_count": row.day_count,
        "pay_cents": 0 if row.pay_amount is None else int(row.pay_amount * 100),
        "state": state,
        "out_business_no": business,
        "order_time_ms": when,
    }


def _waiting(part: Part, quota: list[Values]) -> list[Values]:
    """Of each sku the newest unpaid order waits, until now: it is completed if it was paid, and expires if not.

    Older ones expire here.
    """
    newest: dict[int, Values] = {}
    for order in sorted(quota, key=lambda values: values["order_time_ms"]):
        if order["state"] == "wait_pay":
            if (older := newest.get(order["sku"])) is not None:
                older["state"] = "expired"
                part.report.note(SUPERSEDED, key=part.key(older["order_id"]))
            newest[order["sku"]] = order
    names = ("user_id", "sku", "order_id", "out_business_no")
    return [{**{name: order[name] for name in names}, "expire_at_ms": part.terms.now_ms} for order in newest.values()]


def _account(part: Part, draws: Draws, *, ordered: bool) -> Values | None:
    """The account's row; None, and told, when there can be none."""
    period = period_of(part.terms.now_ms, zone=part.facts.zone)
    month_used, day_used = _used_now(part, period)
    used = _count_orders(draws.orders, period)
    rows = part.mine(r.AccountRow)
    if not rows:
        if not (ordered or draws.orders) or not part.fault(NO_ACCOUNT):
            return None
        count, left, allowed = used.total, 0, Counts(0, used.month, used.day)
    else:
        count, left = rows[0].total_count, rows[0].total_count_surplus
        allowed = Counts(0, max(0, rows[0].month_count), max(0, rows[0].day_count))
    if left < 0:
        part.fault(BEYOND)
        left = 0
    if left > count and not part.fault(ABOVE):
        part.report.skip("raffle_activity_account", reason=ABOVE.title, key=part.key())
        return None
    # Who used more than they may has nothing left.
    month_left = min(allowed.month, max(0, allowed.month - month_used))
    day_left = min(allowed.day, max(0, allowed.day - day_used))
    if rows and (count - left, allowed.month - month_left, allowed.day - day_left) != used:
        part.fault(USED)
    if part.terms.repair:
        left += draws.given_back
        count = left + used.total
        allowed = Counts(0, max(allowed.month, used.month), max(allowed.day, used.day))
        month_left, day_left = allowed.month - used.month, allowed.day - used.day
    return {
        "user_id": part.user.user_id,
        "activity_id": part.activity_id,
        "total_count": count,
        "total_count_surplus": left,
        "month": period.month,
        "month_count": allowed.month,
        "month_count_surplus": month_left,
        "day": period.day,
        "day_count": allowed.day,
        "day_count_surplus": day_left,
    }


def _used_now(part: Part, period: Period) -> tuple[int, int]:
    """Used this month and today, by the reference's counters; those of other periods are history."""
    table = "raffle_activity_account"
    months, days = part.mine(r.MonthRow), part.mine(r.DayRow)
    month = part.merged(f"{table}_month", months, lambda row: row.month == period.month, reason=HISTORY)
    day = part.merged(f"{table}_day", days, lambda row: row.day == period.day, reason=HISTORY)
    return (
        sum(row.month_count - row.month_count_surplus for row in month),
        sum(row.day_count - row.day_count_surplus for row in day),
    )


def _count_orders(orders: list[Values], period: Period) -> Counts:
    """Draws used, by the orders: in all, this month, today."""
    days = [row["order_day"] for row in orders if row["order_state"] != "cancel"]
    return Counts(len(days), sum(day[:7] == period.month for day in days), sum(day == period.day for day in days))


def _opening(part: Part, quota: list[Values], account: Values) -> Values | None:
    """The order that explains what no completed order does, as a repair."""
    names = [f"{name}_count" for name in Counts._fields]
    done = [row for row in quota if row["state"] == "completed"]
    missing = {name: account[name] - sum(row[name] for row in done) for name in names}
    if not any(missing.values()) or not part.fault(UNSOURCED):
        return None
    return {
        "order_id": opening_id(part.user.user_id, part.activity_id),
        "user_id": part.user.user_id,
        "activity_id": part.activity_id,
        "sku": NO_SKU,
        **missing,
        "pay_cents": 0,
        "state": "completed",
        "out_business_no": opening_number(part.user.user_id, part.activity_id),
        "order_time_ms": part.terms.now_ms,
    }
