"""The whole system beside the reference's flow over HTTP, in turns on the same machine, database server and broker.

The reference's flow is about twenty statements and a confirmed message a draw (reference_server.py); ours does the
same job and also delivers every award.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from amqp import Connection  # type: ignore[import-untyped]
from sqlalchemy import create_engine, text

import load
import reference_server
from backends import fresh_database
from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from campaign import user_names
from charts import Bar, bars
from harness import USERS, NotValid, System, free_port, measure, process, running, site_of, turns, wait_until_ready
from naive_draw import create_tables
from part import Charts, Part, Sample, Setup, Table, groups, ratio, run_alone

CONNECTIONS = (64, 512)
RUNS, SECONDS = 3, 3.0
OURS, REFERENCE = "bigmarket", "the reference's flow"


def measure_all(setup: Setup) -> Iterator[Sample]:
    """Both in turns, at each number of connections."""
    if setup.server is None:
        return
    with running(site_of(setup)) as ours, _reference(setup) as reference:
        variants = []
        for count in setup.connections or CONNECTIONS:
            variants += [partial(_run_ours, ours, count, setup), partial(reference.run, count, setup)]
        yield from turns(setup.runs(RUNS), variants)


def _run_ours(system: System, connections: int, setup: Setup) -> Sample:
    return {"variant": OURS, **measure(system, connections=connections, seconds=setup.seconds(SECONDS))}


class Reference:
    """The reference's flow, being served."""

    def __init__(self, url: str, port: int) -> None:
        self._url = url
        self._port = port
        self._told = 0
        self._untold_max = 0

    def run(self, connections: int, setup: Setup) -> Sample:
        """One closed-loop run."""
        seconds = setup.seconds(SECONDS)
        found = load.drive(port=self._port, connections=connections, seconds=seconds, users=USERS)
        if found.errors:
            raise NotValid(f"{found.errors} of {found.requests} requests failed")
        self._told += found.requests
        self._untold_max += 2 * connections
        quantiles = {"p50_ms": found.p50_ms, "p95_ms": found.p95_ms, "p99_ms": found.p99_ms}
        return {"variant": REFERENCE, "connections": connections, "per_second": found.per_second, **quantiles}

    def verify(self) -> None:
        """Every draw that clients were told of is there."""
        engine = create_engine(self._url)
        with engine.connect() as connection:
            made = connection.execute(text("SELECT COUNT(*) FROM user_award_record")).scalar_one()
        engine.dispose()
        if not 0 <= made - self._told <= self._untold_max:
            raise NotValid(f"the reference's flow made {made} draws, its clients were told of {self._told}")


@contextmanager
def _reference(setup: Setup) -> Iterator[Reference]:
    assert setup.server is not None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bigmarket-bench-")))
        url = stack.enter_context(fresh_database(setup.server, folder=folder))
        create_tables(url, user_names(USERS))
        queue = stack.enter_context(_queue(setup.broker, name=url.rpartition("/")[2]))
        port = free_port()
        environment = {
            reference_server.DATABASE: url,
            reference_server.BROKER: setup.broker or "",
            reference_server.QUEUE: queue,
            reference_server.PORT: str(port),
        }
        command = [sys.executable, str(Path(reference_server.__file__))]
        server = stack.enter_context(process(command, environment))
        wait_until_ready(port, server)
        reference = Reference(url, port)
        reference.run(16, Setup(None, None, quick=True))
        yield reference
        reference.verify()


@contextmanager
def _queue(broker: str | None, *, name: str) -> Iterator[str]:
    """A durable quorum queue for the messages, deleted afterwards."""
    if broker is None:
        yield ""
        return
    at = endpoint_of(broker)
    with Connection(at.address, userid=at.user, password=at.password, virtual_host=at.vhost) as connection:
        connection.channel().queue_declare(
            name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    try:
        yield name
    finally:
        with Connection(at.address, userid=at.user, password=at.password, virtual_host=at.vhost) as connection:
            connection.channel().queue_delete(name)


def tables(samples: Sequence[Sample]) -> list[Table]:
    """Both, at each number of connections."""
    rows = []
    by = groups(samples, "connections", "variant")
    for (connections, variant), group in by.items():
        base = by.get((connections, REFERENCE)) if variant == OURS else None
        latency = group.texts("p50_ms", "p95_ms", "p99_ms")
        rows.append([variant, f"{connections}", group.spread("per_second"), *latency, ratio(group, base)])
    header = ("variant", "connections", "draws/s", "p50 ms", "p95 ms", "p99 ms", "ratio")
    return [Table("Beside the reference's flow over HTTP", header, rows)]


def charts(samples: Sequence[Sample]) -> Charts:
    """Both, with the ratio."""
    by = groups(samples, "connections", "variant")
    found = []
    for (connections, variant), group in by.items():
        ours = variant == OURS
        note = ratio(group, by.get((connections, REFERENCE))) if ours else ""
        found.append(Bar(f"{variant}, {connections}", group["per_second"], note, ours=ours))
    unit = "draws a second over HTTP; the number is that of connections"
    return {"naive.svg": bars("Beside the reference's flow", unit, found)}


PART = Part(
    "naive",
    "Beside the reference's flow over HTTP",
    "The reference's flow, statement by statement on its own tables with a confirmed message for each draw, served "
    "by Starlette on uvicorn with two processes and 64 kept connections. Its awards are not delivered and its Redis "
    "commands are left out, in its favour.",
    60,
    measure_all,
    tables,
    charts,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
