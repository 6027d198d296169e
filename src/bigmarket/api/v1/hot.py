"""v1's hot calls: draw, sign in, exchange, each with its ``_by_token`` twin, and the partners' rebate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import msgspec

from bigmarket.api.auth import Caller, Partners, user_of
from bigmarket.api.errors import JSON, success
from bigmarket.api.hot import HotCall, Reply, Words
from bigmarket.api.openapi import operation
from bigmarket.api.reader import Int64, JsonReader, check_content_type, form_of, int_of, text_of
from bigmarket.app import World
from bigmarket.draw import Drawn
from bigmarket.errors import Duplicate
from bigmarket.rebate.behavior import BEHAVIOR_MAX, NUMBER_MAX, SIGN, clean_behavior
from bigmarket.text import clean_text

REQUEST_ID_MAX = 64
PREFIX = "/api/v1/raffle/activity/"
FORM = b"application/x-www-form-urlencoded"

Headers = Mapping[bytes, bytes]


class DrawIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, rename="camel"):
    """A draw. With a ``requestId`` of the caller's own choice a repeat gets the same answer and spends nothing."""

    user_id: str
    activity_id: Int64
    request_id: str | None = None


class DrawByTokenIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, rename="camel"):
    """A draw of the token's user."""

    activity_id: Int64
    request_id: str | None = None


class DrawOut(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What was won; ``awardIndex`` is the award's place on the wheel, from 1."""

    award_id: int
    award_title: str
    award_index: int


class ExchangeIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, rename="camel"):
    """Buy a sku's draws for credits. A repeat with the same ``requestId`` buys nothing more."""

    user_id: str
    sku: Int64
    request_id: str | None = None


class ExchangeByTokenIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, rename="camel"):
    """Buy a sku's draws for credits of the token's user."""

    sku: Int64
    request_id: str | None = None


class BehaviorIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """What a user did; ``outBusinessNo`` is the partner's own number of it, and counts once."""

    user_id: str
    behavior_type: str
    out_business_no: str


class RebateIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A partner's app, with its token, and what it tells."""

    app_id: str
    app_token: str
    data: BehaviorIn


class SignIn(msgspec.Struct, frozen=True, rename="camel"):
    """Who signs in, and where: by default in every open activity that rewards it."""

    user_id: str
    activity_id: Int64 | None = None


class SignByTokenIn(msgspec.Struct, frozen=True, rename="camel"):
    """Where the token's user signs in: by default in every open activity that rewards it."""

    activity_id: Int64 | None = None


SCHEMAS = (DrawIn, DrawByTokenIn, DrawOut, ExchangeIn, ExchangeByTokenIn, RebateIn, BehaviorIn)


def hot_calls(world: World) -> dict[str, HotCall]:
    """The hot calls of ``world``, by path."""
    partners = Partners(world.settings.partner_tokens)

    draw = partial(HotCall, lanes=world.lanes, reply=_drawn, repeatable=_has_request_id, degrades=True)
    behave = partial(HotCall, lanes=world.rebates, reply=_true, repeatable=_always, refusals={Duplicate: False})
    exchange = partial(HotCall, lanes=world.exchanges, reply=_true, repeatable=_has_request_id)
    calls = (
        draw("draw", read=_read_draw),
        draw("draw_by_token", read=_read_draw_by_token),
        behave("calendar_sign_rebate", read=_read_sign),
        behave("calendar_sign_rebate_by_token", read=_read_sign_by_token),
        behave("rebate", read=partial(_read_rebate, partners), of_partners=True),
        exchange("credit_pay_exchange_sku", read=_read_exchange),
        exchange("credit_pay_exchange_sku_by_token", read=_read_exchange_by_token),
    )
    return {PREFIX + call.name: call for call in calls}


# --- what is asked ------------------------------------------------------------------------------------------------


_DRAW, _DRAW_BY_TOKEN = JsonReader(DrawIn), JsonReader(DrawByTokenIn)
_EXCHANGE, _EXCHANGE_BY_TOKEN = JsonReader(ExchangeIn), JsonReader(ExchangeByTokenIn)
_REBATE = JsonReader(RebateIn)


def _read_draw(caller: Caller, headers: Headers, _: bytes, body: bytes) -> Words:
    check_content_type(headers.get(b"content-type"), body)
    asked = _DRAW.decode(body)
    return user_of(caller, asked.user_id), asked.activity_id, _request_id(asked.request_id)


def _read_draw_by_token(caller: Caller, headers: Headers, _: bytes, body: bytes) -> Words:
    check_content_type(headers.get(b"content-type"), body)
    asked = _DRAW_BY_TOKEN.decode(body)
    return caller.user_id, asked.activity_id, _request_id(asked.request_id)


def _read_exchange(caller: Caller, headers: Headers, _: bytes, body: bytes) -> Words:
    check_content_type(headers.get(b"content-type"), body)
    asked = _EXCHANGE.decode(body)
    return user_of(caller, asked.user_id), asked.sku, _request_id(asked.request_id)


def _read_exchange_by_token(caller: Caller, headers: Headers, _: bytes, body: bytes) -> Words:
    check_content_type(headers.get(b"content-type"), body)
    asked = _EXCHANGE_BY_TOKEN.decode(body)
    return caller.user_id, asked.sku, _request_id(asked.request_id)


def _read_sign(caller: Caller, headers: Headers, query: bytes, body: bytes) -> Words:
    given = parameters(headers, query, body)
    user_id = user_of(caller, text_of(given.get("userId", []), name="userId"))
    return user_id, SIGN, _activity_id(given), None


