"""Who may call: holders of a server key. Without any key the API is open, which ``serve`` allows on loopback only."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from bigmarket.api.errors import Unauthorized

_SCHEME = b"bearer "


class ServerKeys:
    """The keys of ``BIGMARKET_SERVER_KEYS``."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    @property
    def open(self) -> bool:
        """Whether anyone may call."""
        return not self._keys

    def check(self, authorization: bytes | None) -> None:
        """Raise ``Unauthorized`` unless the header carries one of the keys; takes as long for a near miss."""
        if not self._keys:
            return
        shown = authorization or b""
        if shown[: len(_SCHEME)].lower() == _SCHEME:
            offered = shown[len(_SCHEME) :].strip()
            if sum(hmac.compare_digest(offered, key) for key in self._keys):
                return
        raise Unauthorized("Send one of the server's keys: -H 'authorization: Bearer <key>'")
