"""v1 of the switches: what operators change while everything runs."""

from __future__ import annotations

from typing import Any

import msgspec

from bigmarket.api.v1.asking import Calls, parameters_of
from bigmarket.app import World

calls = Calls()


class SwitchIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A switch and what to turn it to."""

    key: str
    value: str


_UPDATE: dict[str, Any] = {
    "asks": SwitchIn,
    "read": parameters_of,
    "summary": "Turn a switch",
    "data": bool,
    "example": True,
    "codes": ("0002",),
    "when": {"0002": "There is no such switch or value; `info` names those there are."},
}


@calls.of_operators("/dcc/update_config", method="GET", **_UPDATE)
@calls.of_operators("/dcc/update_config", method="POST", **_UPDATE)
def update_config(world: World, asked: SwitchIn) -> bool:
    """`degradeSwitch` and `rateLimiterSwitch` are `open` or `close`; `rateLimitUser` and `rateLimitAddress` are rates
    such as `5/1s`, or `off`. Any may be `default`: what the settings say. Every process follows within a second."""
    world.turn(asked.key, asked.value)
    return True
