"""The one reader of JSON bodies: bounded, strict, and never a 5xx whatever is sent.

Two steps. ``read_body`` takes the bytes: size, content type, time. ``JsonReader.decode`` makes one typed value of
them. What is not JSON as RFC 8259 wants it, or is JSON that readers disagree about (duplicate keys, NaN, numbers out
of range), is ``Unreadable`` with its HTTP status; JSON of the wrong shape is ``BadInput``, naming the field and the
rule. No message repeats what was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Annotated, Any, Generic, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec

from bigmarket.api.errors import Unreadable
from bigmarket.errors import BadInput

BODY_BYTES_MAX = 1 << 20
DEPTH_MAX = 16
FIELDS_MAX = 16
INT_MIN, INT_MAX = -(2**63), 2**63 - 1

Int64 = Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
T = TypeVar("T", bound=msgspec.Struct)


class ClientGone(Exception):
    """The client hung up before its request was complete; nobody waits for an answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, bytes_max: int) -> bytes:
    """The whole JSON body. Raises ``Unreadable`` (413, 415, 400) or ``ClientGone``. The caller bounds the time."""
    body = await read_bytes(receive, headers, bytes_max=bytes_max)
    check_content_type(headers.get(b"content-type"), body)
    return body


async def read_bytes(receive: Receive, headers: Mapping[bytes, bytes], *, bytes_max: int) -> bytes:
    """The whole body, of whatever type. Raises ``Unreadable`` (413) or ``ClientGone``. The caller bounds the time."""
    check_length(headers.get(b"content-length"), bytes_max=bytes_max)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        body = await _rest(receive, body, bytes_max=bytes_max)
    if len(body) > bytes_max:
        raise too_large(bytes_max)
    return body


async def _rest(receive: Receive, first: bytes, *, bytes_max: int) -> bytes:
    body = bytearray(first)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > bytes_max:
            raise too_large(bytes_max)
        more = message.get("more_body", False)
    return bytes(body)


def check_length(declared: bytes | None, *, bytes_max: int) -> None:
    """Raise ``Unreadable`` with 413 when a ``content-length`` announces too much."""
    if declared is not None and (not declared.isdigit() or int(declared) > bytes_max):
        raise too_large(bytes_max)


def too_large(bytes_max: int) -> Unreadable:
    """What a body of more than ``bytes_max`` is answered."""
    return Unreadable(413, f"The body is larger than {bytes_max} bytes.")


def check_content_type(value: bytes | None, body: bytes) -> None:
    """Let JSON pass. An empty body needs no content type; it is refused as unreadable JSON later on."""
    if value == b"application/json" or (value is None and not body):
        return
    media, _, parameters = (value or b"").lower().partition(b";")
    charset = parameters.strip().replace(b'"', b"")
    if media.strip() != b"application/json" or charset not in (b"", b"charset=utf-8", b"charset=utf8"):
        raise Unreadable(415, "The body must be JSON in UTF-8; add the header: -H 'content-type: application/json'")


