"""``bigmarket doctor``: the promises as queries. Each must find no row; a row is a broken promise.

The names are those of the project's invariants: Q quota, D draws, M messages, S stock, C credits, P set-up.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, RowMapping, text

from bigmarket.activity.armory import read_revision
from bigmarket.activity.quota import period_of
from bigmarket.activity.revision import Revision
from bigmarket.award.kinds import KINDS
from bigmarket.replay import explain
from bigmarket.storage.replays import newest_draws

ROWS_SHOWN_MAX = 20
REPLAYED_MAX = 500
ROLLS_MAX = 100_000
OPEN_ORDER_LIMIT_MS = 24 * 3600 * 1000
TASK_LAG_LIMIT_MS = 10 * 60 * 1000
CHI_SQUARE_SIGMAS_MAX = 6.0  # a fair die exceeds it once in a billion runs
EXPECTED_PER_CELL_MIN = 5

IMPORTED = "imported"  # the revision of award records that another system made

BadRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ``count`` bad rows, the first of them in ``rows``."""

    name: str
    title: str
    count: int
    rows: tuple[BadRow, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the promise holds."""
        return self.count == 0


class Examined(Protocol):
    """A store that can be examined."""

    def examining(self) -> AbstractContextManager[Connection]:
        """One consistent view, however long it is looked at."""
        ...

    def durability_faults(self) -> list[str]:
        """Settings under which an acknowledged draw could be lost; none when all is well."""
        ...


class Check(NamedTuple):
    """A promise by its name, and the rows that break it."""

    name: str
    title: str
    find: Callable[[Connection, int], Iterator[BadRow]]


def examine(store: Examined, *, now_ms: int, progress: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Run every check on one consistent view; ``progress`` hears the title of each before it runs."""
    findings = [_finding("P1", "a commit is durable", iter({"fault": fault} for fault in store.durability_faults()))]
    with store.examining() as connection:
        for check in CHECKS:
            progress(f"{check.name} {check.title}")
            findings.append(_finding(check.name, check.title, check.find(connection, now_ms)))
    return findings


def _finding(name: str, title: str, bad: Iterator[BadRow]) -> Finding:
    started = time.perf_counter()
    rows: list[BadRow] = []
    count = 0
    for row in bad:
        count += 1
        if len(rows) < ROWS_SHOWN_MAX:
            rows.append(row)
    return Finding(name, title, count, tuple(rows), time.perf_counter() - started)


def _query(sql: str) -> Callable[[Connection, int], Iterator[BadRow]]:
    def find(connection: Connection, now_ms: int) -> Iterator[BadRow]:
        known = {"now_ms": now_ms, "open_limit_ms": OPEN_ORDER_LIMIT_MS, "lag_limit_ms": TASK_LAG_LIMIT_MS}
        statement = text(sql)
        used = {name: value for name, value in known.items() if f":{name}" in sql}
        for row in connection.execute(statement, used).mappings():
            yield dict(row)

    return find


def _period_mixed_up(connection: Connection, now_ms: int) -> Iterator[BadRow]:  # noqa: ARG001  every check is called alike
    """Orders that used the quota of a day before their time.

    A later day is right after the clock was set back: an account's day never goes back with it.
    """
    days = connection.execute(
        text("""SELECT o.activity_id, a.time_zone, o.order_day, MIN(o.order_time_ms) AS first_ms,
                       MAX(o.order_time_ms) AS last_ms
                FROM user_raffle_order o JOIN raffle_activity a ON a.activity_id = o.activity_id
                GROUP BY o.activity_id, a.time_zone, o.order_day""")
    )
    for activity_id, time_zone, day, first_ms, last_ms in days:
        for moment in {first_ms, last_ms}:
            if period_of(moment, zone=ZoneInfo(time_zone)).day > day:
                when = datetime.fromtimestamp(moment / 1000, tz=UTC).isoformat()
                yield {"activity_id": activity_id, "order_day": day, "order_time": when}


def _not_replayable(connection: Connection, now_ms: int) -> Iterator[BadRow]:  # noqa: ARG001
    """The newest draws, derived again."""
    for stored in newest_draws(connection, limit=REPLAYED_MAX):
        explanation = explain(stored, _revision_of(stored.document))
        if not explanation.matches:
            yield {"order_id": stored.order_id, "differences": "; ".join(explanation.differences)}


@lru_cache(maxsize=64)
def _revision_of(document: str) -> Revision:
    return read_revision(document)


def _rolls_unfair(connection: Connection, now_ms: int) -> Iterator[BadRow]:  # noqa: ARG001
    """Chi-square of the newest rolls against the declared odds, per revision and table.

    The statistic is turned into standard deviations by Wilson and Hilferty's cube root.
    """
    rolls: dict[tuple[int, str, str], list[int]] = {}
    found = connection.execute(
        text("""SELECT activity_id, revision_id, trace, rolled FROM user_award_record
                WHERE rolled IS NOT NULL ORDER BY order_id DESC LIMIT :most"""),
        {"most": ROLLS_MAX},
    )
    for activity_id, revision_id, trace, rolled in found:
        rolls.setdefault((activity_id, revision_id, trace.split("|")[1]), []).append(rolled)
    for (activity_id, revision_id, name), numbers in rolls.items():
        table = _stored_revision(connection, activity_id, revision_id).wheel.tables[name]
        seen = Counter(table.pick(number) for number in numbers)
        sigmas = _chi_square_sigmas([(seen[a], float(p) * len(numbers)) for a, p in table.odds().items()])
        if sigmas > CHI_SQUARE_SIGMAS_MAX:
            yield {"revision_id": revision_id, "table": name, "rolls": len(numbers), "sigmas": round(sigmas, 1)}


def _chi_square_sigmas(cells: list[tuple[int, float]]) -> float:
    """How unlikely the seen counts are, in standard deviations; cells expected too rarely are pooled."""
    rare = [cell for cell in cells if cell[1] < EXPECTED_PER_CELL_MIN]
    usual = [cell for cell in cells if cell[1] >= EXPECTED_PER_CELL_MIN]
    pooled = (sum(seen for seen, _ in rare), sum(expected for _, expected in rare))
    if pooled[1] >= EXPECTED_PER_CELL_MIN:
        usual.append(pooled)
    freedom = len(usual) - 1
    if freedom < 1:
        return 0.0
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in usual)
    spread = 2 / (9 * freedom)
    return (math.cbrt(statistic / freedom) - (1 - spread)) / math.sqrt(spread)


