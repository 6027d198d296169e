"""Runs a command and turns whatever comes of it into one answer and an exit code.

0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import typer

from bigmarket.cli.commands import app
from bigmarket.cli.console import (
    Document,
    complain,
    error_document,
    note,
    other_error_document,
    print_json,
    print_views,
)
from bigmarket.cli.session import Session, Stopped
from bigmarket.errors import BigmarketError

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name). Returns the exit code; never raises an error."""
    for stream in (sys.stdout, sys.stderr):
        _never_fail_on_text(stream)
    session = Session()
    ending = _Ending(session, as_json="--json" in arguments)
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="bigmarket", standalone_mode=False, obj=session)
    except Stopped as stopped:
        return ending.stopped(stopped)
    except BigmarketError as error:
        return ending.refused(error)
    except typer.TyperException as error:
        return ending.wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return ending.interrupted()
    except Exception as fault:  # noqa: BLE001  one line for a person, the traceback on demand
        return ending.broken(fault)
    return ending.interrupted() if code == INTERRUPTED else int(code or DONE)


class _Ending:
    """How a run that did not simply succeed is reported: JSON on stdout when asked for, else lines on stderr."""

    def __init__(self, session: Session, *, as_json: bool) -> None:
        self._session = session
        self._as_json = as_json

    def refused(self, error: BigmarketError) -> int:
        """Something was refused or failed, for a reason we know."""
        self._trace(error)
        if self._as_json:
            self._print(error_document(error))
        else:
            complain(error)
        return FAILED

    def stopped(self, stopped: Stopped) -> int:
        """As ``refused`` or ``interrupted``, with what was done until then."""
        if not self._as_json:
            print_views(*stopped.views)
            return self.interrupted() if stopped.cause is None else self.refused(stopped.cause)
        error = _INTERRUPTED if stopped.cause is None else error_document(stopped.cause)
        self._print(error, stopped.document)
        return INTERRUPTED if stopped.cause is None else FAILED

    def wrong_usage(self, error: typer.TyperException) -> int:
        """The command line cannot be understood."""
        context = getattr(error, "ctx", None)
        path = "bigmarket" if context is None else context.command_path
        message = error.format_message().rstrip(".")
        if self._as_json:
            self._print(other_error_document("usage", f"{message}.", outcome="none"))
        else:
            note(f"error: {message}. Try: {path} --help", style="red")
        return WRONG_USAGE

    def interrupted(self) -> int:
        """The user pressed Ctrl-C."""
        if self._as_json:
            self._print(_INTERRUPTED)
        note("Interrupted.")
        return INTERRUPTED

    def broken(self, fault: Exception) -> int:
        """A fault of ours."""
        self._trace(fault)
        message = f"{type(fault).__name__}: {' '.join(str(fault).split())}"
        if self._as_json:
            self._print(other_error_document("internal", message, outcome="unknown"))
        else:
            hint = "" if self._session.debug else " (for the traceback: bigmarket --debug ...)"
            note(f"error: {message}{hint}", style="red")
        return FAILED

    def _print(self, error: Document, part: Mapping[str, Any] | None = None) -> None:
        if not self._session.answered:
            print_json({"error": error, **(part or {})})

    def _trace(self, fault: Exception) -> None:
        if self._session.debug:
            traceback.print_exception(fault, file=sys.stderr)


_INTERRUPTED = other_error_document("interrupted", "Interrupted by the user.", outcome="unknown")


def _never_fail_on_text(stream: TextIO) -> None:
    """A character that the terminal cannot show becomes an escape."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
