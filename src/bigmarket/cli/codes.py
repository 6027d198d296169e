"""``codes``: pools of redemption codes that are won."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bigmarket.app import now_ms
from bigmarket.award.kinds.code import read_pool
from bigmarket.cli.console import counted, working
from bigmarket.cli.results import table
from bigmarket.cli.session import Json, Session
from bigmarket.errors import BadInput, NotFound
from bigmarket.storage.codes import Pool, Uploaded, pools, upload_codes

LINE_MAX = 4_096

codes = typer.Typer(help="Pools of redemption codes that are won.")


@codes.command("upload")
def codes_upload(
    ctx: typer.Context,
    pool: Annotated[str, typer.Argument(metavar="POOL", help="The pool, as awards of the kind `code` name it.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One code a line, UTF-8.")],
    as_json: Json = False,
) -> None:
    """Add codes to a pool, new or not; codes that are there already stay as they are, so it may be repeated."""
    session: Session = ctx.obj
    name = read_pool(pool, name="The name of a pool")
    with _lines(file) as lines, session.stores(create=True) as stores, working("Uploading") as step:
        read = 0

        def told(number: int) -> None:
            nonlocal read
            read += number
            step(f"{read:,} codes")

        done = upload_codes(stores, name, lines, now_ms=now_ms(), progress=told)
    document = {"pool": name, **done._asdict(), "duplicate_lines": list(done.duplicate_lines)}
    session.answer(
        document, Text(f"{counted(done.added, 'code')} added to {name}.", "green"), _rest(done), as_json=as_json
    )


@codes.command("status")
def codes_status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show each pool: codes that are free and taken, and how many winners wait for one."""
    session: Session = ctx.obj
    with session.stores() as stores:
        found = pools(stores)
    nothing = None if found else Text("There is no pool. `bigmarket codes upload POOL FILE` makes one.")
    session.answer({"pools": [pool._asdict() for pool in found]}, nothing or _table(found), as_json=as_json)


@contextmanager
def _lines(file: Path) -> Iterator[Iterator[str]]:
    """The file's lines, read as they are asked for. Raises NotFound or BadInput."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            yield iter(lambda: opened.readline(LINE_MAX), "")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8; codes before that place may be there already.") from error
    except OSError as error:
        raise NotFound(f"{file}: {error.strerror}") from error


def _rest(done: Uploaded) -> Text | None:
    """What was not added, and why."""
    lines = []
    if done.there:
        lines.append(
            f"{counted(done.there, 'code')} were there already." if done.there > 1 else "1 was there already."
        )
    if done.duplicates:
        first = ", ".join(map(str, done.duplicate_lines))
        more = "" if done.duplicates == len(done.duplicate_lines) else " and more"
        lines.append(f"{counted(done.duplicates, 'line')} repeated an earlier one: {first}{more}.")
    return Text("\n".join(lines), "yellow") if lines else None


def _table(found: Sequence[Pool]) -> Table:
    made = table("pool", "free", "taken", "waiting", right=("free", "taken", "waiting"))
    for pool in found:
        style = "red" if pool.waiting else "yellow" if not pool.free else ""
        made.add_row(Text(pool.pool), Text(f"{pool.free:,}", style), f"{pool.taken:,}", f"{pool.waiting:,}")
    return made
