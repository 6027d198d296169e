"""The message ``send_rebate``: all that giving a rebate needs to know."""

from __future__ import annotations

import msgspec

SEND_REBATE = "send_rebate"
NUMBER_MAX = 128  # characters of the number of a quota order or a credit order


class SendRebate(msgspec.Struct, frozen=True, rename="camel"):
    """Field names on the wire are the reference's, with ``orderId`` and ``activityId`` added.

    ``rebate_config`` is the sku for the type ``sku``, whole credits for ``integral``.
    """

    user_id: str
    order_id: str
    activity_id: int
    rebate_type: str
    rebate_config: str
    biz_id: str

    @property
    def out_business_no(self) -> str:
        """The number of what it gives: its ``biz_id``, or where that is too long its order id."""
        return self.biz_id if len(self.biz_id) <= NUMBER_MAX else self.order_id


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(SendRebate).decode
