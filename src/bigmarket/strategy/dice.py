"""Dice that anyone can check afterwards: a number follows from a seed, the order's id and a purpose.

``number = first 16 bytes of HMAC-SHA256(seed, "order_id|purpose|counter")``, taken modulo the number of faces after
rejection sampling, so every face is exactly equally likely. A seed epoch's hash is published before its first use
and its seed revealed when it closes; nobody can choose or predict a roll in between.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

_SPACE = 1 << 128
_REROLLS_MAX = 64  # a reroll has a chance below 1/2 at most; 64 in a row do not happen


def roll(seed: bytes, order_id: str, *, purpose: str, faces: int) -> int:
    """A number in ``[0, faces)``, uniform and reproducible; ``1 <= faces <= 2**127``."""
    assert 1 <= faces <= _SPACE >> 1, faces
    limit = _SPACE - _SPACE % faces
    for counter in range(_REROLLS_MAX):
        digest = hmac.digest(seed, f"{order_id}|{purpose}|{counter}".encode(), "sha256")
        number = int.from_bytes(digest[:16])
        if number < limit:
            return number % faces
    raise AssertionError("64 rerolls in a row")


def seed_hash(seed: bytes) -> str:
    """What is published before the seed's first use: its SHA-256 in hex."""
    return sha256(seed).hexdigest()
