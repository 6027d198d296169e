"""An operator's day: codes run out and are uploaded, things are claimed and shipped, awards are taken back."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bigmarket.app import World
from bigmarket.award.claims import DAY_MS, Contact
from bigmarket.cli.running import run
from bigmarket.settings import PREFIX, load_settings
from support import SMALL

CAMPAIGN = (
    SMALL.replace("2027-01-01", "2099-01-01")
    .replace("{award_id: 2, kind: physical}", "{award_id: 2, kind: code, config: mugs}")
    .replace("{award_id: 3, kind: physical}", '{award_id: 3, kind: sku, config: "12"}')
    .replace("{award_id: 4, kind: physical}", "{award_id: 4, kind: physical, claim_days: 3}")
)
LONG = 4  # days
HOME = Contact("=Ann", "+86 13800138000", "1 West Lake Road", "ring twice")

Call = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BIGMARKET_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:  # noqa: ARG001  sets the environment
    """Runs a command line; its JSON, or all of stdout."""
    monkeypatch.setenv("COLUMNS", "200")

    def calls(*arguments: str, code: int = 0, as_json: bool = True) -> Any:
        capsys.readouterr()
        assert run([*arguments, *(["--json"] if as_json else [])]) == code, capsys.readouterr()
        out = capsys.readouterr().out
        return json.loads(out) if as_json else out

    return calls


def won(home: Path, award_id: int) -> list[str]:
    with World(load_settings({"BIGMARKET_HOME": str(home / "home")}), draws=False) as world:
        query = text("SELECT order_id FROM user_award_record WHERE award_id = :award ORDER BY order_id")
        with world.stores.shards[0].reading() as connection:
            return list(connection.execute(query, {"award": award_id}).scalars())


def claim(home: Path, order_id: str) -> None:
    with World(load_settings({"BIGMARKET_HOME": str(home / "home")}), draws=False) as world:
        assert world.claim("ann", order_id, HOME).state == "claimed"


def draw_long_ago(home: Path, order_id: str, *, days: int = LONG) -> None:
    """Move a draw back in time."""
    with World(load_settings({"BIGMARKET_HOME": str(home / "home")}), draws=False) as world:
        query = text("UPDATE user_award_record SET award_time_ms = award_time_ms - :ms WHERE order_id = :order")
        with world.stores.shards[0].writing() as connection:
            connection.execute(query, {"ms": days * DAY_MS, "order": order_id})


def deliver(home: Path) -> None:
    """Let whatever is due be delivered."""
    with World(load_settings({"BIGMARKET_HOME": str(home / "home")}), draws=False) as world:
        deadline = time.monotonic() + 20
        query = text("SELECT COUNT(*) FROM award_delivery WHERE state = 'due' AND attempts = 0")
        while time.monotonic() < deadline:
            with world.stores.shards[0].reading() as connection:
                if not connection.execute(query).scalar_one():
                    return
            time.sleep(0.05)
        raise AssertionError("deliveries are left")


def test_an_operators_day(call: Call, home: Path) -> None:
    (home / "small.yaml").write_text(CAMPAIGN, encoding="utf-8")
    call("apply", str(home / "small.yaml"), "--yes")
    reasons = [warning["reason"] for warning in call("armory", "1")["warnings"]]
    assert "pool `mugs` has 0 codes, but 30 can be won" in reasons
    for number in range(4):
        call("recharge", "--user", "ann", "--sku", "11", "--out-business-no", f"gift-{number}")
    assert call("draw", "--user", "ann", "--activity", "1", "--times", "40")["drawn"] == 40
    deliver(home)

    mugs, (car,) = won(home, 2), won(home, 4)
    assert mugs, "once in millions of runs"
    (pool,) = call("codes", "status")["pools"]
    assert pool == {"pool": "mugs", "free": 0, "taken": 0, "waiting": len(mugs)}
    (home / "codes.txt").write_text("\ufeffM-1\nM-2\n\nM-1\n" + "".join(f"M-{n}\n" for n in range(3, 31)), "utf-8")
    first = call("codes", "upload", "mugs", str(home / "codes.txt"))
    assert first == {"pool": "mugs", "added": 30, "there": 0, "duplicates": 1, "duplicate_lines": [4]}
    again = call("codes", "upload", "mugs", str(home / "codes.txt"))
    assert (again["added"], again["there"], again["duplicates"]) == (0, 30, 1)
    deliver(home)
    (pool,) = call("codes", "status")["pools"]
    assert pool == {"pool": "mugs", "free": 30 - len(mugs), "taken": len(mugs), "waiting": 0}
    assert call("doctor")["ok"]
    assert '{"code": "M-' in call("deliveries", "show", mugs[0].lower(), as_json=False)

    assert "Nothing is claimed" in call("claims", "list", as_json=False)
    (waiting,) = call("claims", "list", "--state", "unclaimed")["claims"]
    assert (waiting["order_id"], waiting["user_id"], waiting["state"]) == (car, "ann", "unclaimed")
    days = datetime.fromisoformat(waiting["claim_before"]) - datetime.fromisoformat(waiting["won"])
    assert days == timedelta(days=3)
    assert car in call("claims", "list", "--state", "unclaimed", as_json=False)
    assert "Nothing is expired" in call("claims", "list", "--state", "expired", as_json=False)
    draw_long_ago(home, car)
    (row,) = csv.DictReader(io.StringIO(call("claims", "list", "--state", "expired", "--csv", as_json=False)))
    assert (row["order_id"], row["award"], row["state"]) == (car, waiting["award"], "expired")
    assert call("claims", "list", "--state", "unclaimed")["claims"] == []
    draw_long_ago(home, car, days=-LONG)
    call("claims", "list", "--state", "lost", code=2)
    claim(home, car)
    assert call("claims", "list", "--state", "unclaimed")["claims"] == []
    (row,) = csv.DictReader(io.StringIO(call("claims", "list", "--csv", as_json=False)))
    assert (row["order_id"], row["name"], row["phone"]) == (car, "'=Ann", "+86 13800138000")
    (document,) = call("claims", "list")["claims"]
    assert (document["name"], document["note"], document["state"]) == ("=Ann", "ring twice", "claimed")
    assert not call("claims", "ship", car.lower(), "--carrier", "SF", "--tracking", "SF1")["repeated"]
    assert call("claims", "ship", car, "--carrier", "SF", "--tracking", "SF1")["repeated"]
    error = call("claims", "ship", car, "--carrier", "SF", "--tracking", "SF2", code=1)["error"]
    assert (error["code"], error["outcome"]) == ("duplicate", "none")
    assert call("claims", "list")["claims"] == []
    assert len(call("claims", "list", "--state", "done")["claims"]) == 1

    call("void", car, "--reason", "a test account", code=2)  # nobody can be asked here
    done = call("void", car, "--reason", "a test account", "--return-stock", "--return-draw", "--yes")
    assert (done["stock_returned"], done["draw_returned"], done["credits_taken"]) == (True, True, "0.00")
    again = call("void", car, "--reason", "another reason", "--take-credits", "--yes")
    assert (again["repeated"], again["reason"]) == (True, "a test account")
    points = won(home, 1)
    if points:
        given = call("void", points[0], "--reason", "x", "--take-credits", "--user", "ann", "--yes")
        assert float(given["credits_taken"]) > 0
    call("void", mugs[0], "--reason", "x", "--user", "bob", "--yes", code=1)
    assert [void["order_id"] for void in call("voids", "list")["voids"]] == sorted([car, *points[:1]])
    assert "a test account" in call("voids", "list", as_json=False)
    explained = call("explain", car)
    assert (explained["matches"], explained["award_state"]) == (True, "fail")
    assert explained["voided"]["reason"] == "a test account"
    assert "It was voided" in call("explain", car, as_json=False)
    assert call("doctor")["ok"]
    assert call("draw", "--user", "ann", "--activity", "1")["drawn"] == 1
    assert call("doctor")["ok"]
