"""What a kind of award says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from bigmarket.award.message import SendAward
from bigmarket.credit.model import CreditTrade

#: Who delivers: nobody needs to, a task of the outbox, or a person.
Delivery = Literal["none", "task", "operator"]

#: ``roll(faces)`` is a number in ``[0, faces)`` that follows from the order's seed, so it can be derived again.
Roll = Callable[[int], int]


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

    def effect(self, won: SendAward, *, roll: Roll) -> CreditTrade:
        """What the winner gets, by ``won.award_config``. Pure. Raises BadInput if that config is wrong."""
        ...
