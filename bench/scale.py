"""What a draw costs as things grow: processes, shards, users with their history, awards; and when all want one thing.

Every pair is measured in turns in the same run: more users beside a thousand, a wide wheel beside the usual one, and
so on. ``run.py --large`` prepares a million users with twelve million rows, which takes minutes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from backends import fresh_database
from bigmarket.activity.campaign import Campaign
from bigmarket.app import KIND_CHECKS, new_seed, now_ms, open_stores
from bigmarket.settings import Settings
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.campaigns import write_campaign
from campaign import ACTIVITY, bench_campaign, scarce_campaign, wide_campaign
from charts import Bar, bars
from harness import USERS, Site, System, measure, running, site_of, turns
from part import Charts, Part, Sample, Setup, Table, groups, run_alone

CONNECTIONS = 256
RUNS, SECONDS = 2, 3.0
FEW_USERS, MANY_USERS, MOST_USERS = 1_000, 100_000, 1_000_000
DRAWS_BEFORE = 4  # of each user: with orders, records, accounts and credits twelve rows each
USUAL_AWARDS, MOST_AWARDS = 8, 10_000
ARMED_AWARDS = (10, 10_000)


class Variant(NamedTuple):
    """A system to measure. ``among``: how many of its users draw."""

    subject: str
    label: str
    site: Site
    users: int = USERS
    draws_before: int = 0
    campaign: Callable[[], Campaign] = bench_campaign
    among: int | None = None


def measure_all(setup: Setup) -> Iterator[Sample]:
    """Subject by subject; the first variant of each is what the others are compared with."""
    site = site_of(setup) if setup.server else Site()
    for variants in (_growth(site, setup), _sharing(site), _processes(site)):
        yield from _compared(variants, setup)
    for awards in ARMED_AWARDS:
        for _ in range(setup.runs(RUNS)):
            yield {"subject": "arming", "label": f"{awards:,} awards", "arm_ms": arm_ms(awards, site)}


def _growth(site: Site, setup: Setup) -> list[Variant]:
    many = setup.users(MOST_USERS if setup.large else MANY_USERS)
    rows = many * (2 * DRAWS_BEFORE + 4)
    return [
        Variant("users", f"{FEW_USERS:,} users, no history", site, users=FEW_USERS),
        Variant("users", f"{many:,} users, {rows:,} rows", site, users=many, draws_before=DRAWS_BEFORE),
    ]


def _sharing(site: Site) -> list[Variant]:
    wide = partial(wide_campaign, MOST_AWARDS)
    return [
        Variant("contention", f"{USUAL_AWARDS} awards, 10,000 users", site),
        Variant("contention", f"{MOST_AWARDS:,} awards", site, campaign=wide),
        Variant("contention", "half the rolls for one last unit", site, campaign=scarce_campaign),
        Variant("contention", "one user draws all", site, among=1),
    ]


def _processes(site: Site) -> list[Variant]:
    found = [Variant("processes", f"{count} x serve", replace(site, workers=count)) for count in (1, 2, 4)]
    if site.server:
        found.append(Variant("processes", "2 shards, 1 x serve", replace(site, shards=2)))
    return found


def _compared(variants: Sequence[Variant], setup: Setup) -> Iterator[Sample]:
    """All are up at once and take turns."""
    with ExitStack() as stack:
        systems = [(variant, stack.enter_context(_running(variant))) for variant in variants]
        yield from turns(setup.runs(RUNS), [partial(_run, variant, system, setup) for variant, system in systems])


@contextmanager
def _running(variant: Variant) -> Iterator[System]:
    with running(
        variant.site, campaign=variant.campaign(), users=variant.users, draws_before=variant.draws_before
    ) as system:
        yield system


def _run(variant: Variant, system: System, setup: Setup) -> Sample:
    connections = setup.connections[0] if setup.connections else CONNECTIONS
    found = measure(system, connections=connections, seconds=setup.seconds(SECONDS), users=variant.among)
    return {"subject": variant.subject, "label": variant.label, "users": variant.users, **found}


def arm_ms(awards: int, site: Site) -> float:
    """Milliseconds to arm a wheel: read, inspect, compile, provide stock, commit."""
    with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as name, ExitStack() as stack:
        url = stack.enter_context(fresh_database(site.server, folder=Path(name)))
        stores = open_stores(Settings(database=url))
        stack.callback(stores.close)
        with stores.config.writing() as connection:
            write_campaign(connection, wide_campaign(awards))
        started = time.perf_counter()
        armed = arm_installation(stores, ACTIVITY, kinds=KIND_CHECKS, now_ms=now_ms(), new_seed=new_seed)
        took = time.perf_counter() - started
        assert armed.awards == awards
    return took * 1000


def tables(samples: Sequence[Sample]) -> list[Table]:
    """A table for each subject, each variant beside the first."""
    found = []
    for (subject,), on in groups([sample for sample in samples if "per_second" in sample], "subject").items():
        by = groups(on.samples, "label")
        base = next(iter(by.values()))
        rows = []
        for (label,), group in by.items():
            cpu = group.texts("serve_us", "work_us", "database_us", digits=0)
            share = f"{group['per_second'] / base['per_second']:.0%}"
            rows.append([label, group.spread("per_second"), *group.texts("p50_ms", "p99_ms"), *cpu, share])
        header = (subject, "draws/s", "p50 ms", "p99 ms", "serve us", "work us", "database us", "of the first")
        found.append(Table(f"Scale: {subject}, {CONNECTIONS} connections", header, rows))
    armed = groups([sample for sample in samples if "arm_ms" in sample], "label")
    if armed:
        rows = [[label, group.spread("arm_ms")] for (label,), group in armed.items()]
        found.append(Table("Scale: arming a wheel", ("awards", "ms"), rows))
    return found


def charts(samples: Sequence[Sample]) -> Charts:
    """All of them; the first of each subject is grey."""
    found = []
    for on in groups([sample for sample in samples if "per_second" in sample], "subject").values():
        rates = {label: group["per_second"] for (label,), group in groups(on.samples, "label").items()}
        base = next(iter(rates.values()))
        for label, rate in rates.items():
            ours = label != next(iter(rates))
            found.append(Bar(label, rate, f"{rate / base:.0%}" if ours else "", ours=ours))
    unit = f"draws a second, {CONNECTIONS} connections; grey: what those below are compared with"
    return {"scale.svg": bars("Scale", unit, found)}


PART = Part(
    "scale",
    "Scale",
    "Users and history, awards, a prize with one unit left that half of all rolls ask for, one user who draws "
    "everything, several `serve` processes, two shards. All of a subject are up at once and take turns. "
    "`make bench-scale` does it with a million users and twelve million rows.",
    220,
    measure_all,
    tables,
    charts,
    embedded=True,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
