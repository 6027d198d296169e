"""Time-ordered ids, made without coordination: ULIDs (48 bits of milliseconds, 80 bits of randomness, 26 characters).

Source of the layout: the ULID specification (Crockford's base 32, most significant bits first).
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from hashlib import sha256

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_RANDOM_BITS = 80
_TIME_CHARACTERS = 10  # the other 16 are random
_LOW_BITS = 40  # half of the random ones, which ids made together differ in
_STEP_BYTES = 4  # an id is the last one plus a random step of at most 2^32; a new millisecond begins anew
_HIGH_SHIFTS = range(80, -1, -10)


class Ids:
    """Makes ids that sort by time, and by order of making within one maker. Safe to share between threads."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def make(self, now_ms: int) -> str:
        """One new id stamped ``now_ms`` (epoch milliseconds), or later if the clock went back."""
        return self.make_many(now_ms, 1)[0]

    def make_many(self, now_ms: int, count: int) -> list[str]:
        """``count`` new ids with the same stamp, in order."""
        steps = memoryview(os.urandom(_STEP_BYTES * count)).cast("I")
        values = []
        with self._lock:
            value = self._last
            if now_ms > value >> _RANDOM_BITS:
                value = now_ms << _RANDOM_BITS | int.from_bytes(os.urandom(9))
            for step in steps:
                value += 1 + step
                values.append(value)
            self._last = value
        return [encode(value) for value in values]


def first_at(ms: int) -> str:
    """The smallest id of a millisecond: ids from before sort below it."""
    return encode(ms << _RANDOM_BITS)


def derived(order_id: str, purpose: str) -> str:
    """Another id of the same millisecond, always the same for an id and what it is for."""
    digest = sha256(f"{order_id}|{purpose}".encode()).digest()
    return order_id[:_TIME_CHARACTERS] + encode(int.from_bytes(digest[: _RANDOM_BITS // 8]))[_TIME_CHARACTERS:]


def encode(value: int) -> str:
    """A 130-bit-wide base 32 text of 26 characters for ``0 <= value < 2**128``."""
    first, second = _PAIRS[value >> 30 & 1023], _PAIRS[value >> 20 & 1023]
    return f"{_high(value >> _LOW_BITS)}{first}{second}{_PAIRS[value >> 10 & 1023]}{_PAIRS[value & 1023]}"


@lru_cache(maxsize=64)
def _high(bits: int) -> str:
    """All but the last eight characters, which ids that are made together mostly share."""
    return "".join([_PAIRS[bits >> shift & 1023] for shift in _HIGH_SHIFTS])
