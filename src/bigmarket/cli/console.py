"""How the command line talks: one JSON document or tables on stdout, progress and complaints on stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from bigmarket.errors import BigmarketError, ConfigurationInvalid, Problem

Document = dict[str, Any]

PLAIN_COLUMNS = 160  # where no terminal says how wide it is
STEP_SECONDS = 1.0  # least time between two plain progress lines


def stdout() -> Console:
    """For results."""
    return _console(stderr=False)


def stderr() -> Console:
    """For everything else."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_COLUMNS
    return Console(stderr=stderr, width=width, highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """The one JSON document of a command with ``--json``."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")
    sys.stdout.flush()


def print_json_list(name: str, items: Iterable[Document]) -> None:
    """One JSON document with a list of any length, printed as its items come."""
    sys.stdout.write(f'{{"{name}": [')
    between = "\n"
    for item in items:
        sys.stdout.write(f"{between}{json.dumps(item, ensure_ascii=False, default=str)}")
        between = ",\n"
    sys.stdout.write("]}\n")
    sys.stdout.flush()


def print_views(*views: RenderableType | None) -> None:
    """Results for people; None is left out."""
    console = stdout()
    for view in views:
        if view is not None:
            console.print(view, soft_wrap=isinstance(view, Text))


def note(message: str, *, style: str = "") -> None:
    """One line on stderr."""
    stderr().print(Text(message, style), soft_wrap=True)


# --- errors -------------------------------------------------------------------------------------------------------


class FilesInvalid(BigmarketError):
    """Several campaign files have faults; ``faults`` lists them all, file by file. Nothing was written."""

    code = ConfigurationInvalid.code

    def __init__(self, faults: Sequence[ConfigurationInvalid]) -> None:
        self.faults = tuple(faults)
        problems = sum(len(fault.problems) for fault in faults)
        super().__init__(f"{counted(problems, 'problem')} in {counted(len(faults), 'file')}; nothing was written.")


def error_document(error: BigmarketError) -> Document:
    """What ``--json`` says of an error."""
    faults = _faults(error)
    message = str(error) if not isinstance(error, ConfigurationInvalid) else str(error).splitlines()[0]
    document: Document = {
        "code": error.code, "message": message, "outcome": error.outcome, "retryable": error.retryable
    }  # fmt: skip
    if faults:
        document["problems"] = [
            {"file": fault.source, **problem_document(problem)} for fault in faults for problem in fault.problems
        ]
    return document


def other_error_document(code: str, message: str, *, outcome: str) -> Document:
    """As ``error_document``, for what is no error of bigmarket's."""
    return {"code": code, "message": message, "outcome": outcome, "retryable": False}


def problem_document(problem: Problem) -> Document:
    """A problem as JSON."""
    return {"path": problem.path, "line": problem.line, "reason": problem.reason, "fix": problem.fix}


def complain(error: BigmarketError) -> None:
    """Say on stderr what was refused or failed, all problems included."""
    console = stderr()
    faults = _faults(error)
    message = f"{faults[0].source}: {counted(len(faults[0].problems), 'problem')}" if len(faults) == 1 else str(error)
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    for fault in faults:
        for problem in fault.problems:
            console.print(problem_line(problem, source=fault.source, style="red"), soft_wrap=True)
    if faults:
        console.print("Nothing was written.", style="dim")


def problem_line(problem: Problem, *, source: str, style: str) -> Text:
    """``file:line  path: reason. fix``."""
    place = f"{source}:{problem.line}" if problem.line else source
    return Text.assemble(
        ("  ● ", style), (place, "bold"), "  ", (problem.path, "cyan"), f": {problem.reason}. {problem.fix}"
    )


def warning_lines(problems: Iterable[Problem], *, source: str) -> Text | None:
    """One line per warning; None when there is none."""
    lines = [problem_line(problem, source=source, style="yellow") for problem in problems]
    return Text("\n").join([Text("warnings", "bold yellow"), *lines]) if lines else None


def _faults(error: BigmarketError) -> Sequence[ConfigurationInvalid]:
    if isinstance(error, FilesInvalid):
        return error.faults
    return (error,) if isinstance(error, ConfigurationInvalid) else ()


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- progress -----------------------------------------------------------------------------------------------------


@contextmanager
def working(title: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the time so far; call what is yielded with the present step. Plain lines without a terminal."""
    console = stderr()
    if not console.is_terminal:
        with _plain_steps(console, title) as say:
            yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda step: progress.update(task, description=f"{title}: {step}")


@contextmanager
def _plain_steps(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """A line once it takes longer than ``STEP_SECONDS``, and later at most one per ``STEP_SECONDS``."""
    said = time.monotonic()

    def say(step: str) -> None:
        nonlocal said
        if time.monotonic() - said >= STEP_SECONDS:
            said = time.monotonic()
            console.print(Text(f"{title}: {step}"), soft_wrap=True)

    timer = threading.Timer(STEP_SECONDS, console.print, [Text(f"{title} ...")])
    timer.daemon = True
    timer.start()
    try:
        yield say
    finally:
        timer.cancel()


@contextmanager
def counting(title: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; call what is yielded with how many are done."""
    console = stderr()
    if not console.is_terminal:
        with _plain_steps(console, title) as say:
            yield lambda done: say(f"{done:,} of {total:,}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)
