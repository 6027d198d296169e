"""The whole system over HTTP: durable draws a second, latency, and where the CPU of a draw goes.

Real `serve` and `work` processes on a fresh database, awards being delivered beside the draws, wrk in a closed loop,
all on this machine's cores: on MariaDB and RabbitMQ (quorum queues, confirms), and embedded on SQLite. The baseline,
in turns in the same run, is the same with one transaction per draw (BIGMARKET_BATCH_MAX=1). The latency of one client
is that of one connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from charts import Bar, bars, stacked, steps
from harness import Site, System, measure, running, site_of, turns
from part import Charts, Part, Sample, Setup, Table, groups, ratio, run_alone

CONNECTIONS = (1, 16, 64, 256, 512)
EMBEDDED_CONNECTIONS = (64, 256)
BASELINE_CONNECTIONS = 64
CPU_CONNECTIONS_MIN = 16  # below, waiting costs more than drawing and would dwarf the rest of the chart
RUNS, SECONDS = 3, 3.0
LANES, SINGLE = "lanes", "one transaction per draw"
SERVERS, EMBEDDED = "MariaDB, RabbitMQ, work apart", "SQLite, embedded"
SPENDERS = ("serve", "work", "database", "broker", "generator")


def measure_all(setup: Setup) -> Iterator[Sample]:
    """Every number of connections in turns with the baseline; each site by itself."""
    if setup.server:
        yield from _on(SERVERS, site_of(setup), setup.connections or CONNECTIONS, setup)
    if setup.embedded:
        yield from _on(EMBEDDED, Site(), setup.connections or EMBEDDED_CONNECTIONS, setup)


def _on(where: str, site: Site, connections: Sequence[int], setup: Setup) -> Iterator[Sample]:
    with running(site) as ours, running(site.single) as single:
        variants = [partial(_run, SINGLE, where, single, BASELINE_CONNECTIONS, setup)]
        variants += [partial(_run, LANES, where, ours, count, setup) for count in connections]
        yield from turns(setup.runs(RUNS), variants)


def _run(variant: str, where: str, system: System, connections: int, setup: Setup) -> Sample:
    found = measure(system, connections=connections, seconds=setup.seconds(SECONDS))
    return {"where": where, "variant": variant, **found}


def tables(samples: Sequence[Sample]) -> list[Table]:
    """One for each site."""
    spent = [f"{name} us" for name in SPENDERS]
    header = [
        "variant",
        "connections",
        "draws/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        *spent,
        "backlog",
        "drain s",
        "ratio",
    ]
    found = []
    for (where,), on in groups(samples, "where").items():
        rows = []
        own = groups(on.samples, "variant", "connections")
        base = own.get((SINGLE, BASELINE_CONNECTIONS))
        for (variant, connections), group in own.items():
            beside = base if connections == BASELINE_CONNECTIONS else None
            latency, cpu = group.texts("p50_ms", "p95_ms", "p99_ms"), (f"{name}_us" for name in SPENDERS)
            shown = [f"{connections}", group.spread("per_second"), *latency, *group.texts(*cpu, "backlog", digits=0)]
            rows.append([variant, *shown, *group.texts("drain_seconds"), ratio(group, beside)])
        found.append(Table(f"Draws over HTTP: {where}", header, rows))
    return found


def charts(samples: Sequence[Sample]) -> Charts:
    """Throughput, latency by connections, and CPU by process."""
    found: dict[str, str] = {}
    rates, split = [], []
    for (where, variant, connections), group in groups(samples, "where", "variant", "connections").items():
        place = "SQLite" if where == EMBEDDED else "MariaDB"
        label = f"{place}, {connections} conn." + (", single" if variant == SINGLE else "")
        rates.append(Bar(label, group["per_second"], ours=variant != SINGLE))
        if variant == LANES and connections >= CPU_CONNECTIONS_MIN:
            split.append((label, {name: group[f"{name}_us"] for name in SPENDERS}))
    unit = "draws a second; grey: one transaction per draw"
    found["http-throughput.svg"] = bars("Durable draws over HTTP", unit, rates)
    found["http-cpu.svg"] = stacked("Where the CPU of a draw goes", "microseconds of CPU a draw, by process", split)
    own = [sample for sample in samples if sample["where"] == SERVERS and sample["variant"] == LANES]
    if own:
        found["http-latency.svg"] = _latency(f"Latency over HTTP: {SERVERS}", own)
    return found


def _latency(title: str, samples: Sequence[Sample]) -> str:
    by_count = dict(sorted(groups(samples, "connections").items()))
    lines = {name: [group[f"{name}_ms"] for group in by_count.values()] for name in ("p50", "p95", "p99")}
    labels = [str(count) for (count,) in by_count]
    return steps(title, "milliseconds", labels, lines, below="connections, closed loop")


PART = Part(
    "http",
    "The whole system over HTTP",
    "Real `serve` and `work` processes, every award delivered, wrk on the same cores. CPU is microseconds a draw, by "
    "process; backlog is what was not delivered when the last answer came, drain how long that took. One connection "
    "is the latency of one client.",
    125,
    measure_all,
    tables,
    charts,
    embedded=True,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
