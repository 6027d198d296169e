"""Campaign files: reads one, lists all its faults at once, tells two apart, and describes the format to editors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from bigmarket.activity.armory import KindCheck, Sections, canonical, inspect_sections
from bigmarket.activity.explain import explain, nearest
from bigmarket.activity.model import Campaign
from bigmarket.activity.yaml_text import FILE, Document, read_yaml
from bigmarket.errors import ConfigurationInvalid, NotFound, Problem

__all__ = ["Campaign", "Change", "campaign_schema", "differences", "load_campaign", "parse_campaign", "schema_text"]

BYTES_MAX = 10 * 2**20
_SHOWN_MAX = 200  # characters of a changed value that are worth showing

_SECTIONS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter[Any](section.annotation or object) for name, section in Campaign.model_fields.items()
}


class Change(NamedTuple):
    """One difference between two campaigns; ``before`` or ``after`` is None where there is nothing."""

    path: str
    before: str | None
    after: str | None


def load_campaign(path: Path, *, kinds: Mapping[str, KindCheck] | None = None) -> Campaign:
    """The campaign in the file at ``path``.

    Raises NotFound if it cannot be read, ConfigurationInvalid with all its problems if it has any.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    return parse_campaign(_decoded(raw, source=str(path)), source=str(path), kinds=kinds)


def parse_campaign(text: str, *, source: str = "campaign", kinds: Mapping[str, KindCheck] | None = None) -> Campaign:
    """The campaign that ``text`` (YAML) describes; ``source`` names it in messages.

    Sections are validated apart, and whatever can be checked across the sound ones is, so that
    ConfigurationInvalid lists all problems. Without ``kinds`` the awards' kinds are not checked.
    """
    document = read_yaml(text)
    if not document.whole:
        raise ConfigurationInvalid(source, document.problems)
    if not isinstance(document.data, dict):
        problem = Problem(FILE, "must be a mapping of sections", f"Write the sections {', '.join(_SECTIONS)}")
        raise ConfigurationInvalid(source, document.problems or [problem])
    sections, problems = _validated(document)
    problems += inspect_sections(sections, kinds=kinds)
    problems = [*document.problems, *(_lined(problem, document) for problem in problems)]
    if problems:
        raise ConfigurationInvalid(source, sorted(problems, key=_by_line))
    return Campaign(**sections)


def campaign_schema() -> dict[str, Any]:
    """The campaign file's format as JSON Schema (draft 2020-12), for editors."""
    schema = Campaign.model_json_schema()
    for definition in schema["$defs"].values():
        rule = definition.get("properties", {}).get("rule", {})
        if "const" in rule:  # a rule is chosen by its name, so the name cannot be left out
            definition["required"] = ["rule", *definition.get("required", [])]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "bigmarket campaign"}


def schema_text() -> str:
    """``docs/campaign.schema.json`` as it should be."""
    return json.dumps(campaign_schema(), indent=2, ensure_ascii=False) + "\n"


def differences(old: Campaign | None, new: Campaign) -> list[Change]:
    """What ``new`` changes; entries of lists are told apart by id, not by place."""
    before = {} if old is None else _keyed(canonical(old))
    return _changes(before, _keyed(canonical(new)), path="")


def _decoded(raw: bytes, *, source: str) -> str:
    if len(raw) > BYTES_MAX:
        raise ConfigurationInvalid(source, [Problem(FILE, "larger than 10 MiB", "Split the campaign")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationInvalid(source, [Problem(FILE, "not UTF-8", "Save it as UTF-8", line)]) from error


def _validated(document: Document) -> tuple[Sections, list[Problem]]:
    """The sound sections, and the problems of the others (without those that follow from refused YAML)."""
    sections: Sections = {}
    problems = [
        Problem(name, "unknown section", nearest(name, _SECTIONS)) for name in document.data if name not in _SECTIONS
    ]
    for name, adapter in _SECTIONS.items():
        if name not in document.data:
            if Campaign.model_fields[name].is_required():
                problems.append(Problem(name, "is missing", "Add this section"))
            continue
        try:
            sections[name] = adapter.validate_json(json.dumps(document.data[name]), strict=True)  # type: ignore[literal-required]
        except ValidationError as invalid:
            problems += explain(invalid.errors(include_url=False, include_input=False), model=Campaign, under=name)
    refused = {problem.path for problem in document.problems}
    return sections, [problem for problem in problems if problem.path not in refused]


def _by_line(problem: Problem) -> tuple[bool, int]:
    return problem.line is None, problem.line or 0


def _lined(problem: Problem, document: Document) -> Problem:
    return replace(problem, line=document.line_of(problem.path))


#: What names an entry of a list, by the list's name.
_KEYS: dict[str, tuple[str, ...]] = {
    "skus": ("sku",),
    "awards": ("award_id",),
    "chain": ("rule",),
    "tiers": ("at_draw",),
    "trees": ("tree_id",),
    "nodes": ("rule",),
    "lines": ("from", "when"),
    "rebates": ("behavior", "type"),
}


def _keyed(value: Any, *, name: str = "") -> Any:
    """The same data with every list of named entries as a mapping from name to entry."""
    if isinstance(value, dict):
        return {key: _keyed(item, name=key) for key, item in value.items()}
    if isinstance(value, list) and name in _KEYS and all(isinstance(item, dict) for item in value):
        return {f"[{' '.join(str(item[key]) for key in _KEYS[name])}]": _keyed(item) for item in value}
    return value


def _changes(before: Any, after: Any, *, path: str) -> list[Change]:
    if before == after:
        return []
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [Change(path, _shown(before), _shown(after))]
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        step = key if not path or key.startswith("[") else f".{key}"
        found += _changes(before.get(key), after.get(key), path=path + step)
    return found


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
