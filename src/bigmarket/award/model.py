"""The award catalogue as a campaign file writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bigmarket.strategy.model import Id, Key, Title
from bigmarket.strategy.rules.base import Settings

Config = Annotated[str, Field(max_length=128)]


class Award(Settings):
    """What can be delivered: ``kind`` names how, ``config`` is that kind's own setting."""

    award_id: Id
    kind: Key
    config: Config = ""
    description: Title | None = None
    claim_days: Annotated[int, Field(ge=1, le=3650)] | None = Field(
        default=None, description="Days in which the winner of a `physical` award may claim it; leave out: for ever."
    )
