"""``bigmarket doctor``: the promises as queries. Each must find no row; a row is a broken promise.

The names are those of the project's invariants: Q quota, D draws, M messages, S stock, C credits, P set-up. Every
shard is examined on one consistent view of it; only S3 goes over all databases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from sqlalchemy import text

from bigmarket.storage import checks, rebate_checks
from bigmarket.storage.checks import BadRow, View
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores, whole
from bigmarket.storage.replays import IMPORTED_REVISION, Configuration

ROWS_SHOWN_MAX = 20
OPEN_ORDER_LIMIT_MS = 24 * 3600 * 1000
TASK_LAG_LIMIT_MS = 10 * 60 * 1000

IMPORTED = IMPORTED_REVISION


Finder = Callable[[View], Iterable[BadRow]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ``count`` bad rows, the first of them in ``rows``, which name their shard, if several."""

    name: str
    title: str
    count: int
    rows: tuple[BadRow, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the promise holds."""
        return self.count == 0


class Check(NamedTuple):
    """A promise by its name, and the rows that break it; looked for in every shard, or ``once`` in all together."""

    name: str
    title: str
    find: Callable[[View], Iterable[BadRow]]
    once: bool = False


def examine(
    examined: Stores | Store,
    *,
    now_ms: int,
    grace_ms: int = TASK_LAG_LIMIT_MS,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Run every check, on one consistent view of each shard; ``progress`` hears the title of each before it runs.

    ``grace_ms`` is how long a message may be in a broker, where nobody can see it; 0 without one.
    """
    stores = examined if isinstance(examined, Stores) else whole(examined)
    several = len(stores.shards) > 1
    configuration = Configuration(stores.config)
    durability = _Tally()
    durability.add(_durability_faults(stores))
    tallies = {check.name: _Tally() for check in CHECKS}
    for shard, store in enumerate(stores.shards):
        with store.examining() as connection:
            view = View(connection, stores, shard, configuration, now_ms, grace_ms)
            for check in CHECKS:
                if check.once and shard > 0:
                    continue
                progress(f"{check.name} {check.title}{f', shard {shard}' if several and not check.once else ''}")
                tag = {"shard": shard} if several and not check.once else {}
                tallies[check.name].add({**tag, **row} for row in check.find(view))
    findings = [tallies[check.name].finding(check.name, check.title) for check in CHECKS]
    return [durability.finding("P1", "a commit is durable"), *findings]


@dataclass(slots=True)
class _Tally:
    """Counts the bad rows of a check over the shards."""

    count: int = 0
    rows: list[BadRow] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, bad: Iterable[BadRow]) -> None:
        started = time.perf_counter()
        for row in bad:
            self.count += 1
            if len(self.rows) < ROWS_SHOWN_MAX:
                self.rows.append(row)
        self.seconds += time.perf_counter() - started

    def finding(self, name: str, title: str) -> Finding:
        return Finding(name, title, self.count, tuple(self.rows), self.seconds)


def _durability_faults(stores: Stores) -> Iterator[BadRow]:
    for store in stores.all():
        for fault in store.durability_faults():
            yield {"database": stores.name_of(store), "fault": fault}


def _both(one: Finder, other: Finder) -> Finder:
    return lambda view: chain(one(view), other(view))


def _query(sql: str) -> Callable[[View], Iterator[BadRow]]:
    def find(view: View) -> Iterator[BadRow]:
        known = {"now_ms": view.now_ms, "open_limit_ms": OPEN_ORDER_LIMIT_MS, "lag_limit_ms": TASK_LAG_LIMIT_MS}
        used = {name: value for name, value in known.items() if f":{name}" in sql}
        for row in view.connection.execute(text(sql), used).mappings():
            yield dict(row)

    return find


ULID_LENGTH = 26  # order ids of another system are shorter; what it sold was paid there
_PAYS = "{0}.user_id = q.user_id AND {0}.amount_cents = -q.pay_cents"

