"""Stock of several shards: units live where they are drawn, and move when one shard runs short.

A shard that is short asks the hub, which gives what is wanted and a share of what is left. When the hub has none, the
other shards give back what lies idle there: what is still free a moment later, so that a unit is not taken from a
shard that has just asked for it. Shards that wait for each other's last units do not swap them: those of lower number
look first. Each step is a transaction of one database (transfers.py); what a crash leaves half-way is finished by
``sweep``.

"Sold out" is never a guess: it is said only when the units that are gone from all shards make up the total. Units
sold never become fewer, so that stays true however long ago the shards were looked at, and needs the hub no more,
until another revision has more units or a void gives one back. So whoever goes by what was seen some time ago has
the shards looked at again meanwhile (``verdict``): a unit that came back is hidden for seconds at most.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeVar

import structlog
from sqlalchemy import Connection

from bigmarket.activity.stock import SKUS, StockKey
from bigmarket.errors import Contention, Overloaded, SkuSoldOut, Trouble
from bigmarket.ids import Ids
from bigmarket.storage import transfers
from bigmarket.storage.contract import Store
from bigmarket.storage.errands import Errands
from bigmarket.storage.installation import Stores
from bigmarket.storage.transfers import HubRow, Move, NotMoved, Standing, named

log = structlog.get_logger(__name__)

T = TypeVar("T")

DOWN_SECONDS = 1.0  # a database that did not answer is left alone for so long
PAUSES_SECONDS = (
    0.0,
    0.03,
    0.06,
    0.12,
)  # before each look; a shard that has just been sent units sells them meanwhile
FRESH_SECONDS = 0.5  # so long the hub's total may be gone by that was read with a verdict
LOOK_AGAIN_SECONDS = 2.0  # a verdict of that age is still used, but looked into
UNLIMITED_PORTION = 1_000  # units that a shard is sent whose limit is not off yet
SWEEPS_MAX = 100
RECHARGES_MAX = 3
REBALANCED_MAX = 200  # items in a run

HUB = -1  # stands for the hub among the shards

Frees = dict[int, dict[StockKey, int]]  # by shard: units


class Verdict(NamedTuple):
    """Units ``gone`` from all shards of the ``total`` that the hub had then (None: unlimited)."""

    gone: int
    total: int | None
    at: float  # by time.monotonic()


class Escrow:
    """Moves units between the hub and the shards, for all lanes of a process."""

    def __init__(self, stores: Stores, *, ids: Ids, now_ms: Callable[[], int]) -> None:
        self._hub = stores.config
        self._shards = stores.shards
        self._ids = ids
        self._now_ms = now_ms
        self._errands = tuple(Errands() for _ in stores.shards)
        self._down: dict[int, tuple[float, Trouble]] = {}
        self._seen: dict[StockKey, list[Standing]] = {}  # in each shard: the most sold, and the most that came back
        self._verdicts: dict[StockKey, Verdict] = {}
        self._looking = threading.Lock()
        self._looked_at = 0.0

    def fetch(self, shard: int, wanted: Mapping[StockKey, int]) -> None:
        """Bring units to a shard that is short of so many; perhaps fewer, and not of every item.

        None come of those that are all sold, which ``verdict`` then tells. Raises ``Trouble`` when nothing came and
        nothing is known to be sold out.
        """
        if wanted:
            self._errands[shard].run(lambda: self._fetch(shard, dict(wanted)))

    def verdict(self, key: StockKey) -> Verdict | None:
        """What was seen last of an item that somebody was short of; it is looked into again when that is long ago."""
        found = self._verdicts.get(key)
        if found is not None and self._is_due(found) and self._looking.acquire(blocking=False):
            threading.Thread(target=self._look_again, name="stock verdicts", daemon=True).start()
        return found

    def selling(self, shard: int, sku: int, sell: Callable[[], T]) -> T:
        """Run ``sell``; when it finds the sku sold out in its shard, bring units there and run it again.

        Raises ``SkuSoldOut`` only when no shard has any.
        """
        key = (SKUS, sku)
        for _ in range(RECHARGES_MAX):
            try:
                return sell()
            except SkuSoldOut:
                asked_at = time.monotonic()
                self.fetch(shard, {key: 1})
                found = self.verdict(key)
                if found and found.at >= asked_at and found.total is not None and found.gone >= found.total:
                    raise
        raise Contention(f"Others took every unit of sku {sku} that came; nothing was spent. Try again.")

    def sweep(self) -> int:
        """Finish every move that a crash left half-way; how many. Raises the first ``Trouble`` when the rest is done.

        Those of other processes that are under way may be finished too; that is harmless.
        """
        troubles: list[Trouble] = []
        finished = 0
        for _ in range(SWEEPS_MAX):
            done = self._sweep_once(troubles)
            finished += done
            if troubles or not done:
                break
        if troubles:
            raise troubles[0]
        return finished

    def rebalance(self) -> int:
        """Let shards with far more than their share give back, where another is short; how many moves."""
        standings = [self._read(shard, transfers.all_standings) for shard in range(len(self._shards))]
        frees: dict[StockKey, list[int]] = {}
        for shard, found in enumerate(standings):
            for key, standing in found.items():
                if standing.alloc is not None:
                    frees.setdefault(key, [0] * len(self._shards))[shard] = standing.free
        hub = self._read(HUB, lambda connection: transfers.hub_rows(connection, sorted(frees)))
        surplus: Frees = defaultdict(dict)
        uneven = [key for key in sorted(frees) if _is_uneven(frees[key], hub.get(key))]
        for key in uneven[:REBALANCED_MAX]:
            fair = sum(frees[key]) // len(self._shards)
            for shard, free in enumerate(frees[key]):
                if free > 2 * fair:
                    surplus[shard][key] = free - fair
        return sum(len(self._settle(shard, self._give_back(shard, units))) for shard, units in surplus.items())

    def recall(self, key: StockKey, units: int) -> int:
        """Bring up to ``units`` that are free in shards back to the hub; how many came."""
        came = 0
        frees = {shard: self._stand(shard, [key]).get(key, _NOTHING).free for shard in range(len(self._shards))}
        for shard in sorted(frees, key=lambda shard: -frees[shard]):
            if came < units and frees[shard]:
                moves = self._give_back(shard, {key: units - came})
                came -= sum(move.units for move in self._settle(shard, moves))
        return came

    # --- one errand -----------------------------------------------------------------------------------------------

    def _fetch(self, shard: int, wanted: Mapping[StockKey, int]) -> None:
        rows = self._stand(shard, list(wanted))
        for key in wanted:
            if key not in rows:  # before anything is sent that could not be received
                raise NotMoved(f"Shard {shard} has no stock row for {named(key)}; arm its activity again.")
        missing = dict(wanted)
        before: Frees = {}
        for look, pause in enumerate(PAUSES_SECONDS):
            time.sleep(pause)
            if look == len(PAUSES_SECONDS) - 1:
                self._sweep_quietly()
            self._receive(shard, self._grant(shard, missing), missing)
            troubles: list[Trouble] = []
            if missing == wanted:
                free = self._look_around(shard, missing, troubles)
                idle = {
                    other: _both(before.get(other, {}), free[other]) for other in free if other > shard or look > 1
                }
                self._collect(shard, missing, idle, troubles)
                before = free
            if missing != wanted:  # what came shall be used before more is asked for
                return
            if troubles and look > 1:
                raise troubles[0]
        raise Contention("Units of a prize are on their way between databases; nothing was spent. Try again.")

    def _grant(self, shard: int, missing: Mapping[StockKey, int]) -> list[Move]:
        """Send what the hub has, and a share of the rest."""
        moves: list[Move] = []
        with self._reached(HUB) as hub, hub.updating() as connection:
            for key, row in transfers.hub_rows(connection, list(missing), lock=True).items():
                units = _portion(row, missing[key], shards=len(self._shards))
                if units > 0:
                    moves.append(Move(self._new_id(), shard, key, units))
                    transfers.send(connection, moves[-1], now_ms=self._now_ms())
        return moves

    def _receive(self, shard: int, moves: list[Move], missing: dict[StockKey, int]) -> None:
        """Put what was sent into the shard, and count it."""
        if not moves:
            return
        with self._reached(shard) as store, store.updating() as connection:
            for move in moves:
                transfers.receive(connection, move, new_id=self._new_id)
        self._tell(HUB, partial(transfers.mark_applied, transfer_ids=_ids_of(moves)))
        for move in moves:
            _count(missing, move.key, move.units)

    def _look_around(self, shard: int, missing: dict[StockKey, int], troubles: list[Trouble]) -> Frees:
        """What is free in each other shard; items whose units are all sold, or lie here, are missing no more."""
        keys = list(missing)
        hub = self._read(HUB, lambda connection: transfers.hub_rows(connection, keys))
        found: dict[int, dict[StockKey, Standing]] = {}
        for other in range(len(self._shards)):
            try:
                found[other] = self._stand(other, keys)
            except Trouble as trouble:
                if other == shard:
                    raise
                troubles.append(trouble)
        now = time.monotonic()
        for key in keys:
            if key not in hub:
                raise NotMoved(f"The hub has no row for {named(key)}; arm its activity again.")
            total = hub[key].total
            gone = self._gone_of(key, found)
            self._verdicts[key] = Verdict(gone, total, now)
            if total is not None and gone + found[shard][key].free >= total:
                del missing[key]
        return {
            other: {key: standing.free for key, standing in rows.items()}
            for other, rows in found.items()
            if other != shard
        }

    def _gone_of(self, key: StockKey, found: Mapping[int, Mapping[StockKey, Standing]]) -> int:
        """Units gone from all shards; of an award, a shard that does not answer counts as it was seen."""
        if key[0] == SKUS:
            return sum(rows[key].sold for rows in found.values() if key in rows)
        return sum(standing.gone for standing in self._seen[key])

    def _is_due(self, verdict: Verdict) -> bool:
        now = time.monotonic()
        return now - verdict.at > LOOK_AGAIN_SECONDS and now - self._looked_at > LOOK_AGAIN_SECONDS

    def _look_again(self) -> None:
        """Read every shard for what may have come back; without the hub, which does not know of it."""
        try:
            keys = [key for key in list(self._verdicts) if key[0] != SKUS]
            for shard in range(len(self._shards)):
                with suppress(Trouble):  # what was seen there before counts
                    self._stand(shard, keys)
            for key in keys:
                self._verdicts[key] = self._verdicts[key]._replace(gone=self._gone_of(key, {}))
        finally:
            self._looked_at = time.monotonic()
            self._looking.release()

    def _collect(self, shard: int, missing: dict[StockKey, int], idle: Frees, troubles: list[Trouble]) -> None:
        """Have the other shards give what is missing, or half of what is idle if that is more; the richest first."""
        plan: Frees = defaultdict(dict)
        for key, units in missing.items():
            for other in sorted(idle, key=lambda other: -idle[other].get(key, 0)):
                there = idle[other].get(key, 0)
                taken = max(there // 2, min(units, there))
                if units > 0 and taken:
                    plan[other][key] = taken
                    units -= taken  # noqa: PLW2901  what is still missing
        for other, asked in sorted(plan.items()):
            try:
                back = self._give_back(other, asked)
            except Trouble as trouble:
                troubles.append(trouble)
                continue
            self._receive(shard, self._redirect(back, shard), missing)
            self._tell(other, partial(transfers.mark_settled, transfer_ids=_ids_of(back)))

    def _redirect(self, back: list[Move], shard: int) -> list[Move]:
        """Take in what a shard gave back and send it on, in one transaction, so that nobody comes in between."""
        onward: list[Move] = []
        if back:
            with self._reached(HUB) as hub, hub.updating() as connection:
                for move in back:
                    sent = Move(self._new_id(), shard, move.key, -move.units)
                    if transfers.redirect(connection, move, sent, now_ms=self._now_ms()):
                        onward.append(sent)
        return onward

    # --- giving back and sweeping -----------------------------------------------------------------------------------

    def _give_back(self, shard: int, asked: Mapping[StockKey, int]) -> list[Move]:
        """Let the shard give up to so many units of each back; they have to be settled."""
        with self._reached(shard) as store, store.updating() as connection:
            moves = [
                transfers.give_back(connection, shard=shard, key=key, units=units, transfer_id=self._new_id())
                for key, units in sorted(asked.items())
            ]
        return [move for move in moves if move is not None]

    def _settle(self, shard: int, moves: list[Move]) -> list[Move]:
        """Let the hub take note of what a shard did; those that it had not known of."""
        if not moves:
            return []
        with self._reached(HUB) as hub, hub.updating() as connection:
            fresh = [move for move in moves if transfers.take_in(connection, move, now_ms=self._now_ms())]
        self._tell(shard, partial(transfers.mark_settled, transfer_ids=_ids_of(moves)))
        return fresh

    def _sweep_once(self, troubles: list[Trouble]) -> int:
        done = 0
        by_shard: dict[int, list[Move]] = defaultdict(list)
        for move in self._read(HUB, transfers.moves_sent):
            by_shard[move.shard].append(move)
        for shard in range(len(self._shards)):
            try:
                self._receive(shard, by_shard[shard], {})
                moves = self._read(shard, partial(transfers.unsettled, shard=shard))
                self._settle(shard, moves)
            except Trouble as trouble:
                troubles.append(trouble)
            else:
                done += len(by_shard[shard]) + len(moves)
        return done

    def _sweep_quietly(self) -> None:
        try:
            self.sweep()
        except Trouble as trouble:
            log.warning("stock moves not finished", reason=str(trouble))

    # --- reaching the databases -------------------------------------------------------------------------------------

    def _stand(self, shard: int, keys: list[StockKey]) -> dict[StockKey, Standing]:
        """How a shard stands; the most that was seen to be sold, and to come back, there is remembered."""
        found = self._read(shard, lambda connection: transfers.standings(connection, keys))
        for key, standing in found.items():
            seen = self._seen.setdefault(key, [_NOTHING] * len(self._shards))
            sold, returned = max(seen[shard].sold, standing.sold), max(seen[shard].returned, standing.returned)
            seen[shard] = Standing(None, sold, returned)
        return found

    def _read(self, shard: int, query: Callable[[Connection], T]) -> T:
        with self._reached(shard) as store, store.reading() as connection:
            return query(connection)

    def _tell(self, shard: int, note: Callable[[Connection], None]) -> None:
        """Write down that a move is complete; should that fail, ``sweep`` does it."""
        try:
            with self._reached(shard) as store, store.updating() as connection:
                note(connection)
        except Trouble as trouble:
            log.warning("a stock move is complete, but not noted", reason=str(trouble))

    @contextmanager
    def _reached(self, shard: int) -> Iterator[Store]:
        """The database, unless it did not answer a moment ago."""
        until, told = self._down.get(shard, (0.0, None))
        if told is not None and time.monotonic() < until:
            raise Trouble(str(told)) from told
        try:
            yield self._hub if shard == HUB else self._shards[shard]
        except (Contention, Overloaded, NotMoved):
            raise
        except Trouble as trouble:
            self._down[shard] = (time.monotonic() + DOWN_SECONDS, trouble)
            raise

    def _new_id(self) -> str:
        return self._ids.make(self._now_ms())


_NOTHING = Standing(0, 0)


def _portion(row: HubRow, wanted: int, *, shards: int) -> int:
    """What is wanted, and a share of the rest, so that the shard need not come again at once."""
    if row.total is None:
        return wanted + UNLIMITED_PORTION
    left = row.total - row.allotted
    return min(left, wanted + max(0, left - wanted) // (2 * shards))


def _is_uneven(frees: list[int], hub: HubRow | None) -> bool:
    """Whether some shard has far more than its share while another has next to none, and the hub cannot help."""
    if hub is None or hub.total is None:
        return False
    fair = sum(frees) // len(frees)
    return max(frees) > 2 * fair and min(frees) <= fair // 4 and hub.total - hub.allotted < fair


def _count(missing: dict[StockKey, int], key: StockKey, units: int) -> None:
    if key in missing:
        missing[key] -= units
        if missing[key] <= 0:
            del missing[key]


def _both(before: Mapping[StockKey, int], now: Mapping[StockKey, int]) -> dict[StockKey, int]:
    return {key: min(units, before.get(key, 0)) for key, units in now.items()}


def _ids_of(moves: list[Move]) -> list[str]:
    return [move.transfer_id for move in moves]
