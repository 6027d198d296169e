"""Reads that answer a question at the edge. Each works on the connection it is given and changes nothing."""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from bigmarket.activity.armory import read_revision
from bigmarket.activity.quota import Account, Bundle, Counts
from bigmarket.activity.revision import Revision
from bigmarket.credit.model import CreditAccount
from bigmarket.errors import NotFound
from bigmarket.storage import schema as t


def account_of(connection: Connection, user_id: str, activity_id: int) -> Account | None:
    """The account as stored, not rolled over; None for a user who was never credited."""
    a = t.raffle_activity_account.c
    columns = (
        a.total_count,
        a.total_count_surplus,
        a.month,
        a.month_count,
        a.month_count_surplus,
        a.day,
        a.day_count,
        a.day_count_surplus,
    )
    row = connection.execute(select(*columns).where(a.user_id == user_id, a.activity_id == activity_id)).one_or_none()
    return None if row is None else Account(*row)


def credit_account_of(connection: Connection, user_id: str) -> CreditAccount | None:
    """A user's credits; None for one who never had any."""
    a = t.user_credit_account.c
    row = connection.execute(select(a.available_cents, a.account_status).where(a.user_id == user_id)).one_or_none()
    return None if row is None else CreditAccount(*row)


def bundle_of(connection: Connection, sku: int) -> Bundle | None:
    """What a sku credits, and in which activity; None when there is no such sku."""
    s, c = t.raffle_activity_sku.c, t.raffle_activity_count.c
    joined = t.raffle_activity_sku.join(t.raffle_activity_count, s.activity_count_id == c.activity_count_id)
    columns = (s.activity_id, s.product_cents, c.total_count, c.month_count, c.day_count)
    query = select(*columns).select_from(joined).where(s.sku == sku)
    row = connection.execute(query).one_or_none()
    return None if row is None else Bundle(sku, row.activity_id, Counts(*row[2:]), row.product_cents)


def seed_of(connection: Connection, activity_id: int, epoch: int) -> bytes:
    """The seed of an activity's epoch. Raises NotFound."""
    e = t.seed_epoch.c
    seed = connection.execute(
        select(e.seed).where(e.activity_id == activity_id, e.epoch == epoch)
    ).scalar_one_or_none()
    if seed is None:
        raise NotFound(f"Activity {activity_id} has no seed epoch {epoch}.")
    return bytes(seed)


def revision_of(connection: Connection, activity_id: int, revision_id: str) -> Revision:
    """A revision of an activity. Raises NotFound."""
    r = t.activity_revision.c
    this = (r.activity_id == activity_id, r.revision_id == revision_id)
    document = connection.execute(select(r.document).where(*this)).scalar_one_or_none()
    if document is None:
        raise NotFound(f"Activity {activity_id} has no revision {revision_id}.")
    return read_revision(document)


def stock_left(connection: Connection, strategy_id: int) -> dict[int, int | None]:
    """Units left of each award of a strategy in this database; None is unlimited."""
    s = t.award_stock.c
    rows = connection.execute(select(s.award_id, s.alloc - s.sold).where(s.strategy_id == strategy_id))
    return {award_id: left for award_id, left in rows}  # noqa: C416  rows are no tuples to the type checker


def stock_gone(connection: Connection, strategy_id: int) -> dict[int, int]:
    """Units of each award of a strategy that were won in this database and that no void gave back."""
    s = t.award_stock.c
    rows = connection.execute(select(s.award_id, s.sold - s.returned).where(s.strategy_id == strategy_id))
    return {award_id: gone for award_id, gone in rows}  # noqa: C416


def stock_totals(connection: Connection, strategy_id: int) -> dict[int, int | None]:
    """Units of each award of a strategy that the hub has in all; None is unlimited."""
    h = t.stock_hub.c
    rows = connection.execute(select(h.item_id, h.total).where(h.strategy_id == strategy_id))
    return {award_id: total for award_id, total in rows}  # noqa: C416


def available_cents(connection: Connection, user_id: str) -> int:
    """Credits that a user may spend; 0 for one who never earned any."""
    a = t.user_credit_account.c
    query = select(a.available_cents).where(a.user_id == user_id)
    return connection.execute(query).scalar_one_or_none() or 0


def ping(connection: Connection) -> None:
    """Ask the database for an answer that takes no lock. Raises ``Trouble`` when it has none."""
    connection.execute(text("SELECT 1 FROM raffle_activity WHERE activity_id = 0")).first()
