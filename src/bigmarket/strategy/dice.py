"""Dice that anyone can check afterwards: a number follows from a seed, the order's id and a purpose.

``number = first 16 bytes of HMAC-SHA256(seed, "order_id|purpose|counter")``, taken modulo the number of faces after
rejection sampling, so every face is exactly equally likely. A seed epoch's hash is published before its first use
and its seed revealed when it closes; nobody can choose or predict a roll in between.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

_SPACE = 1 << 128
_BLOCK = sha256().block_size
_REROLLS_MAX = 64  # a reroll has a chance below 1/2 at most; 64 in a row do not happen


def roll(seed: bytes, order_id: str, *, purpose: str, faces: int) -> int:
    """A number in ``[0, faces)``, uniform and reproducible; ``1 <= faces <= 2**127``."""
    assert 1 <= faces <= _SPACE >> 1, faces
    limit = _SPACE - _SPACE % faces
    for counter in range(_REROLLS_MAX):
        number = int.from_bytes(_hmac(seed, f"{order_id}|{purpose}|{counter}".encode())[:16])
        if number < limit:
            return number % faces
    raise AssertionError("64 rerolls in a row")


def _hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104), of which all that depends on the key alone is done once: half the time of ``hmac``."""
    inner, outer = _keyed(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(maxsize=256)
def _keyed(key: bytes) -> tuple[_Hash, _Hash]:
    """The inner and the outer hash, fed with the key's pads."""
    block = (key if len(key) <= _BLOCK else sha256(key).digest()).ljust(_BLOCK, b"\0")
    return sha256(bytes(byte ^ 0x36 for byte in block)), sha256(bytes(byte ^ 0x5C for byte in block))


def seed_hash(seed: bytes) -> str:
    """What is published before the seed's first use: its SHA-256 in hex."""
    return sha256(seed).hexdigest()
