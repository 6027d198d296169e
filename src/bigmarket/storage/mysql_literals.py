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


def literals(row: Sequence[object]) -> bytes:
    """The values of a row (texts, integers, None), separated by commas."""
    text = _encode(row)
    if _UNLIKE[0] in text or _UNLIKE[1] in text:
        return b",".join(map(_careful, row))
    return text[1:-1]


def literal(value: object) -> bytes:
    """One value."""
    return literals((value,))


def _careful(value: object) -> bytes:
    """Texts as hexadecimal digits, which need no escaping."""
    if isinstance(value, str):
        return b"_utf8mb4 0x" + value.encode().hex().encode() if value else b'""'
    return _encode(value)