def _stored_revision(connection: Connection, activity_id: int, revision_id: str) -> Revision:
    document = connection.execute(
        text("SELECT document FROM activity_revision WHERE activity_id = :activity AND revision_id = :revision"),
        {"activity": activity_id, "revision": revision_id},
    ).scalar_one()
    return _revision_of(document)


def _tasks_missing(connection: Connection, now_ms: int) -> Iterator[BadRow]:
    """Award records that a task shall deliver and that have none; those that a broker may still hold are left out."""
    groups = connection.execute(
        text("""SELECT r.activity_id, r.revision_id, r.award_id, COUNT(*) AS records, MIN(r.order_id) AS first_order
                FROM user_award_record r LEFT JOIN task t ON t.message_id = r.order_id
                WHERE r.award_state = 'create' AND t.message_id IS NULL AND r.award_time_ms <= :sent_before_ms
                GROUP BY r.activity_id, r.revision_id, r.award_id"""),
        {"sent_before_ms": now_ms - TASK_LAG_LIMIT_MS},
    )
    for row in groups.mappings():
        if _delivered_by_task(connection, row):
            yield dict(row)


def _effects_differ(connection: Connection, now_ms: int) -> Iterator[BadRow]:  # noqa: ARG001
    """Completed records without their effect, and effects whose record is not completed."""
    groups = connection.execute(
        text("""SELECT r.activity_id, r.revision_id, r.award_id, r.award_state,
                       COUNT(DISTINCT r.order_id) AS records, COUNT(c.order_id) AS effects,
                       MIN(r.order_id) AS first_order
                FROM user_award_record r LEFT JOIN user_credit_order c ON c.out_business_no = r.order_id
                GROUP BY r.activity_id, r.revision_id, r.award_id, r.award_state""")
    )
    for row in groups.mappings():
        if row["revision_id"] == IMPORTED and row["award_state"] == "completed":
            continue  # what another system delivered has its effect there
        owed = row["award_state"] == "completed" and _delivered_by_task(connection, row)
        if row["effects"] != (row["records"] if owed else 0):
            yield dict(row)


