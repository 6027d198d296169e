"""docs/benchmarks.md and its charts, made of the samples in bench/out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from part import INVALID, Part, Table

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench" / "out"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
CHARTS = ROOT / "docs" / "benchmarks"

_HEAD = """# Benchmarks

`make bench` measured this; anyone can run it again, in under 15 minutes ([how, and what makes a figure
trustworthy](../bench/README.md)). Server, database, broker and load generator share the cores of one machine, so
every figure is what is left after the others took theirs. Figures are medians with the least and the most of their
runs; variants that are compared took turns. After each part the server's count of draws was what the clients had been
told, every award was delivered and `doctor` found nothing.
"""


def save(part: Part, found: Mapping[str, Any]) -> None:
    """The samples of a part, and what they were measured on, as JSON."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{part.name}.json").write_text(json.dumps(found, indent=1) + "\n")


def write_document(parts: Sequence[Part]) -> None:
    """Everything that bench/out has, part by part; machine and versions are those of what was measured last."""
    paths = {part.name: OUT / f"{part.name}.json" for part in parts}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    if not found:
        return
    facts = max((of_part["facts"] for of_part in found.values()), key=lambda its: str(its["measured"]))
    lines = [_HEAD, _markdown(Table("", ("", ""), [[name, str(value)] for name, value in facts.items()]))]
    gauges = "The Python loop (two million additions) and fdatasync (4 KiB) are gauges"
    lines.append(f"{gauges}: where they differ, so do the days.\n")
    for part in parts:
        lines += [f"## {part.title}\n", f"{part.explains}\n"]
        lines += _section(part, found[part.name]) if part.name in found else ["Not measured.\n"]
    DOCUMENT.write_text("\n".join(lines).rstrip() + "\n")


def _section(part: Part, found: Mapping[str, Any]) -> list[str]:
    samples = [sample for sample in found["samples"] if INVALID not in sample]
    lines = []
    if found["quick"]:
        lines.append("> **A quick run, to see that everything works. Its figures mean nothing.**\n")
    faults = [sample[INVALID] for sample in found["samples"] if INVALID in sample] + found["faults"]
    lines += [f"> **Left out: {sentence}.**\n" for sentence in found["left_out"]]
    lines += [f"> **Not valid: {fault}**\n" for fault in faults]
    lines.append(_when(found) + "\n")
    if not samples:
        return [*lines, "Nothing was measured.\n"]
    CHARTS.mkdir(parents=True, exist_ok=True)
    for name, svg in part.charts(samples).items():
        (CHARTS / name).write_text(svg)
        lines.append(f"![{part.title}](benchmarks/{name})\n")
    for table in part.tables(samples):
        lines += [f"### {table.title}\n", _markdown(table)]
    return lines


def _when(found: Mapping[str, Any]) -> str:
    facts = found["facts"]
    gauges = f"Python loop {facts['python_loop_ms']} ms, fdatasync {facts['fdatasync_ms']} ms"
    return f"*{facts['measured']}, {facts['bigmarket']}; {gauges}; took {found['took_seconds']:.0f} s.*"


def _markdown(table: Table) -> str:
    rows = [table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)
