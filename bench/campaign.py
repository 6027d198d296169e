"""What the benches draw on: the demo campaign, with prizes that do not run out, more of them, or only one unit."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from bigmarket.activity.campaign import Campaign, load_campaign
from bigmarket.app import KIND_CHECKS
from bigmarket.award.kinds import OUTSIDE_KINDS

ACTIVITY, STRATEGY = 100301, 100006
SKU = 9001
FALLBACK_AWARD = 101  # unlimited
STOCK = 2_000_000_000
PRICE = Decimal(1)
RARE = Decimal("0.000012345")  # the chance of each further award of a wide wheel


def bench_campaign() -> Campaign:
    """The demo campaign; every limited prize and sku holds two billion units, a unit of a sku costs one credit.

    What others deliver is nothing here: there are no codes, and nobody to call.
    """
    campaign = load_campaign(Path(__file__).parents[1] / "examples" / "100301.yaml", kinds=KIND_CHECKS)
    awards = tuple(
        award if award.stock is None else award.model_copy(update={"stock": STOCK})
        for award in campaign.strategy.awards
    )
    return campaign.model_copy(
        update={
            "strategy": campaign.strategy.model_copy(update={"awards": awards}),
            "awards": tuple(
                award.model_copy(update={"kind": "nothing", "config": ""}) if award.kind in OUTSIDE_KINDS else award
                for award in campaign.awards
            ),
            "skus": tuple(sku.model_copy(update={"stock": STOCK, "price": PRICE}) for sku in campaign.skus),
        }
    )


def wide_campaign(awards: int) -> Campaign:
    """The bench campaign with ``awards`` sectors: its fallback takes what the others leave of the odds."""
    campaign = bench_campaign()
    first, second, *_ = campaign.strategy.awards
    sectors = [first.model_copy(update={"rate": 1 - RARE * (awards - 1)})]
    sectors += [
        second.model_copy(update={"award_id": 1000 + n, "sort": n + 1, "rate": RARE, "title": f"prize {n}"})
        for n in range(1, awards)
    ]
    prize = next(award for award in campaign.awards if award.award_id == second.award_id)
    own = next(award for award in campaign.awards if award.award_id == first.award_id)
    catalogue = [own, *(prize.model_copy(update={"award_id": sector.award_id}) for sector in sectors[1:])]
    # The tiers of the demo name awards that are not among these.
    strategy = campaign.strategy.model_copy(update={"awards": tuple(sectors), "chain": ()})
    return campaign.model_copy(update={"strategy": strategy, "awards": tuple(catalogue)})


def scarce_campaign() -> Campaign:
    """The bench campaign where half of all rolls are for one prize of which a single unit is left."""
    campaign = bench_campaign()
    first, second, *others = campaign.strategy.awards
    half = Decimal("0.5")
    awards = (
        first.model_copy(update={"rate": first.rate + second.rate - half}),
        second.model_copy(update={"rate": half, "stock": 1}),
        *others,
    )
    return campaign.model_copy(update={"strategy": campaign.strategy.model_copy(update={"awards": awards})})


def user_names(count: int) -> list[str]:
    """``count`` user ids."""
    return [f"user{number:07}" for number in range(count)]
