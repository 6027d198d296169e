"""What an award record's message means for its winner."""

from __future__ import annotations

from collections.abc import Callable

from bigmarket.award.kinds import TASK_KINDS
from bigmarket.award.kinds.base import Effect
from bigmarket.award.message import SendAward
from bigmarket.errors import NotFound
from bigmarket.strategy import dice

RecordKey = tuple[str, str]  # user_id, order_id
SeedOf = Callable[[int, int], bytes]  # the seed of an activity's epoch; raises NotFound


def effect_of(message: SendAward, seed_of: SeedOf) -> Effect:
    """What the winner gets. Raises NotFound (no such kind or seed) or BadInput (its config cannot be read)."""
    kind = TASK_KINDS.get(message.award_key)
    if kind is None:
        raise NotFound(f"No kind {message.award_key!r} is delivered by a task.")

    def roll(faces: int) -> int:
        return roll_credit(seed_of(message.activity_id, message.epoch), message.order_id, faces)

    return kind.effect(message, roll=roll)


def roll_credit(seed: bytes, order_id: str, faces: int) -> int:
    """The order's roll for its amount; whoever explains the order rolls it again."""
    return dice.roll(seed, order_id, purpose="credit", faces=faces)
