"""Values as MySQL literals, fast: a draw binds forty values, and the drivers' escaping is slower than all its rules.

A JSON text is a MySQL literal too, as long as the server reads ``"`` as a quote and backslash as an escape, which
mysql.py asserts of every connection: numbers, ``null`` and the escapes of quote, backslash, newline, return, tab and
backspace mean the same in both. Those of other control characters do not; a text with one goes through ``_careful``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_encode = msgspec.json.Encoder().encode
_UNLIKE = (b"\\u", b"\\f")  # escapes that JSON has and MySQL has not
_NEXT_ROW = b"],["


def literals(rows: Sequence[Sequence[object]], *, between: bytes) -> bytes:
    """Rows of values (texts, integers, None) with commas between values and ``between`` the rows."""
    text = _encode(rows)
    if _UNLIKE[0] in text or _UNLIKE[1] in text or text.count(_NEXT_ROW) >= len(rows):  # some text contains one
        return between.join([b",".join(map(literal, row)) for row in rows])
    return text[2:-2].replace(_NEXT_ROW, between)


def literal(value: object) -> bytes:
    """One value."""
    text = _encode(value)
    return _careful(value) if _UNLIKE[0] in text or _UNLIKE[1] in text else text


def _careful(text: object) -> bytes:
    """A text as hexadecimal digits, which need no escaping."""
    assert isinstance(text, str), text
    return b"_utf8mb4 0x" + text.encode().hex().encode()
