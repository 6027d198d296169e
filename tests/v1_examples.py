"""Plays the recorded requests of ``contract/v1/*.json`` against servers that are set up for them.

A recording names its ``server``:

* ``usual``     activity 1 open and armed, 2 closed, 3 over, 4 not armed, 5 like 1, 6 and 7 a shop that
              rewards, 8 and 9 such a shop, closed and over;
* ``keyed``     the same, but calls need a server key or a user's token, and partners have theirs;
* ``overfull``  the same, but its one lane is stuck and its queue is full;
* ``degraded``  the same, but draws are switched off;
* ``limited``   the same, but a user may make one hot call an hour.

``{token:ann}`` in a header is a token of the user ann.

``credits`` are skus and ``points`` credits (in hundredths) given to users first, ``before`` are requests made then;
``{order}`` and ``{cursor}`` are what the last of them answered. With ``ships`` that order's award is shipped then.

Ids and cursors are not recorded: they stand as ``<id>`` and ``<cursor>``.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bigmarket.activity.campaign import parse_campaign
from bigmarket.api.tokens import Tokens
from bigmarket.desks import DrawDesk, DrawStore
from bigmarket.draw import Drawn, DrawTx
from bigmarket.storage.stages import add_stage
from serving import DRAW, Served, install_small, serving
from support import NOON, give, install
from waiting import eventually

#: An activity that rewards signing in and paying, sells draws, and hands lamps over; its number, end and state.
SHOP = """
activity:
  {{activity_id: {0}, name: shop, time_zone: Asia/Shanghai, begin: "2026-01-01 00:00:00", end: "{1}", state: {2}}}
skus:
  - {{sku: {0}01, stock: 1000, total_count: 3, month_count: 3, day_count: 3}}
  - {{sku: {0}02, stock: 1000, price: "4.5", total_count: 5, month_count: 5, day_count: 5}}
  - {{sku: {0}03, stock: 0, price: "1", total_count: 5, month_count: 5, day_count: 5}}
strategy:
  strategy_id: {0}08
  name: shop
  chain: [{{rule: rule_blacklist, award_id: 1, users: [system]}}]
  awards: [{{award_id: 1, title: lamp, subtitle: for your desk, rate: "1", sort: 1}}]
awards:
  - {{award_id: 1, kind: physical, claim_days: 30}}
rebates:
  - {{behavior: sign, type: sku, sku: {0}01}}
  - {{behavior: sign, type: integral, credits: 10}}
  - {{behavior: openai_pay, type: integral, credits: 10}}
