"""Who may do what over HTTP, what operators switch off, and who calls too often: the same for every hot call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bigmarket.activity.campaign import parse_campaign
from bigmarket.api.limits import Limits
from bigmarket.storage.schema import SPLIT
from databases import Databases
from faults.processes import ServerProcess, run_cli
from serving import Served, install_small, placed, serving
from support import assert_healthy, count, give, install
from v1_examples import KEY, PARTNER, SECRET, SHOP, stage, token
from waiting import eventually

V1 = "/api/v1/raffle"
ACTIVITY = f"{V1}/activity"
OPERATOR = {"authorization": f"Bearer {KEY}"}


class Call(NamedTuple):
    """A hot call of a user: its name, and what it asks beside the user."""

    name: str
    json: Mapping[str, object] | None = None

    def by(self, client: httpx.Client, user_id: str, **headers: str) -> httpx.Response:
        """The plain call, which names its user."""
        if self.json is None:
            return client.post(f"{ACTIVITY}/{self.name}", params={"userId": user_id}, headers=headers)
        return client.post(f"{ACTIVITY}/{self.name}", json={"userId": user_id, **self.json}, headers=headers)

    def by_token(self, client: httpx.Client, shown: str | None) -> httpx.Response:
        """Its twin, with this in the header."""
        headers = {} if shown is None else {"authorization": shown}
        return client.post(f"{ACTIVITY}/{self.name}_by_token", json=self.json, headers=headers)


HOT = [
    Call("draw", {"activityId": 1}),
    Call("calendar_sign_rebate"),
    Call("credit_pay_exchange_sku", {"sku": 602}),
]
each_hot_call = pytest.mark.parametrize("call", HOT, ids=lambda call: call.name)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.fixture(scope="module", params=["sqlite", "mysql-split"])
def keyed(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with (
        placed(databases, request.param) as here,
        stage(tmp_path_factory.mktemp("keyed"), "keyed", **here) as running,
    ):
        yield running


def fit(served: Served, user_id: str) -> None:
    """Give a user draws and credits."""
    give(served.world.stores.config, user_id)
    served.world.adjust_credits(user_id, amount_cents=10_000, reason="a test", out_business_no=f"fit-{user_id}")


# --- callers ------------------------------------------------------------------------------------------------------


@each_hot_call
def test_a_token_opens_its_users_calls_and_nobody_elses(call: Call, keyed: Served) -> None:
    user, other = f"ann-{call.name}", f"bob-{call.name}"
    for name in (user, other):
        fit(keyed, name)
    shown = Tokened(user)
    assert code_of(call.by_token(keyed.client, shown.plain)) == (200, "0000")
    assert call.by(keyed.client, user, authorization=shown.bearer).status_code == 200
    before = moved(keyed, other)
    assert code_of(call.by(keyed.client, other, authorization=shown.bearer)) == (403, "0009")
    assert code_of(call.by(keyed.client, other, authorization=shown.plain)) == (403, "0009")
    assert moved(keyed, other) == before
    for bad in (None, "", "Bearer", f"Bearer {KEY}", shown.plain[:-2], "a.b.c"):
        assert code_of(call.by_token(keyed.client, bad)) == (401, "0009")
    assert code_of(call.by(keyed.client, user)) == (401, "0008")
    assert code_of(call.by(keyed.client, other, **OPERATOR)) == (200, "0000")


class Tokened:
    """A user's token, as it may be shown."""

    def __init__(self, user_id: str) -> None:
        self.plain = token(user_id)
        self.bearer = f"Bearer {self.plain}"


def moved(served: Served, user_id: str) -> list[int]:
    """How much there is of a user."""
    tables = ("user_raffle_order", "user_behavior", "user_credit_order", "raffle_activity_order")
    with served.world.stores.of(user_id).reading() as connection:
        return [
            sum(
                connection.exec_driver_sql(f"SELECT count(*) FROM {name} WHERE user_id = '{user_id}'").scalar_one()
                for name in names_of(served, table)
            )
            for table in tables
        ]