CHECKS = (
    Check(
        "Q1",
        "quota: credited = used + left, never negative",
        _query("""SELECT * FROM raffle_activity_account
                  WHERE total_count_surplus < 0 OR total_count_surplus > total_count
                     OR month_count_surplus < 0 OR month_count_surplus > month_count
                     OR day_count_surplus < 0 OR day_count_surplus > day_count"""),
    ),
    Check(
        "Q2",
        "quota used = raffle orders that were not cancelled (total, month, day)",
        _query("""SELECT * FROM (
                    SELECT a.user_id, a.activity_id,
                           a.total_count - a.total_count_surplus AS used,
                           a.month_count - a.month_count_surplus AS used_month,
                           a.day_count - a.day_count_surplus AS used_day,
                           COUNT(o.order_id) AS orders,
                           COALESCE(SUM(CASE WHEN SUBSTR(o.order_day, 1, 7) = a.month THEN 1 ELSE 0 END), 0)
                             AS orders_month,
                           COALESCE(SUM(CASE WHEN o.order_day = a.day THEN 1 ELSE 0 END), 0) AS orders_day
                    FROM raffle_activity_account a
                    LEFT JOIN user_raffle_order o ON o.user_id = a.user_id AND o.activity_id = a.activity_id
                      AND o.order_state <> 'cancel'
                    GROUP BY a.user_id, a.activity_id, a.total_count, a.total_count_surplus, a.month, a.month_count,
                             a.month_count_surplus, a.day, a.day_count, a.day_count_surplus) c
                  WHERE used <> orders OR used_month <> orders_month OR used_day <> orders_day
                  UNION ALL
                  SELECT o.user_id, o.activity_id, NULL, NULL, NULL, COUNT(*), NULL, NULL
                  FROM user_raffle_order o
                  LEFT JOIN raffle_activity_account a ON a.user_id = o.user_id AND a.activity_id = o.activity_id
                  WHERE a.user_id IS NULL GROUP BY o.user_id, o.activity_id"""),
    ),
    Check(
        "Q3",
        "every credited draw has a completed quota order",
        _query("""SELECT a.user_id, a.activity_id, a.total_count, a.month_count, a.day_count,
                         q.total AS ordered, q.month AS ordered_month, q.day AS ordered_day
                  FROM raffle_activity_account a
                  LEFT JOIN (SELECT user_id, activity_id, SUM(total_count) AS total, SUM(month_count) AS month,
                                    SUM(day_count) AS day
                             FROM raffle_activity_order WHERE state = 'completed' GROUP BY user_id, activity_id) q
                    ON q.user_id = a.user_id AND q.activity_id = a.activity_id
                  WHERE a.total_count <> COALESCE(q.total, 0) OR a.month_count <> COALESCE(q.month, 0)
                     OR a.day_count <> COALESCE(q.day, 0)"""),
    ),
    Check(
        "Q4",
        "open raffle orders = what their account counts",
        _query("""SELECT a.user_id, a.activity_id, a.open_orders, COALESCE(o.orders, 0) AS orders
                  FROM raffle_activity_account a
                  LEFT JOIN (SELECT user_id, activity_id, COUNT(*) AS orders FROM user_raffle_order
                             WHERE order_state = 'create' GROUP BY user_id, activity_id) o
                    ON o.user_id = a.user_id AND o.activity_id = a.activity_id
                  WHERE a.open_orders <> COALESCE(o.orders, 0)"""),
    ),
    Check(
        "D1",
        "used raffle orders and award records are one to one, but for draws that a void gave back",
        _query("""SELECT o.order_id, o.order_state, 'no award record' AS fault FROM user_raffle_order o
                  LEFT JOIN user_award_record r ON r.order_id = o.order_id
                  WHERE o.order_state = 'used' AND r.order_id IS NULL
                  UNION ALL
                  SELECT r.order_id, o.order_state, 'no used raffle order' FROM user_award_record r
                  LEFT JOIN user_raffle_order o ON o.order_id = r.order_id
                  LEFT JOIN award_void v ON v.order_id = r.order_id
                  WHERE o.order_id IS NULL OR o.user_id <> r.user_id OR o.activity_id <> r.activity_id
                     OR o.order_state <> CASE WHEN v.quota_returned = 1 THEN 'cancel' ELSE 'used' END"""),
    ),
    Check(
        "D2",
        "one outcome per (user, request id)",
        _query("""SELECT user_id, request_id, COUNT(*) AS outcomes FROM user_raffle_order
                  WHERE request_id IS NOT NULL GROUP BY user_id, request_id HAVING COUNT(*) > 1"""),
    ),
    Check(
        "D5",
        "no raffle order stays open longer than a day",
        _query("""SELECT order_id, user_id, activity_id, order_time_ms FROM user_raffle_order
                  WHERE order_state = 'create' AND order_time_ms < :now_ms - :open_limit_ms"""),
    ),
    Check("D6", f"the newest {checks.REPLAYED_MAX} draws, derived again, give the same award", checks.not_replayable),
    Check("D7", "rolls fit the declared odds (chi-square)", checks.rolls_unfair),
    Check("D8", "limits per user: wins counted = award records, none beyond the limit", checks.limits_broken),
    Check(
        "M1",
        "one task per award record and rebate that waits for one",
        _both(checks.tasks_missing, rebate_checks.tasks_missing),
    ),
    Check(
        "M2",
        "effects = completed records and rebates",
        _both(checks.effects_differ, rebate_checks.effects_differ),
    ),
    Check(
        "M3",
        "nothing parked without a reason",
        _query("""SELECT message_id, topic FROM task WHERE state = 'parked' AND COALESCE(reason, '') = ''
                  UNION ALL
                  SELECT order_id, place FROM award_delivery WHERE state = 'parked' AND COALESCE(reason, '') = ''"""),
    ),
    Check(
        "M4",
        "no task or delivery overdue for longer than ten minutes",
        _query("""SELECT message_id, topic, state, attempts, reason FROM task
                  WHERE state IN ('create', 'fail') AND next_at_ms < :now_ms - :lag_limit_ms
                  UNION ALL
                  SELECT order_id, place, state, attempts, reason FROM award_delivery
                  WHERE state = 'due' AND next_at_ms < :now_ms - :lag_limit_ms"""),
    ),
    Check("M5", "deliveries agree with their award records", checks.deliveries_differ),
    Check("M6", "codes that winners have are taken for them", checks.codes_astray),
    Check(
        "P2",
        "no order uses the quota of a day before its time, by the activity's clock",
        checks.period_mixed_up,
    ),
    Check("P3", "every user's rows are where the user is looked for", checks.misplaced),
    Check("R1", "a behavior is taken once, and earns each rebate once", rebate_checks.taken_twice),
    Check(
        "S1",
        "stock: 0 <= sold <= allotted",
        _query("""SELECT 'award' AS what, award_id AS id, alloc, sold FROM award_stock
                  WHERE sold < 0 OR (alloc IS NOT NULL AND sold > alloc)
                  UNION ALL
                  SELECT 'sku', sku, alloc, sold FROM sku_stock WHERE sold < 0 OR sold > alloc"""),
    ),
    Check(
        "S2",
        "sold = award records of that prize, voided ones too; likewise skus and their orders",
        _query("""SELECT 'award' AS what, s.award_id AS id, s.sold, COALESCE(r.n, 0) AS records FROM award_stock s
                  LEFT JOIN (SELECT strategy_id, award_id, COUNT(*) AS n FROM user_award_record
                             GROUP BY strategy_id, award_id) r
                    ON r.strategy_id = s.strategy_id AND r.award_id = s.award_id
                  WHERE s.sold <> COALESCE(r.n, 0)
                  UNION ALL
                  SELECT 'sku', s.sku, s.sold, COALESCE(q.n, 0) FROM sku_stock s
                  LEFT JOIN (SELECT sku, COUNT(*) AS n FROM raffle_activity_order WHERE state <> 'expired'
                             GROUP BY sku) q ON q.sku = s.sku
                  WHERE s.sold <> COALESCE(q.n, 0)"""),
    ),
    Check(
        "S3", "stock: total of the live revision = unallotted + allotted + on the way", checks.stock_astray, once=True
    ),
    Check(
        "V1",
        "what is voided is not delivered, and each compensation happened once",
        _query("""SELECT v.order_id, 'its record is not failed' AS fault, r.award_state AS found FROM award_void v
                  LEFT JOIN user_award_record r ON r.order_id = v.order_id AND r.user_id = v.user_id
                  WHERE COALESCE(r.award_state, '') <> 'fail'
                  UNION ALL
                  SELECT v.order_id, 'its task is still there', k.state FROM award_void v
                  JOIN task k ON k.message_id = v.order_id
                  UNION ALL
                  SELECT v.order_id, 'its delivery is not void', d.state FROM award_void v
                  JOIN award_delivery d ON d.order_id = v.order_id WHERE d.state <> 'void'
                  UNION ALL
                  SELECT v.order_id, 'credits taken back are not those the award gave', g.amount_cents
                  FROM award_void v LEFT JOIN user_credit_order g ON g.out_business_no = v.order_id
                  WHERE v.credit_cents > 0 AND v.credit_cents <> COALESCE(g.amount_cents, 0)
                  UNION ALL
                  SELECT v.order_id, 'no trade took its credits back', NULL FROM award_void v
                  LEFT JOIN (SELECT SUBSTR(out_business_no, 6) AS order_id, user_id, amount_cents
                             FROM user_credit_order WHERE trade_name = 'void') c
                    ON c.order_id = v.order_id AND c.user_id = v.user_id AND c.amount_cents = -v.credit_cents
                  WHERE v.credit_cents > 0 AND c.order_id IS NULL
                  UNION ALL
                  SELECT c.order_id, 'a trade took credits back, but no void', NULL FROM user_credit_order c
                  LEFT JOIN award_void v ON v.order_id = SUBSTR(c.out_business_no, 6)
                  WHERE c.trade_name = 'void' AND COALESCE(v.credit_cents, 0) <> -c.amount_cents"""),
    ),
    Check(
        "V2",
        "units that came back = voids that gave one back",
        _query("""SELECT s.strategy_id, s.award_id, s.returned, COALESCE(b.n, 0) AS voids FROM award_stock s
                  LEFT JOIN (SELECT r.strategy_id, r.award_id, SUM(v.stock_returned) AS n FROM award_void v
                             JOIN user_award_record r ON r.order_id = v.order_id GROUP BY r.strategy_id, r.award_id) b
                    ON b.strategy_id = s.strategy_id AND b.award_id = s.award_id
                  WHERE s.returned <> COALESCE(b.n, 0)"""),
    ),
    Check(
        "C1",
        "balance = sum of credit orders, never negative",
        _query("""SELECT u.user_id, u.available_cents, o.cents AS ordered_cents FROM user_credit_account u
                  LEFT JOIN (SELECT user_id, SUM(amount_cents) AS cents FROM user_credit_order GROUP BY user_id) o
                    ON o.user_id = u.user_id
                  WHERE u.available_cents <> COALESCE(o.cents, 0) OR u.available_cents < 0
                  UNION ALL
                  SELECT o.user_id, NULL, SUM(o.amount_cents) FROM user_credit_order o
                  LEFT JOIN user_credit_account u ON u.user_id = o.user_id
                  WHERE u.user_id IS NULL GROUP BY o.user_id"""),
    ),
    Check(
        "C2",
        "every order that costs credits is completed and paid for once, waits, or is expired",
        _query(f"""SELECT q.user_id, q.order_id, q.pay_cents, 'completed, but not paid for once' AS fault
                  FROM raffle_activity_order q
                  LEFT JOIN user_credit_order a ON a.order_id = q.order_id AND {_PAYS.format("a")}
                  LEFT JOIN user_credit_order b ON b.out_business_no = q.out_business_no AND {_PAYS.format("b")}
                  WHERE q.state = 'completed' AND q.pay_cents > 0 AND LENGTH(q.order_id) = {ULID_LENGTH}
                    AND (COALESCE(a.order_id, b.order_id) IS NULL OR a.order_id <> b.order_id)
                  UNION ALL
                  SELECT c.user_id, c.order_id, -c.amount_cents, 'paid, but there is no completed order'
                  FROM user_credit_order c
                  LEFT JOIN raffle_activity_order q
                    ON q.order_id = c.order_id AND {_PAYS.format("c")} AND q.state = 'completed'
                  WHERE c.trade_name = 'exchange' AND LENGTH(c.order_id) = {ULID_LENGTH} AND q.order_id IS NULL
                  UNION ALL
                  SELECT q.user_id, q.order_id, q.pay_cents, 'paid, but expired or not completed for ten minutes'
                  FROM raffle_activity_order q
                  JOIN user_credit_order c ON c.out_business_no = q.out_business_no AND {_PAYS.format("c")}
                  WHERE q.state = 'expired' AND LENGTH(q.order_id) = {ULID_LENGTH}
                     OR q.state = 'wait_pay' AND c.create_time_ms < :now_ms - :lag_limit_ms
                  UNION ALL
                  SELECT q.user_id, q.order_id, q.pay_cents, 'not completed, but it does not wait either'
                  FROM raffle_activity_order q LEFT JOIN unpaid_order u ON u.order_id = q.order_id
                  WHERE q.state = 'wait_pay' AND u.order_id IS NULL
                  UNION ALL
                  SELECT u.user_id, u.order_id, NULL, 'waits, but there is no such unpaid order' FROM unpaid_order u
                  LEFT JOIN raffle_activity_order q
                    ON q.order_id = u.order_id AND q.user_id = u.user_id AND q.sku = u.sku AND q.state = 'wait_pay'
                   AND q.out_business_no = u.out_business_no
                  WHERE q.order_id IS NULL"""),
    ),
)
