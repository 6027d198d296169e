"""Around the draw: rebates, purchases, deliveries, claims and voids, prizes per user, stages, runtime switches."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

from bigmarket.storage.types import CLUSTERED, STATE, ULID

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BY_USER = {  # a user's rows by time, which imported order ids do not tell
    "raffle_activity_order": ("ix_activity_order_user", "order_time_ms"),
    "user_award_record": ("ix_award_record_user", "award_time_ms"),
    "user_credit_order": ("ix_credit_order_user", "create_time_ms"),
}
_NEW_TABLES = (
    "award_delivery", "award_void", "delivery_attempt", "raffle_activity_stage", "redemption_code", "runtime_switch",
    "unpaid_order", "user_award_count", "user_behavior", "webhook_endpoint",
)  # fmt: skip


def upgrade() -> None:
    """Apply."""
    _create_tables()
    op.add_column(
        "award",
        sa.Column("claim_days", sa.Integer(), comment="Days in which a winner may claim it; NULL: for ever."),
    )
    op.add_column(
        "award_stock",
        sa.Column(
            "returned",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Units of alloc that voids gave back.",
        ),
    )
    op.add_column(
        "daily_behavior_rebate",
        sa.Column(
            "streak_days",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Earned on every n-th day in a row.",
        ),
    )
    for name, (index, time) in _BY_USER.items():
        for suffix in _suffixes(name):
            op.create_index(f"{index}{suffix}", f"{name}{suffix}", ["user_id", time])
    for suffix in _suffixes(_CREDIT_ORDERS):
        reason = sa.Column("reason", sa.String(length=255), comment="Why somebody adjusted the balance.")
        op.add_column(f"{_CREDIT_ORDERS}{suffix}", reason)
    _renew_view(_CREDIT_ORDERS)
    _rebuild_rebate_orders(_with_state)


def downgrade() -> None:
    """Take back."""
    _rebuild_rebate_orders(_without_state)
    _renew_view(_CREDIT_ORDERS, but="reason")
    for suffix in _suffixes(_CREDIT_ORDERS):
        op.drop_column(f"{_CREDIT_ORDERS}{suffix}", "reason")
    for name, (index, _) in _BY_USER.items():
        for suffix in _suffixes(name):
            op.drop_index(f"{index}{suffix}", f"{name}{suffix}")
    for table, column in (
        ("daily_behavior_rebate", "streak_days"),
        ("award_stock", "returned"),
        ("award", "claim_days"),
    ):
        op.drop_column(table, column)
    for name in _NEW_TABLES:
        op.drop_table(name)


def _suffixes(name: str) -> list[str]:
    """What stands behind the table's name for each part of it; nothing where it is whole."""
    tables = sa.inspect(op.get_bind()).get_table_names()
    parts = [table.removeprefix(name) for table in tables if re.fullmatch(rf"{name}_[0-9]{{3}}", table)]
    return sorted(parts) or [""]


_CREDIT_ORDERS = "user_credit_order"
_REBATE_ORDERS = "user_behavior_rebate_order"
_KEPT = (
    "order_id, user_id, behavior_type, rebate_type, rebate_config, rebate_desc, out_business_no, biz_id, "
    "create_time_ms"
)


def _rebuild_rebate_orders(create: Callable[[str], None]) -> None:
    """Make the table anew around its rows, in each part: no engine adds a CHECK in the words of a new table."""
    suffixes = _suffixes(_REBATE_ORDERS)
    for suffix in suffixes:
        op.execute(f"CREATE TABLE rebate_order_kept AS SELECT * FROM {_REBATE_ORDERS}{suffix}")
        op.drop_table(f"{_REBATE_ORDERS}{suffix}")
        create(suffix)
        op.execute(f"INSERT INTO {_REBATE_ORDERS}{suffix} ({_KEPT}) SELECT {_KEPT} FROM rebate_order_kept")
        op.drop_table("rebate_order_kept")
    _renew_view(_REBATE_ORDERS)


def _renew_view(name: str, *, but: str | None = None) -> None:
    """Where the table is in parts, its name is a view of them: of all their columns as they are now, ``but`` one."""
    suffixes = _suffixes(name)
    if suffixes == [""]:
        return
    found = sa.inspect(op.get_bind()).get_columns(f"{name}{suffixes[0]}")
    columns = ", ".join(column["name"] for column in found if column["name"] != but)
    op.execute(f"DROP VIEW {name}")
    parts = " UNION ALL ".join(f"SELECT {columns} FROM {name}{suffix}" for suffix in suffixes)
    op.execute(f"CREATE VIEW {name} AS {parts}")


