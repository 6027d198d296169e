"""A mixture of calls as players make it, in a closed loop: 70 % draws, 20 % looks, 10 % sign-ins and exchanges.

Looks are the wheel's award list and the user's account. Each user signs in once. The latency is told by kind. The
baseline, in turns in the same run, is draws alone by the same generator (ours: wrk sends one kind only).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count

import load
from charts import Bar, bars
from generator import Plan, Tally
from harness import NotValid, Site, running, site_of, turns
from load import ACCOUNT, AWARD_LIST, DRAW, EXCHANGE, SIGN_IN
from part import Charts, Part, Sample, Setup, Table, groups, run_alone

CONNECTIONS = 64
RUNS, SECONDS = 3, 3.0
USERS = 100_000  # more than sign in during all runs
SIGN_INS_MAX = 25_000  # of one run
MIXTURE = (
    replace(DRAW, weight=70),
    replace(AWARD_LIST, weight=10),
    replace(ACCOUNT, weight=10),
    replace(SIGN_IN, weight=5),
    replace(EXCHANGE, weight=5),
)
MIXED, DRAWS_ALONE, ALL = "mixture", "draws alone", "all kinds"


def measure_all(setup: Setup) -> Iterator[Sample]:
    """The mixture and draws alone in turns."""
    site = site_of(setup) if setup.server else Site()
    signing_in = count(0, SIGN_INS_MAX)
    with running(site, users=USERS) as system:
        samples: list[list[Sample]] = []

        def run(variant: str, plan: Plan) -> Sample:
            tally = system.run(replace(plan, first_user=next(signing_in) if variant == MIXED else 0))
            system.allow_unknown(load.answered(tally, name=DRAW.name, status="503"))
            system.drain()
            samples.append(list(_samples(variant, tally)))
            return {}

        plan = Plan(system.port, [], USERS, CONNECTIONS, setup.seconds(SECONDS))
        variants = [
            partial(run, DRAWS_ALONE, replace(plan, asks=[DRAW])),
            partial(run, MIXED, replace(plan, asks=list(MIXTURE))),
        ]
        for turn in turns(setup.runs(RUNS), variants):
            yield from [turn] if turn else samples.pop()


def _samples(variant: str, tally: Tally) -> Iterator[Sample]:
    """One of all kinds, and one of each kind where there are several."""
    failed = (
        load.answered(tally) - load.answered(tally, status="200", code="0000") - load.answered(tally, status="503")
    )
    if failed or tally.broken:
        raise NotValid(
            f"of {load.answered(tally)} answers {failed} were neither good nor a 503: {dict(tally.answers)}"
        )
    names = list(dict.fromkeys(name for name, _ in tally.latencies))
    for name in [None, *names] if len(names) > 1 else [None]:
        found = load.latencies(tally, name=name, status="200")
        busy = load.answered(tally, name=name, status="503")
        busy_share = {"busy_share": busy / max(1, busy + found.total) * 100}
        quantiles = {f"p{share}_ms": found.quantile_ms(share / 100) for share in (50, 95, 99)}
        rate = found.total / tally.seconds
        yield {
            "variant": variant,
            "kind": name or ALL,
            "connections": CONNECTIONS,
            "per_second": rate,
            **quantiles,
            **busy_share,
        }


def tables(samples: Sequence[Sample]) -> list[Table]:
    """By kind."""
    rows = []
    for (variant, kind), group in groups(samples, "variant", "kind").items():
        label = f"{variant}: {kind}" if variant == MIXED else variant
        rows.append([label, group.spread("per_second"), *group.texts("p50_ms", "p95_ms", "p99_ms", "busy_share")])
    header = ("calls", "calls/s", "p50 ms", "p95 ms", "p99 ms", "503 %")
    return [Table(f"A mixture of calls, {CONNECTIONS} connections", header, rows)]


def charts(samples: Sequence[Sample]) -> Charts:
    """The slowest percent of each kind."""
    mixture = [sample for sample in samples if sample["variant"] == MIXED]
    found = [
        Bar(kind, group["p99_ms"], f"p50 {group['p50_ms']:.1f}") for (kind,), group in groups(mixture, "kind").items()
    ]
    return {"mixed.svg": bars("A mixture of calls: p99 by kind", "milliseconds, 64 connections", found)}


PART = Part(
    "mixed",
    "A mixture of calls",
    "70 % draws, 10 % award lists, 10 % accounts, 5 % sign-ins, 5 % exchanges, by our generator in a closed loop; it "
    "takes more of the machine than wrk, so compare with the draws alone of the same run.",
    40,
    measure_all,
    tables,
    charts,
    embedded=True,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
