"""What must hold after any fault: the clients' log against the store, and every promise that doctor examines."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from string import Template

from sqlalchemy import text

from bigmarket.activity.campaign import parse_campaign
from bigmarket.activity.orders import recharge
from bigmarket.app import now_ms
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import Finding, examine
from bigmarket.storage.migrate import migrate
from bigmarket.storage.sqlite import SqliteStore
from faults.load import Ask, Log, Won
from support import IDS, bundles, count, install
from waiting import eventually

DRAIN_SECONDS = 40.0

SKU = 11
DRAWS_EACH = 50
SCARCE = {2: 600, 3: 100, 4: 1}  # units of the prizes


def rush(scarce: Mapping[int, int] = SCARCE) -> str:
    """A campaign whose prizes run out, by default after some 20, 700 and 2,000 draws; then there are points."""
    return _RUSH.substitute(mugs=scarce[2], lamps=scarce[3], cars=scarce[4])


_RUSH = Template("""
activity:
  {activity_id: 1, name: rush, time_zone: Asia/Shanghai, begin: "2020-01-01 00:00:00", end: "2099-01-01 00:00:00"}
skus:
  - {sku: 11, stock: 1000000, total_count: 50, month_count: 50, day_count: 50}
strategy:
  strategy_id: 9
  name: rush
  awards:
    - {award_id: 1, title: points, rate: "0.5", sort: 1}
    - {award_id: 2, title: mug, rate: "0.3", stock: $mugs, sort: 2, tree: stocked}
    - {award_id: 3, title: lamp, rate: "0.15", stock: $lamps, sort: 3, tree: stocked}
    - {award_id: 4, title: car, rate: "0.05", stock: $cars, sort: 4, tree: stocked}
  trees:
    - tree_id: stocked
      root: rule_stock
      nodes: [{rule: rule_stock}, {rule: rule_luck_award, award_id: 1, config: "0.01,0.10"}]
      lines: [{from: rule_stock, to: rule_luck_award, when: ALLOW}]
awards:
  - {award_id: 1, kind: user_credit_random, config: "0.01,5"}
  - {award_id: 2, kind: physical}
  - {award_id: 3, kind: physical}
  - {award_id: 4, kind: physical}
""")


@contextmanager
def opened(home: Path) -> Iterator[SqliteStore]:
    """The store in ``home``, from this process."""
    store = SqliteStore(home / "bigmarket.db")
    try:
        yield store
    finally:
        store.close()


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the file's only write lock, as another process would."""
    with closing(sqlite3.connect(home / "bigmarket.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def set_up(home: Path, *, users: int) -> list[str]:
    """A new store with the campaign armed and ``users`` credited with ``DRAWS_EACH`` draws; their ids."""
    home.mkdir(parents=True)
    names = [f"u{number:04}" for number in range(users)]
    with opened(home) as store:
        migrate(store)
        install(store, parse_campaign(rush()), now_ms=now_ms())
        credit(store, names)
    return names


def credit(store: Store, users: Sequence[str], *, no: str = "first") -> None:
    """Credit every user with ``DRAWS_EACH`` draws in one transaction."""
    now = now_ms()
    with store.reading() as connection:
        live = load_live(connection, {})
    bundle_of = bundles(store)
    with store.recharging("") as tx:
        for user in users:
            recharge(
                tx,
                user_id=user,
                sku=SKU,
                out_business_no=f"{no}-{user}",
                now_ms=now,
                order_id=IDS.make(now),
                live=live,
                bundle_of=bundle_of,
            )


def stored_draws(*shards: Store) -> dict[Ask, Won]:
    """Every draw of the stores, by its request."""
    found = {}
    for shard in shards:
        with shard.reading() as connection:
            rows = connection.execute(
                text("""SELECT o.user_id, o.request_id, o.order_id, r.award_id FROM user_raffle_order o
                        JOIN user_award_record r ON r.order_id = o.order_id""")
            )
            found |= {Ask(row.user_id, row.request_id): Won(row.order_id, row.award_id) for row in rows}
    return found


def lost(acknowledged: Mapping[Ask, Won], *shards: Store) -> list[Ask]:
    """Acknowledged draws that the stores lack, or have with another outcome (D3)."""
    stored = stored_draws(*shards)
    return [ask for ask, won in acknowledged.items() if stored.get(ask) != won]


def unasked(acknowledged: Mapping[Ask, Won], *shards: Store) -> list[Ask]:
    """Draws of the stores that nobody was told of, although every request was answered in the end (D4)."""
    return [ask for ask in stored_draws(*shards) if ask not in acknowledged]


def broken(store: Store) -> list[Finding]:
    """The promises that doctor finds broken."""
    return [finding for finding in examine(store, now_ms=now_ms()) if not finding.ok]


def assert_kept(log: Log, *shards: Store, each: int = DRAWS_EACH, scarce: Mapping[int, int] = SCARCE) -> None:
    """Nothing lost, nothing twice, nothing unasked for, nothing oversold; nobody drew more than ``each``."""
    assert not log.changed
    assert not lost(log.won, *shards)
    assert not unasked(log.won, *shards)
    assert total(shards, "SELECT COUNT(*) FROM user_award_record") == len(log.won), "one for each request"
    assert max(Counter(ask.user_id for ask in log.won).values()) <= each
    for award_id, units in scarce.items():
        assert total(shards, f"SELECT COUNT(*) FROM user_award_record WHERE award_id = {award_id}") <= units
    if len(shards) == 1:  # with several, only `bigmarket doctor` sees them all
        assert not broken(shards[0])


def assert_delivered(*shards: Store) -> None:
    """No task is left, every credit was given exactly once, and the balances are the sum of it all."""
    eventually(lambda: not any(map(undelivered, shards)), seconds=DRAIN_SECONDS)
    assert total(shards, "SELECT COUNT(*) FROM task") == 0, "none is parked either"
    owed = total(shards, "SELECT COUNT(*) FROM user_award_record WHERE award_id = 1")
    assert owed > 0
    assert owed == total(shards, "SELECT COUNT(*) FROM user_credit_order")
    assert owed == total(shards, "SELECT COUNT(DISTINCT out_business_no) FROM user_credit_order")
    late = "SELECT COUNT(*) FROM user_award_record WHERE award_id = 1 AND award_state <> 'completed'"
    assert total(shards, late) == 0
    ordered = total(shards, "SELECT SUM(amount_cents) FROM user_credit_order")
    assert ordered == total(shards, "SELECT SUM(available_cents) FROM user_credit_account")
    if len(shards) == 1:  # with several, only `bigmarket doctor` sees them all
        assert not broken(shards[0])


def total(shards: Sequence[Store], sql: str) -> int:
    """The sum over all shards of the number that ``sql`` selects."""
    return sum(count(shard, sql) for shard in shards)


def undelivered(store: Store) -> int:
    """Tasks that wait to be delivered."""
    return count(store, "SELECT COUNT(*) FROM task WHERE state IN ('create', 'fail')")


class Wreck:
    """The files as a kill left them, before anybody repaired anything, and what was acknowledged by then."""

    def __init__(self, home: Path, acknowledged: Mapping[Ask, Won], *, number: int) -> None:
        self._home = home.parent / f"wreck{number}"
        self.acknowledged = dict(acknowledged)
        shutil.copytree(home, self._home)

    def assert_sound(self) -> None:
        """Whatever was acknowledged is there, and every promise holds."""
        with opened(self._home) as store:
            assert not lost(self.acknowledged, store)
            assert not broken(store)
