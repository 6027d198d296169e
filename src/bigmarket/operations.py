"""What operators and calls that can take their time ask for: recharges, orders, credits, claims, voids.

Each is one transaction in the user's shard, once per its key, and tried again after a lost race.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import TypeVar

from bigmarket.activity.orders import SKU_MAX, QuotaOrder, place, recharge
from bigmarket.activity.quota import Bundle
from bigmarket.activity.revision import Revision
from bigmarket.award.claims import (
    CARRIER_MAX,
    TRACKING_MAX,
    Contact,
    DeliveryView,
    clean_contact,
    delivery_view,
)
from bigmarket.award.model import Award
from bigmarket.award.void import ORDER_ID_MAX, VoidAsked, Voided
from bigmarket.award.void import clean as clean_void
from bigmarket.credit.model import AccountStatus, CreditOrder, adjustment
from bigmarket.errors import Contention, NotFound
from bigmarket.ids import Ids
from bigmarket.live import Live
from bigmarket.storage import queries
from bigmarket.storage.adjusting import adjust, set_status
from bigmarket.storage.claims import Shipped, claim_award, find_record, ship_award, standing_of
from bigmarket.storage.escrow import Escrow
from bigmarket.storage.installation import Stores
from bigmarket.storage.replays import IMPORTED_REVISION
from bigmarket.storage.voids import void_award
from bigmarket.text import KEY_MAX, clean_text

T = TypeVar("T")

CHANGE_ATTEMPTS_MAX = 4
RETRY_JITTER_SECONDS = 0.05
MINUTE_MS = 60_000
SEEDS_KEPT = 1024
REVISIONS_KEPT = 64


class Operations:
    """On one installation. An order that is placed waits ``order_minutes`` for its payment."""

    def __init__(
        self,
        stores: Stores,
        *,
        escrow: Escrow | None,
        live: Live,
        ids: Ids,
        now_ms: Callable[[], int],
        order_minutes: int,
    ) -> None:
        self.stores = stores
        self.escrow = escrow
        self.live = live
        self.ids = ids
        self.now_ms = now_ms
        self.seed_of = lru_cache(maxsize=SEEDS_KEPT)(self._read_seed)  # a seed never changes
        self.revision_of = lru_cache(maxsize=REVISIONS_KEPT)(self._read_revision)  # neither does a revision
        self._order_ms = order_minutes * MINUTE_MS

    def recharge(self, user_id: str, *, sku: int, out_business_no: str) -> QuotaOrder:
        """Credit a user with a sku's draws, once per ``out_business_no``. Tried again after a lost race."""
        return self._order(recharge, user_id, sku=sku, out_business_no=out_business_no)

    def place_order(self, user_id: str, *, sku: int, out_business_no: str) -> QuotaOrder:
        """Hold a unit of a sku for a user, who pays it by an exchange, or as a trade of this ``out_business_no``.

        It expires after ``order_minutes``; asked again, it answers the order that waits. Tried again after a lost
        race.
        """
        write = partial(place, expire_at_ms=self.now_ms() + self._order_ms)
        return self._order(write, user_id, sku=sku, out_business_no=out_business_no)

    def adjust_credits(self, user_id: str, *, amount_cents: int, reason: str, out_business_no: str) -> CreditOrder:
        """Give or take a user's credits, once per ``out_business_no``. Tried again after a lost race.

        Taken under the number of an order that waits, they are its payment. Raises BadInput, Duplicate, CreditShort
        or CreditAccountClosed.
        """
        now = self.now_ms()
        order = adjustment(
            order_id=self.ids.make(now),
            user_id=user_id,
            amount_cents=amount_cents,
            reason=reason,
            out_business_no=out_business_no,
            now_ms=now,
        )
        store = self.stores.of(order.user_id)

        def write() -> CreditOrder:
            with store.updating() as connection:
                return adjust(connection, order, split=store.split)

        return _persistently(write)

    def set_credit_status(self, user_id: str, *, status: AccountStatus) -> None:
        """Open or close a user's credit account; while it is closed, credits neither come nor go. Raises NotFound."""
        user_id = clean_text(user_id, name="user_id", max_length=KEY_MAX)
        with self.stores.of(user_id).updating() as connection:
            set_status(connection, user_id, status=status)

    def void(self, asked: VoidAsked, *, user_id: str | None = None) -> Voided:
        """Take an award back, once, with the compensations that are chosen. Tried again after a lost race.

        ``user_id`` says whose it must be. Raises BadInput, NotFound, CreditShort or CreditAccountClosed.
        """
        asked = clean_void(asked)
        now = self.now_ms()
        return _persistently(
            lambda: void_award(self.stores, asked, user_id=user_id, now_ms=now, new_id=self.ids.make)
        )

    def award_of(self, activity_id: int, revision_id: str, award_id: int) -> Award | None:
        """What the catalogue of a record's revision says of its award; the live one's, if the record was imported."""
        if revision_id != IMPORTED_REVISION:
            return self.revision_of(activity_id, revision_id).awards.get(award_id)
        activity = self.live.current.get(activity_id)
        return activity.revision.awards.get(award_id) if activity and activity.revision else None

    def claim(self, user_id: str, order_id: str, contact: Contact) -> DeliveryView:
        """Say where a physical award of the user's goes; how it stands then. Tried again after a lost race.

        The same contact again changes nothing; another one counts until the thing is shipped. Raises BadInput,
        NotFound, ClaimExpired or Duplicate.
        """
        user_id = clean_text(user_id, name="user_id", max_length=KEY_MAX)
        order_id = clean_text(order_id, name="order_id", max_length=ORDER_ID_MAX)
        contact, now, store = clean_contact(contact), self.now_ms(), self.stores.of(user_id)
        with store.reading() as connection:
            record = find_record(connection, store.split, user_id, order_id)
        award = self.award_of(record.activity_id, record.revision_id, record.award_id)
        if award is None:
            raise NotFound("This award is not in the catalogue any more; ask whoever runs the activity.")

        def write() -> DeliveryView:
            with store.updating() as connection:
                claim_award(connection, store.split, record, award, contact, now_ms=now)
                view = delivery_view(standing_of(connection, record), award, now_ms=now)
            assert view is not None, "a physical award is delivered"
            return view

        return _persistently(write)

    def ship(self, order_id: str, *, carrier: str, tracking: str, correct: bool = False) -> Shipped:
        """Note that a claimed award went, which completes it; ``correct`` replaces what was noted before.

        Tried again after a lost race. Raises BadInput, NotFound or Duplicate.
        """
        order_id = clean_text(order_id, name="order_id", max_length=ORDER_ID_MAX)
        carrier = clean_text(carrier, name="carrier", max_length=CARRIER_MAX)
        tracking = clean_text(tracking, name="tracking", max_length=TRACKING_MAX)
        return _persistently(
            lambda: ship_award(
                self.stores, order_id, carrier=carrier, tracking=tracking, correct=correct, now_ms=self.now_ms()
            )
        )

    def _order(self, write: Callable[..., QuotaOrder], user_id: str, *, sku: int, out_business_no: str) -> QuotaOrder:
        """Have ``write`` order a unit; where others have it, it is fetched first."""
        user_id = clean_text(user_id, name="user_id", max_length=KEY_MAX)  # before it says where the rows live
        # Read before the transaction: who holds a connection and waits for a second one may wait for ever.
        bundle = self._read_bundle(sku) if 1 <= sku <= SKU_MAX else None

        def sell() -> QuotaOrder:
            now = self.now_ms()
            with self.stores.of(user_id).recharging(user_id) as tx:
                return write(
                    tx,
                    user_id=user_id,
                    sku=sku,
                    out_business_no=out_business_no,
                    now_ms=now,
                    order_id=self.ids.make(now),
                    live=self.live.current,
                    bundle_of=lambda _: bundle,
                )

        escrow, shard = self.escrow, self.stores.routing.shard_of(user_id)
        return _persistently(sell if escrow is None else lambda: escrow.selling(shard, sku, sell))

    def _read_seed(self, activity_id: int, epoch: int) -> bytes:
        with self.stores.config.reading() as connection:
            return queries.seed_of(connection, activity_id, epoch)

    def _read_revision(self, activity_id: int, revision_id: str) -> Revision:
        with self.stores.config.reading() as connection:
            return queries.revision_of(connection, activity_id, revision_id)

    def _read_bundle(self, sku: int) -> Bundle | None:
        with self.stores.config.reading() as connection:
            return queries.bundle_of(connection, sku)


def _persistently(change: Callable[[], T]) -> T:
    """Make the change; again when a race was lost."""
    for _ in range(CHANGE_ATTEMPTS_MAX - 1):
        with suppress(Contention):
            return change()
        time.sleep(random.uniform(0, RETRY_JITTER_SECONDS))  # noqa: S311  spreads retries, not prizes
    return change()
