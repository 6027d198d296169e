"""What ``bigmarket doctor`` looks for in behaviors and rebates. Each yields the rows that break its promise."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text

from bigmarket.storage.checks import BadRow, View

# Imported orders keep their ids, which are shorter than ours; their effects lie where they come from.
_OURS = "LENGTH(o.order_id) = 26"

# The number of what an order gives: its biz_id, or where that is longer than a number may be its order id.
_NUMBER = "CASE WHEN SUBSTR(o.biz_id, 129, 1) = '' THEN o.biz_id ELSE o.order_id END"

_TWICE = """
SELECT user_id, activity_id, behavior_type, out_business_no, COUNT(*) AS times FROM user_behavior
GROUP BY user_id, activity_id, behavior_type, out_business_no HAVING COUNT(*) > 1"""

_EARNED_TWICE = """
SELECT biz_id, COUNT(*) AS orders FROM user_behavior_rebate_order GROUP BY biz_id HAVING COUNT(*) > 1"""

_NOTHING_DONE = f"""
SELECT o.order_id, o.user_id, 'no such behavior' AS fault FROM user_behavior_rebate_order o
LEFT JOIN user_behavior b ON b.user_id = o.user_id AND b.activity_id = o.activity_id
  AND b.behavior_type = o.behavior_type AND b.out_business_no = o.out_business_no
WHERE {_OURS} AND b.user_id IS NULL"""

_NOT_GIVEN = f"""
SELECT o.order_id, o.user_id, o.rebate_type, o.rebate_config, o.state,
       CASE WHEN o.state = 'completed' THEN 'not given' ELSE 'given' END AS fault
FROM user_behavior_rebate_order o
LEFT JOIN raffle_activity_order q ON q.out_business_no = {_NUMBER} AND q.user_id = o.user_id
  AND q.state = 'completed' AND q.sku = CAST(o.rebate_config AS DECIMAL(20))
LEFT JOIN user_credit_order c ON c.out_business_no = {_NUMBER} AND c.user_id = o.user_id
  AND c.trade_name = 'rebate' AND c.amount_cents = CAST(o.rebate_config AS DECIMAL(20)) * 100
WHERE {_OURS} AND (CASE WHEN o.state = 'completed' THEN 1 ELSE 0 END)
  <> (CASE WHEN CASE WHEN o.rebate_type = 'sku' THEN q.order_id ELSE c.order_id END IS NULL THEN 0 ELSE 1 END)"""

_NOT_EARNED = f"""
SELECT c.order_id, c.user_id, c.out_business_no, 'no completed rebate' AS fault FROM user_credit_order c
LEFT JOIN user_behavior_rebate_order o ON o.order_id = c.order_id AND o.state = 'completed'
WHERE c.trade_name = 'rebate' AND {_OURS.replace("o.", "c.")} AND o.order_id IS NULL"""

_NO_TASK = """
SELECT o.order_id, o.user_id, o.biz_id, 'no task' AS fault FROM user_behavior_rebate_order o
LEFT JOIN task t ON t.message_id = o.order_id
WHERE o.state = 'create' AND t.message_id IS NULL AND o.create_time_ms <= :sent_before_ms"""


def taken_twice(view: View) -> Iterator[BadRow]:
    """Behaviors that were taken twice, or earned a rebate twice, and rebates of no behavior."""
    for query in (_TWICE, _EARNED_TWICE, _NOTHING_DONE):
        yield from _rows(view, query)


def effects_differ(view: View) -> Iterator[BadRow]:
    """Completed rebates that were not given, others that were, and credits that no rebate gave."""
    for query in (_NOT_GIVEN, _NOT_EARNED):
        yield from _rows(view, query)


def tasks_missing(view: View) -> Iterator[BadRow]:
    """Rebates that wait and have no task; those whose message a broker may still hold are left out."""
    yield from _rows(view, _NO_TASK, sent_before_ms=view.now_ms - view.grace_ms)


def _rows(view: View, query: str, **values: int) -> Iterator[BadRow]:
    for row in view.connection.execute(text(query), values).mappings():
        yield dict(row)
