"""The message ``credit_adjust_success``: somebody outside moved a user's points."""

from __future__ import annotations

from decimal import Decimal

import msgspec

CREDIT_ADJUST_SUCCESS = "credit_adjust_success"


class CreditAdjustSuccess(msgspec.Struct, frozen=True, rename="camel"):
    """Field names on the wire are the reference's; ``amount`` is in credits, below 0 when they were taken."""

    user_id: str
    order_id: str
    amount: Decimal
    out_business_no: str


encode = msgspec.json.Encoder(decimal_format="number").encode
decode = msgspec.json.Decoder(CreditAdjustSuccess).decode