def names_of(served: Served, table: str) -> list[str]:
    tables, split = served.world.stores.routing.tables, {each.name for each in SPLIT}
    return [f"{table}_{index:03}" for index in range(tables)] if tables > 1 and table in split else [table]


def test_a_users_token_opens_no_path_but_users_own(keyed: Served) -> None:
    """Whatever the document lists: about another user it is refused, and an operator's it does not open."""
    document = keyed.client.get("/openapi.json").json()
    shown = {"authorization": Tokened("ann").bearer}
    refused: dict[str, tuple[int, str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if not path.startswith(V1) or path.endswith("_by_token"):
                continue
            names, body = asked_by(operation, document)
            answer = keyed.client.request(
                method, path, params=names, json=body if method == "post" and body else None, headers=shown
            )
            about_a_user = "userId" in names or "userId" in body
            operators = "/erp/" in path or "/dcc/" in path or path.endswith(("armory", "random_raffle"))
            if about_a_user:
                assert code_of(answer) == (403, "0009"), (path, answer.text)
            elif operators:
                assert code_of(answer) == (403, "0008"), (path, answer.text)
            elif not path.endswith("/rebate"):
                assert answer.status_code == 200, (path, answer.text)
            refused[f"{method} {path}"] = code_of(answer)
    assert sum(code == (403, "0009") for code in refused.values()) > 10
    assert sum(code == (403, "0008") for code in refused.values()) >= 6


def asked_by(
    operation: Mapping[str, Any], document: Mapping[str, Any]
) -> tuple[dict[str, object], dict[str, object]]:
    """What an operation asks for, as query and body, with something that fits in every field; the user is bob."""

    def value_of(name: str, schema: Mapping[str, Any]) -> object:
        kinds = [kind.get("type") for kind in schema.get("anyOf", [schema])]
        return "bob" if name == "userId" else 1 if "integer" in kinds else "something"

    query = {p["name"]: value_of(p["name"], p["schema"]) for p in operation.get("parameters", [])}
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return query, {}
    schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    body = {**(content.get("example") or {}), **({"userId": "bob"} if "userId" in schema["properties"] else {})}
    return query, body


_parts = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"Bearer ", b".", b"..", KEY.encode(), b"eyJhbGciOiJIUzI1NiJ9", b"eyJhbGciOiJub25lIn0", b"e30"]),
)


@settings(max_examples=200, deadline=None)
@given(shown=st.lists(_parts, max_size=6).map(b"".join), hops=st.lists(_parts, max_size=3).map(b", ".join))
def test_whatever_is_shown_opens_nothing_and_breaks_nothing(keyed: Served, shown: bytes, hops: bytes) -> None:
    clean = [bytes(byte for byte in value if byte >= 32 and byte != 127).strip() for value in (shown, hops)]
    assume(clean[0] != b"Bearer " + KEY.encode())
    headers = [(b"authorization", clean[0]), (b"x-forwarded-for", clean[1])]
    for path in ("draw", "draw_by_token", "query_user_activity_account", "query_user_activity_account_by_token"):
        answer = keyed.client.post(f"{ACTIVITY}/{path}", json={}, headers=headers)
        assert code_of(answer) in ((401, "0008"), (401, "0009")), answer.text


