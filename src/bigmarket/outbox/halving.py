"""Isolation of poison: a batch that fails is halved until what is at fault stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from bigmarket.errors import Trouble

Item = TypeVar("Item")


def isolate(
    items: Sequence[Item],
    *,
    deliver: Callable[[Sequence[Item]], None],
    fail: Callable[[Item, Exception], None],
) -> None:
    """Deliver all of ``items``, in order; ``fail`` takes each one that cannot be delivered even alone, and why.

    ``deliver`` is all or nothing. A ``Trouble``, from either function, is nobody's fault and ends the work: what came
    before the item in trouble is done, the rest is not.
    """
    try:
        deliver(items)
    except Trouble:
        raise
    except Exception as fault:  # noqa: BLE001  whatever it is, the item is parked with it in the end
        if len(items) == 1:
            fail(items[0], fault)
            return
    else:
        return
    middle = len(items) // 2
    isolate(items[:middle], deliver=deliver, fail=fail)
    isolate(items[middle:], deliver=deliver, fail=fail)
