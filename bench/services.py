"""Which services this machine has for the benchmark."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from amqp import Connection  # type: ignore[import-untyped]
from amqp.exceptions import AMQPError  # type: ignore[import-untyped]
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from load import loader
from part import Setup

SERVER = "mysql+pymysql://root@127.0.0.1/"
BROKER = "amqp://guest:guest@127.0.0.1/"


def find_services(options: argparse.Namespace) -> Setup:
    """The setup that the options ask for; whatever is missing is said loudly."""
    server = _usable(options.server, SERVER, _answers_sql)
    broker = _usable(options.broker, BROKER, _answers_amqp)
    for left_out in missing(server, broker):
        print(f"\n*** LEFT OUT: {left_out} ***\n", file=sys.stderr)
    return Setup(
        server,
        broker,
        embedded=not options.no_embedded,
        quick=options.quick,
        runs_given=options.runs,
        seconds_given=options.seconds,
        connections=tuple(options.connections or ()),
        users_given=options.users,
    )


def missing(server: str | None, broker: str | None) -> list[str]:
    """What is not measured for want of a service, in sentences."""
    found = []
    if server is None:
        found.append("no MySQL or MariaDB was there, so everything but the embedded part (SQLite)")
    elif broker is None:
        found.append("no RabbitMQ was there, so awards are delivered in process and nothing runs through a broker")
    if loader() != "wrk":
        found.append("wrk is not installed, so our own generator loads; it takes more of the machine than wrk does")
    return found


def _usable(asked: str | None, usual: str, answers: Callable[[str], bool]) -> str | None:
    if asked == "none":
        return None
    if asked is not None or answers(usual):
        return asked or usual
    return None


def _answers_sql(url: str) -> bool:
    engine = create_engine(url, connect_args={"connect_timeout": 3})
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    finally:
        engine.dispose()
    return True


def _answers_amqp(url: str) -> bool:
    at = endpoint_of(url)
    try:
        with Connection(at.address, userid=at.user, password=at.password, virtual_host=at.vhost, connect_timeout=3):
            return True
    except (OSError, AMQPError):
        return False
