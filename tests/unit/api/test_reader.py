"""The reader of JSON bodies: what it takes, what it refuses with which status, and that nothing gets past it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmarket.api.errors import Unreadable, refusal
from bigmarket.api.reader import (
    BODY_BYTES_MAX,
    ClientGone,
    JsonReader,
    check_content_type,
    int_of,
    read_body,
)
from bigmarket.api.v1.hot import DrawIn
from bigmarket.api.waiting import HOT_BYTES_MAX
from bigmarket.errors import BadInput

READER = JsonReader(DrawIn)
GOOD = b'{"userId":"u","activityId":1}'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (GOOD, DrawIn("u", 1)),
        (b' {"activityId" : -5 ,\n"userId":"\\u0041"} ', DrawIn("A", -5)),
        (b'{"userId":"a\\"b","activityId":1,"requestId":"r"}', DrawIn('a"b', 1, "r")),
        (b'{"userId":"u","activityId":1,"requestId":null}', DrawIn("u", 1)),
        ('{"userId":"张三","activityId":9223372036854775807}'.encode(), DrawIn("张三", 2**63 - 1)),
    ],
)
def test_reads(raw: bytes, expected: DrawIn) -> None:
    assert READER.decode(raw) == expected


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
        (b'{"userId":"\xff","activityId":1}', "UTF-8"),
        (b'{"userId":"\xed\xa0\x80","activityId":1}', "UTF-8"),
        (b'{"userId":"\\ud800","activityId":1}', "not valid JSON"),
        (b'{"userId":"u","activityId":1', "not valid JSON"),
        (b'{"userId":"u","activityId":1}x', "not valid JSON"),
        (b'{"userId":"u\x00","activityId":1}', "not valid JSON"),
        (b'{"userId":"u","activityId":01}', "not valid JSON"),
        (b"{'userId':'u'}", "not valid JSON"),
        (b'{"userId":"u","activityId":NaN}', "NaN"),
        (b'{"userId":"u","activityId":-Infinity}', "Infinity"),
        (b'{"userId":"u","activityId":1e400}', "out of range"),
        (b'{"userId":"u","activityId":9223372036854775808}', "64 bits"),
        (b'{"userId":"u","activityId":' + b"9" * 5000 + b"}", "64 bits"),
        (b'{"userId":"u","activityId":1,"activityId":1}', "twice"),
        (b'{"userId":"u","user\\u0049d":"u","activityId":1}', "twice"),
        (b'{"userId":"u","activityId":1,"requestId":null,"requestId":null}', "twice"),
        (b"[" * 17 + b"]" * 17, "deeper than 16"),
        (b'{"a":' * 100_000, "deeper than 16"),
    ],
)
def test_refuses_what_is_not_plain_json(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as caught:
        READER.decode(raw)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"activityId":1}', "userId is missing."),
        (b'{"userId":"u"}', "activityId is missing."),
        (b'{"userId":"u","activityId":null}', "activityId must be a whole number, not null."),
        (b'{"userId":"u","activityId":true}', "activityId must be a whole number, not true or false."),
        (b'{"userId":"u","activityId":1.5}', "activityId must be a whole number, not a number with a fraction."),
        (b'{"userId":"u","activityId":1.0}', "activityId must be a whole number, not a number with a fraction."),
        (b'{"userId":"u","activityId":"1"}', "activityId must be a whole number, not text."),
        (b'{"userId":7,"activityId":1}', "userId must be text, not a whole number."),
        (b'{"userId":["u"],"activityId":1}', "userId must be text, not a list."),
        (b'{"userId":"u","activityId":1,"requestId":7}', "requestId must be text or null, not a whole number."),
        (b"[]", "The body must be an object, not a list."),
        (b"null", "The body must be an object, not null."),
        (
            b'{"userId":"u","activityId":1,"evil<b>":1}',
            "The body has a field that is not known here; known are userId, activityId, requestId.",
        ),
    ],
)
def test_names_the_field_and_the_rule(raw: bytes, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        READER.decode(raw)
    assert str(caught.value) == message
    assert not isinstance(caught.value, Unreadable)


def test_a_long_text_of_escapes_is_inspected_in_linear_time() -> None:
    with pytest.raises(Unreadable):
        READER.decode(b'"' + b'\\"' * (BODY_BYTES_MAX // 2))


_numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(2**63) - 1, 2**63, 1e308, float("nan"), float("inf")])
)
_texts = st.one_of(st.text(max_size=20), st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=5))
_anything = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_texts, inner, max_size=4)),
    max_leaves=12,
)
_near_misses = st.fixed_dictionaries(
    {}, optional={"userId": _anything, "activityId": _anything, "requestId": _anything, "more": _anything}
)
_bodies = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda value: json.dumps(value).encode(), _anything),
    st.builds(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"), _near_misses),
    st.builds(lambda value, cut: json.dumps(value).encode()[:-cut], _near_misses, st.integers(1, 5)),
    st.lists(st.sampled_from([b'"userId"', b'"u"', b'"activityId"', b"1", b":", b",", b"{", b"}", b" "])).map(
        b"".join
    ),
)


@settings(max_examples=600, deadline=None)
@given(_bodies)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        value = READER.decode(raw)
    except BadInput as error:
        refusal(error)  # can be told, too
    else:
        plain = json.loads(raw)  # a second reader understands the same
        assert (value.user_id, value.activity_id) == (plain["userId"], plain["activityId"])
        assert value.request_id == plain.get("requestId")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(['"userId":"u"', '"activityId":1', '"requestId":"r"', '"requestId":null']), max_size=6)
)
def test_no_key_may_stand_twice(members: list[str]) -> None:
    raw = ("{" + ",".join(members) + "}").encode()
    names = [member.split(":")[0] for member in members]
    if len(set(names)) < len(names):
        with pytest.raises(BadInput):
            READER.decode(raw)


def body_from(messages: Sequence[dict[str, Any]], headers: dict[bytes, bytes], *, bytes_max: int) -> bytes:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return asyncio.run(read_body(receive, headers, bytes_max=bytes_max))


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


JSON_HEADERS = {b"content-type": b"application/json"}


def test_a_body_may_come_in_parts() -> None:
    assert body_from([part(b"{", more=True), part(b"}")], JSON_HEADERS, bytes_max=2) == b"{}"


@pytest.mark.parametrize(
    ("messages", "declared"),
    [
        ([], b"4097"),
        ([], b"99999999999999999999999"),
        ([], b"-1"),
        ([part(b"x" * 4097)], None),
        ([part(b"x" * 4000, more=True), part(b"x" * 97, more=True)], None),
        ([part(b"x" * 4000, more=True), part(b"x" * 97)], b"7"),
    ],
)
def test_a_body_has_a_largest_size(messages: list[dict[str, Any]], declared: bytes | None) -> None:
    headers = {**JSON_HEADERS, **({b"content-length": declared} if declared else {})}
    with pytest.raises(Unreadable) as caught:
        body_from(messages, headers, bytes_max=HOT_BYTES_MAX)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "messages", [[{"type": "http.disconnect"}], [part(b"{", more=True), {"type": "http.disconnect"}]]
)
def test_a_client_may_hang_up(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ClientGone):
        body_from(messages, JSON_HEADERS, bytes_max=9)


@pytest.mark.parametrize(
    "value", [b"application/json", b"Application/JSON; charset=UTF-8", b'application/json;charset="utf-8"']
)
def test_takes_json(value: bytes) -> None:
    check_content_type(value, GOOD)


@pytest.mark.parametrize(
    "value", [None, b"", b"text/plain", b"application/x-www-form-urlencoded", b"application/json; charset=gbk"]
)
def test_refuses_other_content(value: bytes | None) -> None:
    with pytest.raises(Unreadable, match="-H 'content-type: application/json'") as caught:
        check_content_type(value, GOOD)
    assert caught.value.status == 415


def test_an_empty_body_needs_no_content_type() -> None:
    check_content_type(None, b"")


def test_query_numbers() -> None:
    assert int_of([" 100301 "], name="activityId") == 100301
    for values in ([], [""], ["1", "2"], ["x"], ["1.0"], ["٣"], ["9" * 19], ["9" * 5000], ["+1"], ["1_0"]):
        with pytest.raises(Unreadable, match="activityId") as caught:
            int_of(values, name="activityId")
        assert caught.value.status == 400
