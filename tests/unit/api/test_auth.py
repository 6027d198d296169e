"""Who calls, told by one header; and what each of them may do."""

from __future__ import annotations

import hmac

import pytest

from bigmarket.api.auth import ANYBODY, SERVER, Caller, Callers, Partners, user_of
from bigmarket.api.errors import BadToken, Unauthorized, WrongUser, status_of
from bigmarket.api.tokens import Tokens
from bigmarket.errors import BadInput, BigmarketError, ConfigurationInvalid
from bigmarket.settings import load_settings
from support import NOON

KEY, SECRET = "k" * 24, "s" * 32
DRAW, MINE = (f"/api/v1/raffle/activity/{name}" for name in ("draw", "draw_by_token"))
TOKENS = Tokens((SECRET,), public_key=None, audience="", now_ms=lambda: NOON)
TOKEN = TOKENS.sign("ann", hours=1).encode()
ANN = Caller("ann")


def callers(*keys: str, tokens: bool = True) -> Callers:
    return Callers(keys, TOKENS if tokens else Tokens((), public_key=None, audience="", now_ms=lambda: NOON))


def judged(who: Callers, path: str, shown: bytes | None) -> Caller | tuple[int, str]:
    """Who is admitted, or with which status and code they are not."""
    try:
        return who.admit(path, shown)
    except BigmarketError as error:
        return status_of(error), error.v1_code


@pytest.mark.parametrize(
    ("shown", "open_", "keyed", "keyed_without_tokens"),
    [
        (None, ANYBODY, (401, "0008"), (401, "0008")),
        (b"", ANYBODY, (401, "0008"), (401, "0008")),
        (b"Bearer " + KEY.encode(), ANYBODY, SERVER, SERVER),
        (b"bEARER  " + KEY.encode() + b" ", ANYBODY, SERVER, SERVER),
        (KEY.encode(), ANYBODY, (401, "0008"), (401, "0008")),
        (b"Bearer " + KEY.encode()[:-1], ANYBODY, (401, "0008"), (401, "0008")),
        (TOKEN, ANN, ANN, (401, "0008")),
        (b"Bearer " + TOKEN, ANN, ANN, (401, "0008")),
        (TOKEN[:-1], (401, "0009"), (401, "0009"), (401, "0008")),
    ],
)
def test_callers_of_ordinary_paths(
    shown: bytes | None, open_: object, keyed: object, keyed_without_tokens: object
) -> None:
    assert judged(callers(), DRAW, shown) == open_
    assert judged(callers(KEY), DRAW, shown) == keyed
    assert judged(callers(KEY, tokens=False), DRAW, shown) == keyed_without_tokens
    assert judged(callers(tokens=False), DRAW, shown) == ANYBODY


@pytest.mark.parametrize("who", [callers(), callers(KEY)])
def test_by_token_means_by_token(who: Callers) -> None:
    assert judged(who, MINE, TOKEN) == judged(who, MINE, b"Bearer " + TOKEN) == ANN
    for shown in (None, b"", b"Bearer " + KEY.encode(), TOKEN[:-1]):
        assert judged(who, MINE, shown) == (401, "0009")
    assert judged(callers(KEY, tokens=False), MINE, TOKEN) == (401, "0009")


def test_a_user_acts_for_nobody_else() -> None:
    assert user_of(ANN, " ann ") == "ann"
    assert user_of(SERVER, "bob") == user_of(ANYBODY, "bob") == "bob"
    with pytest.raises(WrongUser) as refused:
        user_of(ANN, "bob")
    assert (status_of(refused.value), refused.value.v1_code) == (403, "0009")
    assert isinstance(refused.value, BadToken)
    with pytest.raises(BadInput):
        user_of(ANN, "")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many comparisons were made."""
    made: list[int] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: made.append(1) or real(a, b))
    return made


def test_partners_show_their_own_token(compared: list[int]) -> None:
    partners = Partners({"chat": "c" * 24, "shop": "s" * 24})
    partners.check("shop", "s" * 24)
    known = len(compared)
    for app, token in (("shop", "c" * 24), ("nobody", "s" * 24), ("", ""), ("shop", "\ud800"), ("chat", "c" * 23)):
        before = len(compared)
        with pytest.raises(Unauthorized):
            partners.check(app, token)
        assert len(compared) - before == known, "an unknown app takes as long as a wrong token"
    with pytest.raises(Unauthorized):
        Partners({}).check("shop", "s" * 24)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TOKEN_SECRETS", "s" * 31, "32 characters"),
        ("PARTNERS", "shop", "app-id:token"),
        ("PARTNERS", "shop:short", "24 characters"),
        ("PARTNERS", ":" + "s" * 24, "app-id:token"),
        ("PARTNERS", f"shop:{'s' * 24},shop:{'t' * 24}", "twice"),
    ],
)
def test_settings_that_would_let_strangers_in_are_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=says) as refused:
        load_settings({f"BIGMARKET_{name}": value})
    assert value not in str(refused.value)


def test_partners_are_read() -> None:
    settings = load_settings({"BIGMARKET_PARTNERS": f"shop:{'s' * 24}, chat:{'c' * 20}:::::"})
    assert settings.partner_tokens == {"shop": "s" * 24, "chat": "c" * 20 + ":" * 5}
