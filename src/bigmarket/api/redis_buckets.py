"""Token buckets in Redis, which all processes take from. Redis says who calls too often, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from hashlib import sha256

import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bigmarket.api.buckets import Draft

log = structlog.get_logger(__name__)

TIMEOUT_SECONDS = 0.05
PAUSE_SECONDS = 1.0  # without Redis, after it was in trouble
WARN_SECONDS = 60.0
CONNECTIONS_MAX = 64
PREFIX = "bigmarket:bucket:"

#: As ``Buckets.take``, by Redis's own clock. KEYS are buckets, ARGV their calls and seconds; answers microseconds.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local later, wait = {}, 0
for i, key in ipairs(KEYS) do
  local calls, period = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i]) * 1000000
  local full_at = tonumber(redis.call('GET', key) or '0')
  later[i] = math.max(full_at, now) + math.ceil(period / calls)
  wait = math.max(wait, later[i] - now - period - calls)
end
if wait > 0 then
  return wait
end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.0f', later[i]), 'PX', math.ceil((later[i] - now) / 1000))
end
return 0
"""


class RedisBuckets:
    """Buckets at ``url``. Every wait is bounded, nothing is tried twice, and trouble is answered with None."""

    def __init__(self, url: str) -> None:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = redis.Redis.from_pool(pool)
        self._take = self._redis.register_script(_TAKE)
        self._resume_at = self._warn_at = 0.0

    async def take(self, drafts: Sequence[Draft]) -> float | None:
        """As ``Buckets.take``; None when Redis cannot be asked, or could not a moment ago."""
        if time.monotonic() < self._resume_at:
            return None
        keys = [PREFIX + sha256(key.encode()).hexdigest()[:32] for key, _ in drafts]
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                wait = await self._take(keys=keys, args=[number for _, rate in drafts for number in rate])
        except (redis.RedisError, OSError, TimeoutError) as error:
            self._in_trouble(error)
            return None
        return int(wait) / 1_000_000

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()

    def _in_trouble(self, error: Exception) -> None:
        now = time.monotonic()
        self._resume_at = now + PAUSE_SECONDS
        if now >= self._warn_at:
            self._warn_at = now + WARN_SECONDS
            log.warning("Redis is in trouble; each process limits rates by itself", reason=type(error).__name__)
