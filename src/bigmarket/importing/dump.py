"""Reads the rows out of SQL dumps, as mysqldump and Sequel Ace write them. Nothing is ever executed.

What is understood: ``USE``, ``CREATE TABLE`` (for the order of columns) and ``INSERT`` or ``REPLACE ... VALUES``;
every other statement is passed over. A file is read in pieces, so its size does not matter.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from bigmarket.errors import BadInput, NotFound

CHUNK_CHARACTERS = 1 << 18
LITERAL_MAX = 1 << 26  # characters of one literal or comment


class DumpRow(NamedTuple):
    """One row; ``values`` is None for the mere definition of a table, which tells that the table exists."""

    database: str
    table: str
    values: dict[str, str | None] | None
    line: int


def read_dump(path: Path, *, wanted: Callable[[str], bool]) -> Iterator[DumpRow]:
    """The rows of the ``wanted`` tables, in the order of the file; ``.gz`` files are unpacked on the way.

    Without a ``USE`` the database is called as the file. Raises NotFound, or BadInput with file and line.
    """
    try:
        with _open(path) as file:
            yield from _Reader(file, path=path, wanted=wanted).rows()
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadInput(f"{path} is not a whole gzip file.") from error
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error


def _open(path: Path) -> TextIO:
    # What is not UTF-8 is kept until it turns out to be part of a row that is wanted.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Token(NamedTuple):
    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>--(?=\s|\Z)[^\n]*+ | \#[^\n]*+ | /\*(?:[^*]++|\*(?!/))*+\*/)
  | (?P<string>'(?:[^'\\]++|\\.|'')*+' | "(?:[^"\\]++|\\.|"")*+")
  | (?P<name>`(?:[^`]++|``)*+`)
  | (?P<hex>0x[0-9A-Fa-f]+ | [xX]'[0-9A-Fa-f]*+')
  | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
#: A whole row without anything unusual in it, which is most of them; and the values of such a row.
_PLAIN_ROW = re.compile(
    r"""\s*+\((?:(?:NULL|-?\d++(?:\.\d++)?|'[^'\\\udc80-\udcff]*+'(?!'))(?:,(?!\))|(?=\))))++\)"""
)
_PLAIN_VALUE = re.compile(r"'([^']*+)'|([^,()']++)")
_UNFINISHED = ("'", '"', "`", "/*")  # what a sign begins with when the literal or comment it opens has no end
_END = _Token("end", "")
_NOT_COLUMNS = frozenset(
    ("PRIMARY", "UNIQUE", "KEY", "INDEX", "CONSTRAINT", "FULLTEXT", "SPATIAL", "FOREIGN", "CHECK", "PERIOD")
)
_ESCAPE = re.compile(r"\\(.)|''|\"\"", re.DOTALL)
_ESCAPED = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}
_CONSTANTS: dict[str, str | None] = {"NULL": None, "TRUE": "1", "FALSE": "0"}
_DELIMITER_BACK = re.compile(r"\s*delimiter\s+;\s*", re.IGNORECASE)


class _Reader:
    """One pass over one file. ``_buffer[_at:]`` is what was read and not yet understood."""

    def __init__(self, file: TextIO, *, path: Path, wanted: Callable[[str], bool]) -> None:
        self._file = file
        self._path = path
        self._wanted = wanted
        self._buffer = ""
        self._at = 0
        self._line_now, self._counted_to = 1, 0  # of the text up to there
        self._ended = False
        self._database = path.name.removesuffix(".gz").removesuffix(".sql")
        self._columns: dict[tuple[str, str], list[str]] = {}

    def rows(self) -> Iterator[DumpRow]:
        """Statement by statement."""
        while (token := self._next()) is not _END:
            if token.is_word("USE"):
                self._database = self._identifier()
                self._skip_statement()
            elif token.is_word("CREATE"):
                yield from self._create()
            elif token.is_word("INSERT", "REPLACE"):
                yield from self._insert()
            elif token.is_word("DELIMITER"):
                self._skip_routines()
            elif token.text != ";":
                self._skip_statement()

    # --- statements -----------------------------------------------------------------------------------------------

    def _create(self) -> Iterator[DumpRow]:
        token = self._next()
        if token.is_word("TEMPORARY"):
            token = self._next()
        if not token.is_word("TABLE"):
            self._skip_statement(token)
            return
        line = self._line()
        database, table = self._table(self._next_but("IF", "NOT", "EXISTS"))
        token = self._next()
        if not self._wanted(table) or token.text != "(":
            self._skip_statement(token)
            return
        self._columns[database, table] = self._defined_columns()
        self._skip_statement()
        yield DumpRow(database, table, None, line)

    def _defined_columns(self) -> list[str]:
        """The first word of each part between the parentheses, unless it begins a key."""
        columns: list[str] = []
        depth, first = 1, True
        while depth:
            token = self._next()
            if token is _END:
                self._refuse("the definition of a table has no end")
            if first and (token.kind == "name" or (token.kind == "word" and token.text.upper() not in _NOT_COLUMNS)):
                columns.append(_named(token))
            first = depth == 1 and token.text == ","
            depth += (token.text == "(") - (token.text == ")") if token.kind == "sign" else 0
        return columns

    def _insert(self) -> Iterator[DumpRow]:
        database, table = self._table(self._next_but("LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO"))
        token = self._next()
        if not self._wanted(table):
            self._skip_statement(token)
            return
        columns = self._columns.get((database, table))
        if token.text == "(":
            columns = self._listed_columns()
            token = self._next()
        if columns is None:
            self._refuse(f"an INSERT into {table} that does not name its columns, and no CREATE TABLE before it")
        if not token.is_word("VALUES", "VALUE"):
            self._refuse(f"rows of {table}: `{token.text[:20]}` where VALUES was expected")
        while True:
            values = self._plain_values()
            if values is None:
                self._expect("(")
                values = self._values()
            line = self._line()
            if len(values) != len(columns):
                self._refuse(f"a row of {table} with {len(values)} values for {len(columns)} columns")
            yield DumpRow(database, table, dict(zip(columns, values, strict=True)), line)
            token = self._next()
            if token.text != "," or token.kind != "sign":
                break
        self._skip_statement(token)

    def _listed_columns(self) -> list[str]:
        columns = [self._identifier()]
        while (token := self._next()).text == ",":
            columns.append(self._identifier())
        if token.text != ")":
            self._refuse(f"`{token.text[:20]}` in a list of columns")
        return columns

    def _plain_values(self) -> list[str | None] | None:
        """The values of a row, if it is a plain one."""
        match = _PLAIN_ROW.match(self._buffer, self._at)
        if match is None:
            return None
        self._at = match.end()
        values = _PLAIN_VALUE.findall(match[0].strip()[1:-1])
        return [text if not bare else None if bare == "NULL" else bare for text, bare in values]

    def _values(self) -> list[str | None]:
        """The values of a row up to its closing parenthesis."""
        values = [self._value()]
        while (token := self._next()).text == "," and token.kind == "sign":
            values.append(self._value())
        if token.text != ")" or token.kind != "sign":
            self._refuse(f"`{token.text[:20]}` behind a value")
        return values

    def _value(self) -> str | None:
        token = self._next()
        word = token.text.upper() if token.kind == "word" else ""
        if token.kind == "string":
            return self._read_text(token)
        if token.kind == "number":
            return token.text
        if token.kind == "hex":
            return self._decoded(bytes.fromhex(token.text[2:].strip("'")))
        if word == "N" or word.startswith("_"):  # a character set before the literal
            return self._value()
        if word == "B":
            return str(int(self._next().text.strip("'"), 2))
        if word not in _CONSTANTS:
            self._refuse(f"`{token.text[:20]}` where a value was expected")
        return _CONSTANTS[word]

    def _read_text(self, token: _Token) -> str:
        body = token.text[1:-1]
        if "\\" in body or token.text[0] in body:
            quote = token.text[0]
            body = _ESCAPE.sub(lambda found: _unescaped(found, quote), body)
        if not body.isascii() and any("\udc80" <= character <= "\udcff" for character in body):
            self._refuse("text that is not UTF-8; make the dump with --default-character-set=utf8mb4")
        return body

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._refuse("a binary value that is no text")

    # --- words ----------------------------------------------------------------------------------------------------

    def _table(self, token: _Token) -> tuple[str, str]:
        """``table`` or ``database.table``."""
        if token.kind not in ("name", "word"):
            self._refuse(f"`{token.text[:20]}` where the name of a table was expected")
        name = _named(token)
        if self._peek(".") and self._next():
            return name, self._identifier()
        return self._database, name

    def _identifier(self) -> str:
        token = self._next()
        if token.kind not in ("name", "word"):
            self._refuse(f"`{token.text[:20]}` where a name was expected")
        return _named(token)

    def _next_but(self, *words: str) -> _Token:
        """The next token that is none of these words."""
        while (token := self._next()).is_word(*words):
            pass
        return token

    def _expect(self, sign: str) -> None:
        token = self._next()
        if token.text != sign:
            self._refuse(f"`{token.text[:20] or 'the end of the file'}` where `{sign}` was expected")

    def _peek(self, sign: str) -> bool:
        if self._at >= len(self._buffer):
            self._fill()
        return self._buffer.startswith(sign, self._at)

    def _skip_statement(self, token: _Token | None = None) -> None:
        """Go on behind the semicolon; ``token`` was read already."""
        token = self._next() if token is None else token
        while token is not _END and not (token.kind == "sign" and token.text == ";"):
            token = self._next()

    def _skip_routines(self) -> None:
        """Triggers and procedures stand between two DELIMITER lines."""
        self._next_line()
        while not (self._ended and self._at >= len(self._buffer)):
            if _DELIMITER_BACK.fullmatch(self._next_line()):
                return

    def _next_line(self) -> str:
        while (end := self._buffer.find("\n", self._at)) < 0 and not self._ended:
            self._fill()
        end = len(self._buffer) if end < 0 else end + 1
        line = self._buffer[self._at : end]
        self._at = end
        return line

    def _next(self) -> _Token:
        """The next token that is neither space nor comment."""
        while True:
            match = _TOKEN.match(self._buffer, self._at)
            if not self._ended and (match is None or self._may_go_on(match)):
                self._fill()
                continue
            if match is None:
                return _END
            kind = match.lastgroup or "sign"
            if kind == "sign" and self._buffer.startswith(_UNFINISHED, self._at):
                self._refuse("text, name or comment without an end")
            self._at = match.end()
            if kind not in ("space", "comment"):
                return _Token(kind, match.group())

    def _may_go_on(self, match: re.Match[str]) -> bool:
        """Whether what comes next in the file could make the token longer."""
        unfinished = match.lastgroup == "sign" and self._buffer.startswith(_UNFINISHED, match.start())
        return match.end() == len(self._buffer) or unfinished

    def _fill(self) -> None:
        """Read on, at least as much as is waiting, so that a long literal is not scanned over and over."""
        waiting = len(self._buffer) - self._at
        if waiting > LITERAL_MAX:
            self._refuse("a text or comment longer than 64 MiB")
        more = self._file.read(max(CHUNK_CHARACTERS, waiting))
        self._ended = not more
        self._line()
        self._buffer = self._buffer[self._at :] + more
        self._at = self._counted_to = 0

    def _line(self) -> int:
        self._line_now += self._buffer.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line_now

    def _refuse(self, what: str) -> NoReturn:
        raise BadInput(f"{self._path}:{self._line()}: {what}.")


def _named(token: _Token) -> str:
    return token.text[1:-1].replace("``", "`") if token.kind == "name" else token.text


def _unescaped(found: re.Match[str], quote: str) -> str:
    if (escaped := found.group(1)) is not None:
        return _ESCAPED.get(escaped, escaped)
    pair: str = found.group()
    return pair[0] if pair[0] == quote else pair