def _read_sign_by_token(caller: Caller, headers: Headers, query: bytes, body: bytes) -> Words:
    return caller.user_id, SIGN, _activity_id(parameters(headers, query, body)), None


def _read_rebate(partners: Partners, caller: Caller, headers: Headers, _: bytes, body: bytes) -> Words:
    check_content_type(headers.get(b"content-type"), body)
    asked = _REBATE.decode(body)
    partners.check(asked.app_id, asked.app_token)
    told = asked.data
    user_id, behavior, number = clean_behavior(
        user_of(caller, told.user_id),
        clean_text(told.behavior_type, name="behaviorType", max_length=BEHAVIOR_MAX),
        clean_text(told.out_business_no, name="outBusinessNo", max_length=NUMBER_MAX),
    )
    return user_id, behavior, None, number


def _request_id(value: str | None) -> str | None:
    return None if value is None else clean_text(value, name="requestId", max_length=REQUEST_ID_MAX)


def _activity_id(given: Mapping[str, list[str]]) -> int | None:
    return int_of(given["activityId"], name="activityId") if "activityId" in given else None


def parameters(headers: Headers, query: bytes, body: bytes) -> dict[str, list[str]]:
    """What query and form say; a body of another type is let be."""
    fields = form_of(query)
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == FORM:
        fields += form_of(body)
    given: dict[str, list[str]] = {}
    for name, value in fields:
        given.setdefault(name, []).append(value)
    return given


def _has_request_id(words: Words) -> bool:
    return words[-1] is not None


def _always(_: Words) -> bool:
    return True


# --- what is answered ---------------------------------------------------------------------------------------------


def _drawn(drawn: Drawn) -> Reply:
    _, lines, body = _won(drawn.award_id, drawn.award_title, drawn.award_index)
    return Reply(200, b"%bbigmarket-order-id: %b\r\n" % (lines, drawn.order_id.encode()), body)


@lru_cache(maxsize=4096)
def _won(award_id: int, award_title: str, award_index: int) -> Reply:
    """The answer but for the order id: there are only as many as there are awards."""
    return ok(success(DrawOut(award_id, award_title, award_index)))


def _true(_: object) -> Reply:
    return _TRUE


def ok(body: bytes) -> Reply:
    """The answer of a call that worked; ``body`` is its envelope."""
    return Reply(200, b"content-type: %b\r\ncontent-length: %d\r\n" % (JSON, len(body)), body)


_TRUE = ok(success(True))


# --- the document -------------------------------------------------------------------------------------------------


def operations() -> dict[str, Any]:
    """The hot calls' operations, by path: FastAPI does not route them."""
    user, activity = {"userId": "xiaofuge"}, {"activityId": 100301}
    draw: dict[str, Any] = {
        "data": DrawOut,
        "example": {"awardId": 101, "awardTitle": "随机积分", "awardIndex": 1},
        "codes": (
            "0001",
            "0002",
            "0003",
            "0004",
            "0005",
            "ERR_BIZ_002",
            "ERR_BIZ_003",
            "ERR_BIZ_004",
            "ERR_BIZ_006",
            "ERR_BIZ_007",
            "ERR_BIZ_008",
        ),
        "response_headers": {
            "Bigmarket-Order-Id": "The raffle order: what the award can be looked up and replayed by."
        },
    }
    sign: dict[str, Any] = {
        "data": bool,
        "example": True,
        "codes": ("0001", "0002", "0003", "0005", "ERR_BIZ_003", "ERR_BIZ_004"),
        "when": {"0003": "Signed in today already; `data` is false."},
    }
    exchange: dict[str, Any] = {
        "data": bool,
        "example": True,
        "codes": (
            "0001",
            "0002",
            "0003",
            "0005",
            "ERR_BIZ_003",
            "ERR_BIZ_004",
            "ERR_BIZ_005",
            "ERR_CREDIT_001",
        ),
        "when": {"0003": "The requestId was used for another sku."},
    }
    bought = {"sku": 9011, "requestId": "buy-7f3a"}
    drawn = {**activity, "requestId": "spin-7f3a"}
    done = {"userId": "xiaofuge", "behaviorType": "openai_pay", "outBusinessNo": "pay-7f3a"}
    summary = "Draw: spend one of the user's draws, win one award"
    found = {
        "draw": operation(summary=summary, body=DrawIn, body_example={**user, **drawn}, **draw),
        "draw_by_token": operation(
            summary=f"{summary}: the token's user", body=DrawByTokenIn, body_example=drawn, by_token=True, **draw
        ),
        "calendar_sign_rebate": operation(summary="Sign in for the day", query=SignIn, **sign),
        "calendar_sign_rebate_by_token": operation(
            summary="Sign in for the day: the token's user", query=SignByTokenIn, by_token=True, **sign
        ),
        "credit_pay_exchange_sku": operation(
            summary="Buy a sku's draws for credits", body=ExchangeIn, body_example={**user, **bought}, **exchange
        ),
        "credit_pay_exchange_sku_by_token": operation(
            summary="Buy a sku's draws for credits: the token's user",
            body=ExchangeByTokenIn,
            body_example=bought,
            by_token=True,
            **exchange,
        ),
        "rebate": operation(
            summary="A partner tells what a user did",
            body=RebateIn,
            body_example={"appId": "shop", "appToken": "the app's own token", "data": done},
            data=bool,
            example=True,
            codes=("0001", "0002", "0003"),
            when={"0003": "The outBusinessNo was told before; `data` is false."},
        ),
    }
    return {PREFIX + name: {"post": described} for name, described in found.items()}
