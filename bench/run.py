"""The whole table: every part in turn, then docs/benchmarks.md with its charts. `make bench` runs it.

Ctrl-C ends it early: processes are stopped, databases dropped, and what was measured is written down.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import draw_core
import http_draw
import machine
import mixed
import naive
import overload
import reads
import report
import scale
import soak
from part import Part, Setup, brief, options_of, stop_in_order
from services import find_services, missing

PARTS: Sequence[Part] = tuple(
    module.PART for module in (draw_core, http_draw, naive, mixed, reads, overload, scale, soak)
)


QUICK_SHARE = 0.2  # of the time in full


def main() -> None:
    """Run and report."""
    parser = options_of(__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="measure only these")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the soak")
    parser.add_argument("--large", action="store_true", help="scale: also what takes many minutes to prepare")
    parser.add_argument("--report-only", action="store_true", help="write the document again from bench/out")
    options = parser.parse_args()
    setup = replace(find_services(options), minutes=options.minutes, large=options.large)
    parts = [part for part in PARTS if part.name in options.parts]
    stop_in_order()
    well = options.report_only or _measure(parts, setup)
    report.write_document(PARTS)
    written = (report.DOCUMENT, report.CHARTS / "*.svg", report.OUT / "*.json")
    print("\nWritten:", *(path.relative_to(report.ROOT) for path in written), file=sys.stderr)
    sys.exit(0 if well else 1)


def _measure(parts: Sequence[Part], setup: Setup) -> bool:
    """Part by part; what each measured is saved at its end, also when it ends early. Whether all was well."""
    share = QUICK_SHARE if setup.quick else 1.0
    left = sum(part.seconds for part in parts) * share
    well = True
    if small := machine.advice(machine.facts(server=setup.server, broker=None)):
        told = (
            f"The database has little memory or redo log, which lowers its figures; start it with {' '.join(small)}"
        )
        print(told, file=sys.stderr)
    for number, part in enumerate(parts, start=1):
        print(f"\n[{number}/{len(parts)}] {part.title}; about {left / 60:.1f} minutes left", file=sys.stderr)
        left -= part.seconds * share
        if setup.server is None and not part.embedded:
            print("  *** LEFT OUT: it needs a database server", file=sys.stderr)
            continue
        fault = _measure_one(part, setup)
        if fault is not None:
            well = False
            print(f"  *** {fault}", file=sys.stderr)
        if fault == INTERRUPTED:
            break
    return well


INTERRUPTED = "interrupted"


def _measure_one(part: Part, setup: Setup) -> str | None:
    samples, fault = [], None
    facts = machine.facts(server=setup.server, broker=setup.broker)
    started = time.monotonic()
    try:
        for sample in part.measure(setup):
            samples.append(sample)
            print(f"  {time.monotonic() - started:4.0f} s  {brief(sample)}", file=sys.stderr)
    except KeyboardInterrupt:
        fault = INTERRUPTED
    except Exception as error:  # noqa: BLE001  the other parts shall be measured all the same
        fault = f"{type(error).__name__}: {error}"
    took = time.monotonic() - started
    found = {"part": part.name, "took_seconds": took, "facts": facts, "quick": setup.quick}
    left_out = missing(setup.server, setup.broker)
    report.save(part, {**found, "left_out": left_out, "faults": [fault] if fault else [], "samples": samples})
    return fault


if __name__ == "__main__":
    main()
