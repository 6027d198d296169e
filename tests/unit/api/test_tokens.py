"""User tokens: who signed them, for whom, until when; and everything that is none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bigmarket.api import tokens as module
from bigmarket.api.errors import BadToken
from bigmarket.api.tokens import LEEWAY_MS, Tokens
from bigmarket.errors import BadInput, ConfigurationInvalid
from support import HOUR, NOON

OLD, NEW, STRANGER = "o" * 32, "n" * 32, "s" * 32
NOW = NOON // 1000


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now_ms = NOON

    def __call__(self) -> int:
        return self.now_ms


def tokens(*secrets: str, clock: Clock | None = None, key: Path | None = None, audience: str = "") -> Tokens:
    return Tokens(secrets, public_key=key, audience=audience, now_ms=clock or Clock())


def signed(
    secret: object = NEW, *, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: object
) -> bytes:
    """A token that lasts an hour, unless ``claims`` say other; one that is None is left out."""
    full = {"sub": "ann", "exp": NOW + 3600, **claims}
    document = {name: claim for name, claim in full.items() if claim is not None}
    return jwt.encode(document, secret, algorithm=algorithm, headers=headers).encode()  # type: ignore[arg-type]


def test_what_is_signed_here_is_verified_here() -> None:
    clock = Clock()
    mine = tokens(NEW, clock=clock)
    token = mine.sign("ann", hours=12).encode()
    assert mine.user_of(token) == "ann"
    clock.now_ms += 12 * HOUR + LEEWAY_MS - 1
    assert mine.user_of(token) == "ann"
    clock.now_ms += 1
    for _ in range(2):
        with pytest.raises(BadToken, match="expired"):
            mine.user_of(token)


def test_all_secrets_verify_and_the_first_signs() -> None:
    both = tokens(NEW, OLD)
    assert both.user_of(signed(OLD)) == both.user_of(signed(NEW)) == "ann"
    assert tokens(NEW).user_of(both.sign("ann", hours=1).encode()) == "ann"
    with pytest.raises(BadToken, match="not signed by a key"):
        both.user_of(signed(STRANGER))
    with pytest.raises(BadInput, match="TOKEN_SECRETS"):
        tokens().sign("ann", hours=1)


def test_the_user_is_the_subject_or_the_references_claim() -> None:
    mine = tokens(NEW)
    assert mine.user_of(signed(sub=None, openId="xiaofuge")) == "xiaofuge"
    assert mine.user_of(signed(sub="Zoe\u0308")) == "Zo\u00eb"
    for claims in (
        {"sub": None},
        {"sub": " "},
        {"sub": 7},
        {"sub": "a\u200bb"},
        {"sub": "x" * 129},
        {"openId": "bob"},
    ):
        with pytest.raises(BadToken):
            mine.user_of(signed(**claims))


@pytest.mark.parametrize(
    "exp", [None, "soon", True, [], float("inf"), float("nan"), 10**400, 1e308, NOON, NOW - 31, -1]
)
def test_a_token_says_when_it_expires(exp: object) -> None:
    with pytest.raises(BadToken):
        tokens(NEW).user_of(_by_hand({"sub": "ann", **({} if exp is None else {"exp": exp})}))


def test_a_token_may_say_from_when_it_is_valid() -> None:
    mine = tokens(NEW)
    assert mine.user_of(signed(nbf=NOW + 30)) == "ann"
    with pytest.raises(BadToken, match="not valid yet"):
        mine.user_of(signed(nbf=NOW + 31))


def test_an_audience_is_asked_for_where_one_is_set() -> None:
    assert tokens(NEW).user_of(signed(aud="other")) == "ann"
    for token in (signed(aud="other"), signed()):
        with pytest.raises(BadToken):
            tokens(NEW, audience="raffle").user_of(token)
    mine = tokens(NEW, audience="raffle")
    assert mine.user_of(signed(aud=["raffle", "other"])) == mine.user_of(mine.sign("ann", hours=1).encode()) == "ann"


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_another_systems_tokens_are_verified_by_its_public_key(kind: str, tmp_path: Path) -> None:
    private = _private(kind)
    path = tmp_path / "public.pem"
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(public)
    theirs, both = tokens(key=path), tokens(NEW, key=path)
    token = signed(private, algorithm=kind)
    assert theirs.user_of(token) == both.user_of(token) == both.user_of(signed()) == "ann"
    stranger = signed(_private(kind), algorithm=kind)
    confused = _by_hand({"sub": "ann", "exp": NOW + 60}, secret=public)  # the public key taken for a secret
    for bad in (stranger, confused, signed()):
        with pytest.raises(BadToken):
            theirs.user_of(bad)


def _private(kind: str) -> Any:
    if kind == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ES256" else ed25519.Ed25519PrivateKey.generate()


def test_a_key_of_another_kind_is_refused_at_start(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505  that is the point
    keys: list[Any] = [weak, ec.generate_private_key(ec.SECP384R1())]
    pems = [key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    private = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (*pems, private, b"", b"key"):
        path.write_bytes(pem)
        with pytest.raises(ConfigurationInvalid, match="TOKEN_PUBLIC_KEY"):
            tokens(key=path)
    with pytest.raises(ConfigurationInvalid, match="No such file"):
        tokens(key=tmp_path / "nowhere.pem")


def test_what_is_no_token_is_refused() -> None:
    mine = tokens(NEW)
    none = jwt.encode({"sub": "ann", "exp": NOW + 60}, None, algorithm="none").encode()
    longer = signed(headers={"kid": "k" * 4096})
    other = signed("n" * 64, algorithm="HS512")
    for bad in (b"", b"a.b.c", b"..", b"\xff.\xff.\xff", none, longer, other, signed()[:-1], signed() + b"x"):
        with pytest.raises(BadToken):
            mine.user_of(bad)
    with pytest.raises(BadToken, match="takes no user tokens"):
        tokens().user_of(signed())


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERIFIED_MAX", 3)
    mine = tokens(NEW)
    for number in range(10):
        mine.user_of(signed(sub=f"user {number}"))
        mine.user_of(signed())
    assert len(mine._verified) == 3
    assert "ann" in {user for user, _ in mine._verified.values()}


ODD = (None, True, 5, 1e400, [], ["HS256"], {}, {"HS256": 1}, "", "hs256", "none", "\ud800", "b64")


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", ["alg", "typ", "kid", "crit", "b64", "jku", "x5c"])
def test_odd_headers_open_nothing_and_break_nothing(name: str, odd: object) -> None:
    token = _by_hand({"sub": "ann", "exp": NOW + 60}, header={"alg": "HS256", "typ": "JWT", name: odd})
    try:
        assert tokens(NEW).user_of(token) == "ann"
    except BadToken:
        return
    assert name != "alg"


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", ["sub", "openId", "exp", "nbf", "iat", "aud", "iss", "jti"])
def test_odd_claims_break_nothing(name: str, odd: object) -> None:
    for audience in ("", "raffle"):
        with suppress(BadToken):
            tokens(NEW, audience=audience).user_of(_by_hand({"sub": "ann", "exp": NOW + 60, name: odd}))


def _by_hand(
    claims: dict[str, object], *, secret: bytes = NEW.encode(), header: dict[str, object] | None = None
) -> bytes:
    """A token that PyJWT would not sign."""

    def part(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    head = part(json.dumps(header or {"alg": "HS256"}).encode()) + b"." + part(json.dumps(claims).encode())
    return head + b"." + part(hmac.digest(secret, head, hashlib.sha256))
