"""The one rule for texts that come from outside and become keys: visible, normalised, not blank, not too long."""

from __future__ import annotations

import unicodedata

from bigmarket.errors import BadInput

KEY_MAX = 128  # characters of a user id or an out_business_no

# Control, format (bidi and zero-width), lone surrogates, line and paragraph separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Invisible too, though Unicode files them under letters and marks: joiner, Hangul fillers, Khmer inherent vowels.
_REFUSED_CHARACTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


def clean_text(value: object, *, name: str, max_length: int) -> str:
    """``value`` in NFC without blanks around it, 1 to ``max_length`` characters.

    Raises BadInput, naming the field and never the value, when it is no text, blank, too long, or holds a control,
    bidi or zero-width character.
    """
    if not isinstance(value, str):
        raise BadInput(f"{name} must be text.")
    text = value.strip() if value.isascii() and value.isprintable() else _normalised(value, name=name)
    if not text:
        raise BadInput(f"{name} is missing.")
    if len(text) > max_length:
        raise BadInput(f"{name} must have at most {max_length} characters.")
    return text


def _normalised(value: str, *, name: str) -> str:
    text = unicodedata.normalize("NFC", value.strip())
    for character in text:
        if character in _REFUSED_CHARACTERS or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise BadInput(f"{name} must not contain control, bidi or zero-width characters.")
    return text
