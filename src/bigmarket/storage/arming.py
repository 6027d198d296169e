"""Arming an activity in an installation of any layout: stock in every shard first, then the revision goes live.

With several databases the units live in the hub and go to shards as they ask. The hub's totals change in the very
transaction in which the revision goes live, so the two never differ. What comes before only prepares: rows for every
award in every shard, a limit where there was none, units called back where there shall be fewer. A crash in between
leaves the old revision live, and arming again finishes. What comes after takes limits off; until then a shard is sent
what it asks for.

Two who arm the same activity do not lock each other out of the shards. Before the revision goes live it is checked
that nobody else has changed the campaign or a limit since the shards were prepared; else it starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, func, insert, select, update

from bigmarket.activity.armory import KindCheck, inspect_campaign
from bigmarket.activity.model import Campaign
from bigmarket.activity.stock import SKUS, StockKey
from bigmarket.errors import ConfigurationInvalid, Contention, Problem, Trouble
from bigmarket.ids import Ids
from bigmarket.storage import transfers
from bigmarket.storage.campaigns import Armed, arm, locked_campaign, make_live, too_few
from bigmarket.storage.escrow import Escrow
from bigmarket.storage.installation import Stores
from bigmarket.storage.schema import stock_hub, stock_transfer
from bigmarket.storage.transfers import LIFTED, Move, Standing

log = structlog.get_logger(__name__)

ATTEMPTS_MAX = 6


def arm_installation(
    stores: Stores,
    activity_id: int,
    *,
    kinds: Mapping[str, KindCheck],
    now_ms: int,
    new_seed: Callable[[], bytes],
) -> Armed:
    """Compile the stored configuration of an activity, provide its stock in every shard, and make it live.

    Raises NotFound for an unknown activity; ConfigurationInvalid, with all problems, for one that cannot be drawn or
    has less stock than is won already; Contention when others kept changing it; other ``Trouble`` when a database
    does not answer. What was live before stays live then.
    """
    if not stores.escrowed:
        with stores.config.writing() as connection:
            return arm(connection, activity_id, kinds=kinds, now_ms=now_ms, new_seed=new_seed)
    ids = Ids()
    arming = _Arming(
        stores, activity_id, kinds, now_ms, new_seed, ids, Escrow(stores, ids=ids, now_ms=lambda: now_ms)
    )
    for _ in range(ATTEMPTS_MAX):
        armed = arming.attempt()
        if armed is not None:
            return armed
    raise Contention(
        f"Others kept changing activity {activity_id} or taking its stock; nothing was changed. Try again."
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """How many units there shall be of an item (None: unlimited), and where the configuration says so."""

    total: int | None
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """What shall become live; what has no limit now; how often a limit of its strategy had been taken off by then."""

    campaign: Campaign
    items: Mapping[StockKey, _Item]
    unlimited: frozenset[StockKey]
    lifts: int


class _Overtaken(Exception):
    """Somebody else changed what was prepared."""


@dataclass(frozen=True, slots=True)
class _Arming:
    stores: Stores
    activity_id: int
    kinds: Mapping[str, KindCheck]
    now_ms: int
    new_seed: Callable[[], bytes]
    ids: Ids
    escrow: Escrow

    def attempt(self) -> Armed | None:
        """Prepare and go live; None when somebody else came in between."""
        plan = self._plan()
        self.escrow.sweep()  # a limit that is still to be taken off must not be taken off later
        numbers = range(len(self.stores.shards))
        self._refuse_too_few(plan, [self._provide(shard, plan) for shard in numbers])
        shards = [self._limit(shard, plan) for shard in numbers]
        self._refuse_too_few(plan, shards)
        self.escrow.sweep()  # units that were given without a limit
        self._make_room(plan)
        try:
            with self.stores.config.writing() as connection:
                armed, lifted = self._go_live(connection, plan, shards)
        except _Overtaken:
            return None
        if lifted:
            self._lift()
        return armed

    def _plan(self) -> _Plan:
        """What is configured now; every item has a row in the hub after this."""
        with self.stores.config.writing() as connection:
            _, campaign = locked_campaign(connection, self.activity_id)
            if problems := inspect_campaign(campaign, kinds=self.kinds):
                raise ConfigurationInvalid(f"activity {self.activity_id}", problems)
            items = _items_of(campaign)
            there = transfers.hub_rows(connection, list(items))
            fresh = [key for key in sorted(items) if key not in there]
            if fresh:  # without a limit until it goes live, when the true total is known to suffice
                rows = [{"strategy_id": strategy_id, "item_id": item_id} for strategy_id, item_id in fresh]
                connection.execute(insert(stock_hub), rows)
            unlimited = frozenset(fresh) | {key for key, row in there.items() if row.total is None}
            return _Plan(campaign, items, unlimited, _count_lifts(connection, campaign))

    def _provide(self, shard: int, plan: _Plan) -> dict[StockKey, Standing]:
        """A row for every item; how the shard stands then."""
        limited = {key: item.total is not None or key not in plan.unlimited for key, item in plan.items.items()}
        with self.stores.shards[shard].writing() as connection:
            transfers.provide_rows(connection, limited)
            return transfers.standings(connection, list(plan.items))

    def _limit(self, shard: int, plan: _Plan) -> dict[StockKey, Standing]:
        """A limit where there shall be one; how the shard stands then."""
        with self.stores.shards[shard].writing() as connection:
            for key, standing in sorted(transfers.standings(connection, list(plan.items)).items()):
                if standing.alloc is None and plan.items[key].total is not None:
                    transfers.limit(connection, shard=shard, key=key, transfer_id=self.ids.make(self.now_ms))
            return transfers.standings(connection, list(plan.items))

    def _refuse_too_few(self, plan: _Plan, shards: Sequence[Mapping[StockKey, Standing]]) -> None:
        if problems := list(_below_sold(plan, shards)):
            raise ConfigurationInvalid(f"activity {self.activity_id}", problems)

    def _make_room(self, plan: _Plan) -> None:
        """Call units back where more are in shards than there shall be."""
        with self.stores.config.reading() as connection:
            hub = transfers.hub_rows(connection, list(plan.items))
        for key, item in plan.items.items():
            if item.total is not None and hub[key].allotted > item.total:
                self.escrow.recall(key, hub[key].allotted - item.total)

    def _go_live(
        self, connection: Connection, plan: _Plan, shards: Sequence[Mapping[StockKey, Standing]]
    ) -> tuple[Armed, int]:
        """The totals and the revision, at once; also how many limits shards still have to take off."""
        row, campaign = locked_campaign(connection, self.activity_id)
        if campaign != plan.campaign or _count_lifts(connection, campaign) != plan.lifts:
            raise _Overtaken
        hub = transfers.hub_rows(connection, list(plan.items), lock=True)
        lifts: list[Move] = []
        for key, item in sorted(plan.items.items()):
            if hub[key].total != item.total:
                _set_total(connection, key, item.total)
            if item.total is None:
                limited = [number for number, shard in enumerate(shards) if shard[key].alloc is not None]
                lifts += [Move(self.ids.make(self.now_ms), number, key, LIFTED) for number in limited]
        for move in lifts:
            transfers.send(connection, move, now_ms=self.now_ms)
        return make_live(connection, row, campaign, now_ms=self.now_ms, new_seed=self.new_seed), len(lifts)

    def _lift(self) -> None:
        try:
            self.escrow.sweep()
        except Trouble as trouble:
            log.warning("limits are not off everywhere yet; the next sweep does it", reason=str(trouble))


def _items_of(campaign: Campaign) -> dict[StockKey, _Item]:
    strategy = campaign.strategy
    awards = {
        (strategy.strategy_id, award.award_id): _Item(
            award.stock, f"strategy.awards[{place}].stock", f"award_id {award.award_id}"
        )
        for place, award in enumerate(strategy.awards)
    }
    skus = {
        (SKUS, sku.sku): _Item(sku.stock, f"skus[{at}].stock", f"sku {sku.sku}")
        for at, sku in enumerate(campaign.skus)
    }
    return {**awards, **skus}


def _below_sold(plan: _Plan, shards: Sequence[Mapping[StockKey, Standing]]) -> list[Problem]:
    gone = {key: sum(shard[key].gone for shard in shards) for key in plan.items}
    return [
        too_few(item.path, item.name, gone=gone[key])
        for key, item in plan.items.items()
        if item.total is not None and item.total < gone[key]
    ]


def _set_total(connection: Connection, key: StockKey, total: int | None) -> None:
    """Raises ``_Overtaken`` when more is in shards: units that were free a moment ago were asked for again."""
    hub = stock_hub.c
    covered = [] if total is None else [hub.allotted <= total]
    change = update(stock_hub).where(hub.strategy_id == key[0], hub.item_id == key[1], *covered)
    if connection.execute(change.values(total=total)).rowcount != 1:
        raise _Overtaken


def _count_lifts(connection: Connection, campaign: Campaign) -> int:
    """How often a limit was taken off an award of the strategy, ever."""
    transfer = stock_transfer.c
    query = select(func.count()).select_from(stock_transfer)
    query = query.where(transfer.strategy_id == campaign.strategy.strategy_id, transfer.units == LIFTED)
    return connection.execute(query).scalar_one()