def test_partners_need_their_own_token_and_nothing_else(keyed: Served) -> None:
    told = {"userId": "paying", "behaviorType": "OPENAI_PAY", "outBusinessNo": "pay-1"}

    def rebate(**changed: object) -> httpx.Response:
        body = {"appId": "shop", "appToken": PARTNER, "data": told, **changed}
        return keyed.client.post(f"{ACTIVITY}/rebate", json=body)

    first, again = rebate(), rebate(data={**told, "behaviorType": "openai_pay"})
    assert (code_of(first), first.json()["data"]) == ((200, "0000"), True)
    assert (code_of(again), again.json()["data"]) == ((200, "0003"), False)
    for wrong in ({"appToken": "t" * 24}, {"appId": "nobody"}, {"appId": ""}, {"appToken": ""}):
        assert code_of(rebate(**wrong)) == (401, "0008")
    for bad in ({"data": {**told, "outBusinessNo": " "}}, {"data": {**told, "userId": ""}}, {"data": None}):
        assert code_of(rebate(**bad)) == (200, "0002")
    assert "outBusinessNo" in rebate(data={**told, "outBusinessNo": "9" * 101}).json()["info"]
    answer = keyed.client.post(f"{ACTIVITY}/rebate", json={}, headers={"authorization": Tokened("ann").bearer})
    assert code_of(answer) == (200, "0002")


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, token_secrets=SECRET, rate_limit_user="2/1h", rate_limit_address="off") as running:
        install_small(running.world)
        install(running.world.stores.config, parse_campaign(SHOP.format(6, "2027-01-01 00:00:00", "open")))
        running.world.turn("rateLimiterSwitch", "open")
        yield running


@each_hot_call
def test_a_call_and_its_twin_share_a_limit(call: Call, limited: Served) -> None:
    user = f"ann-{call.name}"
    fit(limited, user)
    first, second, third = (
        call.by(limited.client, user),
        call.by_token(limited.client, Tokened(user).plain),
        call.by_token(limited.client, Tokened(user).plain),
    )
    assert first.json()["code"] == "0000"
    assert second.json()["code"] in ("0000", "0003")
    before = moved(limited, user)
    for refused in (third, call.by(limited.client, user)):
        assert code_of(refused) == (200, "0005")
        assert 1700 < int(refused.headers["retry-after"]) <= 1800
    assert moved(limited, user) == before
    for other in HOT:  # a user has one limit for all of them
        assert other.by(limited.client, user).json()["code"] == "0005"
    limited.world.turn("rateLimiterSwitch", "close")
    assert call.by(limited.client, user).json()["code"] in ("0000", "0003")
    assert_healthy(limited.world.stores.config)


