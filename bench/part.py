"""What a part of the benchmark is, and how one runs by itself.

A part yields samples, flat dictionaries, as it measures; its tables and charts are made of samples alone, so that
they can be made again from the JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

Sample = dict[str, Any]
INVALID = "not valid"  # a sample of a run that says nothing: why
Charts = Mapping[str, str]  # SVG by file name


@dataclass(frozen=True)
class Setup:
    """What to measure on, and how thoroughly. ``server`` and ``broker`` are None where there is none."""

    server: str | None
    broker: str | None
    embedded: bool = True
    quick: bool = False
    runs_given: int | None = None
    seconds_given: float | None = None
    connections: Sequence[int] = ()  # when given, those of closed loops that compare several numbers
    users_given: int | None = None
    minutes: float = 1.0  # of the soak
    large: bool = False  # whether to prepare the sizes that take long, too

    def runs(self, count: int) -> int:
        """Of each variant."""
        return self.runs_given or (1 if self.quick else count)

    def seconds(self, seconds: float) -> float:
        """Of each run."""
        return self.seconds_given or (1.0 if self.quick else seconds)

    def users(self, count: int) -> int:
        """At most so many."""
        return min(count, 2_000) if self.quick else count


@dataclass(frozen=True)
class Table:
    """A table of texts; all columns but the first are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Part:
    """One part. ``seconds`` is about how long it takes on two cores, in full; ``embedded``: it has something to
    measure without a database server and a broker."""

    name: str
    title: str
    explains: str
    seconds: int
    measure: Callable[[Setup], Iterator[Sample]]
    tables: Callable[[Sequence[Sample]], list[Table]]
    charts: Callable[[Sequence[Sample]], Charts]
    embedded: bool = False


class Group:
    """Samples of one variant."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __getitem__(self, field: str) -> float:
        return float(statistics.median(sample[field] for sample in self.samples))

    def spread(self, field: str, digits: int = 0) -> str:
        """Median, with the least and the most where there were several runs."""
        values = [sample[field] for sample in self.samples]
        median = f"{statistics.median(values):,.{digits}f}"
        return median if len(values) == 1 else f"{median} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"

    def texts(self, *fields: str, digits: int = 1) -> list[str]:
        """Medians."""
        return [f"{self[field]:,.{digits}f}" for field in fields]


def groups(samples: Sequence[Sample], *fields: str) -> dict[tuple[Any, ...], Group]:
    """Samples by the values of these fields, in the order of their first appearance."""
    found: dict[tuple[Any, ...], list[Sample]] = {}
    for sample in samples:
        found.setdefault(tuple(sample[field] for field in fields), []).append(sample)
    return {key: Group(some) for key, some in found.items()}


def ratio(group: Group, base: Group | None, field: str = "per_second") -> str:
    """How many times the base; nothing beside none."""
    return f"{group[field] / base[field]:.1f} x" if base is not None and base[field] else ""


def options_of(description: str | None) -> argparse.ArgumentParser:
    """The options that every command of the benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    usual = "by default that of this machine if it answers; `none`: leave it out"
    parser.add_argument("--server", help=f"MySQL or MariaDB, mysql+pymysql://user:password@host/; {usual}")
    parser.add_argument("--broker", help=f"RabbitMQ, amqp://user:password@host/; {usual}")
    parser.add_argument("--no-embedded", action="store_true", help="leave SQLite out")
    parser.add_argument("--quick", action="store_true", help="one short run of each: to see that it works")
    parser.add_argument("--runs", type=int, help="of each variant")
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument(
        "--connections", "--clients", type=int, nargs="+", help="of closed loops that compare several numbers"
    )
    parser.add_argument("--users", type=int, help="who draw in the core")
    parser.add_argument("--json", action="store_true", help="print the samples as JSON instead of tables")
    return parser


def run_alone(part: Part, description: str | None) -> None:
    """A part as a command."""
    from services import find_services  # noqa: PLC0415  it imports adapters that --help need not wait for

    options = options_of(description).parse_args()
    setup = find_services(options)
    stop_in_order()
    samples = []
    with suppress(KeyboardInterrupt):  # what was measured is shown
        for sample in part.measure(setup):
            print(f"  {brief(sample)}", file=sys.stderr)
            if INVALID not in sample:
                samples.append(sample)
    if options.json:
        print(json.dumps(samples))
        return
    for table in part.tables(samples):
        show(table)


def stop_in_order() -> None:
    """Let the first Ctrl-C or SIGTERM end it as an exception; while it ends, others are not heard."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        print("\nStopping: processes end, databases are dropped ...", file=sys.stderr)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def brief(sample: Sample) -> str:
    """A sample in a line: what it is of, and its first figure."""
    if INVALID in sample:
        return f"*** NOT VALID: {sample[INVALID]}"
    words = [str(value) for value in sample.values() if isinstance(value, str)]
    words += [f"{sample[name]:,} {name}" for name in ("connections", "users") if name in sample]
    words += [f"after {sample['seconds']:.0f} s"] if "seconds" in sample else []
    figure = next((name for name in ("per_second", "served_per_second", "arm_ms") if name in sample), None)
    return ", ".join(words) + (f": {sample[figure]:,.0f} {figure.replace('_', ' ')}" if figure else "")


def show(table: Table) -> None:
    """On the terminal."""
    drawn = RichTable(title=table.title, title_justify="left")
    for number, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if number else "left")
    for row in table.rows:
        drawn.add_row(*row)
    Console(width=150).print(drawn)
