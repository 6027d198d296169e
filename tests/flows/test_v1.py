"""The v1 API as clients meet it: recorded examples of every code, the wheel's page, keys, CORS, documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmarket.api.openapi import WHEN
from databases import Databases
from serving import DRAW, Served, install_small, placed, serving
from support import DAY, NOON, assert_healthy, count, give
from v1_examples import KEY, answer_of, play, recordings, stage

V1 = "/api/v1/raffle"
ANNOUNCED = [
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0008",
    "0009",
    "ERR_BIZ_002",
    "ERR_BIZ_003",
    "ERR_BIZ_004",
    "ERR_BIZ_006",
    "ERR_BIZ_007",
    "ERR_BIZ_008",
]


@pytest.fixture(scope="module", params=["sqlite", "mysql-split"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def stages(
    backend: str, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Served]]:
    """The servers of the recordings that can stay up for all of them."""
    home = tmp_path_factory.mktemp
    with (
        placed(databases, backend) as here,
        placed(databases, backend) as there,
        stage(home("usual"), "usual", **here) as usual,
        stage(home("keyed"), "keyed", **there) as keyed,
    ):
        yield {"usual": usual, "keyed": keyed}


@pytest.fixture
def place(backend: str, databases: Databases) -> Iterator[dict[str, object]]:
    """Settings for a server of a test's own."""
    with placed(databases, backend) as settings:
        yield settings


@pytest.fixture
def served(stages: dict[str, Served]) -> Served:
    return stages["usual"]


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_recorded_examples(path: Path, stages: dict[str, Served], tmp_path: Path, place: dict[str, object]) -> None:
    recording = json.loads(path.read_text())
    expected = {"headers": {}, **recording["response"]}
    if recording["server"] in stages:
        answer = play(stages[recording["server"]], recording)
    else:
        with stage(tmp_path, recording["server"], **place) as own:
            answer = play(own, recording)
    assert answer_of(answer, headers=list(expected["headers"])) == expected


#: Answered by every call alike, recorded for the draw: too many requests, no key, no business of a user's.
EVERYWHERE = {"0006", "0008"}


def test_every_call_is_recorded_with_every_code_that_it_announces(served: Served) -> None:
    recorded: dict[tuple[str, str], set[str]] = {}
    for path in recordings():
        recording = json.loads(path.read_text())
        request, response = recording["request"], recording["response"]
        if response["status"] not in (404, 405):
            call = (request["path"].split("?")[0], request["method"].lower())
            recorded.setdefault(call, set()).add(response["json"]["code"])
    announced = {
        (path, method): set(operation["responses"]["200"]["content"]["application/json"]["examples"])
        for path, methods in served.client.get("/openapi.json").json()["paths"].items()
        if path.startswith("/api/v1/")
        for method, operation in methods.items()
    }
    assert set(recorded) == set(announced)
    for (path, method), codes in announced.items():
        wanted = {"0000", "0009"} if path.endswith("_by_token") else codes  # the codes are those of its plain twin
        assert wanted <= recorded[path, method], path
        assert recorded[path, method] <= codes | EVERYWHERE | {"0009"}, path
        assert codes <= set(WHEN), path


def test_every_call_is_in_the_reference(served: Served) -> None:
    text = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
    for path in served.client.get("/openapi.json").json()["paths"]:
        if path.startswith("/api/v1/raffle/") and not path.endswith("_by_token"):
            assert re.search(rf"^\| `(GET|POST) {re.escape(path[len(V1) + 1 :])}[?`]", text, re.MULTILINE), path
    for code in WHEN:
        assert re.search(rf"`({code}|{code[-3:]})`", text), code


def test_the_draw_answers_everything_that_it_can(served: Served) -> None:
    codes = {
        json.loads(path.read_text())["response"]["json"]["code"]
        for path in recordings()
        if json.loads(path.read_text())["request"]["path"] == DRAW
    }
    assert codes == {"0000", *ANNOUNCED}
    responses = served.client.get("/openapi.json").json()["paths"][DRAW]["post"]["responses"]
    documented = set(responses["200"]["content"]["application/json"]["examples"])
    documented |= set(responses["503"]["content"]["application/json"]["examples"])
    assert documented | {"0008", "0009"} == codes
    assert {"401", "403"} < set(responses)