"""

_LATER = "2027-01-01 00:00:00"
SHOPS = ((6, _LATER, "open"), (7, _LATER, "open"), (8, _LATER, "close"), (9, "2026-02-01 00:00:00", "open"))

RECORDINGS = Path(__file__).parent / "contract" / "v1"
KEY = "a-server-key-of-this-test-0123456789"
SECRET = "a-token-secret-of-this-test-0123456789"  # noqa: S105  of this test only
PARTNER = "an-app-token-of-this-test-0123456789"

#: What sets a server apart from the usual one: settings, and how its switches are turned.
SETTINGS: dict[str, dict[str, object]] = {
    "keyed": {"server_keys": KEY, "token_secrets": SECRET, "partners": f"shop:{PARTNER}"},
    "overfull": {"queue_max": 1, "lanes": 1},
}
SWITCHES = {
    "degraded": {"degradeSwitch": "open"},
    "limited": {"rateLimiterSwitch": "open", "rateLimitUser": "1/1h"},
}


def recordings() -> list[Path]:
    """Every recorded example."""
    return sorted(RECORDINGS.glob("*.json"))


@contextmanager
def stage(home: Path, name: str, **settings: object) -> Iterator[Served]:
    """The server that recordings ask for by ``name``."""
    with serving(home, **settings, **SETTINGS.get(name, {})) as served:
        install_small(served.world)
        install_small(served.world, activity_id=2, state="close")
        install_small(served.world, activity_id=3, end="2026-02-01 00:00:00")
        install_small(served.world, activity_id=4, armed=False)
        install_small(served.world, activity_id=5)
        for shop in SHOPS:
            install(served.world.stores.config, parse_campaign(SHOP.format(*shop)))
        with served.world.stores.config.updating() as connection:
            add_stage(connection, channel="c01", source="s01", activity_id=6)
            add_stage(connection, channel="c01", source="s02", activity_id=7)
        served.world.live.refresh()
        for key, value in SWITCHES.get(name, {}).items():
            served.world.turn(key, value)
        if name == "overfull":
            with stuck(served, queued=1):
                yield served
        else:
            yield served


class SlowToBegin:
    """A store whose draw transactions do not begin before they are let."""

    def __init__(self, store: DrawStore) -> None:
        self.store = store
        self.asked, self.answering = threading.Event(), threading.Event()

    @contextmanager
    def drawing(self) -> Iterator[DrawTx]:
        self.asked.set()
        assert self.answering.wait(20)
        with self.store.drawing() as tx:
            yield tx

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        return self.store.find_draws(draws)


@contextmanager
def stuck(served: Served, *, queued: int) -> Iterator[list[httpx.Response]]:
    """Let the database keep the only lane waiting: one draw in its hands, ``queued`` in its queue; their answers.

    Those are let in however long their turn does not come.
    """
    answers: list[httpx.Response] = []

    def draw(number: int) -> None:
        body = {"userId": f"queued{number}", "activityId": 1}
        answers.append(httpx.post(served.url + DRAW, json=body, timeout=10))

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(queued + 1)]
    (lane,) = served.world.lanes.lanes
    desk = lane._desk
    store = SlowToBegin(desk._store)
    lane._desk = DrawDesk(store, live=desk._live)
    wait_seconds, lane._wait_seconds = lane._wait_seconds, 60.0
    try:
        threads[0].start()
        assert store.asked.wait(10)
        for thread in threads[1:]:
            thread.start()
        eventually(lambda: lane.waiting == queued)
        yield answers
    finally:
        lane._desk, lane._wait_seconds = desk, wait_seconds
        store.answering.set()
    for thread in threads:
        thread.join(10)


def play(served: Served, recording: dict[str, Any]) -> httpx.Response:
    """The answer to the recorded request."""
    world = served.world
    for user_id, sku in recording.get("credits", []):
        give(world.stores.config, user_id, sku=sku)
    for user_id, cents in recording.get("points", []):
        world.adjust_credits(user_id, amount_cents=cents, reason="an example", out_business_no=f"points-{user_id}")
    found: dict[str, str] = {}
    for request in recording.get("before", []):
        answer = send(served.client, request, found)
        data = answer.json()["data"]
        found["cursor"] = str(data.get("nextCursor") if isinstance(data, dict) else None)
        found["order"] = answer.headers.get("bigmarket-order-id", found.get("order", ""))
    if recording.get("ships"):
        world.ship(found["order"], carrier="ACME", tracking="T-1")
    return send(served.client, recording["request"], found)


def send(client: httpx.Client, request: dict[str, Any], found: Mapping[str, str]) -> httpx.Response:
    """One recorded request: ``json`` is a body to encode, ``content`` one to send as it is."""
    for name, value in found.items():
        request = json.loads(json.dumps(request).replace(f"{{{name}}}", value))
    content = request["content"].encode() if "content" in request else None
    return client.request(
        request["method"],
        request["path"],
        json=request.get("json"),
        content=content,
        headers={name: _with_tokens(value) for name, value in request.get("headers", {}).items()},
    )


def token(user_id: str, *, hours: float = 1) -> str:
    """A token that ``keyed`` takes as the user's."""
    return Tokens((SECRET,), public_key=None, audience="", now_ms=lambda: NOON).sign(user_id, hours=hours)


def _with_tokens(value: str) -> str:
    return re.sub(r"{token:(\w+)}", lambda found: token(found[1]), value)


_ID = re.compile(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b")
_CURSOR = re.compile(r'("nextCursor":\s*)"[^"]+"')


def answer_of(response: httpx.Response, *, headers: list[str]) -> dict[str, Any]:
    """What a recording keeps of an answer: status, body, and the ``headers`` it is about."""
    return {
        "status": response.status_code,
        "headers": {name: _kept_header(name, response.headers.get(name)) for name in headers},
        "json": json.loads(_CURSOR.sub(r'\1"<cursor>"', _ID.sub("<id>", response.text))),
    }


def _kept_header(name: str, value: str | None) -> str | None:
    if value is not None and name.endswith("cursor"):
        return "<cursor>"
    return None if value is None else _ID.sub("<id>", value)
