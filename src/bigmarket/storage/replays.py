"""Reads back what a draw left behind, so that it can be derived again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, select

from bigmarket.replay import StoredDraw
from bigmarket.storage import schema

_ORDER, _RECORD = schema.user_raffle_order.c, schema.user_award_record.c
_ACTIVITY, _REVISION, _EPOCH = schema.raffle_activity.c, schema.activity_revision.c, schema.seed_epoch.c


def stored_draw(connection: Connection, order_id: str) -> StoredDraw | None:
    """All that is stored of one draw; None when there is no award record for the order."""
    row = connection.execute(_draws().where(_RECORD.order_id == order_id)).mappings().one_or_none()
    return None if row is None else _read(row)


def newest_draws(connection: Connection, *, limit: int) -> Iterator[StoredDraw]:
    """The newest ``limit`` draws."""
    for row in connection.execute(_draws().order_by(_RECORD.order_id.desc()).limit(limit)).mappings():
        yield _read(row)


def _draws() -> Select[Any]:
    joined = (
        schema.user_award_record.join(schema.user_raffle_order, _ORDER.order_id == _RECORD.order_id)
        .join(schema.raffle_activity, _ACTIVITY.activity_id == _RECORD.activity_id)
        .join(
            schema.activity_revision,
            (_REVISION.activity_id == _RECORD.activity_id) & (_REVISION.revision_id == _RECORD.revision_id),
        )
        .join(schema.seed_epoch, (_EPOCH.activity_id == _RECORD.activity_id) & (_EPOCH.epoch == _RECORD.epoch))
    )
    columns = (
        _RECORD.order_id, _RECORD.user_id, _RECORD.activity_id, _ACTIVITY.activity_name, _ACTIVITY.time_zone,
        _ORDER.request_id, _ORDER.order_day, _ORDER.order_time_ms, _RECORD.award_time_ms, _RECORD.award_id,
        _RECORD.award_title, _RECORD.award_config, _RECORD.award_state, _RECORD.revision_id, _REVISION.sha256,
        _REVISION.document, _RECORD.epoch, _EPOCH.seed, _EPOCH.seed_sha256, _EPOCH.close_time_ms, _RECORD.rolled,
        _RECORD.trace,
    )  # fmt: skip
    return select(*columns).select_from(joined)


def _read(row: RowMapping) -> StoredDraw:
    values: dict[str, Any] = dict(row)
    values["revision_sha256"] = values.pop("sha256")
    values["epoch_open"] = values.pop("close_time_ms") is None
    return StoredDraw(**values)
