"""What a kind of award says about itself."""

from __future__ import annotations

from typing import Literal, Protocol

#: Who delivers: nobody needs to, a task of the outbox, or a person.
Delivery = Literal["none", "task", "operator"]


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
