"""Endpoints of other systems, where awards are delivered by HTTP."""

from __future__ import annotations

from typing import Literal, NamedTuple

EndpointState = Literal["open", "close"]


class Endpoint(NamedTuple):
    """``secret`` signs; after a rotation ``previous_secret`` also does, until ``previous_until_ms``."""

    endpoint: str
    url: str
    secret: str
    previous_secret: str | None
    previous_until_ms: int | None
    state: EndpointState
    create_time_ms: int

    def secrets(self, now_ms: int) -> tuple[str, ...]:
        """Those that sign now, the newest first."""
        if self.previous_secret is None or (self.previous_until_ms or 0) <= now_ms:
            return (self.secret,)
        return (self.secret, self.previous_secret)
