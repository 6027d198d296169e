"""Reads YAML strictly: plain data, the line of every value, and every fault at once.

What is taken: mappings with text keys, lists, text, whole numbers, true/false, null. Numbers with decimals stay text,
so that a rate is never a float; so do YAML 1.1's surprises (yes, 0777, 12:30:00, dates). Anchors, aliases, tags,
repeated keys and invisible characters are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml import events

from bigmarket.errors import Problem

DEPTH_MAX = 16
FILE = "(file)"
_NO_KEY = ""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Control, bidirectional and zero-width characters, unpaired surrogates: what a reader cannot see but a program obeys.
_INVISIBLE = (
    "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f"
    "\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e007f"
)
_BANNED_IN_FILE = re.compile(f"[{_INVISIBLE}]")
_BANNED_IN_TEXT = re.compile(f"[{_INVISIBLE}\\t\\n\\r]")
_PATH_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")

Value = Any  # None | bool | int | str | list[Value] | dict[str, Value]


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, and the ``problems`` met on the way; it is ``whole`` unless one of them ended the reading."""

    data: Value
    whole: bool
    problems: list[Problem]
    lines: dict[int, dict[str | int, int]]  # id of a list or mapping of ``data`` -> key or index -> line

    def line_of(self, path: str) -> int | None:
        """The line of ``strategy.awards[3].rate``, or of the nearest thing around it that is written."""
        at, line = self.data, None
        for index, name in _PATH_STEP.findall(path):
            step = int(index) if index else name
            here = self.lines[id(at)] if isinstance(at, (list, dict)) else {}
            if step not in here:
                break
            at, line = at[step], here[step]
        return line


def read_yaml(text: str) -> Document:
    """The document that ``text`` holds. What cannot be made sense of ends the reading as one more problem."""
    problems = _invisible(text)
    builder = _Builder(problems)
    whole = False
    visible = _BANNED_IN_FILE.sub("\N{REPLACEMENT CHARACTER}", text)
    try:
        whole = builder.build(yaml.parse(visible, Loader=_LOADER))
    except _TooDeep as deep:
        problems.append(Problem(FILE, f"nested deeper than {DEPTH_MAX} levels", "Flatten it", deep.line))
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        reason = f"not YAML: {fault.problem or fault.context}"
        problems.append(
            Problem(FILE, reason, "Check indentation, colons and quotes", mark.line + 1 if mark else None)
        )
    except yaml.YAMLError:
        problems.append(Problem(FILE, "not YAML", "Check that it is a text file"))
    return Document(builder.root, whole, problems, builder.lines)


def _invisible(text: str) -> list[Problem]:
    found: list[Problem] = []
    for match in _BANNED_IN_FILE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if not found or found[-1].line != line:
            reason = f"holds the invisible character U+{ord(match[0]):04X}"
            found.append(Problem(FILE, reason, "Retype the line without it", line))
    return found


class _TooDeep(Exception):
    def __init__(self, line: int) -> None:
        self.line = line


@dataclass(slots=True)
class _Open:
    """A list or mapping being read; ``key`` is the mapping's key whose value comes next."""

    path: str
    value: list[Value] | dict[str, Value]
    key: str | None = None
    key_line: int = 0


@dataclass(slots=True)
class _Builder:
    problems: list[Problem]
    root: Value = None
    lines: dict[int, dict[str | int, int]] = field(default_factory=dict)
    stack: list[_Open] = field(default_factory=list)
    documents: int = 0

    def build(self, found: Iterable[events.Event]) -> bool:
        """Take in the events; False when something after the first document was left out."""
        for event in found:
            if isinstance(event, events.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, (events.MappingStartEvent, events.SequenceStartEvent)):
                self._open(event)
            elif isinstance(event, (events.MappingEndEvent, events.SequenceEndEvent)):
                self.stack.pop()
            elif isinstance(event, events.AliasEvent):
                self._refuse(event, "an alias (*) is not taken", "Write the value out")
                self._put(None, _line(event))
            elif isinstance(event, events.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    self._refuse(event, "holds a second document", "Remove the line of dashes")
                    return False
        return True

    def _scalar(self, event: events.ScalarEvent) -> None:
        line = _line(event)
        top = self.stack[-1] if self.stack else None
        text = event.value
        if top is not None and isinstance(top.value, dict) and top.key is None:
            self._reject_extras(event)
            if text == _NO_KEY:
                self._refuse(event, "a key is empty", "Write `key: value`")
            top.key, top.key_line = unicodedata.normalize("NFC", text), line
            return
        if not self._reject_extras(event) and _BANNED_IN_TEXT.search(text):
            self._refuse(event, "holds a line break, tab or invisible character", "Write one line of plain text")
            text = ""
        if event.implicit[0]:
            self._put(_plain(text), line)
        else:
            self._put(unicodedata.normalize("NFC", text), line)

    def _open(self, event: events.CollectionStartEvent) -> None:
        line = _line(event)
        if len(self.stack) >= DEPTH_MAX:
            raise _TooDeep(line)
        self._reject_extras(event)
        opened = _Open(self._path(), {} if isinstance(event, events.MappingStartEvent) else [])
        self._put(opened.value, line)
        self.stack.append(opened)

    def _put(self, value: Value, line: int) -> None:
        """Place a finished or just opened value into what is open."""
        if isinstance(value, (list, dict)):
            self.lines[id(value)] = {}
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        places = self.lines[id(top.value)]
        if isinstance(top.value, list):
            places[len(top.value)] = line
            top.value.append(value)
            return
        key, top.key = top.key, None
        if key is None:  # a list or mapping where a key should be: what it leads to is left out
            self.problems.append(Problem(top.path or FILE, "a key must be text", "Write `key: value`", line))
            top.key = _NO_KEY
        elif key == _NO_KEY:
            pass
        elif key in top.value:
            where = f"{top.path}.{key}" if top.path else key
            reason = f"written twice, first on line {places[key]}"
            self.problems.append(Problem(where, reason, "Keep one of the two", top.key_line))
        else:
            places[key] = top.key_line
            top.value[key] = value

    def _path(self) -> str:
        """Where the next value goes."""
        if not self.stack:
            return ""
        top = self.stack[-1]
        if isinstance(top.value, list):
            return f"{top.path}[{len(top.value)}]"
        return f"{top.path}.{top.key}" if top.path and top.key is not None else top.key or top.path

    def _reject_extras(self, event: events.ScalarEvent | events.CollectionStartEvent) -> bool:
        """Refuse an anchor or a tag; answers whether there was one."""
        plain_tag = event.tag is None or event.tag == "!"
        if event.anchor is not None:
            self._refuse(event, "an anchor (&) is not taken", "Write the value out where it is needed")
        if not plain_tag:
            self._refuse(event, "a tag (!) is not taken", "Write the value without it")
        return event.anchor is not None or not plain_tag

    def _refuse(self, event: events.Event, reason: str, fix: str) -> None:
        self.problems.append(Problem(self._path() or FILE, reason, fix, _line(event)))


def _line(event: events.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _plain(text: str) -> Value:
    """What an unquoted scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return unicodedata.normalize("NFC", text)
