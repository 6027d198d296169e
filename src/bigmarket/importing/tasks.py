"""Pure: which of a user's pending messages belong to which award record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from bigmarket.award.message import SEND_AWARD
from bigmarket.importing import reference as r
from bigmarket.importing.report import Report
from bigmarket.importing.terms import Terms
from bigmarket.importing.users import UserRows

PENDING = ("create", "fail")
DONE = "done: a task that was carried out is not kept"
ORPHAN = "names no award record that it could belong to"
_ONE_TRANSACTION = timedelta(seconds=2)  # a record and its task were written together


class PendingAward(NamedTuple):
    """A pending ``send_award``: how reports call it, and the config it carries, if any (S22 has none)."""

    key: str
    config: str | None


def pending_awards(user: UserRows, terms: Terms, report: Report) -> dict[str, PendingAward]:
    """By order id as it will be here; all other tasks are told as skipped."""
    found: dict[str, PendingAward] = {}
    records = user.of(r.RecordRow)
    for task in user.of(r.TaskRow):
        key = f"{user.user_id} {task.topic} {task.message_id}"
        if task.state not in PENDING:
            report.skip("task", reason=DONE, key=key)
            continue
        if task.topic != SEND_AWARD:
            reason = f"a pending {task.topic}: let the reference carry it out, or do what it says by hand"
            report.skip("task", reason=reason, key=f"{key} {task.message}")
            continue
        data = _data_of(task.message)
        matches = [row.order_id for row in _matches(task, data, records)]
        if len(matches) != 1:
            report.skip("task", reason=ORPHAN, key=key)
            continue
        config = data.get("awardConfig")
        order_id = terms.number("user_award_record", matches[0], user.user_id)
        if order_id in found:
            report.skip("task", reason="another task of the same award is pending too", key=key)
            continue
        found[order_id] = PendingAward(key, config if isinstance(config, str) else None)
    return found


def _matches(task: r.TaskRow, data: dict[str, Any], records: Sequence[r.RecordRow]) -> Iterator[r.RecordRow]:
    """By order id; S22's messages have none, so there by award, title and the moment both were written."""
    order_id = data.get("orderId")
    for record in records:
        if order_id is not None:
            if record.order_id == str(order_id):
                yield record
        elif (
            record.award_id == data.get("awardId")
            and record.award_title == data.get("awardTitle")
            and _written_together(task.create_time, record.create_time)
        ):
            yield record


def _written_together(one: str | None, other: str | None) -> bool:
    try:
        apart = datetime.fromisoformat(one or "") - datetime.fromisoformat(other or "")
    except ValueError:
        return False
    return abs(apart) <= _ONE_TRANSACTION


def _data_of(message: str) -> dict[str, Any]:
    try:
        data = json.loads(message).get("data")
    except (ValueError, AttributeError):
        return {}
    return data if isinstance(data, dict) else {}
