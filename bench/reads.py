"""Calls that only read, each alone at 64 connections, wrk in a closed loop; in turns with them draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from charts import Bar, bars
from generator import Ask
from harness import Site, System, measure, running, site_of, turns
from load import ACCOUNT, AWARD_LIST, DRAW, RULE_WEIGHT, SKU_LIST
from part import Charts, Part, Sample, Setup, Table, groups, ratio, run_alone

CONNECTIONS = 64
RUNS, SECONDS = 3, 2.0
CALLS = (DRAW, AWARD_LIST, ACCOUNT, RULE_WEIGHT, SKU_LIST)


def measure_all(setup: Setup) -> Iterator[Sample]:
    """All calls in turns."""
    with running(site_of(setup) if setup.server else Site()) as system:
        yield from turns(setup.runs(RUNS), [partial(_run, system, ask, setup) for ask in CALLS])


def _run(system: System, ask: Ask, setup: Setup) -> Sample:
    return {"call": ask.name, **measure(system, connections=CONNECTIONS, seconds=setup.seconds(SECONDS), ask=ask)}


def tables(samples: Sequence[Sample]) -> list[Table]:
    """By call."""
    by = groups(samples, "call")
    rows = []
    for (call,), group in by.items():
        latency = group.texts("p50_ms", "p95_ms", "p99_ms")
        cpu = group.texts("serve_us", "database_us", digits=0)
        rows.append([call, group.spread("per_second"), *latency, *cpu, ratio(group, by.get((DRAW.name,)))])
    header = ("call", "requests/s", "p50 ms", "p95 ms", "p99 ms", "serve us", "database us", "beside a draw")
    return [Table(f"Calls that only read, each alone, {CONNECTIONS} connections", header, rows)]


def charts(samples: Sequence[Sample]) -> Charts:
    """Requests a second."""
    found = [
        Bar(call, group["per_second"], f"p99 {group['p99_ms']:.0f} ms", ours=call != DRAW.name)
        for (call,), group in groups(samples, "call").items()
    ]
    return {"reads.svg": bars("Calls that only read", "requests a second, 64 connections; grey: draws", found)}


PART = Part(
    "reads",
    "Calls that only read",
    "`query_raffle_award_list`, `query_user_activity_account`, `query_raffle_strategy_rule_weight` and "
    "`query_sku_product_list_by_activity_id`, each alone, for random users; draws in turns with them.",
    45,
    measure_all,
    tables,
    charts,
    embedded=True,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