def test_an_award_unlocks_with_the_draws_of_the_day(tmp_path: Path, place: dict[str, object]) -> None:
    now = [NOON]
    with serving(tmp_path, clock=lambda: now[0], **place) as served:
        install_small(served.world)
        give(served.world.stores.config, "ann")
        asked = {"userId": "ann", "activityId": 1}

        def lock() -> tuple[int, bool, int]:
            awards = served.client.post(f"{V1}/strategy/query_raffle_award_list", json=asked).json()["data"]
            assert [award["sort"] for award in awards] == [1, 2, 3, 4]
            car = awards[3]
            return car["awardRuleLockCount"], car["isAwardUnlock"], car["waitUnLockCount"]

        def left_today() -> tuple[int, int]:
            account = served.client.post(f"{V1}/activity/query_user_activity_account", json=asked).json()["data"]
            return account["dayCountSurplus"], account["totalCountSurplus"]

        seen = [(lock(), left_today())]
        for _ in range(2):
            assert served.draw("ann").json()["code"] == "0000"
            seen.append((lock(), left_today()))
        now[0] += DAY
        seen.append((lock(), left_today()))
        assert seen == [
            ((2, False, 2), (10, 10)),
            ((2, False, 1), (9, 9)),
            ((2, True, 0), (8, 8)),
            ((2, False, 2), (10, 8)),
        ]


def test_a_repeat_costs_nothing(served: Served) -> None:
    give(served.world.stores.config, "rita")
    first, again = (served.draw("rita", requestId="once") for _ in range(2))
    assert first.content == again.content
    assert first.headers["bigmarket-order-id"] == again.headers["bigmarket-order-id"]
    assert count(served.world.stores.config, "SELECT count(*) FROM user_award_record WHERE user_id = 'rita'") == 1


def test_trying_the_wheel_takes_nothing(served: Served) -> None:
    sold = "SELECT sum(sold) FROM award_stock"
    before = count(served.world.stores.config, sold)
    for _ in range(20):
        assert served.client.post(f"{V1}/strategy/random_raffle", json={"strategyId": 9}).json()["code"] == "0000"
    assert count(served.world.stores.config, sold) == before


def test_concurrent_draws_of_one_user_stop_at_the_quota(served: Served) -> None:
    give(served.world.stores.config, "many")
    with ThreadPoolExecutor(16) as pool:
        codes = [answer.json()["code"] for answer in pool.map(lambda _: served.draw("many"), range(25))]
    assert sorted(codes) == ["0000"] * 10 + ["ERR_BIZ_006"] * 15


_FIELDS = ["userId", "activityId", "requestId", "strategyId", "sku", "cursor", "limit", "month", "id", "orderId"]
_CONTACT = ["name", "phone", "address", "note", "fax"]
_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10))
_bodies = st.one_of(
    st.binary(max_size=300),
    st.recursive(_values, lambda inner: st.dictionaries(st.sampled_from(_FIELDS), inner)).map(
        lambda value: json.dumps(value).encode()
    ),
    st.fixed_dictionaries(
        {"userId": st.text(max_size=200), "activityId": st.integers(-(2**70), 2**70)},
        optional={"cursor": st.text(max_size=40), "limit": st.integers(-1, 102), "month": st.text(max_size=7)},
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {
            "userId": st.text(max_size=130),
            "orderId": st.text(max_size=130),
            "contact": st.one_of(_values, st.dictionaries(st.sampled_from(_CONTACT), st.text(max_size=600))),
        }
    ).map(lambda value: json.dumps(value).encode()),
)
_paths = st.sampled_from(
    [
        "activity/claim_award",
        "activity/credit_pay_exchange_sku",
        "activity/draw",
        "activity/query_sign_in_calendar",
        "activity/query_user_activity_account",
        "activity/query_user_award_record",
        "activity/query_user_credit_order",
        "activity/query_user_quota_order",
        "activity/query_user_raffle_order",
        "activity/rebate",
        "erp/update_stage_activity_2_active",
        "strategy/query_raffle_award_list",
        "strategy/query_raffle_strategy_rule_weight",
        "strategy/random_raffle",
    ]
)
_types = st.sampled_from(["application/json", "text/plain", "application/json; charset=utf-8", ""])


@settings(max_examples=400, deadline=None)
@given(path=_paths, body=_bodies, content_type=_types)
def test_no_body_gives_a_5xx(stages: dict[str, Served], path: str, body: bytes, content_type: str) -> None:
    served = stages["usual"]
    answer = served.client.post(f"{V1}/{path}", content=body, headers={"content-type": content_type})
    assert answer.status_code in (200, 400, 413, 415)
    assert set(answer.json()) == {"code", "info", "data"}


_queries = st.dictionaries(
    st.sampled_from(["activityId", "strategyId", "userId", "channel", "source", "cursor", "limit", "key", "value"]),
    st.one_of(st.text(max_size=30), st.integers().map(str)),
)


