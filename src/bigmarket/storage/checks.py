"""The checks of ``bigmarket doctor`` that are more than one query. Each yields the rows that break its promise."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, RowMapping, Table, select, text

from bigmarket.activity.quota import period_of
from bigmarket.activity.revision import Revision
from bigmarket.award.claims import PHYSICAL
from bigmarket.award.kinds import OUTSIDE_KINDS, TASK_KINDS
from bigmarket.award.kinds.base import Gives
from bigmarket.replay import explain
from bigmarket.storage import ledger, schema
from bigmarket.storage.installation import Stores
from bigmarket.storage.replays import IMPORTED_REVISION, Configuration, complete, newest_draws, newest_rolls
from bigmarket.storage.routing import SplitTables, part_of

REPLAYED_MAX = 500
ROLLS_MAX = 100_000
USERS_PER_READ = 5_000
CODES_PER_READ = 500
CHI_SQUARE_SIGMAS_MAX = 6.0  # a fair die exceeds it once in a billion runs
EXPECTED_PER_CELL_MIN = 5

BadRow = dict[str, Any]


class View(NamedTuple):
    """One shard, at one moment. What its draws were decided by is read from the configuration database."""

    connection: Connection
    stores: Stores
    shard: int
    configuration: Configuration
    now_ms: int
    grace_ms: int

    @property
    def split(self) -> SplitTables:
        """How the shard's order tables are split."""
        return self.stores.shards[self.shard].split


def period_mixed_up(view: View) -> Iterator[BadRow]:
    """Orders that used the quota of a day before their time.

    A later day is right after the clock was set back: an account's day never goes back with it.
    """
    days = view.connection.execute(
        text("""SELECT activity_id, order_day, MIN(order_time_ms) AS first_ms, MAX(order_time_ms) AS last_ms
                FROM user_raffle_order GROUP BY activity_id, order_day""")
    )
    for activity_id, day, first_ms, last_ms in days.all():
        activity = view.configuration.activity(activity_id)
        if activity is None:
            yield {"activity_id": activity_id, "order_day": day, "order_time": "no such activity"}
            continue
        for moment in {first_ms, last_ms}:
            if period_of(moment, zone=ZoneInfo(activity.time_zone)).day > day:
                when = datetime.fromtimestamp(moment / 1000, tz=UTC).isoformat()
                yield {"activity_id": activity_id, "order_day": day, "order_time": when}


def not_replayable(view: View) -> Iterator[BadRow]:
    """The newest draws, derived again."""
    for row in newest_draws(view.connection, split=view.split, limit=REPLAYED_MAX):
        stored = complete(row, view.configuration)
        revision = view.configuration.revision(row["activity_id"], row["revision_id"])
        if stored is None or revision is None:
            yield {"order_id": row["order_id"], "differences": "its activity, revision or seed epoch is gone"}
        elif revision.revision_id != row["revision_id"]:
            yield {"order_id": row["order_id"], "differences": "its revision is not what its name is the hash of"}
        elif differences := explain(stored, revision).differences:
            yield {"order_id": row["order_id"], "differences": "; ".join(differences)}


def rolls_unfair(view: View) -> Iterator[BadRow]:
    """Chi-square of the newest rolls against the declared odds, per revision and table.

    The statistic is turned into standard deviations by Wilson and Hilferty's cube root.
    """
    rolls: dict[tuple[int, str, str], list[int]] = {}
    for row in newest_rolls(view.connection, split=view.split, limit=ROLLS_MAX):
        key = (row["activity_id"], row["revision_id"], row["trace"].split("|")[1])
        rolls.setdefault(key, []).append(row["rolled"])
    for (activity_id, revision_id, name), numbers in rolls.items():
        revision = view.configuration.revision(activity_id, revision_id)
        if revision is None:  # D6 tells
            continue
        table = revision.wheel.tables[name]
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


def tasks_missing(view: View) -> Iterator[BadRow]:
    """Award records that a task shall deliver and that have neither one nor a delivery that it wrote down.

    Those that a broker may still hold are left out.
    """
    sent = "AND r.award_time_ms <= :sent_before_ms" if view.grace_ms else ""
    groups = view.connection.execute(
        text(f"""SELECT r.activity_id, r.revision_id, r.award_id, COUNT(*) AS records, MIN(r.order_id) AS first_order
                 FROM user_award_record r LEFT JOIN task t ON t.message_id = r.order_id
                 LEFT JOIN award_delivery d ON d.order_id = r.order_id
                 WHERE r.award_state = 'create' AND t.message_id IS NULL AND d.order_id IS NULL {sent}
                 GROUP BY r.activity_id, r.revision_id, r.award_id"""),
        {"sent_before_ms": view.now_ms - view.grace_ms} if view.grace_ms else {},
    )
    for row in groups.mappings().all():
        if _given_by(row, view.configuration) is not None:
            yield dict(row)


