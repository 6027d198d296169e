"""``openai_model``: the use of models; the service's own system opens them to the winner."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery, Gives, Outside, Roll
from bigmarket.award.message import SendAward

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


@dataclass(frozen=True, slots=True)
class OpenaiModel:
    """``config`` is a comma-separated list of model names; it goes to the endpoint of the kind's name."""

    name: str = "openai_model"
    delivery: Delivery = "task"
    gives: Gives = "webhook"

    def check(self, config: str) -> str | None:
        """At least one name, each of them readable."""
        for model in config.split(","):
            if _MODEL.fullmatch(model.strip()) is None:
                return f"config must be a comma-separated list of model names; `{model.strip()}` is none"
        return None

    def effect(self, won: SendAward, *, roll: Roll) -> Outside:  # noqa: ARG002  nothing is rolled
        """A call of the endpoint."""
        return Outside(self.place_of(won.award_config))

    def place_of(self, config: str) -> str:  # noqa: ARG002  one endpoint for all
        """The endpoint of this name."""
        return self.name
