"""Who calls too often: a bucket for each user and for each address, in memory or, across processes, in Redis."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Coroutine, Sequence
from functools import lru_cache
from typing import Any

from bigmarket.api.asgi import Headers
from bigmarket.api.auth import Caller
from bigmarket.api.buckets import Buckets, Draft
from bigmarket.api.errors import RateLimited
from bigmarket.api.redis_buckets import RedisBuckets
from bigmarket.settings import Settings
from bigmarket.switches import Switches

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_PREFIX = 64  # what one customer of a provider has
_FORWARDED_MAX = 32  # addresses read of an X-Forwarded-For, from the right


class Limits:
    """Keeps the rates of ``Switches``. A caller with a server key speaks for many users: its address has no limit."""

    def __init__(self, *, redis_url: str = "", proxies: Sequence[Network] = ()) -> None:
        self._buckets = Buckets()
        self._redis = RedisBuckets(redis_url) if redis_url else None
        self._proxies = tuple(proxies)

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """As the settings say."""
        return cls(redis_url=settings.redis, proxies=settings.proxy_networks)

    def spend(
        self, switches: Switches, peer: str | None, headers: Headers, caller: Caller, *, user_id: str | None = None
    ) -> Coroutine[Any, Any, None] | None:
        """Count a call of the caller's, about this user, who called from ``peer`` with these headers.

        Raises ``RateLimited``; then it was not counted. Where Redis counts, it is what comes of awaiting the result.
        """
        drafts: list[Draft] = []
        if switches.address_rate is not None and not caller.keyed:
            drafts.append((f"address {address_of(peer, headers, self._proxies)}", switches.address_rate))
        if switches.user_rate is not None and user_id is not None:
            drafts.append((f"user {user_id}", switches.user_rate))
        if drafts and self._redis is not None:
            return self._spend_in_redis(self._redis, drafts)
        if drafts:
            _refuse_for(self._buckets.take(drafts))
        return None

    async def _spend_in_redis(self, redis: RedisBuckets, drafts: Sequence[Draft]) -> None:
        wait = await redis.take(drafts)
        _refuse_for(self._buckets.take(drafts) if wait is None else wait)

    async def close(self) -> None:
        """Give connections back."""
        if self._redis is not None:
            await self._redis.close()


def _refuse_for(seconds: float) -> None:
    if seconds > 0:
        raise RateLimited("Too many calls; nothing was spent. Try again later.", retry_seconds=math.ceil(seconds))


def address_of(peer: str | None, headers: Headers, proxies: Sequence[Network]) -> str:
    """Where the call comes from: the peer or, behind proxies of ours, the last address that is none of theirs.

    An IPv6 address stands for its network of 64 bits.
    """
    found = None if peer is None else _address(peer)
    if found is None:
        return "unknown"
    if proxies and _within(found, proxies):
        for hop in reversed(_forwarded(headers)):
            address = _address(hop)
            if address is None:  # what is left of it is nobody's word
                break
            found = address
            if not _within(address, proxies):
                break
    return _bucket_of(found)


def _forwarded(headers: Headers) -> list[str]:
    lines = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return [word.strip() for word in ",".join(lines).split(",")][-_FORWARDED_MAX:]


@lru_cache(maxsize=65_536)
def _address(text: str) -> Address | None:
    """The address in ``1.2.3.4``, ``1.2.3.4:80``, ``::1`` or ``[::1]:80``."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _bucket_of(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address), _IPV6_PREFIX), strict=False))
    return str(address)