def effects_differ(view: View) -> Iterator[BadRow]:
    """Completed records without their effect, and effects whose record is not completed; V1 looks at voided ones."""
    for gives, orders in (("credits", "user_credit_order"), ("draws", "raffle_activity_order")):
        groups = view.connection.execute(
            text(f"""SELECT r.activity_id, r.revision_id, r.award_id, r.award_state,
                            COUNT(DISTINCT r.order_id) AS records, COUNT(c.order_id) AS effects,
                            MIN(r.order_id) AS first_order
                     FROM user_award_record r LEFT JOIN {orders} c ON c.out_business_no = r.order_id
                     LEFT JOIN award_void v ON v.order_id = r.order_id WHERE v.order_id IS NULL
                     GROUP BY r.activity_id, r.revision_id, r.award_id, r.award_state""")
        )
        for row in groups.mappings().all():
            if row["revision_id"] == IMPORTED_REVISION and row["award_state"] == "completed":
                continue  # what another system delivered has its effect there
            owed = row["award_state"] == "completed" and _given_by(row, view.configuration) == gives
            if row["effects"] != (row["records"] if owed else 0):
                yield {**row, "gives": gives}


def deliveries_differ(view: View) -> Iterator[BadRow]:
    """Deliveries that do not agree with their records, and completed records that nothing delivered."""
    yield from map(
        dict,
        view.connection.execute(
            text("""SELECT d.order_id, d.state, r.award_state FROM award_delivery d
                    LEFT JOIN user_award_record r ON r.order_id = d.order_id AND r.user_id = d.user_id
                    WHERE r.order_id IS NULL OR (d.state = 'done' AND r.award_state <> 'completed')
                       OR (d.state = 'void') <> (r.award_state = 'fail')""")
        ).mappings(),
    )
    groups = view.connection.execute(
        text("""SELECT r.activity_id, r.revision_id, r.award_id, COUNT(*) AS records, MIN(r.order_id) AS first_order
                FROM user_award_record r LEFT JOIN award_delivery d ON d.order_id = r.order_id
                WHERE r.award_state = 'completed' AND (d.order_id IS NULL OR d.state <> 'done' AND NOT EXISTS
                  (SELECT 1 FROM delivery_attempt a WHERE a.order_id = r.order_id AND a.reason IS NULL))
                GROUP BY r.activity_id, r.revision_id, r.award_id""")
    )
    for row in groups.mappings().all():
        imported = row["revision_id"] == IMPORTED_REVISION  # another system delivered it
        if not imported and _kind_of(row, view.configuration) in _DELIVERED:
            yield dict(row)


#: Kinds whose records nothing completes but a delivery.
_DELIVERED = frozenset({*OUTSIDE_KINDS, PHYSICAL})


def codes_astray(view: View) -> Iterator[BadRow]:
    """Codes that winners were given and that are not taken for them."""
    delivery, pool = schema.award_delivery.c, schema.redemption_code.c
    given = select(delivery.order_id, delivery.place, delivery.result).where(delivery.award_key == "code")
    given = given.where(delivery.result.is_not(None)).order_by(delivery.order_id).limit(CODES_PER_READ)
    after = ""
    while rows := view.connection.execute(given.where(delivery.order_id > after)).all():
        taken = select(pool.order_id, pool.pool, pool.code).where(pool.order_id.in_([row.order_id for row in rows]))
        with view.stores.config.reading() as connection:
            known = {(row.order_id, row.pool, row.code) for row in connection.execute(taken)}
        for row in rows:
            if (row.order_id, row.place, json.loads(row.result)["code"]) not in known:
                yield {"order_id": row.order_id, "pool": row.place}
        after = rows[-1].order_id


def _given_by(row: RowMapping, configuration: Configuration) -> Gives | None:
    """What a task gives for it; None where none does."""
    kind = TASK_KINDS.get(_kind_of(row, configuration) or "")
    return None if kind is None else kind.gives


def _kind_of(row: RowMapping, configuration: Configuration) -> str | None:
    """The kind of its award; None where that is not known. Imported records go by what the live revision knows."""
    revision = _revision_of(row["activity_id"], row["revision_id"], configuration)
    award = None if revision is None else revision.awards.get(row["award_id"])
    return None if award is None else award.kind


def _revision_of(activity_id: int, revision_id: str, configuration: Configuration) -> Revision | None:
    if revision_id != IMPORTED_REVISION:
        return configuration.revision(activity_id, revision_id)
    activity = configuration.activity(activity_id)
    live = None if activity is None else activity.revision_id
    return None if live is None else configuration.revision(activity_id, live)


