"""What operators switch while everything runs: draws off and on, limits off and on, and how tight they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bigmarket.errors import BadInput

CALLS_MAX = 1_000_000
PERIOD_SECONDS_MAX = 86_400
DEFAULT = "default"  # the value that takes an operator's word back

_UNITS = {"s": 1, "m": 60, "h": 3600}
_RATE = re.compile(r"([0-9]{1,7})/([0-9]{1,5})([smh])")


class Rate(NamedTuple):
    """``calls`` may come at once, and as many again in every ``seconds``."""

    calls: int
    seconds: int


def rate_of(text: str) -> Rate | None:
    """The rate that is written ``5/1s``, ``100/1m`` or ``1000/24h``; None for ``off``. Raises BadInput."""
    if text == "off":
        return None
    words = _RATE.fullmatch(text)
    if words:
        rate = Rate(int(words[1]), int(words[2]) * _UNITS[words[3]])
        if 1 <= rate.calls <= CALLS_MAX and 1 <= rate.seconds <= PERIOD_SECONDS_MAX:
            return rate
    raise BadInput(
        f"must be `off`, or calls per time such as 5/1s or 100/1m: at most {CALLS_MAX} calls, at most a day"
    )


def _is_open(text: str) -> bool:
    if text not in ("open", "close"):
        raise BadInput("must be `open` or `close`")
    return text == "open"


@dataclass(frozen=True, slots=True)
class Switches:
    """As they stand. ``degraded``: no draws; ``limited``: the rates are kept (None: no limit of that kind)."""

    degraded: bool = False
    limited: bool = False
    user_rate: Rate | None = None
    address_rate: Rate | None = None

    def turned(self, values: Mapping[str, str]) -> Switches:
        """These, with what operators said; what another version said and this one does not know is let be."""
        return replace(self, **dict(_read(key, value) for key, value in values.items() if _known(key, value)))

    def written(self) -> dict[str, str]:
        """Every switch, as it is written."""
        return {
            "degradeSwitch": _open_or_close(self.degraded),
            "rateLimiterSwitch": _open_or_close(self.limited),
            "rateLimitUser": _rate_text(self.user_rate),
            "rateLimitAddress": _rate_text(self.address_rate),
        }


#: Which field a switch is, and how its value is read.
_SWITCHES: dict[str, tuple[str, Callable[[str], object]]] = {
    "degradeSwitch": ("degraded", _is_open),
    "rateLimiterSwitch": ("limited", _is_open),
    "rateLimitUser": ("user_rate", rate_of),
    "rateLimitAddress": ("address_rate", rate_of),
}


def check_switch(key: str, value: str) -> None:
    """Raise BadInput, naming what is known, unless the switch exists and can be turned to ``value``."""
    if key not in _SWITCHES:
        raise BadInput(f"There is no such switch; known are {', '.join(_SWITCHES)}.")
    if value != DEFAULT:
        try:
            _read(key, value)
        except BadInput as error:
            raise BadInput(f"The value of {key} {error}; or `{DEFAULT}`, which is what the settings say.") from None


def _read(key: str, value: str) -> tuple[str, Any]:
    name, reader = _SWITCHES[key]
    return name, reader(value)


def _known(key: str, value: str) -> bool:
    try:
        check_switch(key, value)
    except BadInput:
        return False
    return value != DEFAULT


def _open_or_close(on: bool) -> str:
    return "open" if on else "close"


def _rate_text(rate: Rate | None) -> str:
    if rate is None:
        return "off"
    unit = next(unit for unit in "hms" if rate.seconds % _UNITS[unit] == 0)
    return f"{rate.calls}/{rate.seconds // _UNITS[unit]}{unit}"
