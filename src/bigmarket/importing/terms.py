"""What an import goes by: what was asked for, where to, and what is known of the activities there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from bigmarket.activity.armory import KindCheck
from bigmarket.activity.campaign import Campaign
from bigmarket.activity.model import zone_of
from bigmarket.award.model import Award
from bigmarket.importing.staging import Collision, family_of
from bigmarket.storage.installation import Stores

Undelivered = Literal["keep", "deliver", "complete"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and what this installation knows. Without ``stores`` (there are none yet) one can only look."""

    stores: Stores | None
    kinds: Mapping[str, KindCheck]
    new_seed: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. ``time_zone`` is known; ``undelivered`` says what becomes of awards never delivered."""

    time_zone: str
    now_ms: int
    repair: bool = False
    undelivered: Undelivered = "keep"
    arm: bool = True
    dry_run: bool = False

    @property
    def zone(self) -> ZoneInfo:
        """The zone that the reference's DATETIMEs are read in."""
        return _known(self.time_zone)


@dataclass(frozen=True, slots=True)
class ActivityFacts:
    """What mapping a user's rows needs of an activity here; ``epoch`` is None until it is armed.

    ``skus`` are its own, ``behaviors`` those that it rewards.
    """

    zone: ZoneInfo
    places: Mapping[int, int]  # award -> its place on the wheel
    awards: Mapping[int, Award]
    epoch: int | None
    skus: frozenset[int]
    behaviors: frozenset[str]


@dataclass(frozen=True, slots=True)
class Terms:
    """How users' rows are mapped: by which clock, into which activities, with or without repairs."""

    zone: ZoneInfo
    now_ms: int
    activities: Mapping[int, ActivityFacts]
    repair: bool
    undelivered: Undelivered
    collisions: Mapping[Collision, int]

    def number(self, table: str, number: str, user_id: str) -> str:
        """A number of the reference, made another one when several users have it."""
        rank = self.collisions.get(Collision(family_of(table), number, user_id))
        return number if rank is None else f"{number}-{rank}"


def facts_of(campaign: Campaign, *, epoch: int | None) -> ActivityFacts:
    """What is known of a campaign's activity."""
    places = {award.award_id: award.sort for award in campaign.strategy.awards}
    awards = {award.award_id: award for award in campaign.awards}
    skus = frozenset(sku.sku for sku in campaign.skus)
    behaviors = frozenset(rebate.behavior for rebate in campaign.rebates)
    return ActivityFacts(_known(campaign.activity.time_zone), places, awards, epoch, skus, behaviors)


def _known(time_zone: str) -> ZoneInfo:
    zone = zone_of(time_zone)
    assert zone is not None, "unknown zones are refused before"
    return zone
