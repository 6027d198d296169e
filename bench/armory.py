"""How long it takes to arm a wheel of 10,000 awards: read, inspect, compile, provide stock, commit."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bigmarket.activity.campaign import Campaign
from bigmarket.app import KIND_CHECKS, new_seed, now_ms
from bigmarket.storage.campaigns import arm, write_campaign
from bigmarket.storage.migrate import migrate
from bigmarket.storage.sqlite import SqliteStore
from campaign import ACTIVITY, bench_campaign

RATE = Decimal("0.000012345")  # nine decimals


def wide_campaign(awards: int) -> Campaign:
    """The bench campaign with ``awards`` sectors: its fallback takes what the others leave of the odds."""
    campaign = bench_campaign()
    first, second, *_ = campaign.strategy.awards
    sectors = [first.model_copy(update={"rate": 1 - RATE * (awards - 1)})]
    sectors += [
        second.model_copy(update={"award_id": 1000 + n, "sort": n + 1, "rate": RATE, "title": f"prize {n}"})
        for n in range(1, awards)
    ]
    prize = next(award for award in campaign.awards if award.award_id == second.award_id)
    own = next(award for award in campaign.awards if award.award_id == first.award_id)
    catalogue = [own, *(prize.model_copy(update={"award_id": sector.award_id}) for sector in sectors[1:])]
    strategy = campaign.strategy.model_copy(update={"awards": tuple(sectors)})
    return campaign.model_copy(update={"strategy": strategy, "awards": tuple(catalogue)})


def measure(awards: int, *, runs: int) -> list[float]:
    """Seconds that arming took, each time on a fresh database."""
    campaign, took = wide_campaign(awards), []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as folder:
            store = SqliteStore(Path(folder) / "x.db")
            migrate(store)
            with store.writing() as connection:
                write_campaign(connection, campaign)
            started = time.perf_counter()
            with store.writing() as connection:
                armed = arm(connection, ACTIVITY, kinds=KIND_CHECKS, now_ms=now_ms(), new_seed=new_seed)
            took.append(time.perf_counter() - started)
            assert armed.awards == awards
            store.close()
    return took


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--awards", type=int, nargs="+", default=[10, 1_000, 10_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the seconds as JSON instead of a table")
    options = parser.parse_args()
    seconds = {awards: measure(awards, runs=options.runs) for awards in options.awards}
    if options.json:
        print(json.dumps(seconds))
        return
    table = Table(title=f"Arming a wheel; median of {options.runs} (worst)")
    table.add_column("awards", justify="right")
    table.add_column("ms", justify="right")
    table.add_column("ratio", justify="right")
    base = statistics.median(seconds[options.awards[0]])
    for awards, took in seconds.items():
        median = statistics.median(took)
        table.add_row(f"{awards:,}", f"{median * 1000:,.1f} ({max(took) * 1000:,.1f})", f"{median / base:,.1f} x")
    Console(width=80).print(table)


if __name__ == "__main__":
    main()
