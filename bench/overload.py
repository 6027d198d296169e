"""Three times as many draws as the system can make, in an open loop: what is served, and how the rest is told.

The peak is measured first, in a closed loop, in turns with the overload. Requests come at
Poisson moments whether or not earlier ones were answered, and their latency counts from then.

Generator and system share this machine's cores, so three times its whole peak cannot be sent from here: most of it
waits for one of the generator's connections, or is never sent; so the time since it was sent is told, too. The same
is measured with a system that is held back (one lane, four draws in a transaction), where all of it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import load
from charts import Bar, bars
from generator import Plan
from harness import NotValid, Site, System, attempt, measure, running, site_of
from histogram import Histogram
from load import DRAW
from part import INVALID, Charts, Part, Sample, Setup, Table, groups, run_alone

CONNECTIONS = 2_000
TIMES = 3
RUNS, SECONDS, WARM_UP_SECONDS = 2, 5.0, 2.0
DRAIN_SECONDS = 3.0
PEAK, OVERLOAD = "peak", f"{TIMES} x the peak"
WHOLE, HELD_BACK = "all it can", "held back"


def measure_all(setup: Setup) -> Iterator[Sample]:
    """Peak and overload in turns; the overload goes by the latest peak."""
    site = site_of(setup) if setup.server else Site()
    held_back = replace(site, lanes=1, batch_max=4)
    for system_is, some, connections in ((WHOLE, site, 512), (HELD_BACK, held_back, 16)):
        with running(some) as system:
            for _ in range(setup.runs(RUNS)):
                peak = attempt(partial(_peak, system, connections, setup))
                yield {"system": system_is, **peak}
                if INVALID not in peak:
                    over = attempt(partial(_overload, system, peak["per_second"], setup))
                    yield {"system": system_is, **over}


def _peak(system: System, connections: int, setup: Setup) -> Sample:
    return {"variant": PEAK, **measure(system, connections=connections, seconds=setup.seconds(SECONDS))}


def _overload(system: System, peak: float, setup: Setup) -> Sample:
    plan = Plan(
        system.port,
        [DRAW],
        system.users,
        CONNECTIONS,
        setup.seconds(SECONDS),
        rate=peak * TIMES,
        warm_up=setup.seconds(WARM_UP_SECONDS),
        drain_seconds=DRAIN_SECONDS,
    )
    tally = system.run(plan)
    system.drain()
    served, busy = load.latencies(tally, status="200"), load.latencies(tally, status="503")
    unsent = tally.unsent
    total = served.total + busy.total + unsent
    others = load.answered(tally) - load.answered(tally, status="200", code="0000") - busy.total
    if others or tally.without_retry_after:
        told = f"{others} answers were neither a draw nor a 503; {tally.without_retry_after} without Retry-After"
        raise NotValid(f"{told}: {dict(tally.answers)}")
    # 503 may also say that the outcome is not known yet: such a draw may have been made.
    system.allow_unknown(busy.total)
    return {
        "variant": OVERLOAD,
        "offered_per_second": plan.rate,
        "served_per_second": tally.served / tally.seconds,
        "share_of_peak": tally.served / tally.seconds / peak * 100,
        "served_p50_ms": served.quantile_ms(0.5),
        "served_p99_ms": served.quantile_ms(0.99),
        "served_since_sent_p99_ms": tally.since_sent["200"].quantile_ms(0.99),
        "busy_share": busy.total / total * 100,
        "busy_p50_ms": busy.quantile_ms(0.5),
        "busy_p99_ms": busy.quantile_ms(0.99),
        "busy_since_sent_p99_ms": tally.since_sent.get("503", Histogram()).quantile_ms(0.99),
        "unsent_share": unsent / total * 100,
        "broken": tally.broken,
        "lag_p99_ms": tally.lag.quantile_ms(0.99),
    }


def tables(samples: Sequence[Sample]) -> list[Table]:
    """Peak and overload."""
    rows = []
    for (system_is, variant), group in groups(samples, "system", "variant").items():
        if variant == PEAK:
            rows.append([f"{system_is}: peak", "", group.spread("per_second")])
            rows[-1] += ["100", *group.texts("p50_ms", "p99_ms"), *[""] * 8]
        else:
            rates = [*group.texts("offered_per_second", digits=0), group.spread("served_per_second")]
            rows.append([f"{system_is}: {OVERLOAD}", *rates, group.spread("share_of_peak")])
            rows[-1] += group.texts("served_p50_ms", "served_p99_ms", "served_since_sent_p99_ms")
            rows[-1] += group.texts("busy_share", "busy_p50_ms", "busy_p99_ms", "busy_since_sent_p99_ms")
            rows[-1] += group.texts("unsent_share", "broken", "lag_p99_ms")
    header = ["load", "offered/s", "served/s", "% of the peak", "served p50 ms", "served p99 ms", "p99 since sent"]
    header += ["503 %", "503 p50 ms", "503 p99 ms", "p99 since sent"]
    header += ["never sent %", "connections lost", "generator's lag p99 ms"]
    return [Table(f"Overload: {TIMES} times the peak, open loop", header, rows)]


def charts(samples: Sequence[Sample]) -> Charts:
    """Served at the peak and beyond."""
    found = []
    for (system_is, variant), group in groups(samples, "system", "variant").items():
        if variant == PEAK:
            found.append(Bar(f"{system_is}: peak", group["per_second"], "closed loop", ours=False))
        else:
            note = f"{group['share_of_peak']:.0f} %, p99 since sent {group['served_since_sent_p99_ms']:.0f} ms"
            found.append(Bar(f"{system_is}: {TIMES} x", group["served_per_second"], note))
    return {"overload.svg": bars("Overload", "draws served a second", found)}


PART = Part(
    "overload",
    "Overload",
    "An open loop offers three times the peak that a closed loop reached just before. What is "
    "over is answered 503 with Retry-After; every latency counts from the moment the request was due. System and "
    "generator share the cores, so of three times all it can do most waits for one of the generator's 2,000 "
    "connections, or is never sent; hence the time since it was sent. A system that is held back (one "
    "lane, four draws in a transaction) is sent all of it.",
    75,
    measure_all,
    tables,
    charts,
    embedded=True,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
