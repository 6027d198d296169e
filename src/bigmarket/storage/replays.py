"""Reads back what a draw left behind, so that it can be derived again.

The draw is in its user's shard; what it was decided by is in the configuration database, which may be another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from heapq import nlargest
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, select

from bigmarket.activity.armory import read_revision
from bigmarket.activity.revision import Revision
from bigmarket.errors import NotFound
from bigmarket.replay import StoredDraw
from bigmarket.storage import schema
from bigmarket.storage.installation import Stores
from bigmarket.storage.routing import SplitTables, part_of

IMPORTED_REVISION = "imported"  # of award records that another system made: they cannot be derived again
FACTS_KEPT = 64  # of each kind


class ActivityRow(NamedTuple):
    """What is configured of an activity itself; ``revision_id`` is the live one (None: never armed)."""

    name: str
    time_zone: str
    revision_id: str | None


class EpochRow(NamedTuple):
    """A seed epoch."""

    seed: bytes
    seed_sha256: str
    open: bool


class Reads(Protocol):
    """What is needed of the configuration database."""

    def reading(self) -> AbstractContextManager[Connection]:
        """One read transaction with quick queries."""
        ...


class Configuration:
    """What draws were decided by. Asked after the draws themselves were read, it knows everything they name.

    Every answer is kept: use one for a single pass over the data.
    """

    def __init__(self, config: Reads) -> None:
        self._config = config
        self.activity = lru_cache(maxsize=FACTS_KEPT)(self._read_activity)
        self.revision = lru_cache(maxsize=FACTS_KEPT)(self._read_revision)
        self.epoch = lru_cache(maxsize=FACTS_KEPT)(self._read_epoch)

    def _read_activity(self, activity_id: int) -> ActivityRow | None:
        a = schema.raffle_activity.c
        row = self._one(select(a.activity_name, a.time_zone, a.revision_id).where(a.activity_id == activity_id))
        return None if row is None else ActivityRow(row["activity_name"], row["time_zone"], row["revision_id"])

    def _read_revision(self, activity_id: int, revision_id: str) -> Revision | None:
        r = schema.activity_revision.c
        this = (r.activity_id == activity_id, r.revision_id == revision_id)
        row = self._one(select(r.document).where(*this))
        return None if row is None else read_revision(row["document"])

    def _read_epoch(self, activity_id: int, epoch: int) -> EpochRow | None:
        e = schema.seed_epoch.c
        this = (e.activity_id == activity_id, e.epoch == epoch)
        row = self._one(select(e.seed, e.seed_sha256, e.close_time_ms).where(*this))
        return None if row is None else EpochRow(bytes(row["seed"]), row["seed_sha256"], row["close_time_ms"] is None)

    def _one(self, query: Select[Any]) -> RowMapping | None:
        with self._config.reading() as connection:
            return connection.execute(query).mappings().one_or_none()


def stored_draw(stores: Stores, order_id: str) -> StoredDraw | None:
    """All that is stored of one draw, whichever shard has it; None when there is no award record for the order.

    Raises NotFound when it cannot be derived again: it was imported, or its configuration is gone.
    """
    for shard in stores.shards:
        with shard.reading() as connection:
            for suffix in shard.split.suffixes:
                order, record = _tables(suffix)
                query = _draws(order, record).where(record.c.order_id == order_id)
                row = connection.execute(query).mappings().one_or_none()
                if row is not None:
                    return _known(row, Configuration(stores.config))
    return None


def newest_draws(connection: Connection, *, split: SplitTables, limit: int) -> list[RowMapping]:
    """The newest ``limit`` draws of a shard that were made here, as ``complete`` wants them."""
    found: list[RowMapping] = []
    for suffix in split.suffixes:
        order, record = _tables(suffix)
        query = _draws(order, record).where(_made_here(record)).order_by(record.c.order_id.desc()).limit(limit)
        found += connection.execute(query).mappings()
    return nlargest(limit, found, key=itemgetter("order_id"))


def newest_rolls(connection: Connection, *, split: SplitTables, limit: int) -> Iterator[RowMapping]:
    """Activity, revision, trace and number of the newest ``limit`` rolls of a shard."""
    found: list[RowMapping] = []
    for suffix in split.suffixes:
        _, record = _tables(suffix)
        r = record.c
        query = select(r.order_id, r.activity_id, r.revision_id, r.trace, r.rolled).where(r.rolled.is_not(None))
        query = query.where(_made_here(record)).order_by(r.order_id.desc()).limit(limit)
        found += connection.execute(query).mappings()
    yield from found if len(split.suffixes) == 1 else nlargest(limit, found, key=itemgetter("order_id"))


def complete(row: RowMapping, configuration: Configuration) -> StoredDraw | None:
    """A draw with what it was decided by; None when that is not known."""
    activity = configuration.activity(row["activity_id"])
    revision = configuration.revision(row["activity_id"], row["revision_id"])
    epoch = configuration.epoch(row["activity_id"], row["epoch"])
    if activity is None or revision is None or epoch is None:
        return None
    return StoredDraw(
        **row,
        activity_name=activity.name,
        time_zone=activity.time_zone,
        revision_sha256=revision.sha256,
        document=revision.document,
        seed=epoch.seed,
        seed_sha256=epoch.seed_sha256,
        epoch_open=epoch.open,
    )


def _known(row: RowMapping, configuration: Configuration) -> StoredDraw:
    if row["revision_id"] == IMPORTED_REVISION:
        raise NotFound(f"Draw {row['order_id']} was imported; only the system that made it could explain it.")
    stored = complete(row, configuration)
    if stored is None:
        raise NotFound(f"The revision or the seed that draw {row['order_id']} was made by is gone.")
    return stored


def _tables(suffix: str) -> tuple[Table, Table]:
    """Orders and records; they are in the same part, as both go by the user."""
    return part_of(schema.user_raffle_order, suffix), part_of(schema.user_award_record, suffix)


def _draws(order: Table, record: Table) -> Select[Any]:
    o, r = order.c, record.c
    columns = (
        r.order_id, r.user_id, r.activity_id, o.request_id, o.order_day, o.order_time_ms, r.award_time_ms, r.award_id,
        r.award_title, r.award_config, r.award_state, r.revision_id, r.epoch, r.rolled, r.trace,
    )  # fmt: skip
    return select(*columns).select_from(record.join(order, o.order_id == r.order_id))


def _made_here(record: Table) -> ColumnElement[bool]:
    made_here: ColumnElement[bool] = record.c.revision_id != IMPORTED_REVISION
    return made_here
