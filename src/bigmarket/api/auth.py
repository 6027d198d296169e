"""Who calls: a holder of a server key, a user by token, a partner's app, or anybody where the server is open.

Without any server key the API is open, which ``serve`` allows on loopback only.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, NamedTuple

from fastapi import Depends, Request

from bigmarket.api.errors import BadToken, Forbidden, Unauthorized, WrongUser
from bigmarket.api.tokens import Tokens
from bigmarket.settings import Settings
from bigmarket.text import KEY_MAX, clean_text

#: How the paths of calls end that name their user by token only.
BY_TOKEN = "_by_token"  # noqa: S105  no secret

_SCHEME = b"bearer "
_DOTS_OF_A_TOKEN = 2


class Caller(NamedTuple):
    """Who calls. ``user_id`` is set for a user by token; ``keyed`` tells that a server key was shown."""

    user_id: str | None = None
    keyed: bool = False

    def may_act_for(self, user_id: str) -> bool:
        """Whether the caller may speak for this user: servers may for all, a user for no other."""
        return self.user_id is None or self.user_id == user_id


ANYBODY = Caller()
SERVER = Caller(keyed=True)


def user_of(caller: Caller, user_id: object, *, name: str = "userId") -> str:
    """The user that a request is about, cleaned. Raises BadInput, or ``WrongUser`` when the caller is another."""
    cleaned = clean_text(user_id, name=name, max_length=KEY_MAX)
    if caller.user_id is not None and not caller.may_act_for(cleaned):
        raise WrongUser(f"The token is another user's: {name} must be its user.")
    return cleaned


class Callers:
    """Tells callers by the ``Authorization`` header."""

    def __init__(self, server_keys: Sequence[str], tokens: Tokens) -> None:
        self._keys = [key.encode() for key in server_keys]
        self._tokens = tokens

    @classmethod
    def of(cls, settings: Settings, *, now_ms: Callable[[], int]) -> Callers:
        """As the settings say. Raises ConfigurationInvalid for a token key that cannot be used."""
        return cls(settings.server_keys, Tokens.of(settings, now_ms=now_ms))

    @property
    def open(self) -> bool:
        """Whether anyone may call."""
        return not self._keys

    @property
    def tokens_used(self) -> bool:
        """Whether users may call with tokens of their own."""
        return self._tokens.used

    def admit(self, path: str, authorization: bytes | None) -> Caller:
        """Whoever calls ``path`` with this header.

        Raises ``Unauthorized`` without a valid key, ``BadToken`` for a bad or missing token. A near miss of a key
        takes as long as any other.
        """
        if path.endswith(BY_TOKEN):
            return Caller(self._token_user(authorization))
        if authorization is None and not self._keys:
            return ANYBODY
        return self._caller(authorization)

    def _token_user(self, authorization: bytes | None) -> str:
        if not authorization:
            raise BadToken("Send the user's token: -H 'authorization: <token>'")
        return self._tokens.user_of(_without_scheme(authorization))

    def _caller(self, authorization: bytes | None) -> Caller:
        if authorization:
            if self._is_key(authorization):
                return SERVER
            shown = _without_scheme(authorization)
            if self._tokens.used and shown.count(b".") == _DOTS_OF_A_TOKEN:
                return Caller(self._tokens.user_of(shown))
        if self._keys:
            raise Unauthorized(_SEND_EITHER if self._tokens.used else _SEND_A_KEY)
        return ANYBODY

    def _is_key(self, authorization: bytes) -> bool:
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        offered = authorization[len(_SCHEME) :].strip()
        return sum(hmac.compare_digest(offered, key) for key in self._keys) > 0


_SEND_A_KEY = "Send one of the server's keys: -H 'authorization: Bearer <key>'"
_SEND_EITHER = "Send the user's token, or from a server one of its keys: -H 'authorization: Bearer <token or key>'"


def _without_scheme(authorization: bytes) -> bytes:
    if authorization[: len(_SCHEME)].lower() == _SCHEME:
        authorization = authorization[len(_SCHEME) :]
    return authorization.strip()


class Partners:
    """The apps of ``BIGMARKET_PARTNERS``, which may have users rebated."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._digests = [(_digest(app_id), _digest(token)) for app_id, token in tokens.items()]

    def check(self, app_id: str, app_token: str) -> None:
        """Raise ``Unauthorized`` unless it is an app with its token; it takes as long for an unknown app."""
        app, token = _digest(app_id), _digest(app_token)
        matches = [
            hmac.compare_digest(app, known_app) & hmac.compare_digest(token, known_token)
            for known_app, known_token in self._digests
        ]
        if not sum(matches):
            raise Unauthorized("The appId is not known here, or the appToken is not its.")


def _digest(text: str) -> bytes:
    return sha256(text.encode(errors="surrogatepass")).digest()


# --- dependencies of FastAPI routes; the application has admitted the caller before -------------------------------


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def _operator(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    if caller.user_id is not None:
        raise Forbidden("This is for operators: it needs a server key, not a user's token.")
    return caller


async def _token_user(caller: Annotated[Caller, Depends(_caller)]) -> str:
    assert caller.user_id is not None, f"its path ends with {BY_TOKEN}"
    return caller.user_id


#: Who calls; a call about a user goes on with ``user_of``.
CallerHere = Annotated[Caller, Depends(_caller)]

#: As ``CallerHere``, for calls that are no user's business.
OperatorHere = Annotated[Caller, Depends(_operator)]

#: The user of a call whose path ends with ``_by_token``.
TokenUserHere = Annotated[str, Depends(_token_user)]
