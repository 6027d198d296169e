"""What a rule is judged by and what it answers. Rules are frozen, hold only their settings, and do no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec
from pydantic import BaseModel, ConfigDict

Verdict = Literal["ALLOW", "TAKE_OVER"]


class Settings(BaseModel):
    """A rule's settings as a campaign file writes them: strict names, never changed once read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """Facts the chain judges by: who draws, and which draw of theirs in this activity it is (from 1)."""

    user_id: str
    ordinal: int


class Given(msgspec.Struct, frozen=True, gc=False):
    """A chain rule's answer: this award, no roll."""

    award_id: int
    config: str | None


class Narrowed(msgspec.Struct, frozen=True, gc=False):
    """A chain rule's answer: roll among the awards of this table only."""

    table: str


class Visit(msgspec.Struct, frozen=True, gc=False):
    """Facts the tree judges by.

    ``award_id`` was rolled; ``ordinal_today`` is which draw of the user's day this is (from 1); ``won_before`` is how
    often the user won the award so far, where that is limited (0 elsewhere); ``take_unit(award_id)`` takes one unit
    of the award if there is one and says whether it did.
    """

    award_id: int
    ordinal_today: int
    won_before: int
    take_unit: Callable[[int], bool]


class NodeAnswer(NamedTuple):
    """A node's verdict, and the award it puts in place of the rolled one (only ``rule_luck_award`` does)."""

    verdict: Verdict
    award_id: int | None = None
    config: str | None = None


ALLOW = NodeAnswer("ALLOW")
TAKE_OVER = NodeAnswer("TAKE_OVER")
