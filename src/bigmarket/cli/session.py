"""What the commands of one run share: the global options, the settings and the store they lead to."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from bigmarket.app import World, open_stores
from bigmarket.cli.console import print_json, print_views
from bigmarket.errors import BigmarketError, NotFound
from bigmarket.logs import set_up_logs
from bigmarket.settings import PREFIX, Settings, load_settings
from bigmarket.storage.installation import Stores

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, errors included.")]

_ROUTINE_LEVELS = ("info", "warning")  # a command's own answer says what these would


class Session:
    """One run of the command line."""

    def __init__(self) -> None:
        self.home: Path | None = None
        self.workers: int | None = None
        self.work: bool | None = None
        self.debug = False
        self.answered = False

    def settings(self) -> Settings:
        """The settings of this process, those given as options included; logging is set up by them, on stderr."""
        environment = dict(os.environ)
        for name, given in (("HOME", self.home), ("WORKERS", self.workers), ("WORK", self.work)):
            if given is not None:
                environment[f"{PREFIX}{name}"] = str(given)
        settings = load_settings(environment)
        level = "warning" if settings.log_level in _ROUTINE_LEVELS else settings.log_level
        set_up_logs(log_format=settings.log_format, log_level=level)
        return settings

    def has_store(self) -> bool:
        """Whether there is a database yet."""
        path = self.settings().database_path
        return path is None or path.exists()

    @contextmanager
    def stores(self, *, create: bool = False) -> Iterator[Stores]:
        """The databases, closed at the end. Raises NotFound when there are none, unless they shall be created."""
        stores = open_stores(self._settings_of_store(create=create))
        try:
            yield stores
        finally:
            stores.close()

    @contextmanager
    def world(self, *, create: bool = False) -> Iterator[World]:
        """A World whose threads are not started, closed at the end; enter it yourself to draw."""
        settings = self._settings_of_store(create=create)
        world = World(settings)
        try:
            yield world
        finally:
            world.stores.close()

    @contextmanager
    def running_world(self) -> Iterator[World]:
        """A World that draws and delivers, drained at the end."""
        with World(self._settings_of_store()) as world:
            yield world

    def answer(self, document: Mapping[str, Any], *views: RenderableType | None, as_json: bool) -> None:
        """The command's result: the document for programs, the views for people."""
        self.answered = True
        if as_json:
            print_json(document)
        else:
            print_views(*views)

    def may_drop(self, what: str | None, *, yes: bool, as_json: bool) -> bool:
        """Whether to drop it (None: everything that is parked) for good; in a terminal the person is asked first.

        Raises BadParameter where nobody can be asked whether to drop everything.
        """
        asks = not yes and not as_json and sys.stdin.isatty()
        if what is None and not yes and not asks:
            raise typer.BadParameter("nobody can be asked here; add --yes to drop everything that is parked")
        if asks and not typer.confirm(f"Drop {what or 'everything that is parked'} for good?", err=True):
            self.answer({"dropped": 0}, Text("Nothing was dropped."), as_json=as_json)
            return False
        return True

    def command_line(self, rest: str) -> str:
        """How this program is called here, for lines to copy."""
        home = "" if self.home is None else f"--home {self.home} "
        return f"{_program()} {home}{rest}"

    def _settings_of_store(self, *, create: bool = False) -> Settings:
        settings = self.settings()
        path = settings.database_path
        if create or path is None or path.exists():
            return settings
        raise NotFound(
            f"There is no database in {settings.home} yet. Begin with `bigmarket demo` or `bigmarket apply FILE`, "
            f"or point --home (or {PREFIX}HOME) to where it is."
        )


class Stopped(Exception):
    """A command ended early with part of its result; ``cause`` is None when the user interrupted it."""

    def __init__(
        self, cause: BigmarketError | None, document: Mapping[str, Any], *views: RenderableType | None
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.document = document
        self.views = views


def _program() -> str:
    here = Path(sys.argv[0]).absolute()
    if here.name == "bigmarket" and here.is_relative_to(Path.cwd()):  # such as .venv/bin/bigmarket
        return str(here.relative_to(Path.cwd()))
    return "bigmarket" if shutil.which("bigmarket") or here.name != "bigmarket" else str(here)
