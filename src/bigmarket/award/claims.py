"""Things that are handed over: the winner says where to, in time; how a delivery stands, for players to see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from bigmarket.award.deliveries import DeliveryState
from bigmarket.award.kinds import KINDS
from bigmarket.award.kinds.physical import Physical
from bigmarket.award.model import Award
from bigmarket.errors import BadInput, BigmarketError
from bigmarket.text import clean_text

PHYSICAL = Physical().name
NAME_MAX, PHONE_MAX, ADDRESS_MAX, NOTE_MAX = 64, 32, 300, 200
CARRIER_MAX, TRACKING_MAX = 64, 64
DAY_MS = 24 * 3_600_000

_PHONE = re.compile(r"\+?[0-9 ()./-]+")
_DIGITS_MIN = 5

#: What players are told: nothing is to be done, it must be claimed, it is claimed, on its way, theirs; or why not.
Shown = Literal["waiting", "unclaimed", "claimed", "shipped", "delivered", "failed", "expired", "void"]


class ClaimExpired(BigmarketError):
    """The award had to be claimed earlier."""

    code = "claim_expired"
    v1_code = "0002"


class Contact(NamedTuple):
    """Where a thing goes to. Personal: it is never logged, and erased some time after the thing was shipped."""

    name: str
    phone: str
    address: str
    note: str | None = None


class Standing(NamedTuple):
    """What is stored of an award and its delivery; no ``delivery_state``: nothing was written down of one."""

    award_state: str
    award_time_ms: int
    voided: bool
    delivery_state: DeliveryState | None
    result: Mapping[str, str] | None


class DeliveryView(NamedTuple):
    """A delivery as its winner sees it; ``claim_before_ms`` is when it expires unless it is claimed before."""

    state: Shown
    claim_before_ms: int | None = None
    code: str | None = None
    carrier: str | None = None
    tracking: str | None = None


def clean_contact(contact: Contact) -> Contact:
    """With its texts checked. Raises BadInput, which names the field and never the value."""
    phone = clean_text(contact.phone, name="phone", max_length=PHONE_MAX)
    if _PHONE.fullmatch(phone) is None or sum(character.isdigit() for character in phone) < _DIGITS_MIN:
        raise BadInput(f"phone must have at least {_DIGITS_MIN} digits, and only digits, blanks and + ( ) . / -")
    note = contact.note
    return Contact(
        clean_text(contact.name, name="name", max_length=NAME_MAX),
        phone,
        clean_text(contact.address, name="address", max_length=ADDRESS_MAX),
        clean_text(note, name="note", max_length=NOTE_MAX) if note is not None and note.strip() else None,
    )


def claim_before_ms(award: Award, *, award_time_ms: int) -> int | None:
    """The first millisecond in which it can be claimed no more; None: it always can."""
    return None if award.claim_days is None else award_time_ms + award.claim_days * DAY_MS


def delivery_view(standing: Standing, award: Award | None, *, now_ms: int) -> DeliveryView | None:
    """How a delivery stands; None for an award of which nothing is delivered, or that is not known any more."""
    if award is None or KINDS[award.kind].delivery == "none":
        return None
    by_hand = award.kind == PHYSICAL
    before_ms = claim_before_ms(award, award_time_ms=standing.award_time_ms) if by_hand else None
    result = standing.result or {}
    state = _state(standing, by_hand=by_hand, expired=before_ms is not None and now_ms >= before_ms)
    open_until = before_ms if state in ("unclaimed", "expired") else None
    return DeliveryView(state, open_until, result.get("code"), result.get("carrier"), result.get("tracking"))


def _state(standing: Standing, *, by_hand: bool, expired: bool) -> Shown:
    if standing.voided:
        return "void"
    if standing.award_state == "fail":
        return "failed"
    if standing.award_state == "completed":
        return "shipped" if by_hand and standing.delivery_state == "done" else "delivered"
    if not by_hand:
        return "waiting"
    if standing.delivery_state == "claimed":
        return "claimed"
    return "expired" if expired else "unclaimed"
