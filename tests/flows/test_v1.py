"""The v1 API as clients meet it: recorded examples of every code, the wheel's page, keys, CORS, documentation."""

from __future__ import annotations

import json
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
    "0006",
    "0008",
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


def test_every_code_is_recorded_and_documented(served: Served) -> None:
    recorded = [json.loads(path.read_text()) for path in recordings()]
    codes = {r["response"]["json"]["code"] for r in recorded if r["request"]["path"] == DRAW}
    assert codes == set(WHEN) == {"0000", *ANNOUNCED}
    document = served.client.get("/openapi.json").json()
    draw = document["paths"][DRAW]["post"]
    documented = set(draw["responses"]["200"]["content"]["application/json"]["examples"])
    documented |= set(draw["responses"]["503"]["content"]["application/json"]["examples"])
    assert documented | {"0008"} == codes
    assert "401" in draw["responses"]
    for r in recorded:
        path, method = r["request"]["path"].split("?")[0], r["request"]["method"].lower()
        if r["response"]["status"] not in (404, 405):
            assert method in document["paths"][path]


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


_bodies = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
        lambda inner: st.dictionaries(st.sampled_from(["userId", "activityId", "requestId", "strategyId"]), inner),
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"userId": st.text(max_size=200), "activityId": st.integers(-(2**70), 2**70)}).map(
        lambda value: json.dumps(value).encode()
    ),
)
_paths = st.sampled_from(
    [
        "activity/draw",
        "strategy/random_raffle",
        "strategy/query_raffle_award_list",
        "activity/query_user_activity_account",
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


@settings(max_examples=100, deadline=None)
@given(query=st.dictionaries(st.sampled_from(["activityId", "strategyId"]), st.text(max_size=30)))
def test_no_query_gives_a_5xx(stages: dict[str, Served], query: dict[str, str]) -> None:
    for path in ("activity/armory", "strategy/strategy_armory"):
        answer = stages["usual"].client.get(f"{V1}/{path}", params=query)
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
    assert client.get("/openapi.json").json()["security"] == [{"serverKey": []}]


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
    for name in ("draws_total", "draw_errors_total", "batch_size_count", "lane_waiting", "relay_delivered_total"):
        assert f"\nbigmarket_{name}" in text


def test_everything_stays_in_order(served: Served) -> None:
    assert_healthy(served.world.stores.config)
