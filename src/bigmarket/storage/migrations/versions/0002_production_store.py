"""Production store: layout, leases, stock escrow, rebate orders; a task that is done is deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bigmarket.storage.types import CLUSTERED, STATE, ULID

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "layout",
        sa.Column("fact", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("fact"),
        comment="What this database is: of which installation, which shard of how many, how its tables are split.",
        **CLUSTERED,
    )
    op.create_table(
        "lease",
        sa.Column("job", sa.String(length=64), autoincrement=False, nullable=False),
        sa.Column("holder", ULID, nullable=False),
        sa.Column("fencing", sa.BigInteger(), nullable=False, comment="Grows with every change of holder."),
        sa.Column("until_ms", sa.BigInteger(), nullable=False, comment="By the database's clock."),
        sa.PrimaryKeyConstraint("job"),
        comment="Which process does a job that only one may do.",
        **CLUSTERED,
    )
    op.create_table(
        "stock_hub",
        sa.Column("strategy_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("item_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True, comment="Units there are; NULL: unlimited."),
        sa.Column("allotted", sa.BigInteger(), server_default="0", nullable=False, comment="Units given to shards."),
        sa.CheckConstraint(
            "allotted >= 0 AND (total IS NULL OR allotted <= total)", name=op.f("ck_stock_hub_never_overdrawn")
        ),
        sa.PrimaryKeyConstraint("strategy_id", "item_id"),
        comment="S3: units of a prize (strategy_id 0: of a sku) and how many live in shards; several shards only.",
        **CLUSTERED,
    )
    op.create_table(
        "stock_receipt",
        sa.Column("transfer_id", ULID, autoincrement=False, nullable=False),
        sa.Column("strategy_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.Integer(), nullable=False, comment="1 once the hub knows of it."),
        sa.PrimaryKeyConstraint("transfer_id"),
        comment="S3: transfers that this shard has applied, each once.",
        **CLUSTERED,
    )
    op.create_table(
        "stock_transfer",
        sa.Column("transfer_id", ULID, autoincrement=False, nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("strategy_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False, comment="Below 0: given back."),
        sa.Column("state", STATE, nullable=False),
        sa.Column("create_time_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('sent', 'applied')", name=op.f("ck_stock_transfer_state_known")),
        sa.PrimaryKeyConstraint("transfer_id"),
        comment="S3: units that the hub gave to a shard or took back; `sent` ones may be on their way.",
        **CLUSTERED,
    )
    op.create_table(
        "user_behavior_rebate_order",
        sa.Column("order_id", ULID, autoincrement=False, nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("behavior_type", sa.String(length=32), nullable=False),
        sa.Column("rebate_type", sa.String(length=32), nullable=False),
        sa.Column("rebate_config", sa.String(length=32), nullable=False),
        sa.Column("rebate_desc", sa.String(length=128), nullable=True),
        sa.Column("out_business_no", sa.String(length=128), nullable=False),
        sa.Column("biz_id", sa.String(length=300), nullable=False),
        sa.Column("create_time_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order_id"),
        sa.UniqueConstraint("biz_id", name=op.f("uq_user_behavior_rebate_order_biz_id")),
        comment="R1: what a behavior earned, once per biz_id.",
        **CLUSTERED,
    )
    _rebuild_task(due_index=False, states="'create', 'fail', 'parked'")
    _index_open_orders(["user_id", "activity_id", "order_state"])


def downgrade() -> None:
    """Take back."""
    _index_open_orders(["user_id", "activity_id"])
    _rebuild_task(due_index=True, states="'create', 'completed', 'fail', 'parked'")
    op.drop_table("user_behavior_rebate_order")
    op.drop_table("stock_transfer")
    op.drop_table("stock_receipt")
    op.drop_table("stock_hub")
    op.drop_table("lease")
    op.drop_table("layout")


def _rebuild_task(*, due_index: bool, states: str) -> None:
    """Make the outbox anew around its unfinished tasks: no engine alters a CHECK in place in the same words."""
    op.execute("CREATE TABLE task_kept AS SELECT * FROM task WHERE state <> 'completed'")
    op.drop_table("task")
    op.create_table(
        "task",
        sa.Column("message_id", ULID, autoincrement=False, nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=True, comment="Why the last attempt failed."),
        sa.CheckConstraint("state <> 'parked' OR reason IS NOT NULL", name=op.f("ck_task_parked_with_reason")),
        sa.CheckConstraint(f"state IN ({states})", name=op.f("ck_task_state_known")),
        sa.PrimaryKeyConstraint("message_id"),
        comment="M1, M3: the outbox; a task that is done is deleted. An award's message id is its order id.",
        **CLUSTERED,
    )
    op.execute("INSERT INTO task SELECT * FROM task_kept")
    op.drop_table("task_kept")
    if due_index:
        op.create_index("ix_task_due", "task", ["next_at_ms"], sqlite_where=sa.text("state IN ('create', 'fail')"))


def _index_open_orders(columns: list[str]) -> None:
    name, where = "ix_raffle_order_open", sa.text("order_state = 'create'")
    op.drop_index(name, "user_raffle_order")
    op.create_index(name, "user_raffle_order", columns, sqlite_where=where)