def _with_state(suffix: str) -> None:
    name = f"{_REBATE_ORDERS}{suffix}"
    op.create_table(
        name,
        *_rebate_columns(("activity_id",)),
        sa.Column("state", STATE, server_default="completed", nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=True, comment="Why it was not given."),
        sa.Column("create_time_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('create', 'completed', 'fail')", name=op.f(f"ck_{_REBATE_ORDERS}_state_known{suffix}")
        ),
        sa.PrimaryKeyConstraint("order_id"),
        sa.UniqueConstraint("biz_id", name=op.f(f"uq_{name}_biz_id")),
        comment="R1: what a behavior earned, once per biz_id, and whether it was given.",
        **CLUSTERED,
    )


def _without_state(suffix: str) -> None:
    name = f"{_REBATE_ORDERS}{suffix}"
    op.create_table(
        name,
        *_rebate_columns(()),
        sa.Column("create_time_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order_id"),
        sa.UniqueConstraint("biz_id", name=op.f(f"uq_{name}_biz_id")),
        comment="R1: what a behavior earned, once per biz_id.",
        **CLUSTERED,
    )


def _rebate_columns(after_user: tuple[str, ...]) -> list[sa.Column[Any]]:
    return [
        sa.Column("order_id", ULID, autoincrement=False, nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in after_user),
        sa.Column("behavior_type", sa.String(length=32), nullable=False),
        sa.Column("rebate_type", sa.String(length=32), nullable=False),
        sa.Column("rebate_config", sa.String(length=32), nullable=False),
        sa.Column("rebate_desc", sa.String(length=128), nullable=True),
        sa.Column("out_business_no", sa.String(length=128), nullable=False),
        sa.Column("biz_id", sa.String(length=300), nullable=False),
    ]


