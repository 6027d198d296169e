"""What a kind of award says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from bigmarket.award.message import SendAward
from bigmarket.credit.model import CreditTrade

#: Who delivers: nobody needs to, a task of the outbox, or a person.
Delivery = Literal["none", "task", "operator"]

#: What a task's kind gives: credits and draws in the transaction of its message, or what takes more than that, by way
#: of ``award_delivery``: the call of a webhook, a redemption code.
Gives = Literal["credits", "draws", "webhook", "code"]

#: ``roll(faces)`` is a number in ``[0, faces)`` that follows from the order's seed, so it can be derived again.
Roll = Callable[[int], int]


class Outside(NamedTuple):
    """A delivery that takes more than a transaction: it is written down, and carried out and logged afterwards.

    ``place`` is where it goes, at most 32 characters; a slow place does not hold the others up.
    """

    place: str


class SkuUnit(NamedTuple):
    """One unit of a sku of the same activity: its draws are credited."""

    sku: int


Effect = CreditTrade | SkuUnit | Outside


class Kind(Protocol):
    """A kind of award; one small file each."""

    @property
    def name(self) -> str:
        """The award key of the catalogue."""
        ...

    @property
    def delivery(self) -> Delivery:
        """Who delivers it."""
        ...

    def check(self, config: str) -> str | None:
        """What is wrong with a config, or None; asked by armory."""
        ...


class TaskKind(Kind, Protocol):
    """A kind that a task of the outbox delivers."""

    @property
    def gives(self) -> Gives:
        """What its effect is."""
        ...

    def effect(self, won: SendAward, *, roll: Roll) -> Effect:
        """What the winner gets, by ``won.award_config``. Pure. Raises BadInput if that config is wrong."""
        ...


class OutsideKind(TaskKind, Protocol):
    """A kind whose effect is always ``Outside``."""

    def place_of(self, config: str) -> str:
        """Where awards of this config go. Raises BadInput if it is wrong."""
        ...
