"""Whether the system stays flat: an open loop at 60 % of the measured peak, watched every few seconds.

The peak is what this generator reaches in a closed loop: it needs more of the shared cores than wrk does.
Memory and descriptors of `serve` and `work`, the backlog of awards and the latency over time; and how long a plain
fdatasync took at most meanwhile, since every draw waits for one.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import load
from charts import Panel, panels
from generator import Plan, Tally
from harness import NotValid, Site, System, attempt, descriptors, resident_mb, running, site_of
from load import DRAW
from machine import DiskWatch
from part import INVALID, Charts, Part, Sample, Setup, Table, run_alone

PEAK_SECONDS = 5.0
SHARE = 0.6
CONNECTIONS = 512
SAMPLES = 60
SAMPLE_SECONDS_MIN = 1.0
WARM_UP_SECONDS = 3.0
TENTH = 10
BACKLOG_SECONDS = 30.0  # to look through the draws of an hour would disturb what it watches


def measure_all(setup: Setup) -> Iterator[Sample]:
    """One sample for each slice of the time."""
    seconds = 6.0 if setup.quick else setup.minutes * 60
    slice_seconds = max(SAMPLE_SECONDS_MIN, seconds / SAMPLES)
    with running(site_of(setup) if setup.server else Site()) as system:
        closed = Plan(system.port, [DRAW], system.users, CONNECTIONS, setup.seconds(PEAK_SECONDS))
        tally = system.run(closed)
        rate = tally.served / tally.seconds * SHARE
        print(f"  peak {rate / SHARE:,.0f} draws/s, so {rate:,.0f} draws/s for {seconds:,.0f} s", file=sys.stderr)
        plan = Plan(
            system.port,
            [DRAW],
            system.users,
            CONNECTIONS,
            seconds,
            rate=rate,
            warm_up=WARM_UP_SECONDS,
            slice_seconds=slice_seconds,
        )
        yield from _watched(system, plan)


def _watched(system: System, plan: Plan) -> Iterator[Sample]:
    process = load.start(plan)
    watched: list[Sample] = []
    syncs: list[float] = []  # the longest before the first slice, then that in each
    with DiskWatch() as disk:
        try:
            started = time.monotonic() + plan.warm_up
            while process.poll() is None and time.monotonic() < started + plan.seconds:
                due = started + len(watched) * plan.slice_seconds
                time.sleep(max(0.0, due - time.monotonic()))
                syncs.append(disk.longest_ms())
                watched.append({"seconds": time.monotonic() - started, **_look(system)})
            tally = load.finish(process)
        except BaseException:
            process.kill()
            raise
        syncs.append(disk.longest_ms())
    late = attempt(partial(_taken, system, tally, plan))
    if INVALID in late:
        yield late
    busy = load.answered(tally, status="503")
    failed = load.answered(tally) - load.answered(tally, status="200", code="0000") - busy
    if failed:
        raise NotValid(f"{failed} answers were neither a draw nor a 503: {dict(tally.answers)}")
    system.allow_unknown(busy)  # some may say that the outcome is not known yet
    refused = (busy + tally.unsent) / (load.answered(tally) + tally.unsent) * 100
    for number, sample in enumerate(watched):
        if found := tally.slices.get(number):
            rate = found.total / plan.slice_seconds
            latency = {f"p{share}_ms": found.quantile_ms(share / 100) for share in (50, 99)}
            yield {**sample, "per_second": rate, **latency, "sync_ms": syncs[number + 1], "refused_share": refused}


def _taken(system: System, tally: Tally, plan: Plan) -> Sample:
    system.take(tally, plan)
    return {}


def _look(system: System) -> Sample:
    work = system.work
    return {
        "serve_mb": resident_mb(system.server.pid),
        "work_mb": resident_mb(work.pid) if work else 0.0,
        "descriptors": descriptors(system.server.pid) + (descriptors(work.pid) if work else 0),
        "backlog": system.undelivered(lately_seconds=BACKLOG_SECONDS),
    }


def tables(samples: Sequence[Sample]) -> list[Table]:
    """The second tenth of the time beside the last, medians of their slices; the first warms up."""
    if len(samples) < 2:
        return []
    size = max(1, len(samples) // TENTH)
    first, last = samples[size : 2 * size], samples[-size:]
    rows = []
    for title, field in FIELDS:
        before, after = (statistics.median(sample[field] for sample in some) for some in (first, last))
        most = max(sample[field] for sample in samples)
        change = f"{after / before - 1:+.1%}" if before else ""
        rows.append([title, f"{before:,.1f}", f"{after:,.1f}", change, f"{most:,.1f}"])
    refused = samples[-1]["refused_share"]
    rows.append(["503 or never sent, %, in all", "", f"{refused:.2f}", "", ""])
    draws = statistics.mean(sample["per_second"] for sample in samples) * samples[-1]["seconds"]
    title = f"Soak: {samples[-1]['seconds'] / 60:,.1f} minutes, about {draws:,.0f} draws"
    return [Table(title, ("", "second tenth", "last tenth", "change", "most"), rows)]


FIELDS = (
    ("draws/s", "per_second"),
    ("p50 ms", "p50_ms"),
    ("p99 ms", "p99_ms"),
    ("longest fdatasync beside it, ms", "sync_ms"),
    ("memory of serve, MB", "serve_mb"),
    ("memory of work, MB", "work_mb"),
    ("descriptors", "descriptors"),
    ("awards not delivered", "backlog"),
)


def charts(samples: Sequence[Sample]) -> Charts:
    """Everything over time."""
    shown = (
        ("p99", "ms", "p99_ms"),
        ("longest fdatasync beside it", "ms", "sync_ms"),
        ("memory of serve", "MB", "serve_mb"),
        ("memory of work", "MB", "work_mb"),
        ("descriptors", "open", "descriptors"),
        ("awards not delivered", "at the moment", "backlog"),
    )
    found = [
        Panel(name, unit, [(sample["seconds"], sample[field]) for sample in samples]) for name, unit, field in shown
    ]
    return {"soak.svg": panels("Soak at 60 % of the peak, open loop", "seconds from the left to the right", found)}


PART = Part(
    "soak",
    "Soak",
    "An open loop at 60 % of the peak that the same generator reached in a closed loop just before; medians of the "
    "slices of a tenth of the time. The fdatasync is of a file of its own: while the disk stalls, every draw waits. "
    "`make soak` does it for ten minutes.",
    85,
    measure_all,
    tables,
    charts,
    embedded=True,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
