"""Waiting until something is so."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep


def eventually(condition: Callable[[], bool], *, seconds: float = 20.0, pause_seconds: float = 0.005) -> float:
    """Wait until ``condition`` holds; fail if it does not in time. Returns the seconds that took."""
    began = monotonic()
    while not condition():
        assert monotonic() < began + seconds, f"did not happen within {seconds} s"
        sleep(pause_seconds)
    return monotonic() - began
