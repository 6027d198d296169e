"""What a call says, how it is signed (Standard Webhooks), and what its answer means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from standardwebhooks import Webhook

from bigmarket.award.deliveries import Answer, AwardDelivery, Fulfilled, Unfulfilled
from bigmarket.award.endpoints import Endpoint
from bigmarket.award.message import decode
from bigmarket.errors import BadInput
from bigmarket.webhooks.address import read_url
from bigmarket.webhooks.post import NoReply, Poster, Reply

log = structlog.get_logger(__name__)

AWARD_WON = "award.won"
TEST = "bigmarket.test"
GONE = 410
USER_AGENT = "bigmarket-webhooks/1"


class WebhookFulfiller:
    """Delivers awards to endpoints; ``find`` and ``close`` them in the configuration database."""

    def __init__(
        self, poster: Poster, *, find: Callable[[str], Endpoint | None], close: Callable[[str], None]
    ) -> None:
        self._poster = poster
        self._find = find
        self._close = close

    def __call__(self, delivery: AwardDelivery, *, now_ms: int) -> Answer:
        """One call. Raises ``Trouble`` when the endpoint cannot be looked up or closed."""
        endpoint = self._find(delivery.place)
        if endpoint is None:
            return Unfulfilled(f"there is no endpoint {delivery.place}")
        if endpoint.state != "open":
            return Unfulfilled(f"endpoint {delivery.place} is closed")
        try:
            reply = send(self._poster, endpoint, webhook_id=delivery.order_id, body=body_of(delivery), now_ms=now_ms)
        except (BadInput, NoReply) as error:
            return Unfulfilled(str(error))
        if 200 <= reply.status < 300:
            return Fulfilled(status=reply.status)
        if reply.status == GONE:
            self._close(delivery.place)
            log.error("endpoint closed: it said that it is gone", endpoint=delivery.place)
        return Unfulfilled(_reason(reply), reply.status, hopeless=reply.status == GONE, wait_ms=reply.wait_ms)


def send(poster: Poster, endpoint: Endpoint, *, webhook_id: str, body: bytes, now_ms: int) -> Reply:
    """Call the endpoint once. Raises BadInput when its URL may not be called (any more), or NoReply."""
    target = read_url(endpoint.url, allowed=poster.allowed)
    headers = {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        **signed(endpoint.secrets(now_ms), webhook_id=webhook_id, body=body, now_ms=now_ms),
    }
    return poster.post(target, headers=headers, body=body, now_ms=now_ms)


def signed(secrets: Sequence[str], *, webhook_id: str, body: bytes, now_ms: int) -> dict[str, str]:
    """The headers of Standard Webhooks: each secret signs, separated by a space."""
    moment = datetime.fromtimestamp(now_ms // 1_000, tz=UTC)
    text = body.decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(now_ms // 1_000),
        "webhook-signature": " ".join(Webhook(secret).sign(webhook_id, moment, text) for secret in secrets),
    }


def body_of(delivery: AwardDelivery) -> bytes:
    """The same bytes at every attempt."""
    won = decode(delivery.message)
    return _body(
        AWARD_WON,
        delivery.create_time_ms,
        {
            "userId": won.user_id,
            "orderId": won.order_id,
            "activityId": won.activity_id,
            "awardId": won.award_id,
            "awardKey": won.award_key,
            "awardTitle": won.award_title,
            "awardConfig": won.award_config,
        },
    )


def trial_body(endpoint: str, *, now_ms: int) -> bytes:
    """What `webhooks test` sends."""
    return _body(TEST, now_ms, {"endpoint": endpoint})


def _body(type_: str, time_ms: int, data: dict[str, Any]) -> bytes:
    moment = datetime.fromtimestamp(time_ms / 1_000, tz=UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode({"type": type_, "timestamp": moment.replace("+00:00", "Z"), "data": data})


def _reason(reply: Reply) -> str:
    if 300 <= reply.status < 400:
        return f"{reply.phrase}: redirects are not followed; correct the endpoint's URL"
    return f"{reply.phrase}: {reply.excerpt}" if reply.excerpt else reply.phrase
