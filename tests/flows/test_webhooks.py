"""An award that another system delivers, from the draw to its receiver, and what an operator does when it fails."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from bigmarket.api.metrics import Metrics
from bigmarket.app import World, now_ms
from bigmarket.award.kinds import KINDS
from bigmarket.cli.running import run
from bigmarket.settings import PREFIX, load_settings
from bigmarket.storage.doctor import examine
from bigmarket.webhooks.sending import signed
from receiver import OTHER_SECRET, SECRET, Receiver, Say, receiving
from support import SMALL, count
from waiting import eventually

ROOT = Path(__file__).parents[2]


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """All of stdout as one JSON document."""
        return json.loads(self.out)


Bigmarket = Callable[..., Result]

#: Every award goes to another system, of one kind or another.
CALLING = (
    SMALL.replace("2027-01-01", "2099-01-01")
    .replace(
        '{award_id: 1, kind: user_credit_blacklist, config: "1"}', '{award_id: 1, kind: webhook, config: "crm:x"}'
    )
    .replace("{award_id: 2, kind: physical}", '{award_id: 2, kind: openai_use_count, config: "5"}')
    .replace("{award_id: 3, kind: physical}", '{award_id: 3, kind: openai_model, config: "gpt-4,dall-e-3"}')
    .replace("{award_id: 4, kind: physical}", '{award_id: 4, kind: webhook, config: "crm:car"}')
    .replace('award_id: 1, config: "0.5"', 'award_id: 1, config: "crm:listed"')
    .replace('award_id: 1, config: "0.01"', 'award_id: 1, config: "crm:luck"')
)
ENDPOINTS = ("crm", "openai_use_count", "openai_model")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BIGMARKET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BIGMARKET_WEBHOOK_ALLOW", "127.0.0.1")
    return tmp_path / "home"


@pytest.fixture
def bigmarket(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Bigmarket]:  # noqa: ARG001  sets the environment
    level, handlers = logging.root.level, logging.root.handlers[:]

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        return Result(run(arguments), *capsys.readouterr())

    yield call
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


def campaign_file(folder: Path) -> str:
    (folder / "calling.yaml").write_text(CALLING, encoding="utf-8")
    return str(folder / "calling.yaml")


def set_up(bigmarket: Bigmarket, receiver: Receiver, tmp_path: Path) -> None:
    secrets = []
    for name in ENDPOINTS:
        added = bigmarket("webhooks", "add", name, receiver.url, "--json")
        assert added.code == 0, added.err
        secrets.append(added.document["secret"])
    receiver.secrets = secrets
    assert bigmarket("apply", campaign_file(tmp_path)).code == 0
    armed = bigmarket("armory", "1", "--json")
    assert armed.code == 0
    assert armed.document["warnings"] == []
    for number in range(6):
        given = bigmarket("recharge", "--user", f"user{number}", "--sku", "11", "--out-business-no", f"gift-{number}")
        assert given.code == 0, given.err


def world() -> World:
    return World(load_settings())


def healthy(world: World) -> list[Any]:
    return [finding for finding in examine(world.stores, now_ms=world.now_ms(), grace_ms=0) if not finding.ok]


def metrics(world: World) -> dict[str, float]:
    world.backlog.look(0)
    lines = Metrics(world, {}).own().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def draw(world: World, number: int) -> list[str]:
    futures: list[Future[Any]] = [Future() for _ in range(number)]
    for n, future in enumerate(futures):
        world.lanes.submit(f"user{n % 6}", 1, None, reply=future)
    return [future.result(10).order_id for future in futures]


def due(world: World) -> int:
    return count(world.stores.config, "SELECT COUNT(*) FROM user_award_record WHERE award_state = 'create'")


def test_what_is_won_arrives_once_signed_and_the_books_agree(
    bigmarket: Bigmarket, receiver: Receiver, tmp_path: Path
) -> None:
    set_up(bigmarket, receiver, tmp_path)
    with world() as running:
        orders = draw(running, 40)
        eventually(lambda: not due(running))
        assert sorted(receiver.ids) == sorted(orders)
        assert all(call.genuine for call in receiver.calls)
        assert healthy(running) == []
        told = metrics(running)
        assert told['bigmarket_delivery_attempts_total{outcome="done"}'] == 40
        assert told['bigmarket_deliveries_waiting{shard="0"}'] == told['bigmarket_deliveries_parked{shard="0"}'] == 0
        assert told["bigmarket_delivery_in_flight"] == told["bigmarket_delivery_troubles_total"] == 0
    kinds = {call.body["data"]["awardKey"] for call in receiver.calls}
    assert kinds == {"webhook", "openai_use_count", "openai_model"}
    shown = bigmarket("deliveries", "show", orders[0], "--json").document
    assert (shown["state"], shown["log"][0]["status"], shown["log"][0]["reason"]) == ("done", 200, None)
    assert bigmarket("deliveries", "list", "--state", "done", "--limit", "7", "--json").document["deliveries"][0]
    explained = bigmarket("explain", orders[0])
    assert explained.code == 0
    assert ": done after 1 attempt." in explained.out
    assert bigmarket("doctor").code == 0


def test_what_a_receiver_lost_is_replayed_under_the_same_id(
    bigmarket: Bigmarket, receiver: Receiver, tmp_path: Path
) -> None:
    set_up(bigmarket, receiver, tmp_path)
    with world() as running:
        (order,) = draw(running, 1)
        eventually(lambda: not due(running))
        assert bigmarket("deliveries", "replay", order.lower(), "--json").document == {"replayed": 1}
        receiver.wait_for(2)
        eventually(lambda: bigmarket("deliveries", "show", order, "--json").document["state"] == "done")
        assert healthy(running) == []
    assert receiver.ids == [order, order]
    assert len(bigmarket("deliveries", "show", order, "--json").document["log"]) == 2


def test_a_receiver_that_is_gone_is_closed_and_everything_replayed_once_it_is_back(
    bigmarket: Bigmarket, receiver: Receiver, tmp_path: Path
) -> None:
    set_up(bigmarket, receiver, tmp_path)
    receiver.answering = lambda *_: Say(410)
    with world() as running:
        (order,) = draw(running, 1)
        eventually(lambda: len(bigmarket("deliveries", "list", "--json").document["deliveries"]) == 1)
        assert healthy(running) == [], "parked with a reason is no broken promise"
        (parked,) = bigmarket("deliveries", "list", "--json").document["deliveries"]
        assert (parked["order_id"], parked["state"], parked["reason"]) == (order, "parked", "410 Gone: {}")
        name = parked["place"]
        listed = {
            one["endpoint"]: one["state"] for one in bigmarket("webhooks", "list", "--json").document["endpoints"]
        }
        assert listed[name] == "close"
        opened = bigmarket("webhooks", "open", name, "--json").document
        assert opened == {"endpoint": name, "state": "open", "parked": 1}
        receiver.answering = lambda *_: Say(204)
        assert bigmarket("deliveries", "replay", "--all", "--place", name, "--json").document == {"replayed": 1}
        eventually(lambda: not due(running))
        assert healthy(running) == []
    assert bigmarket("deliveries", "list").out.strip() == "No delivery is parked."


def test_a_parked_delivery_may_be_given_up(bigmarket: Bigmarket, receiver: Receiver, tmp_path: Path) -> None:
    set_up(bigmarket, receiver, tmp_path)
    receiver.answering = lambda *_: Say(410)
    with world() as running:
        (order,) = draw(running, 1)
        eventually(lambda: len(bigmarket("deliveries", "list", "--json").document["deliveries"]) == 1)
        assert bigmarket("deliveries", "drop", "--all", "--json").code == 2, "nobody can be asked"
        assert bigmarket("deliveries", "drop", order.lower(), "--yes", "--json").document == {"dropped": 1}
        assert bigmarket("deliveries", "drop", order, "--yes").code == 1
        assert bigmarket("deliveries", "replay", order).code == 1
        assert bigmarket("deliveries", "show", order, "--json").document["state"] == "void"
        assert healthy(running) == []
        failed = "SELECT COUNT(*) FROM user_award_record WHERE award_state = 'fail'"
        assert count(running.stores.config, failed) == 1


def test_every_shard_dispatches_its_own(
    bigmarket: Bigmarket, receiver: Receiver, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    monkeypatch.setenv("BIGMARKET_DATABASE", f"sqlite:///{home}/bigmarket.db")
    monkeypatch.setenv("BIGMARKET_SHARDS", ",".join(f"sqlite:///{home}/shard{n}.db" for n in range(2)))
    monkeypatch.setenv("BIGMARKET_TABLES_PER_SHARD", "2")
    set_up(bigmarket, receiver, tmp_path)
    with world() as running:
        orders = draw(running, 30)
        eventually(
            lambda: len(bigmarket("deliveries", "list", "--state", "done", "--json").document["deliveries"]) == 30
        )
        assert healthy(running) == []
        receiver.answering = lambda *_: Say(410)
        draw(running, 6)
        eventually(
            lambda: len(bigmarket("deliveries", "list", "--state", "due", "--json").document["deliveries"]) < 6
        )
        waiting = bigmarket("deliveries", "list", "--state", "all", "--limit", "36", "--json").document["deliveries"]
        assert {one["shard"] for one in waiting} == {0, 1}
        receiver.answering = lambda *_: Say()
        for name in ENDPOINTS:
            bigmarket("webhooks", "open", name)
        eventually(
            lambda: bigmarket("deliveries", "replay", "--all").code == 0 and no_more_due(bigmarket), seconds=30
        )
        assert healthy(running) == []
    assert set(orders) < set(receiver.ids)


def no_more_due(bigmarket: Bigmarket) -> bool:
    done = bigmarket("deliveries", "list", "--state", "done", "--json").document["deliveries"]
    return len(done) == 36


# --- endpoints ----------------------------------------------------------------------------------------------------


def test_an_endpoint_from_first_to_last(bigmarket: Bigmarket, receiver: Receiver) -> None:
    assert bigmarket("demo").code == 0
    assert "There is no endpoint." in bigmarket("webhooks", "list").out
    added = bigmarket("webhooks", "add", "crm", receiver.url, "--json").document
    receiver.secrets = (added["secret"],)
    assert added["secret"].startswith("whsec_")
    assert bigmarket("webhooks", "add", "crm", receiver.url).code == 1
    assert added["secret"] not in bigmarket("webhooks", "list", "--json").out
    tested = bigmarket("webhooks", "test", "crm", "--json")
    assert (tested.code, tested.document["status"], tested.document["delivered"]) == (0, 200, True)
    assert receiver.calls[0].genuine
    assert receiver.calls[0].body["type"] == "bigmarket.test"
    rotated = bigmarket("webhooks", "rotate", "crm", "--keep-hours", "1", "--json").document
    for secret in (added["secret"], rotated["secret"]):
        receiver.secrets = (secret,)
        assert bigmarket("webhooks", "test", "crm").code == 0
        assert receiver.calls[-1].genuine, "both are valid for an hour"
    bigmarket("webhooks", "rotate", "crm", "--keep-hours", "0")
    assert bigmarket("webhooks", "test", "crm").code == 0
    assert not receiver.calls[-1].genuine
    receiver.answering = lambda *_: Say(500)
    failed = bigmarket("webhooks", "test", "crm", "--json")
    assert (failed.code, failed.document["status"]) == (1, 500)
    assert bigmarket("webhooks", "close", "crm", "--json").document["state"] == "close"
    assert bigmarket("webhooks", "close", "erp").code == 1


@pytest.mark.parametrize(
    ("name", "url", "reason"),
    [
        ("CRM", "https://crm.example/", "small letters"),
        ("crm", "http://crm.example/", "BIGMARKET_WEBHOOK_ALLOW"),
        ("crm", "https://user:secret@crm.example/", "no user name or password"),
    ],
)
def test_what_no_endpoint_may_be(bigmarket: Bigmarket, name: str, url: str, reason: str) -> None:
    refused = bigmarket("webhooks", "add", name, url)
    assert refused.code == 1
    assert reason in refused.err


def test_a_private_address_is_refused_at_the_call(
    bigmarket: Bigmarket, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bigmarket("webhooks", "add", "crm", receiver.url).code == 0
    monkeypatch.setenv("BIGMARKET_WEBHOOK_ALLOW", "10.0.0.1")
    refused = bigmarket("webhooks", "test", "crm")
    assert refused.code == 1
    assert not receiver.calls


def test_armory_warns_of_an_endpoint_that_does_not_exist(bigmarket: Bigmarket, tmp_path: Path) -> None:
    assert bigmarket("apply", campaign_file(tmp_path)).code == 0
    armed = bigmarket("armory", "1", "--json")
    assert armed.code == 0
    reasons = [warning["reason"] for warning in armed.document["warnings"]]
    for name in ENDPOINTS:
        assert any(f"there is no endpoint `{name}`" in reason for reason in reasons), name


def test_the_kinds_are_documented() -> None:
    reference = (ROOT / "docs" / "campaign-file.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in reference for name in KINDS)


def test_the_code_that_receivers_are_given_works() -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8"), re.DOTALL
    )
    samples: dict[str, Any] = {}
    for block in blocks:
        exec(block, samples)  # noqa: S102  our own documentation
    body = '{"type":"award.won","data":{"awardTitle":"金卡"}}'.encode()
    headers = signed((OTHER_SECRET, SECRET), webhook_id="01JD", body=body, now_ms=now_ms())
    for secret in (SECRET, OTHER_SECRET):
        assert samples["receive"](body, headers, secret)["type"] == "award.won"
        assert samples["is_genuine"](body, headers, secret)
    assert not samples["is_genuine"](body + b" ", headers, SECRET)
    for name in headers:
        assert not samples["is_genuine"](body, {**headers, name: ""}, SECRET), name
    assert not samples["is_genuine"](body, {}, SECRET)
    assert not samples["is_genuine"](body, {**headers, "webhook-signature": "v1,é"}, SECRET)
    assert not samples["is_genuine"](body, headers, "whsec_" + "b3RoZXI=")
    late = signed((SECRET,), webhook_id="01JD", body=body, now_ms=now_ms() - 400_000)
    assert not samples["is_genuine"](body, late, SECRET)