class JsonReader(Generic[T]):
    """Reads one Struct: fields are required, or optional with None for absent; unknown fields are refused.

    A flat one is read faster.
    """

    def __init__(self, kind: type[T]) -> None:
        assert kind.__struct_config__.forbid_unknown_fields
        assert all(default in (None, msgspec.NODEFAULT) for default in kind.__struct_defaults__)
        self.kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        self._names = ", ".join(_names_of(kind))
        self._fields = len(kind.__struct_fields__)
        self._values = msgspec.structs.astuple

    def decode(self, raw: bytes) -> T:
        """The value. Raises ``Unreadable`` with 400 for bad JSON, ``BadInput`` for JSON that does not fit."""
        try:
            value = self._decode(raw)
        except msgspec.ValidationError as fault:
            inspect_json(raw)
            raise BadInput(self._explained(str(fault))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            inspect_json(raw)
            raise Unreadable(400, "The body is not valid JSON.") from None
        if raw.count(b":") != self._given(value) and raw.count(b'"') != self._quotes(value):
            inspect_json(raw)
        return value

    def _given(self, value: T) -> int:
        """Fields of ``value``. A body with no more colons than these repeats no key: each takes one.

        The decoder takes duplicate keys silently.
        """
        return self._fields - self._values(value).count(None)

    def _quotes(self, value: T) -> int:
        """Quotes in the plainest spelling of ``value``. A body with no more than these repeats no key, either.

        So only those with a colon in a value and more quotes (also escaped ones, or an explicit null) need the slow
        look.
        """
        quotes = 0
        for field in self._values(value):
            if type(field) is str:
                quotes += 4
            elif field is not None:
                quotes += 2
        return quotes

    def _explained(self, fault: str) -> str:
        """The decoder's message in our words, without what was sent."""
        if "unknown field" in fault:
            return f"The body has a field that is not known here; known are {self._names}."
        missing = re.search(r"missing required field `(\w+)`", fault)
        if missing:
            return f"{missing[1]} is missing."
        rule, _, path = fault.partition(" - at `$")
        field = path.strip("`.") if path.strip("`.") in self._names.split(", ") else "The body"
        words = re.fullmatch(r"Expected `([^`]+)`(?:, got `(\w+)`)?( <= \d+| >= -?\d+)?", rule)
        if not words:
            return f"{field} is not valid."
        got = f", not {_NAMES.get(words[2], words[2])}" if words[2] else ""
        return f"{field} must be {' or '.join(_NAMES.get(w, w) for w in words[1].split(' | '))}{words[3] or ''}{got}."


def _names_of(kind: type[msgspec.Struct]) -> Iterator[str]:
    """Its fields as a caller writes them, those of a Struct inside as ``outer.inner``."""
    for field in msgspec.structs.fields(kind):
        yield field.encode_name
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from (f"{field.encode_name}.{name}" for name in _names_of(field.type))


_NAMES = {
    "int": "a whole number",
    "str": "text",
    "float": "a number with a fraction",
    "bool": "true or false",
    "null": "null",
    "object": "an object",
    "array": "a list",
}


def inspect_json(raw: bytes) -> None:
    """Raise ``Unreadable`` with 400 and the reason when ``raw`` is not JSON that every reader takes alike."""
    if not raw.strip():
        raise Unreadable(400, "The body is empty; it must be a JSON object.")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise Unreadable(400, "The body begins with a byte order mark; leave it out.")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Unreadable(400, "The body is not UTF-8.") from None
    _check_depth(text)
    try:
        json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_int=_small_int,
            parse_float=_finite,
        )
    except Unreadable:
        raise
    except (ValueError, RecursionError):
        raise Unreadable(400, "The body is not valid JSON.") from None


# A text runs to its closing quote or to the end, possessively: matching is linear in the length of the body.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)


def _check_depth(text: str) -> None:
    depth = 0
    for found in _STRUCTURE.finditer(text):
        sign = found[0]
        if sign in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise Unreadable(400, f"The body is nested deeper than {DEPTH_MAX} levels.")
        elif sign in "]}":
            depth -= 1


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable(400, "The body has the same key twice in an object.")
    return found


def _no_constant(_: str) -> NoReturn:
    raise Unreadable(400, "The body has NaN or Infinity, which are not JSON.")


def _small_int(digits: str) -> int:
    number = int(digits) if len(digits) <= len(str(INT_MIN)) else None
    if number is None or not INT_MIN <= number <= INT_MAX:
        raise Unreadable(400, "The body has a whole number that does not fit in 64 bits.")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Unreadable(400, "The body has a number out of range.")
    return number


def form_of(raw: bytes) -> list[tuple[str, str]]:
    """The fields of a query or an ``application/x-www-form-urlencoded`` body. Raises ``Unreadable`` with 400."""
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        raise Unreadable(400, "The form or the query is not in UTF-8, or has too many fields.") from None


def int_of(values: list[str], *, name: str) -> int:
    """The whole number that the query parameter ``name`` was given; raises ``Unreadable`` with 400 if it was not."""
    text = text_of(values, name=name)
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not INT_MIN <= int(text) <= INT_MAX:
        raise Unreadable(400, f"{name} must be a whole number of at most 64 bits.")
    return int(text)


def text_of(values: list[str], *, name: str) -> str:
    """The text that the parameter ``name`` was given; raises ``Unreadable`` with 400 if it was not, or twice."""
    if len(values) != 1 or not values[0].strip():
        raise Unreadable(400, f"{name} is {'given more than once' if len(values) > 1 else 'missing'}.")
    return values[0].strip()
