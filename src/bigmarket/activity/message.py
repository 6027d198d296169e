"""The message ``activity_sku_stock_zero``: somebody took the last unit of a sku that there was in a shard."""

from __future__ import annotations

import msgspec

from bigmarket.ids import derived
from bigmarket.outbox.task import Task

ACTIVITY_SKU_STOCK_ZERO = "activity_sku_stock_zero"


class SkuStockZero(msgspec.Struct, frozen=True, rename="camel"):
    """``order_id`` is that of the quota order that took it. The reference's message is the bare number of the sku."""

    sku: int
    activity_id: int
    order_id: str

    @property
    def message_id(self) -> str:
        """One of its own: the order's may be that of the message which gave it."""
        return derived(self.order_id, ACTIVITY_SKU_STOCK_ZERO)


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(SkuStockZero).decode


def sold_out_task(sku: int, *, activity_id: int, user_id: str, order_id: str) -> Task:
    """The task that tells of it, written with what took the unit."""
    message = SkuStockZero(sku, activity_id, order_id)
    return Task(message.message_id, user_id, ACTIVITY_SKU_STOCK_ZERO, encode(message))
