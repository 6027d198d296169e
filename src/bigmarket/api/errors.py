"""Errors at the edge: which HTTP status, which v1 envelope, which headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from bigmarket.api.asgi import Headers, Send
from bigmarket.errors import BadInput, BigmarketError, Trouble

JSON = b"application/json"
RETRY_AFTER_SECONDS = 1

#: The texts of the reference system, by its codes (and the two codes' texts that it keeps in English).
INFO: dict[str, str] = {
    "0000": "调用成功",
    "0001": "调用失败",
    "0002": "非法参数",
    "0003": "唯一索引冲突",
    "0004": "活动已降级",
    "0005": "访问限流拦截",
    "0006": "访问熔断拦截",
    "0007": "网关接口调用失败",
    "0008": "接口权限拦截",
    "0009": "登录权限拦截",
    "ERR_BIZ_001": "抽奖策略权重规则已适用但未配置",
    "ERR_BIZ_002": "抽奖策略未装配",
    "ERR_BIZ_003": "活动未开启（非open状态）",
    "ERR_BIZ_004": "非活动日期范围",
    "ERR_BIZ_005": "活动库存不足",
    "ERR_BIZ_006": "账户总额度不足",
    "ERR_BIZ_007": "账户月额度不足",
    "ERR_BIZ_008": "账户日额度不足",
    "ERR_BIZ_009": "用户抽奖单已使用过，不可重复抽奖",
    "ERR_CONFIG_001": "奖品配置错误",
    "ERR_CREDIT_001": "用户积分账户额度不足",
}

#: Codes whose text alone says everything a player needs; the others get the error's own message appended.
PLAIN_CODES = frozenset({f"ERR_BIZ_{number:03}" for number in range(3, 10)})


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What every v1 call answers."""

    code: str
    info: str
    data: Any = None


encode = msgspec.json.Encoder().encode


class Unreadable(BadInput):
    """The request cannot be read at all; ``status`` says in HTTP's words why."""

    code = "unreadable"

    def __init__(self, status: Literal[400, 404, 405, 408, 413, 415], message: str) -> None:
        super().__init__(message)
        self.status = status


class NoSuchPath(Unreadable):
    """Nothing answers at this path, or not with this method."""

    code = "no_such_path"
    v1_code = "0001"


class WrongMethod(NoSuchPath):
    """A call that is made with other methods."""

    def __init__(self, methods: Sequence[str]) -> None:
        super().__init__(405, f"This call is made with {' or '.join(methods)}.")
        self.methods = methods


class Unauthorized(BigmarketError):
    """The caller showed no valid server key, or app token."""

    code = "unauthorized"
    v1_code = "0008"


class Forbidden(Unauthorized):
    """The caller is known, and this is not for them."""

    code = "forbidden"


class BadToken(BigmarketError):
    """The caller showed no valid user token."""

    code = "bad_token"
    v1_code = "0009"


class WrongUser(BadToken):
    """The token is valid, and another user's."""

    code = "wrong_user"


class Degraded(BigmarketError):
    """An operator has switched draws off for now."""

    code = "degraded"
    v1_code = "0004"
    retryable = True


class RateLimited(BigmarketError):
    """The user or the address called too often; ``retry_seconds`` says when the next call may pass."""

    code = "rate_limited"
    v1_code = "0005"
    retryable = True

    def __init__(self, message: str, *, retry_seconds: int) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Broken(BigmarketError):
    """A fault of ours; the log has it, the caller gets no details."""

    code = "internal"
    outcome = "unknown"


def broken() -> Broken:
    """What a caller is told about a fault of ours."""
    return Broken("Something broke on the server, which has logged it; it is not known whether anything was spent.")


def success(data: object) -> bytes:
    """The envelope of a call that worked."""
    return encode(Envelope("0000", INFO["0000"], data))


def refusal(error: BigmarketError, *, data: object = None) -> bytes:
    """The envelope of a call that did not."""
    return encode(Envelope(error.v1_code, info_of(error), data))


def info_of(error: BigmarketError) -> str:
    """The reference's text for the error's code, with what happened where that text alone does not tell."""
    base = INFO[error.v1_code]
    return base if error.v1_code in PLAIN_CODES else f"{base}: {error}"


def status_of(error: BigmarketError) -> int:
    """v1 answers 200 to whatever the business refuses; the rest of HTTP is for requests and machines that fail."""
    if isinstance(error, Unreadable):
        return error.status
    if isinstance(error, Trouble):
        return 503
    if isinstance(error, Forbidden | WrongUser):
        return 403
    if isinstance(error, Unauthorized | BadToken):
        return 401
    return 500 if isinstance(error, Broken) else 200


def headers_of(error: BigmarketError, body: bytes) -> Headers:
    """The headers of an error's answer: what ``body`` is, what was spent, and when to come back."""
    return [(b"content-type", JSON), (b"content-length", b"%d" % len(body)), *_advice(error)]


async def send_error(error: BigmarketError, send: Send, *more: tuple[bytes, bytes]) -> None:
    """ASGI: the answer to an error, with ``more`` headers."""
    body = refusal(error)
    headers = [*headers_of(error, body), *more]
    await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _advice(error: BigmarketError) -> Headers:
    if isinstance(error, Trouble):
        return [
            (b"bigmarket-outcome", error.outcome.encode()),
            (b"retry-after", str(RETRY_AFTER_SECONDS).encode()),
        ]
    if isinstance(error, Broken):
        return [(b"bigmarket-outcome", error.outcome.encode())]
    if isinstance(error, RateLimited):
        return [(b"retry-after", str(error.retry_seconds).encode())]
    return [(b"www-authenticate", b"Bearer")] if status_of(error) == 401 else []
