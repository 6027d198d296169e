"""Puts a schema fault into plain words: where, what is wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from bigmarket.errors import Problem

# type of the fault -> what is wrong, what to write; {names} come from the fault's context
_WORDING: dict[str, tuple[str, str]] = {
    "missing": ("is missing", "Add it"),
    "int_type": ("must be a whole number", "Write digits only, without quotes"),
    "string_type": ("must be text", "Write text; put a number, true, false or null in quotes"),
    "decimal_type": ("must be a decimal number", "Write it like 0.03"),
    "decimal_parsing": ("must be a decimal number", "Write it like 0.03"),
    "finite_number": ("must be a finite number", "Write it like 0.03"),
    "decimal_max_digits": ("has more than {max_digits} digits", "Write fewer digits"),
    "decimal_max_places": ("has more than {decimal_places} decimals", "Round it"),
    "decimal_whole_digits": ("has more than {whole_digits} digits before the point", "Write a smaller number"),
    "greater_than": ("must be more than {gt}", "Write a larger number"),
    "greater_than_equal": ("must be at least {ge}", "Write a larger number"),
    "less_than": ("must be less than {lt}", "Write a smaller number"),
    "less_than_equal": ("must be at most {le}", "Write a smaller number"),
    "string_too_short": ("must not be blank", "Write at least {min_length} character"),
    "string_too_long": ("is longer than {max_length} characters", "Shorten it"),
    "string_pattern_mismatch": (
        "is not a plain name",
        "Begin with a to z, go on with a to z, 0 to 9 or _, 32 characters at most",
    ),
    "too_short": ("needs at least {min_length} entry", "Add one"),
    "tuple_type": ("must be a list", "Begin each entry with a dash"),
    "frozen_set_type": ("must be a list", "Begin each entry with a dash"),
    "model_type": ("must be a mapping of fields", "Write `field: value` lines"),
    "dict_type": ("must be a mapping of fields", "Write `field: value` lines"),
    "datetime_type": ("must be a date and time", "Write it like 2026-01-31 10:00:00"),
}


def explain(errors: Iterable[ErrorDetails], *, model: type[BaseModel], under: str = "") -> list[Problem]:
    """One problem per fault that pydantic found in the section ``under`` of a ``model``; values are never echoed."""
    found = list(errors)
    around = {error["loc"][:end] for error in found for end in range(len(error["loc"]))}
    return [
        _problem(error, model=model, under=under)
        for error in found
        # a list whose only entry is faulty is not too short as well
        if not (error["type"] == "too_short" and error["loc"] in around)
    ]


def nearest(word: str, known: Iterable[str]) -> str:
    """Advice for a word that is not among ``known``: the one that was meant, or all there are."""
    names = sorted(known)
    close = get_close_matches(word[:64], names, n=1)
    return f"Did you mean `{close[0]}`?" if close else f"Known: {', '.join(names)}"


def _problem(error: ErrorDetails, *, model: type[BaseModel], under: str) -> Problem:
    prefix = (under,) if under else ()
    path, schema = _locate((*prefix, *error["loc"]), model=model)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, "unknown field", nearest(str(error["loc"][-1]), schema.get("properties", {})))
    if kind == "union_tag_not_found":
        name = str(context["discriminator"]).strip("'")
        known = ", ".join(schema["discriminator"]["mapping"])
        return Problem(f"{path}.{name}", "is missing", f"Write one of: {known}")
    if kind == "union_tag_invalid":
        name = str(context["discriminator"]).strip("'")
        return Problem(
            f"{path}.{name}", f"unknown {name}", nearest(context["tag"], schema["discriminator"]["mapping"])
        )
    if kind == "literal_error":
        return Problem(path, f"must be {context['expected']}", "Write one of these")
    if kind == "value_error":
        return Problem(path, str(context["error"]), "Correct it")
    reason, fix = _WORDING.get(kind, (error["msg"], "Correct it"))
    return Problem(path, reason.format_map(context), fix.format_map(context))


def _locate(loc: tuple[int | str, ...], *, model: type[BaseModel]) -> tuple[str, dict[str, Any]]:
    """The path as a file's author would write it, and the schema of the last thing on it that is a mapping."""
    definitions, at = _schema(model)
    path, last = "", at
    for step in loc:
        if isinstance(step, int):
            path, at = f"{path}[{step}]", at.get("items", {})
        elif "discriminator" in at:
            at = {"$ref": at["discriminator"]["mapping"].get(step, "")}  # the tag: chosen by the data, not written
        else:
            path, at = f"{path}.{step}" if path else step, at.get("properties", {}).get(step, {})
        at = definitions.get(at.get("$ref", "").removeprefix("#/$defs/"), at)
        if "properties" in at or "discriminator" in at:
            last = at
    return path, last


@cache
def _schema(model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = model.model_json_schema()
    return schema.get("$defs", {}), schema