def test_the_limit_is_what_keeps_them_out(limited: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees a hot call that spends nothing of the limit."""

    async def nothing(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(Limits, "spend", nothing)
    fit(limited, "ann")
    assert [HOT[0].by(limited.client, "ann").json()["code"] for _ in range(4)] == ["0000"] * 4


def test_an_address_has_a_limit_for_everything(limited: Served) -> None:
    limited.world.turn("rateLimitAddress", "3/1h")
    asked = {"userId": "ann", "activityId": 1}

    def account() -> tuple[int, str]:
        return code_of(limited.client.post(f"{ACTIVITY}/query_user_activity_account", json=asked))

    assert [account(), account()] == [(200, "0000")] * 2
    assert limited.draw("bob").json()["code"] == "ERR_BIZ_006"
    assert account() == (200, "0005")
    assert limited.draw("eve").json()["code"] == "0005"
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert limited.client.get(path).status_code == 200
    limited.world.turn("rateLimitAddress", "default")
    assert account() == (200, "0000")


def test_a_bad_request_counts_nothing_and_a_repeat_counts(limited: Served) -> None:
    fit(limited, "ann")
    for _ in range(5):
        assert limited.draw("ann", requestId="").json()["code"] == "0002"
    answers = [limited.draw("ann", requestId="once").json()["code"] for _ in range(3)]
    assert answers == ["0000", "0000", "0005"]


# --- switches -----------------------------------------------------------------------------------------------------


def test_degraded_draws_are_refused_unspent_and_the_rest_goes_on(tmp_path: Path) -> None:
    with stage(tmp_path, "degraded", token_secrets=SECRET) as served:
        fit(served, "ann")
        for answer in (HOT[0].by(served.client, "ann"), HOT[0].by_token(served.client, Tokened("ann").plain)):
            assert code_of(answer) == (200, "0004")
            assert "nothing was spent" in answer.json()["info"]
        assert count(served.world.stores.config, "SELECT count(*) FROM user_raffle_order") == 0
        for call in HOT[1:]:
            assert call.by(served.client, "ann").json()["code"] == "0000"
        answer = served.client.get(f"{V1}/dcc/update_config?key=degradeSwitch&value=close")
        assert (code_of(answer), answer.json()["data"]) == ((200, "0000"), True)
        assert HOT[0].by(served.client, "ann").json()["code"] == "0000"


def test_switches_are_turned_over_http_by_operators(keyed: Served) -> None:
    def turn(method: str, headers: Mapping[str, str] = OPERATOR, **asked: str) -> httpx.Response:
        return keyed.client.request(method, f"{V1}/dcc/update_config", params=asked, headers=headers)

    for method in ("GET", "POST"):
        assert code_of(turn(method, key="rateLimitUser", value="7/1m")) == (200, "0000")
        assert keyed.world.live.switches.written()["rateLimitUser"] == "7/1m"
        assert code_of(turn(method, key="rateLimitUser", value="default")) == (200, "0000")
        assert keyed.world.live.switches.written()["rateLimitUser"] == "5/1s"
        assert code_of(turn(method, {}, key="rateLimitUser", value="off")) == (401, "0008")
    unknown, bad = turn("GET", key="nothing", value="open"), turn("GET", key="degradeSwitch", value="perhaps")
    assert (code_of(unknown), code_of(bad)) == ((200, "0002"), (200, "0002"))
    assert "rateLimiterSwitch" in unknown.json()["info"]
    assert "`open` or `close`" in bad.json()["info"]
    assert code_of(turn("GET", key="degradeSwitch")) == (400, "0002")


def test_every_process_follows_a_switch_within_a_second(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ServerProcess(home) as one, ServerProcess(home) as two:
        urls = [f"http://127.0.0.1:{process.port}" for process in (one, two)]
        with httpx.Client(timeout=10) as client:

            def codes() -> list[str]:
                asked = {"userId": "ann", "activityId": 1}
                return [client.post(f"{url}{ACTIVITY}/draw", json=asked).json()["code"] for url in urls]

            assert codes() == ["0001", "0001"]
            turn = f"{urls[0]}{V1}/dcc/update_config"
            took = []
            for _ in range(2):
                client.get(turn, params={"key": "degradeSwitch", "value": "open"})
                assert codes()[0] == "0004", "where it was turned it holds at once"
                took.append(eventually(lambda: codes() == ["0004", "0004"], seconds=20))
                turned = run_cli(home, "switches", "set", "degradeSwitch", "default", "--json")
                assert '"close"' in turned.stdout
                took.append(eventually(lambda: codes() == ["0001", "0001"], seconds=20))
            assert min(took) < 1, "whatever else the machine does"


def test_processes_share_limits_in_redis(tmp_path: Path, redis_url: str) -> None:
    home, users = tmp_path / "home", (f"ann-{time.time_ns()}" for _ in itertools.count())
    shared = {"redis": redis_url, "rate_limit_user": "4/1h", "rate_limit_address": "off"}
    with ServerProcess(home, **shared) as one, ServerProcess(home, **shared) as two:
        assert run_cli(home, "switches", "set", "rateLimiterSwitch", "open").returncode == 0
        with httpx.Client(timeout=10) as client:

            def draw(process: ServerProcess, user: str) -> str:
                asked = {"userId": user, "activityId": 1}
                url = f"http://127.0.0.1:{process.port}{ACTIVITY}/draw"
                return str(client.post(url, json=asked).json()["code"])

            def shared() -> bool:
                user = next(users)
                codes = [draw(process, user) for process in (one, two, one, two, one, two)]
                return codes == ["0001"] * 4 + ["0005"] * 2

            # Neither knows of the switch at once, and both go on alone for a moment when Redis is late.
            eventually(shared, seconds=20)
