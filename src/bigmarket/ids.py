"""Time-ordered ids, made without coordination: ULIDs (48 bits of milliseconds, 80 bits of randomness, 26 characters).

Source of the layout: the ULID specification (Crockford's base 32, most significant bits first).
"""

from __future__ import annotations

import os
import threading
from hashlib import sha256

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_RANDOM_BITS = 80
_TIME_CHARACTERS = 10  # the other 16 are random
_STEP_BITS = 32  # an id made in the same millisecond is the last one plus a random step of at most 2^32


class Ids:
    """Makes ids that sort by time, and by order of making within one maker. Safe to share between threads."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def make(self, now_ms: int) -> str:
        """One new id stamped ``now_ms`` (epoch milliseconds), or later if the clock went back."""
        with self._lock:
            fresh = now_ms << _RANDOM_BITS
            if fresh >> _RANDOM_BITS > self._last >> _RANDOM_BITS:
                self._last = fresh | int.from_bytes(os.urandom(9))
            else:
                self._last += 1 + int.from_bytes(os.urandom(_STEP_BITS // 8))
            value = self._last
        return encode(value)


def first_at(ms: int) -> str:
    """The smallest id of a millisecond: ids from before sort below it."""
    return encode(ms << _RANDOM_BITS)


def derived(order_id: str, purpose: str) -> str:
    """Another id of the same millisecond, always the same for an id and what it is for."""
    digest = sha256(f"{order_id}|{purpose}".encode()).digest()
    return order_id[:_TIME_CHARACTERS] + encode(int.from_bytes(digest[: _RANDOM_BITS // 8]))[_TIME_CHARACTERS:]


def encode(value: int) -> str:
    """A 130-bit-wide base 32 text of 26 characters for ``0 <= value < 2**128``."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])