def misplaced(view: View) -> Iterator[BadRow]:
    """Users with rows in another shard or table than the one that they are looked for in."""
    routing = view.stores.routing
    if routing.slots == 1:
        return
    for table in WHOLE:
        for user_id in _users(view.connection, table):
            if routing.shard_of(user_id) != view.shard:
                yield _stray(table.name, user_id, view)
    for number, suffix in enumerate(view.split.suffixes):
        for table in schema.SPLIT:
            part = part_of(table, suffix)
            for user_id in _users(view.connection, part):
                if (routing.shard_of(user_id), routing.table_of(user_id)) != (view.shard, number):
                    yield _stray(part.name, user_id, view)


#: Tables of a user's rows that have no parts.
WHOLE = (
    schema.raffle_activity_account,
    schema.user_credit_account,
    schema.user_behavior,
    schema.user_award_count,
    schema.unpaid_order,
    schema.task,
    schema.award_delivery,
    schema.award_void,
)


def _users(connection: Connection, table: Table) -> Iterable[str]:
    query = select(table.c.user_id).distinct().execution_options(yield_per=USERS_PER_READ)
    return connection.execute(query).scalars()


def _stray(table: str, user_id: str, view: View) -> BadRow:
    routing = view.stores.routing
    home = f"shard {routing.shard_of(user_id)}, table {view.split.suffix_of(user_id) or 'of that name'}"
    return {"table": table, "user_id": user_id, "belongs_to": home}


def limits_broken(view: View) -> Iterator[BadRow]:
    """Wins per user that are not counted as they are recorded, or that went beyond what the limit allowed.

    A count is believed as long as its epoch is open. How often a limit may have allowed a win is the greatest that it
    was, as earlier wins count too.
    """
    records = view.connection.execute(
        text("""SELECT c.user_id, c.strategy_id, c.award_id, c.won, c.epoch, r.activity_id, r.revision_id,
                       COUNT(r.order_id) AS records,
                       COALESCE(SUM(CASE WHEN r.trace LIKE :allowed THEN 1 ELSE 0 END), 0) AS allowed
                FROM user_award_count c
                LEFT JOIN user_award_record r
                  ON r.user_id = c.user_id AND r.strategy_id = c.strategy_id AND r.award_id = c.award_id
                 AND NOT EXISTS (SELECT 1 FROM award_void v WHERE v.order_id = r.order_id AND v.stock_returned = 1)
                GROUP BY c.user_id, c.strategy_id, c.award_id, c.won, c.epoch, r.activity_id, r.revision_id
                ORDER BY c.user_id, c.strategy_id, c.award_id"""),
        {"allowed": "%|rule_user_limit:ALLOW%"},
    )
    for (user_id, _, award_id), group in groupby(records.mappings(), key=itemgetter(*_WIN_KEY)):
        rows = list(group)
        won, recorded = rows[0]["won"], sum(row["records"] for row in rows)
        epoch = view.configuration.epoch(rows[0]["activity_id"] or 0, rows[0]["epoch"])
        limits = [(row, _limit_of(row, view.configuration)) for row in rows]
        allowed = sum(row["allowed"] for row, limit in limits if limit is not None)
        at_most = max((limit for _, limit in limits if limit is not None), default=0)
        if allowed > at_most or (epoch is not None and epoch.open and won != recorded):
            counts = {"counted": won, "records": recorded, "allowed": allowed, "at_most": at_most}
            yield {"user_id": user_id, "award_id": award_id, **counts}


_WIN_KEY = ("user_id", "strategy_id", "award_id")


def _limit_of(row: RowMapping, configuration: Configuration) -> int | None:
    """How often one user could win the award by the revision that gave it."""
    revision = configuration.revision(row["activity_id"] or 0, row["revision_id"] or "")
    return None if revision is None else revision.wheel.limits.get(row["award_id"])


def stock_astray(view: View) -> Iterable[BadRow]:
    """Units that are not where the books say, or not as many as the live revisions have; of all databases."""
    if view.stores.escrowed:
        return ledger.stock_astray(view.stores, view.configuration)
    return _stock_not_as_armed(view.connection, view.configuration)


def _stock_not_as_armed(connection: Connection, configuration: Configuration) -> Iterator[BadRow]:
    """With one database it holds all that the live revisions give, and what voids gave back."""
    stocked = connection.execute(
        text("SELECT strategy_id, award_id, alloc - returned AS alloc FROM award_stock")
    ).all()
    allotted = {(row.strategy_id, row.award_id): row.alloc for row in stocked}
    for key, total in ledger.live_totals(connection, configuration):
        if key not in allotted or allotted[key] != total:
            yield {"award_id": key[1], "total": total, "allotted": allotted.get(key, "no row")}