@settings(max_examples=100, deadline=None)
@given(query=_queries)
def test_no_query_gives_a_5xx(stages: dict[str, Served], query: dict[str, str]) -> None:
    for method, path in (
        ("GET", "activity/armory"),
        ("GET", "activity/query_stage_activity_id"),
        ("GET", "erp/query_user_raffle_order"),
        ("GET", "strategy/strategy_armory"),
        ("POST", "activity/calendar_sign_rebate"),
        ("POST", "activity/is_calendar_sign_rebate"),
        ("POST", "activity/query_sku_product_list_by_activity_id"),
        ("POST", "activity/query_user_credit_account"),
    ):
        answer = stages["usual"].client.request(method, f"{V1}/{path}", params=query)
        assert answer.status_code in (200, 400)
        assert set(answer.json()) == {"code", "info", "data"}


@settings(max_examples=100, deadline=None)
@given(body=st.one_of(st.binary(max_size=100), st.text(alphabet="userIdann=&%1;+", max_size=60).map(str.encode)))
def test_no_form_gives_a_5xx(stages: dict[str, Served], body: bytes) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    for path in ("calendar_sign_rebate", "query_user_credit_account"):
        answer = stages["usual"].client.post(f"{V1}/activity/{path}", content=body, headers=headers)
        assert answer.status_code in (200, 400)
        assert set(answer.json()) == {"code", "info", "data"}


@pytest.mark.parametrize("path", ["activity/draw", "strategy/random_raffle"])
def test_a_body_sent_in_chunks_is_read_and_bounded(served: Served, path: str) -> None:
    headers = {"content-type": "application/json"}

    def chunks(size: int) -> Iterator[bytes]:
        yield b'{"userId":"chunky",'
        yield b'"activityId":1'
        yield b" " * size
        yield b"}"

    answer = served.client.post(f"{V1}/{path}", content=chunks(10), headers=headers)
    assert answer.json()["code"] == ("ERR_BIZ_006" if path.endswith("draw") else "0002")
    assert served.client.post(f"{V1}/{path}", content=chunks(2 << 20), headers=headers).status_code == 413


def test_keys_guard_the_api_and_nothing_else(stages: dict[str, Served]) -> None:
    client = stages["keyed"].client
    for path in ("activity/armory?activityId=1", "nothing"):
        assert client.get(f"{V1}/{path}").status_code == 401
    assert client.get(f"{V1}/activity/armory?activityId=1", headers={"authorization": f"bearer {KEY}"}).is_success
    for shown in ("", KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer", "Bearer \xe9"):
        answer = client.post(DRAW, json={}, headers={"authorization": shown.encode("latin-1")})
        assert (answer.status_code, answer.json()["code"]) == (401, "0008")
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.get("/openapi.json").json()["security"] == [{"serverKey": []}, {"userToken": []}]


@pytest.mark.parametrize("name", ["query_user_credit_account", "is_calendar_sign_rebate", "calendar_sign_rebate"])
def test_a_query_that_is_not_utf_8_names_nobody(served: Served, name: str) -> None:
    answer = served.client.post(f"{V1}/activity/{name}?userId=%ff")
    assert (answer.status_code, answer.json()["code"]) == (400, "0002")


@pytest.mark.parametrize("path", [DRAW, f"{V1}/activity/armory"])
def test_a_browser_may_call_from_another_origin(stages: dict[str, Served], path: str) -> None:
    asked = {
        "origin": "https://shop.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,authorization",
    }
    for served in stages.values():
        preflight = served.client.options(path, headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "content-type" in preflight.headers["access-control-allow-headers"]
        answer = served.client.request("POST", path, headers={"origin": "https://shop.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Bigmarket-Order-Id" in answer.headers["access-control-expose-headers"]


def test_other_origins_can_be_shut_out(tmp_path: Path) -> None:
    with serving(tmp_path, cors_origins="https://shop.example") as served:
        for path in (DRAW, f"{V1}/strategy/random_raffle"):
            mine = served.client.post(path, headers={"origin": "https://shop.example"})
            assert mine.headers["access-control-allow-origin"] == "https://shop.example"
            assert "Origin" in mine.headers["vary"]
            other = served.client.post(path, headers={"origin": "https://evil.example"})
            assert "access-control-allow-origin" not in other.headers


def test_documentation_needs_no_internet(served: Served) -> None:
    assert served.client.get("/").headers["location"] == "docs"
    page = served.client.get("/docs").text
    assert "//cdn" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"docs/assets/{asset}" in page
        assert served.client.get(f"/docs/assets/{asset}").status_code == 200


def test_health(served: Served) -> None:
    assert served.client.get("/healthz").json() == {"alive": True}
    assert served.client.get("/readyz").json() == {"ready": True, "reasons": []}
    text = served.client.get("/metrics").text
    for name in ("draws_total", "request_errors_total", "batch_size_count", "lane_waiting", "relay_delivered_total"):
        assert f"\nbigmarket_{name}" in text


def test_everything_stays_in_order(served: Served) -> None:
    assert_healthy(served.world.stores.config)