def _create_tables() -> None:
    op.create_table(
        "award_delivery",
        sa.Column("order_id", ULID, autoincrement=False, nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("activity_id", sa.BigInteger(), nullable=False),
        sa.Column("award_id", sa.BigInteger(), nullable=False),
        sa.Column("award_key", sa.String(length=32), nullable=False, comment="The kind that delivers it."),
        sa.Column(
            "place", sa.String(length=32), nullable=False, comment="Where it goes: an endpoint, a pool of codes."
        ),
        sa.Column("message", sa.Text(), nullable=False, comment="The award's own message as JSON."),
        sa.Column("state", STATE, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at_ms", sa.BigInteger(), nullable=False, comment="When a delivery that is due is tried."),
        sa.Column("reason", sa.String(length=255), nullable=True, comment="Why the last attempt failed."),
        sa.Column("contact", sa.Text(), nullable=True, comment="Where a claimed thing goes to, as JSON."),
        sa.Column(
            "result",
            sa.Text(),
            nullable=True,
            comment="What the winner was given: a code, a tracking number; as JSON.",
        ),
        sa.Column("create_time_ms", sa.BigInteger(), nullable=False),
        sa.Column("update_time_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state <> 'parked' OR reason IS NOT NULL", name=op.f("ck_award_delivery_parked_with_reason")
        ),
        sa.CheckConstraint(
            "state IN ('due', 'parked', 'claimed', 'done', 'void')", name=op.f("ck_award_delivery_state_known")
        ),
        sa.PrimaryKeyConstraint("order_id"),
        comment="M2: deliveries that take more than a transaction: by HTTP, by code, by hand.",
        **CLUSTERED,
    )
    op.create_index("ix_award_delivery_due", "award_delivery", ["state", "place", "next_at_ms"])
    op.create_table(
        "award_void",
        sa.Column("order_id", ULID, autoincrement=False, nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("activity_id", sa.BigInteger(), nullable=False),
        sa.Column("award_id", sa.BigInteger(), nullable=False),
        sa.Column("stock_returned", sa.Integer(), nullable=False, comment="1: the unit can be won again."),
        sa.Column("quota_returned", sa.Integer(), nullable=False, comment="1: the user has the draw back."),
        sa.Column(
            "credit_cents", sa.BigInteger(), nullable=False, comment="Credits of the award that were taken back."
        ),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("void_time_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order_id"),
        comment="Awards that an operator took back, each once; the record is in state fail.",
        **CLUSTERED,
    )
    op.create_table(
        "delivery_attempt",
        sa.Column("order_id", ULID, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True, comment="HTTP status; NULL: there was no answer."),
        sa.Column("reason", sa.String(length=255), nullable=True, comment="NULL: it was delivered."),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", "attempt"),
        comment="The log of a delivery.",
        **CLUSTERED,
    )
    op.create_table(
        "raffle_activity_stage",
        sa.Column("stage_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("activity_id", sa.BigInteger(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.CheckConstraint(
            "state IN ('create', 'active', 'expire')", name=op.f("ck_raffle_activity_stage_state_known")
        ),
        sa.PrimaryKeyConstraint("stage_id"),
        sa.UniqueConstraint("channel", "source", "activity_id", name="uq_activity_stage_place"),
        comment="Which activity a channel's source shows: at most one active at a time.",
        **CLUSTERED,
    )
    op.create_table(
        "redemption_code",
        sa.Column("pool", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("code", sa.String(length=128), autoincrement=False, nullable=False),
        sa.Column("order_id", ULID, nullable=True, comment="Who won it; NULL: free."),
        sa.Column("upload_time_ms", sa.BigInteger(), nullable=False),
        sa.Column("taken_time_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("pool", "code"),
        sa.UniqueConstraint("order_id", name=op.f("uq_redemption_code_order_id")),
        comment="Codes that are won, each once.",
        **CLUSTERED,
    )
    op.create_index("ix_redemption_code_free", "redemption_code", ["pool", "order_id"])
    op.create_table(
        "runtime_switch",
        sa.Column("switch_key", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.Column("update_time_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("switch_key"),
        comment="What operators change while it runs; every process sees it within a second.",
        **CLUSTERED,
    )
    op.create_table(
        "unpaid_order",
        sa.Column("user_id", sa.String(length=128), autoincrement=False, nullable=False),
        sa.Column("sku", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("order_id", ULID, nullable=False),
        sa.Column("out_business_no", sa.String(length=128), nullable=False),
        sa.Column("expire_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "sku"),
        sa.UniqueConstraint("order_id", name=op.f("uq_unpaid_order_order_id")),
        comment="Quota orders in state wait_pay, which hold a unit of their sku; at most one per user and sku.",
        **CLUSTERED,
    )
    op.create_index("ix_unpaid_order_expiry", "unpaid_order", ["expire_at_ms"])
    op.create_table(
        "user_award_count",
        sa.Column("user_id", sa.String(length=128), autoincrement=False, nullable=False),
        sa.Column("strategy_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("award_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("won", sa.BigInteger(), nullable=False),
        sa.Column(
            "epoch",
            sa.Integer(),
            nullable=False,
            comment="All is counted as long as this epoch is open; 0: it may not be.",
        ),
        sa.CheckConstraint("won >= 0", name=op.f("ck_user_award_count_counted")),
        sa.PrimaryKeyConstraint("user_id", "strategy_id", "award_id"),
        comment="D8: how often a user won a prize of which nobody may win more than so many.",
        **CLUSTERED,
    )
    op.create_table(
        "user_behavior",
        sa.Column("user_id", sa.String(length=128), autoincrement=False, nullable=False),
        sa.Column("activity_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("behavior_type", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("out_business_no", sa.String(length=128), autoincrement=False, nullable=False),
        sa.Column(
            "streak",
            sa.Integer(),
            nullable=False,
            comment="Days in a row, this one included; 1 where days do not count.",
        ),
        sa.Column("create_time_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "activity_id", "behavior_type", "out_business_no"),
        comment="R1: what a user did, once per out_business_no: a sign-in's is its day, yyyymmdd.",
        **CLUSTERED,
    )
    op.create_table(
        "webhook_endpoint",
        sa.Column("endpoint", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("url", sa.String(length=512), nullable=False),
        sa.Column("secret", sa.String(length=128), nullable=False),
        sa.Column(
            "previous_secret", sa.String(length=128), nullable=True, comment="Also signs until previous_until_ms."
        ),
        sa.Column("previous_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("state", STATE, nullable=False),
        sa.Column("create_time_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'close')", name=op.f("ck_webhook_endpoint_state_known")),
        sa.PrimaryKeyConstraint("endpoint"),
        comment="Where awards are delivered by HTTP.",
        **CLUSTERED,
    )
