"""``webhook``: whatever another system does with it; the award is posted to an endpoint of the operator's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery, Gives, Outside, Roll
from bigmarket.award.message import SendAward
from bigmarket.errors import BadInput

ENDPOINT_CHARACTERS_MAX = 32

_ENDPOINT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Webhook:
    """``config`` is ``endpoint`` or ``endpoint:free text``; the receiver reads the text."""

    name: str = "webhook"
    delivery: Delivery = "task"
    gives: Gives = "webhook"

    def check(self, config: str) -> str | None:
        """The name of an endpoint first."""
        try:
            self.place_of(config)
        except BadInput as bad:
            return str(bad)
        return None

    def effect(self, won: SendAward, *, roll: Roll) -> Outside:  # noqa: ARG002  nothing is rolled
        """A call of the endpoint."""
        return Outside(self.place_of(won.award_config))

    def place_of(self, config: str) -> str:
        """The endpoint. Raises BadInput."""
        return read_endpoint(config.partition(":")[0], name="config must begin with the name of an endpoint, which")


def read_endpoint(text: str, *, name: str) -> str:
    """The name of an endpoint. Raises BadInput."""
    endpoint = text.strip()
    if _ENDPOINT.fullmatch(endpoint) is None:
        raise BadInput(
            f"{name} has 1 to {ENDPOINT_CHARACTERS_MAX} small letters, digits, hyphens and underscores, "
            "the first a letter or digit"
        )
    return endpoint
