"""kill -9 between a call of a webhook and its commit: called again under the same id, completed once."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import KIND_CHECKS, now_ms
from bigmarket.award.endpoints import Endpoint
from bigmarket.storage.doctor import examine
from bigmarket.storage.endpoints import add_endpoint
from bigmarket.storage.migrate import migrate
from faults.processes import ServerProcess
from faults.verdict import opened
from receiver import SECRET, Call, Receiver, Say, receiving
from support import SMALL, count, give, install
from waiting import eventually

pytestmark = pytest.mark.faults

DRAWS = 40
KILLS = 2
CALLING = (
    SMALL.replace("2027-01-01", "2099-01-01")
    .replace(
        '{award_id: 1, kind: user_credit_blacklist, config: "1"}', '{award_id: 1, kind: webhook, config: "crm:x"}'
    )
    .replace("kind: physical", 'kind: webhook, config: "crm:thing"')
    .replace('award_id: 1, config: "0.5"', 'award_id: 1, config: "crm:listed"')
    .replace('award_id: 1, config: "0.01"', 'award_id: 1, config: "crm:luck"')
)


def set_up(home: Path, receiver: Receiver) -> None:
    home.mkdir(parents=True)
    with opened(home) as store:
        migrate(store)
        install(store, parse_campaign(CALLING, kinds=KIND_CHECKS), now_ms=now_ms())
        give(store, *(f"user{number}" for number in range(5)), now_ms=now_ms())
        with store.writing() as connection:
            add_endpoint(connection, Endpoint("crm", receiver.url, SECRET, None, None, "open", now_ms()))


def test_a_process_that_dies_between_call_and_commit_calls_again_under_the_same_id(tmp_path: Path) -> None:
    home = tmp_path / "home"
    dead = threading.Event()
    killing = threading.Lock()
    kills: list[str] = []

    def kill_in_between(call: Call, _before: int) -> Say:
        with killing:
            if len(kills) < KILLS and len(receiver.calls) > 3 + 12 * len(kills) and not dead.is_set():
                kills.append(call.webhook_id)
                server.kill()
                dead.set()
        return Say(200)  # the process that asked will never read it

    with receiving(kill_in_between) as receiver:
        set_up(home, receiver)
        server = ServerProcess(home, webhook_allow="127.0.0.1")
        with server:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
                for number in range(DRAWS):
                    draw(client, f"user{number % 5}", number, server, dead)
            with opened(home) as store:
                waiting = "SELECT COUNT(*) FROM user_award_record WHERE award_state = 'create'"

                def settled() -> bool:
                    revive(server, dead)
                    return len(kills) == KILLS and not count(store, waiting)

                eventually(settled, seconds=60)
                assert [finding for finding in examine(store, now_ms=now_ms(), grace_ms=0) if not finding.ok] == []
                drawn = count(store, "SELECT COUNT(*) FROM user_award_record")
                assert count(store, "SELECT COUNT(*) FROM award_delivery WHERE state = 'done'") == drawn
    calls = Counter(receiver.ids)
    assert drawn == DRAWS
    assert len(kills) == KILLS
    assert len(calls) == drawn
    assert all(calls[killed] >= 2 for killed in kills), "what nobody wrote down was called again"
    assert all(call.genuine for call in receiver.calls)
    bodies = {(call.webhook_id, call.raw) for call in receiver.calls}
    assert len(bodies) == drawn, "a repeat is the same call"


def test_a_receiver_that_hangs_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with receiving(lambda *_: Say(wait_seconds=20)) as receiver:
        set_up(home, receiver)
        with ServerProcess(home, webhook_allow="127.0.0.1") as server:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
                draw(client, "user1", 1, server, threading.Event())
            receiver.wait_for(1)
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert time.monotonic() - began < 10
        with opened(home) as store:
            assert count(store, "SELECT COUNT(*) FROM award_delivery WHERE state = 'due' AND attempts = 0") == 1


def draw(client: httpx.Client, user: str, number: int, server: ServerProcess, dead: threading.Event) -> None:
    """One draw, asked for again under the same id until it is answered."""
    body = {"userId": user, "activityId": 1, "requestId": f"r{number}"}
    while True:
        revive(server, dead)
        try:
            answer = client.post("/api/v1/raffle/activity/draw", json=body)
        except httpx.TransportError:
            dead.wait(1)
            continue
        if answer.status_code == 200:
            assert answer.json()["code"] == "0000"
            return


def revive(server: ServerProcess, dead: threading.Event) -> None:
    if dead.is_set():
        server.start()
        server.wait_ready()
        dead.clear()
