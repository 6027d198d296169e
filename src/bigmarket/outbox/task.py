"""A task: a message that must go out, written in the transaction of what caused it.

``create`` -> ``completed``, or ``fail`` (tried again at ``next_at_ms``) -> ``parked`` with a reason.
"""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """``message`` is the JSON body; ``attempts`` have failed so far."""

    message_id: str
    user_id: str
    topic: str
    message: bytes
    attempts: int = 0
