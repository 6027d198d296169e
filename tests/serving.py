"""A real server for tests: a World, served by uvicorn in a thread, and a client for it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import httpx

from bigmarket.activity.campaign import parse_campaign
from bigmarket.api.server import Server, listening
from bigmarket.api.waiting import Waiting
from bigmarket.app import World
from bigmarket.logs import set_up_logs
from bigmarket.settings import load_settings
from bigmarket.storage.campaigns import write_campaign
from databases import Databases, split_of
from support import NOON, SMALL, install

DRAW = "/api/v1/raffle/activity/draw"
PATIENT_SECONDS = 9  # that a draw may take: a slow machine is no fault of the server's
ASKED_MAX = 20
ASK_AGAIN_SECONDS = 0.2

#: Skus that end a user's draws one way each: sku 21 for good, 22 for the month, 23 for the day.
ENDING = """
  - {sku: 21, stock: 1000, total_count: 1, month_count: 5, day_count: 5}
  - {sku: 22, stock: 1000, total_count: 5, month_count: 1, day_count: 5}
  - {sku: 23, stock: 1000, total_count: 5, month_count: 5, day_count: 1}
strategy:"""


@dataclass(frozen=True)
class Served:
    """A running server: the World inside, a client outside."""

    world: World
    client: httpx.Client
    url: str

    def draw(self, user_id: str, **more: object) -> httpx.Response:
        """One draw in activity 1."""
        return self.client.post(DRAW, json={"userId": user_id, "activityId": 1, **more})

    def draw_patiently(self, user_id: str, request_id: str) -> httpx.Response:
        """One draw as careful clients make it: a 503 is asked again, with the same id."""
        for _ in range(ASKED_MAX):
            answer = self.draw(user_id, requestId=request_id)
            if answer.status_code != 503:
                break
            sleep(ASK_AGAIN_SECONDS)
        return answer


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def placed(databases: Databases, backend: str) -> Iterator[dict[str, object]]:
    """Settings that put a World on a new, empty database of that kind."""
    with databases.url(backend) as url:
        yield {"database": url, "tables_per_shard": split_of(backend).routing.tables}


#: Made once: to read the machine's certificates takes longer than many a test.
TLS = ssl.create_default_context()


@contextmanager
def serving(home: Path, *, clock: Callable[[], int] = lambda: NOON, **settings: object) -> Iterator[Served]:
    """Serve a new World until the block ends: on a file in ``home``, unless ``settings`` (settings.py) say other."""
    patient = {"draw_deadline_seconds": PATIENT_SECONDS}
    values = {"home": home, "port": free_port(), "work": False, **patient, **settings}
    checked = load_settings({f"BIGMARKET_{name.upper()}": str(value) for name, value in values.items()})
    set_up_logs(log_format=checked.log_format, log_level="warning")
    waiting = Waiting(deadline_seconds=checked.draw_deadline_seconds)
    ready = threading.Event()
    with listening(checked) as listener, World(checked, hand_over=waiting.hand_over, clock=clock) as world:
        server = Server(world, waiting, ready=lambda _: ready.set())
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert ready.wait(10)
            with httpx.Client(base_url=server.url, timeout=10, verify=TLS) as client:
                yield Served(world, client, server.url)
        finally:
            server.should_exit = True
            thread.join(10)


def install_small(
    world: World,
    *,
    activity_id: int = 1,
    state: str = "open",
    end: str = "2027-01-01 00:00:00",
    armed: bool = True,
) -> None:
    """Load the small campaign as ``activity_id``, any but the first with skus and a strategy of its own."""
    text = SMALL.replace("users: [mallory]", "users: [mallory, system]").replace("\nstrategy:", ENDING)
    if activity_id != 1:
        text = text.replace("activity_id: 1,", f"activity_id: {activity_id},")
        text = text.replace("strategy_id: 9", f"strategy_id: {activity_id}9")
        text = text.replace("{sku: ", f"{{sku: {activity_id}00")
    text = text.replace('end: "2027-01-01 00:00:00"', f'end: "{end}", state: {state}')
    campaign = parse_campaign(text)
    if armed:
        install(world.stores.config, campaign)
    else:
        with world.stores.config.writing() as connection:
            write_campaign(connection, campaign)
    world.live.refresh()
