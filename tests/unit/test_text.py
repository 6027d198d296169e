"""The rule for texts from outside."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.errors import BadInput
from bigmarket.text import clean_text


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("ann", "ann"),
        ("  ann  ", "ann"),
        ("a b", "a b"),
        ("用户001", "用户001"),
        ("\u3000ann\u00a0", "ann"),
        ("e\u0301", "\u00e9"),  # NFC
        ("❤\ufe0f", "❤\ufe0f"),
        ("x" * 128, "x" * 128),
        (" " * 200 + "x", "x"),
    ],
)
def test_clean(value: str, clean: str) -> None:
    assert clean_text(value, name="user_id", max_length=128) == clean


@pytest.mark.parametrize("value", ["", "   ", "\u3000", "\n", "\u00a0\t"])
def test_blank_is_missing(value: str) -> None:
    with pytest.raises(BadInput, match=r"^user_id is missing"):
        clean_text(value, name="user_id", max_length=128)


@pytest.mark.parametrize(
    "value",
    [
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\u200bb",  # zero-width space
        "a\u200db",
        "a\u2060b",
        "\ufeffab",
        "a\u202eb",  # right-to-left override
        "a\u2066b",
        "a\u2028b",
        "a\ud800b",  # lone surrogate
        "a\u3164b",  # Hangul filler
    ],
)
def test_invisible_characters_are_refused_without_echo(value: str) -> None:
    with pytest.raises(BadInput, match=r"^user_id must not contain") as caught:
        clean_text(value, name="user_id", max_length=128)
    assert value not in str(caught.value)


def test_too_long_counts_characters_after_normalising() -> None:
    assert clean_text("e\u0301" * 128, name="user_id", max_length=128) == "\u00e9" * 128
    with pytest.raises(BadInput, match=r"^user_id must have at most 128") as caught:
        clean_text("x" * 129, name="user_id", max_length=128)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 1, True, b"ann", ["ann"]])
def test_only_text_is_text(value: object) -> None:
    with pytest.raises(BadInput, match=r"^user_id must be text"):
        clean_text(value, name="user_id", max_length=128)


@given(st.text(max_size=40))
def test_clean_text_is_clean_already_or_refused(value: str) -> None:
    try:
        clean = clean_text(value, name="x", max_length=40)
    except BadInput:
        return
    assert clean == clean_text(clean, name="x", max_length=40)
    assert clean
    assert "\x00" not in clean


def test_fast_path_is_fast() -> None:
    rounds = 20_000
    seconds = min(timeit.repeat(lambda: clean_text("user0000017", name="u", max_length=128), number=rounds, repeat=5))
    assert seconds / rounds < 2e-6  # about 0.3 us; generous, as machines differ
