"""User tokens: JWTs that name a user until they expire, signed by a shared secret or a key pair's private half."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.exceptions import InvalidSubjectError

from bigmarket.api.errors import BadToken
from bigmarket.errors import BadInput, ConfigurationInvalid, Problem
from bigmarket.settings import PREFIX, Settings
from bigmarket.text import KEY_MAX, clean_text

SHARED = "HS256"
LEEWAY_MS = 30_000
TOKEN_BYTES_MAX = 4096
VERIFIED_MAX = 50_000  # tokens kept as verified, the least recently used leave first
RSA_BITS_MIN = 2048
TIME_MAX = 253_402_300_799  # the end of the year 9999

#: The claims are judged here, by the clock that is given; signature and form are PyJWT's.
_OPTIONS: Any = {"require": ["exp"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}


class Tokens:
    """Verifies the tokens of ``BIGMARKET_TOKEN_SECRETS`` and ``BIGMARKET_TOKEN_PUBLIC_KEY``.

    A token names its user as ``sub`` or, as the reference system's do, as ``openId``, and must say when it expires.
    Those verified are remembered, by digest, until then.
    """

    def __init__(
        self, secrets: Sequence[str], *, public_key: Path | None, audience: str, now_ms: Callable[[], int]
    ) -> None:
        self._secrets = tuple(secrets)
        self._keys: dict[str, Sequence[Any]] = {SHARED: self._secrets} if secrets else {}
        if public_key is not None:
            algorithm, key = _read_public_key(public_key)
            self._keys[algorithm] = (key,)
        self._audience = audience or None
        self._now_ms = now_ms
        self._verified: OrderedDict[bytes, tuple[str, float]] = OrderedDict()  # digest -> user, expires at, in ms

    @classmethod
    def of(cls, settings: Settings, *, now_ms: Callable[[], int]) -> Tokens:
        """As the settings say. Raises ConfigurationInvalid for a public key that cannot be used."""
        return cls(
            settings.token_secrets,
            public_key=Path(settings.token_public_key) if settings.token_public_key else None,
            audience=settings.token_audience,
            now_ms=now_ms,
        )

    @property
    def used(self) -> bool:
        """Whether any token can be verified here."""
        return bool(self._keys)

    def user_of(self, token: bytes) -> str:
        """The user that the token names. Raises ``BadToken``."""
        digest = sha256(token).digest()
        known = self._verified.get(digest)
        if known is not None and self._now_ms() < known[1]:
            self._verified.move_to_end(digest)
            return known[0]
        user_id, expires_ms = self._verify(token)
        self._verified[digest] = (user_id, expires_ms)
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return user_id

    def sign(self, user_id: str, *, hours: float) -> str:
        """A token for the user, signed by the first secret. Raises BadInput where there is none."""
        if not self._secrets:
            raise BadInput(f"Tokens are signed by the first of {PREFIX}TOKEN_SECRETS; set it first.")
        now = self._now_ms() // 1000
        claims = {"sub": clean_text(user_id, name="user", max_length=KEY_MAX), "iat": now}
        claims |= {"exp": now + int(hours * 3600)}
        if self._audience is not None:
            claims |= {"aud": self._audience}
        return jwt.encode(claims, self._secrets[0], algorithm=SHARED)

    def _verify(self, token: bytes) -> tuple[str, float]:
        if not self._keys:
            raise BadToken(f"This server takes no user tokens; set {PREFIX}TOKEN_SECRETS to change that.")
        if len(token) > TOKEN_BYTES_MAX:
            raise BadToken(f"The token is longer than {TOKEN_BYTES_MAX} bytes.")
        claims = self._claims(token)
        now_ms = self._now_ms()
        expires_ms = _time_ms(claims, "exp") + LEEWAY_MS
        if now_ms >= expires_ms:
            raise BadToken("The token has expired; sign in again.")
        if claims.get("nbf") is not None and now_ms < _time_ms(claims, "nbf") - LEEWAY_MS:
            raise BadToken("The token is not valid yet.")
        return _user_of(claims), expires_ms

    def _claims(self, token: bytes) -> Mapping[str, Any]:
        """What the token says, once one of the keys of its own algorithm has vouched for it."""
        try:
            algorithm = str(jwt.get_unverified_header(token).get("alg"))
            for key in self._keys.get(algorithm, ()):
                try:
                    claims: Mapping[str, Any] = jwt.decode(
                        token,
                        key,
                        algorithms=[algorithm],
                        audience=self._audience,
                        options=_OPTIONS | {"verify_aud": self._audience is not None},
                    )
                except jwt.InvalidSignatureError:
                    continue
                return claims
        except jwt.InvalidAudienceError:
            raise BadToken("The token is for another audience.") from None
        except (jwt.MissingRequiredClaimError, InvalidSubjectError):
            raise BadToken("The token lacks a claim: it needs `exp`, and the user as text in `sub`.") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise BadToken("The token cannot be read.") from None
        raise BadToken(f"The token is not signed by a key of this server ({', '.join(self._keys)}).")


def _time_ms(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519), in milliseconds."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TIME_MAX:
        raise BadToken(f"The token's `{name}` is not a time in seconds.")
    return float(value) * 1000


def _user_of(claims: Mapping[str, Any]) -> str:
    named = [claims[name] for name in ("sub", "openId") if claims.get(name) is not None]
    if not named:
        raise BadToken("The token names no user: it needs `sub`.")
    if any(name != named[0] for name in named):
        raise BadToken("The token names two users: its `sub` and `openId` differ.")
    try:
        return clean_text(named[0], name="The token's user", max_length=KEY_MAX)
    except BadInput as error:
        raise BadToken(str(error)) from None


def _read_public_key(path: Path) -> tuple[str, Any]:
    """The key, and the one algorithm that its kind is used with."""
    variable = f"{PREFIX}TOKEN_PUBLIC_KEY"
    fix = "Name a PEM file with the public half of an RSA (2048 bits or more), P-256 or Ed25519 key."
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigurationInvalid("settings", [Problem(variable, f"{path}: {error.strerror}", fix)]) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationInvalid("settings", [Problem(variable, f"{path} is no public key in PEM", fix)]) from error
    if isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN:
        return "RS256", key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256", key
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA", key
    raise ConfigurationInvalid("settings", [Problem(variable, f"{path} holds a key of another kind", fix)])