def _delivered_by_task(connection: Connection, row: RowMapping) -> bool:
    """An imported record goes by the live revision, as far as that knows its award."""
    revision_id = row["revision_id"]
    if revision_id == IMPORTED:
        revision_id = connection.execute(
            text("SELECT revision_id FROM raffle_activity WHERE activity_id = :activity"),
            {"activity": row["activity_id"]},
        ).scalar_one_or_none()
    if revision_id is None:
        return False
    award = _stored_revision(connection, row["activity_id"], revision_id).awards.get(row["award_id"])
    return award is not None and KINDS[award.kind].delivery == "task"


def _stock_not_as_armed(connection: Connection, now_ms: int) -> Iterator[BadRow]:  # noqa: ARG001
    """With one shard the shard holds all that the live revision gives."""
    live = connection.execute(
        text("""SELECT v.document FROM raffle_activity a
                JOIN activity_revision v ON v.activity_id = a.activity_id AND v.revision_id = a.revision_id""")
    ).scalars()
    for document in live.all():
        wheel = _revision_of(document).wheel
        stocked = connection.execute(
            text("SELECT award_id, alloc FROM award_stock WHERE strategy_id = :strategy"),
            {"strategy": wheel.strategy_id},
        )
        allotted = {row.award_id: row.alloc for row in stocked}
        for award_id, sector in wheel.sectors.items():
            if award_id not in allotted or allotted[award_id] != sector.stock:
                yield {"award_id": award_id, "total": sector.stock, "allotted": allotted.get(award_id, "no row")}


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
        "D1",
        "used raffle orders and award records are one to one",
        _query("""SELECT o.order_id, o.order_state, 'no award record' AS fault FROM user_raffle_order o
                  LEFT JOIN user_award_record r ON r.order_id = o.order_id
                  WHERE o.order_state = 'used' AND r.order_id IS NULL
                  UNION ALL
                  SELECT r.order_id, o.order_state, 'no used raffle order' FROM user_award_record r
                  LEFT JOIN user_raffle_order o ON o.order_id = r.order_id
                  WHERE o.order_id IS NULL OR o.order_state <> 'used' OR o.user_id <> r.user_id
                     OR o.activity_id <> r.activity_id"""),
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
    Check("D6", f"the newest {REPLAYED_MAX} draws, derived again, give the same award", _not_replayable),
    Check("D7", "rolls fit the declared odds (chi-square)", _rolls_unfair),
    Check("M1", "one task per award record that waits for one", _tasks_missing),
    Check("M2", "effects = completed records", _effects_differ),
    Check(
        "M3",
        "nothing parked without a reason",
        _query("SELECT message_id, topic FROM task WHERE state = 'parked' AND COALESCE(reason, '') = ''"),
    ),
    Check(
        "M4",
        "no task unsent for longer than ten minutes",
        _query("""SELECT message_id, topic, state, attempts, reason FROM task
                  WHERE state IN ('create', 'fail') AND next_at_ms < :now_ms - :lag_limit_ms"""),
    ),
    Check(
        "P2",
        "no order uses the quota of a day before its time, by the activity's clock",
        _period_mixed_up,
    ),
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
        "sold = award records of that prize; likewise skus and their orders",
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
    Check("S3", "stock allotted = total of the live revision", _stock_not_as_armed),
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
)
