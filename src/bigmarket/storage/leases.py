"""Leases: of several processes, one at a time does a job that only one may do.

A lease is a row of the configuration database. Its holder renews it by the database's clock; whoever finds it run out
takes it over, and the fencing number grows with every change of holder. A process that stops lets go at once; one
that dies or cannot reach the database is succeeded within ``TTL_MS``, and believes itself the holder for less long
than the database does. A job whose effect is not idempotent calls ``guard`` in the transaction that writes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import structlog
from sqlalchemy import Connection, case, insert, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.errors import Contention, Trouble
from bigmarket.storage.schema import lease

log = structlog.get_logger(__name__)

TTL_MS = 6_000
RENEW_SECONDS = 2.0
MARGIN_MS = 500  # the holder's clock may run a little slower than the database's
STOP_SECONDS = 1.0

_NOBODY = ""


class LeaseLost(Trouble):
    """Another process has taken the job over meanwhile; nothing was written."""


class LeaseStore(Protocol):
    """What leases need of the store."""

    def updating(self) -> AbstractContextManager[Connection]:
        """One short write transaction."""
        ...

    def clock_ms(self) -> int:
        """The database's clock."""
        ...


def acquire(store: LeaseStore, names: Collection[str], *, holder: str, ttl_ms: int = TTL_MS) -> dict[str, int]:
    """Take those of ``names`` that are free or run out, and renew those that are held; name -> fencing number.

    The clock is read before the rows are locked, so that waiting for them can only make a lease shorter.
    """
    wanted = sorted(names)
    now_ms = store.clock_ms()
    column = lease.c
    with store.updating() as connection:
        _provide(connection, wanted)
        ours = column.holder == holder
        connection.execute(
            update(lease)
            .where(column.job.in_(wanted), ours | (column.until_ms <= now_ms))
            # In this order: MySQL computes one value after the other, with those that are set already.
            .ordered_values(
                (column.fencing, column.fencing + case((ours, 0), else_=1)),
                (column.holder, holder),
                (column.until_ms, now_ms + ttl_ms),
            )
        )
        held = select(column.job, column.fencing).where(column.job.in_(wanted), ours)
        return {name: fencing for name, fencing in connection.execute(held)}  # noqa: C416  rows are no tuples to the type checker


def release(store: LeaseStore, names: Collection[str], *, holder: str) -> None:
    """Let go of those of ``names`` that ``holder`` has, so that another need not wait."""
    ours = (lease.c.job.in_(sorted(names)), lease.c.holder == holder)
    with store.updating() as connection:
        connection.execute(update(lease).where(*ours).values(until_ms=0))


def guard(connection: Connection, name: str, fencing: int) -> None:
    """Keep others from taking the job over until this transaction ends. Raises ``LeaseLost`` when somebody has.

    ``connection`` is in a write transaction of the configuration database.
    """
    found = connection.execute(select(lease.c.fencing).where(lease.c.job == name).with_for_update()).scalar()
    if found != fencing:
        raise LeaseLost(f"Another process has taken over {name}; nothing was written.")


def _provide(connection: Connection, names: Collection[str]) -> None:
    known = set(connection.execute(select(lease.c.job).where(lease.c.job.in_(names))).scalars())
    for name in names:
        if name not in known:
            connection.execute(insert(lease).values(job=name, holder=_NOBODY, fencing=0, until_ms=0))


class Leases:
    """Keeps trying to hold ``names`` from a thread of its own; ``holder`` is the process's id.

    ``clock`` is this machine's monotonic one, in seconds.
    """

    def __init__(
        self,
        store: LeaseStore,
        names: Collection[str],
        *,
        holder: str,
        ttl_ms: int = TTL_MS,
        renew_seconds: float = RENEW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._names = tuple(names)
        self._holder = holder
        self._ttl_ms = ttl_ms
        self._renew_seconds = renew_seconds
        self._clock = clock
        self._state: tuple[Mapping[str, int], float] = ({}, 0.0)  # what is held, until when by ``clock``
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to hold."""
        self._thread.start()

    def stop(self) -> None:
        """Let go, within ``STOP_SECONDS``; if the database does not answer, the leases run out by themselves."""
        self._stopping.set()
        if self._thread.ident is None:
            self._let_go()
        else:
            self._thread.join(STOP_SECONDS)
            self._state = ({}, 0.0)

    def held(self) -> Mapping[str, int]:
        """What this process holds for certain, and the fencing numbers."""
        held, until = self._state
        return held if self._clock() < until else {}

    def holds(self, name: str) -> bool:
        """Whether this process is the one that does ``name``."""
        return self.fencing(name) is not None

    def fencing(self, name: str) -> int | None:
        """The number that ``guard`` takes; None when this process does not hold ``name``."""
        return self.held().get(name)

    def renew(self) -> None:
        """Take what is free and renew what is held, now. Raises ``Trouble``."""
        asked_at = self._clock()
        former, _ = self._state
        held = self._acquired()
        self._state = (held, asked_at + (self._ttl_ms - MARGIN_MS) / 1000)
        if lost := sorted(former.keys() - held.keys()):
            log.warning("leases lost", names=lost)
        if won := sorted(held.keys() - former.keys()):
            log.info("leases taken", names=won)

    def _acquired(self) -> dict[str, int]:
        try:
            return acquire(self._store, self._names, holder=self._holder, ttl_ms=self._ttl_ms)
        except (IntegrityError, Contention):  # another process wrote the same rows for the first time
            return acquire(self._store, self._names, holder=self._holder, ttl_ms=self._ttl_ms)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.renew()
            except Trouble as trouble:
                log.warning("leases not renewed", reason=str(trouble))
            except Exception:
                log.exception("leases not renewed")
            self._stopping.wait(self._renew_seconds)
        self._let_go()

    def _let_go(self) -> None:
        held, self._state = self._state[0], ({}, 0.0)
        if not held:
            return
        try:
            release(self._store, held, holder=self._holder)
        except Trouble as trouble:
            log.warning("leases not released; they run out by themselves", reason=str(trouble))
