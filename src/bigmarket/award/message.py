"""The message ``send_award``: all that a delivery needs to know, so that it depends on nothing that may change."""

from __future__ import annotations

import msgspec

SEND_AWARD = "send_award"


class SendAward(msgspec.Struct, frozen=True, rename="camel"):
    """Field names on the wire are the reference's, with ``activityId``, ``epoch`` and ``awardKey`` added.

    ``award_config`` is the one in force: a rule's own, else the catalogue's.
    """

    user_id: str
    order_id: str
    activity_id: int
    epoch: int
    award_id: int
    award_key: str
    award_title: str
    award_config: str


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(SendAward).decode
