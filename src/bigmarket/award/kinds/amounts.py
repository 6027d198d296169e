"""Amounts of credits as configs write them: exact decimals with at most two places, read as hundredths."""

from __future__ import annotations

import re

from bigmarket.errors import BadInput

CREDITS_MAX = 10**9

_AMOUNT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,2}))?")


def read_cents(text: str, *, name: str) -> int:
    """``text`` in hundredths, above 0 and at most ``CREDITS_MAX`` credits. Raises BadInput with the reason."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{name} must be an amount of credits with at most two decimals, not `{text.strip()}`")
    whole, decimals = match.groups(default="")
    cents = int(whole) * 100 + int(decimals.ljust(2, "0"))
    if cents == 0:
        raise BadInput(f"{name} must be at least 0.01")
    if cents > CREDITS_MAX * 100:
        raise BadInput(f"{name} must be at most {CREDITS_MAX}")
    return cents
