"""Open raffle orders are counted in their account, so that nobody looks for them where there are none."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ACCOUNT, _ORDERS = "raffle_activity_account", "user_raffle_order"
_CHECK, _COUNTED = f"ck_{_ACCOUNT}_open_orders_counted", "open_orders >= 0"
_INDEX = "ix_raffle_order_open"


def upgrade() -> None:
    """Apply."""
    if _on_sqlite():  # which takes no CHECK but with its column
        check = f"CONSTRAINT {_CHECK} CHECK ({_COUNTED})"
        op.execute(f"ALTER TABLE {_ACCOUNT} ADD COLUMN open_orders INTEGER DEFAULT '0' NOT NULL {check}")
    else:
        comment = "Its raffle orders in state create."
        op.add_column(
            _ACCOUNT, sa.Column("open_orders", sa.Integer(), server_default="0", nullable=False, comment=comment)
        )
        op.create_check_constraint(op.f(_CHECK), _ACCOUNT, _COUNTED)
    for suffix in _suffixes():
        _count_open_orders(f"{_ORDERS}{suffix}")
        op.drop_index(f"{_INDEX}{suffix}", f"{_ORDERS}{suffix}")


def downgrade() -> None:
    """Take back."""
    columns, where = ["user_id", "activity_id", "order_state"], sa.text("order_state = 'create'")
    for suffix in _suffixes():
        op.create_index(f"{_INDEX}{suffix}", f"{_ORDERS}{suffix}", columns, sqlite_where=where)
    if not _on_sqlite():
        op.drop_constraint(op.f(_CHECK), _ACCOUNT, type_="check")
    op.drop_column(_ACCOUNT, "open_orders")


def _count_open_orders(orders: str) -> None:
    connection = op.get_bind()
    found = connection.execute(
        sa.text(
            f"SELECT user_id, activity_id, COUNT(*) AS owed FROM {orders} WHERE order_state = 'create' "
            "GROUP BY user_id, activity_id"
        )
    ).mappings()
    if counts := [dict(row) for row in found]:
        this = "user_id = :user_id AND activity_id = :activity_id"
        connection.execute(sa.text(f"UPDATE {_ACCOUNT} SET open_orders = :owed WHERE {this}"), counts)


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _suffixes() -> list[str]:
    """What stands behind the name of the raffle orders' table for each part of it; nothing where it is whole."""
    tables = sa.inspect(op.get_bind()).get_table_names()
    parts = [table.removeprefix(_ORDERS) for table in tables if re.fullmatch(rf"{_ORDERS}_[0-9]{{3}}", table)]
    return sorted(parts) or [""]
