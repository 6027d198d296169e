"""What an operator takes back: an award is voided once, with whatever of its draw shall be as if it had not been.

Three things can be given back, each as chosen. The unit of stock can be won again. The draw can be made again: its
raffle order is cancelled, so the user's next draw has the number that a later one may have had already, and a tier
or a lock that this number opens, opens again. Credits that the award gave are taken back, all of them or, when the
balance does not cover them, nothing is voided.

What cannot be taken back stays as it is: draws of a sku that was won, a code that the winner has seen, a parcel. The
outcome stays too: the request id gives the same answer, and ``explain`` derives the same award.
"""

from __future__ import annotations

from typing import NamedTuple

from bigmarket.text import clean_text

REASON_MAX = 255
ORDER_ID_MAX = 26


class VoidAsked(NamedTuple):
    """Which award shall be voided, why, and what shall be given back."""

    order_id: str
    reason: str
    stock: bool = False
    quota: bool = False
    credits: bool = False


class Voided(NamedTuple):
    """An award that was voided; ``repeated`` when it was before, and then this is what was done then.

    ``credit_cents`` were taken back.
    """

    order_id: str
    user_id: str
    activity_id: int
    award_id: int
    stock_returned: bool
    quota_returned: bool
    credit_cents: int
    reason: str
    void_time_ms: int
    repeated: bool = False


def clean(asked: VoidAsked) -> VoidAsked:
    """With its texts checked. Raises BadInput."""
    return asked._replace(
        order_id=clean_text(asked.order_id, name="order_id", max_length=ORDER_ID_MAX),
        reason=clean_text(asked.reason, name="reason", max_length=REASON_MAX),
    )


def trade_number(order_id: str) -> str:
    """The ``out_business_no`` of the trade that takes an award's credits back."""
    return f"void-{order_id}"
