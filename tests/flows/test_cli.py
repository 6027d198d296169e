"""The command line, as people and programs use it, on a real SQLite file."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
import structlog
import typer.main
from rich.console import Console

from bigmarket import settings as settings_module
from bigmarket.cli.commands import app
from bigmarket.cli.results import table
from bigmarket.cli.running import run
from bigmarket.settings import PREFIX, Settings
from support import EXAMPLES, SMALL

ROOT = Path(__file__).parents[2]
DEMO = "100301"
SMALL_OPEN = SMALL.replace("2027-01-01", "2099-01-01")


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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BIGMARKET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def bigmarket(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Bigmarket]:  # noqa: ARG001  sets the environment
    """Runs a command line in this process."""
    level, handlers = logging.root.level, logging.root.handlers[:]

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(arguments)
        return Result(code, *capsys.readouterr())

    yield call
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "bigmarket", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # noqa: S603


def count(home: Path, table: str) -> int:
    connection = sqlite3.connect(home / "bigmarket.db")
    try:
        (rows,) = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
    finally:
        connection.close()
    return int(rows)


def write(home: Path, statement: str) -> None:
    connection = sqlite3.connect(home / "bigmarket.db")
    try:
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def campaign_file(folder: Path, text: str = SMALL_OPEN, name: str = "small.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


# --- the whole surface --------------------------------------------------------------------------------------------


def all_commands() -> dict[str, Any]:
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            found |= {f"{name} {inner}": its for inner, its in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("name", sorted(all_commands()))
def test_every_command_has_help_and_json_and_is_documented(name: str, bigmarket: Bigmarket) -> None:
    command = all_commands()[name]
    assert command.help, "say what it does"
    for parameter in command.params:
        assert parameter.help, f"say what {parameter.name} is"
    assert "--json" in [option for parameter in command.params for option in parameter.opts]
    assert f"## `bigmarket {name}" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    result = bigmarket(*name.split(), "--help")
    assert result.code == 0
    assert "--json" in result.out


def test_every_option_is_documented() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    options = {
        option
        for command in [typer.main.get_command(app), *all_commands().values()]
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    missing = {option for option in options if f"`{option}" not in reference} - {
        "--install-completion",
        "--show-completion",
    }
    assert not missing


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    reference = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    default = Settings.model_fields[name].default
    shown = ",".join(default) if isinstance(default, tuple) else str(default).lower()
    row = next(line for line in reference.splitlines() if line.startswith(f"| `{PREFIX}{name.upper()}`"))
    assert f"`{shown}`" in row if shown else "none" in row


def test_no_setting_that_is_gone_is_documented() -> None:
    reference = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = re.findall(rf"^\| `{PREFIX}([A-Z_]+)`", reference, re.MULTILINE)
    assert sorted(documented) == sorted(name.upper() for name in settings_module.Settings.model_fields)


def test_no_arguments_show_the_help(bigmarket: Bigmarket) -> None:
    result = bigmarket()
    assert result.code == 0
    assert "doctor" in result.out


# --- stages -------------------------------------------------------------------------------------------------------


def test_a_place_shows_the_stage_that_was_activated(bigmarket: Bigmarket, home: Path) -> None:  # noqa: ARG001
    assert bigmarket("demo", "--json").code == 0
    added = bigmarket("stages", "add", "--channel", "c01", "--source", "s01", "--activity", DEMO, "--json")
    assert added.document == {
        "stage_id": 1,
        "channel": "c01",
        "source": "s01",
        "activity_id": int(DEMO),
        "state": "create",
    }
    assert bigmarket("stages", "activate", "1", "--json").document["state"] == "active"
    assert bigmarket("stages", "list", "--json").document["stages"] == [{**added.document, "state": "active"}]
    assert "c01" in bigmarket("stages", "list").out
    assert bigmarket("stages", "expire", "1", "--json").document["state"] == "expire"
    assert bigmarket("stages", "activate", "9", "--json").document["error"]["code"] == "not_found"


# --- callers and switches -----------------------------------------------------------------------------------------


def test_a_token_is_printed_for_a_user(bigmarket: Bigmarket, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = bigmarket("token", "--user", "ann", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (1, "bad_input")
    assert "TOKEN_SECRETS" in refused.document["error"]["message"]
    secret = "s" * 32
    monkeypatch.setenv("BIGMARKET_TOKEN_SECRETS", f"{secret},{'o' * 32}")
    printed = bigmarket("token", "--user", "ann", "--hours", "2").out.strip()
    claims = jwt.decode(printed, secret, algorithms=["HS256"])
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("ann", 7200)
    assert bigmarket("token", "--user", " ", "--json").document["error"]["code"] == "bad_input"


def test_switches_are_turned_and_listed(bigmarket: Bigmarket) -> None:
    assert bigmarket("demo", "--json").code == 0
    turned = bigmarket("switches", "set", "rateLimitUser", "9/1m", "--json").document
    assert turned == {"switch": "rateLimitUser", "value": "9/1m", "set": True}
    listed = bigmarket("switches", "list", "--json").document["switches"]
    assert turned in listed
    assert {"switch": "degradeSwitch", "value": "close", "set": False} in listed
    assert "an operator" in bigmarket("switches", "list").out
    for wrong in (("nothing", "open"), ("degradeSwitch", "perhaps"), ("rateLimitUser", "9")):
        assert bigmarket("switches", "set", *wrong, "--json").document["error"]["code"] == "bad_input"
    back = bigmarket("switches", "set", "rateLimitUser", "default", "--json").document
    assert back == {"switch": "rateLimitUser", "value": "5/1s", "set": False}


# --- the demo -----------------------------------------------------------------------------------------------------


def test_the_demo_is_set_up_once(bigmarket: Bigmarket, home: Path) -> None:
    first = bigmarket("demo", "--json").document
    steps = ("loaded", "filled", "armed", "credited")
    assert all(first[step] for step in steps)
    assert count(home, "redemption_code") == 100
    assert first["account"]["day_left"] == 10_000
    assert bigmarket("draw", "--user", "xiaofuge", "--activity", DEMO).code == 0
    write(home, "UPDATE raffle_activity SET activity_name = 'mine'")
    again = bigmarket("demo", "--json").document
    assert not any(again[step] for step in steps)
    assert count(home, "redemption_code") == 100
    assert again["account"]["total_left"] == 9_999
    assert again["revision_id"] == first["revision_id"]
    assert "mine" in bigmarket("demo").out, "a second run overwrites nothing"
    assert count(home, "raffle_activity_account") == 1


def test_the_demo_tells_what_to_try(bigmarket: Bigmarket) -> None:
    out = bigmarket("demo").out
    for line in ("activity/armory?activityId=100301", "activity/draw", "query_raffle_award_list", "--sku 9011"):
        assert line in out
    assert "content-type: application/json" in out


def test_the_demo_half_set_up_is_completed(bigmarket: Bigmarket) -> None:
    assert bigmarket("apply", str(EXAMPLES / "100301.yaml"), "--yes").code == 0
    document = bigmarket("demo", "--json").document
    assert (document["loaded"], document["armed"], document["credited"]) == (False, True, True)


# --- campaigns ----------------------------------------------------------------------------------------------------


def test_apply_shows_changes_and_writes_them(bigmarket: Bigmarket, tmp_path: Path) -> None:
    file = campaign_file(tmp_path)
    first = bigmarket("apply", file, "--yes")
    assert first.code == 0
    assert "armory 1" in first.out
    same = bigmarket("apply", file, "--yes", "--json").document
    assert (same["written"], same["campaigns"][0]["changes"]) == (False, [])
    campaign_file(tmp_path, SMALL_OPEN.replace("stock: 30", "stock: 31"))
    change = {"path": "strategy.awards[2].stock", "before": "30", "after": "31"}
    dry = bigmarket("apply", file, "--dry-run", "--json").document
    assert (dry["written"], dry["campaigns"][0]["changes"]) == (False, [change])
    wet = bigmarket("apply", file, "--yes", "--json").document
    assert (wet["written"], wet["campaigns"][0]["changes"]) == (True, [change])


def test_apply_tells_rebates_by_their_days_in_a_row(bigmarket: Bigmarket, tmp_path: Path) -> None:
    streak = "{behavior: sign, type: integral, credits: 9, streak_days: 7}"
    rebates = f"rebates: [{{behavior: sign, type: integral, credits: 1}}, {streak}]\n"
    shown = bigmarket("apply", campaign_file(tmp_path, f"{SMALL_OPEN}\n{rebates}"), "--dry-run").out
    assert "sign: integral, sign: integral every 7 days in a row" in shown


def test_ids_keep_to_one_line_on_a_narrow_screen(capsys: pytest.CaptureFixture[str]) -> None:
    order = "01M7Z9RC1Q026VY4R8CBGG0CT8"
    made = table("order", "kind", "place", "user", "state", "attempts", "next", "reason")
    made.add_row(order, *["a rather long cell"] * 7)
    Console(width=80).print(made)
    assert order in capsys.readouterr().out


def test_a_dry_run_makes_no_database(bigmarket: Bigmarket, home: Path, tmp_path: Path) -> None:
    document = bigmarket("apply", campaign_file(tmp_path), "--dry-run", "--json").document
    assert document["campaigns"][0]["new"]
    assert not home.exists()


def test_a_broken_file_writes_nothing_and_the_live_revision_goes_on(
    bigmarket: Bigmarket, home: Path, tmp_path: Path
) -> None:
    sound, broken = campaign_file(tmp_path), campaign_file(tmp_path, "activity: {activity_id: x}\n", "broken.yaml")
    bigmarket("apply", sound, "--yes")
    armed = bigmarket("armory", "1", "--json").document
    bigmarket("recharge", "--user", "ann", "--sku", "11", "--out-business-no", "a1")
    campaign_file(tmp_path, SMALL_OPEN.replace('rate: "0.4"', 'rate: "-1"').replace("kind: physical", "kind: nope"))
    result = bigmarket("apply", sound, broken, str(tmp_path / "missing.yaml"), "--yes", "--json")
    assert result.code == 1
    error = result.document["error"]
    assert (error["code"], error["outcome"], error["retryable"]) == ("configuration_invalid", "none", False)
    assert {problem["file"] for problem in error["problems"]} == {sound, broken, str(tmp_path / "missing.yaml")}
    assert all(problem["reason"] and problem["fix"] and problem["path"] for problem in error["problems"])
    assert {problem["line"] for problem in error["problems"] if problem["file"] == sound} >= {14}
    human = bigmarket("apply", sound, broken, "--yes")
    assert human.out == ""
    assert f"{sound}:14" in human.err
    assert count(home, "raffle_activity") == 1
    assert bigmarket("armory", "1", "--json").document["revision_id"] == armed["revision_id"]
    assert bigmarket("draw", "--user", "ann", "--activity", "1").code == 0


def test_what_the_database_refuses_is_said_before_anything_is_written(
    bigmarket: Bigmarket, home: Path, tmp_path: Path
) -> None:
    one = campaign_file(tmp_path)
    thief = campaign_file(tmp_path, SMALL_OPEN.replace("activity_id: 1,", "activity_id: 2,"), "thief.yaml")
    assert bigmarket("apply", one, thief, "--dry-run", "--json").code == 0, "there is no database to ask yet"
    bigmarket("apply", one, "--yes")
    for choice in ("--dry-run", "--yes"):
        result = bigmarket("apply", one, thief, choice, "--json")
        assert (result.code, result.document["error"]["code"]) == (1, "duplicate")
    assert count(home, "raffle_activity") == 1


def test_two_files_of_one_activity_are_refused(bigmarket: Bigmarket, tmp_path: Path) -> None:
    files = campaign_file(tmp_path), campaign_file(tmp_path, name="twin.yaml")
    result = bigmarket("apply", *files, "--yes", "--json")
    assert (result.code, result.document["error"]["code"]) == (1, "duplicate")


def test_apply_asks_nobody_who_is_not_there(bigmarket: Bigmarket, home: Path, tmp_path: Path) -> None:
    file = campaign_file(tmp_path)
    assert bigmarket("apply", file).code == 0
    assert count(home, "raffle_activity") == 1
    assert bigmarket("apply", file, "--json").document["written"] is False, "there is nothing to change any more"
    assert bigmarket("apply", file, "--yes", "--dry-run").code == 2


def test_armory_says_what_is_live(bigmarket: Bigmarket, home: Path, tmp_path: Path) -> None:
    file = campaign_file(tmp_path)
    bigmarket("apply", file, "--yes")
    first = bigmarket("armory", "1", "--json").document
    assert (first["changed"], first["epoch"], first["awards"]) == (True, 1, 4)
    assert not bigmarket("armory", "1", "--json").document["changed"]
    campaign_file(tmp_path, SMALL_OPEN.replace("stock: 30", "stock: 31"))
    bigmarket("apply", file, "--yes")
    second = bigmarket("armory", "1", "--json").document
    assert (second["changed"], second["epoch"]) == (True, 2)
    former, present = bigmarket("epochs", "1", "--json").document["epochs"]
    assert not former["open"]
    assert former["seed"] is None, "a server may draw with it for another moment"
    write(home, "UPDATE seed_epoch SET close_time_ms = close_time_ms - 60000 WHERE epoch = 1")
    former, present = bigmarket("epochs", "1", "--json").document["epochs"]
    assert len(former["seed"]) == 64
    assert (present["open"], present["seed"], present["seed_sha256"]) == (True, None, second["seed_sha256"])
    assert former["seed"] in bigmarket("epochs", "1").out


def test_armory_of_nothing(bigmarket: Bigmarket) -> None:
    assert bigmarket("armory", "1", "--json").document["error"]["code"] == "not_found", "no database"
    bigmarket("demo")
    assert bigmarket("armory", "1", "--json").document["error"]["code"] == "not_found"
    assert bigmarket("epochs", "1", "--json").document["error"]["code"] == "not_found"


def test_the_schema_is_the_published_one(bigmarket: Bigmarket) -> None:
    published = json.loads((ROOT / "docs" / "campaign.schema.json").read_text(encoding="utf-8"))
    assert bigmarket("schema").document == published
    assert bigmarket("schema", "--json").document == published


# --- draws --------------------------------------------------------------------------------------------------------


def test_a_recharge_counts_once(bigmarket: Bigmarket) -> None:
    bigmarket("demo")
    line = ("recharge", "--user", "ann", "--sku", "9011", "--out-business-no", "a1")
    first = bigmarket(*line, "--json").document
    assert (first["repeated"], first["credited"]) == (False, {"total": 10_000, "month": 1_000, "day": 1_000})
    again = bigmarket(*line, "--json").document
    assert (again["repeated"], again["credited"]) == (True, {"total": 0, "month": 0, "day": 0})
    assert again["account"] == first["account"]
    assert "nothing was changed" in bigmarket(*line).out
    other = bigmarket("recharge", "--user", "bob", "--sku", "9011", "--out-business-no", "a1", "--json")
    assert (other.code, other.document["error"]["code"]) == (1, "duplicate")


def test_signing_in_counts_once_a_day_and_is_rewarded_at_once(bigmarket: Bigmarket) -> None:
    bigmarket("demo")
    line = ("behave", "--user", "ann", "--behavior", "SIGN", "--json")
    earned = bigmarket(*line).document["rebates"]
    assert {(rebate["type"], rebate["gives"]) for rebate in earned} == {("sku", "9011"), ("integral", "10")}
    again = bigmarket(*line)
    assert (again.code, again.document["error"]["code"]) == (1, "duplicate")
    listed = bigmarket("rebates", "--user", "ann", "--json").document["rebates"]
    assert {rebate["order_id"] for rebate in listed} == {rebate["order_id"] for rebate in earned}
    assert {rebate["state"] for rebate in listed} == {"completed"}
    assert "completed" in bigmarket("rebates", "--user", "ann").out
    assert "no rebate yet" in bigmarket("rebates", "--user", "nobody").out
    assert bigmarket("behave", "--user", "ann", "--behavior", "nap").code == 1
    assert bigmarket("behave", "--user", "ann", "--behavior", "sign", "--out-business-no", "today").code == 1
    assert bigmarket("doctor").code == 0


def test_a_request_id_draws_once(bigmarket: Bigmarket) -> None:
    bigmarket("demo")
    line = ("draw", "--user", "xiaofuge", "--activity", DEMO, "--request-id", "r", "--json")
    first = bigmarket(*line).document
    assert (first["asked"], first["drawn"], len(first["draws"])) == (1, 1, 1)
    assert bigmarket(*line).document == first
    many = bigmarket(*line, "--times", "40").document
    assert many["drawn"] == len({draw["order_id"] for draw in many["draws"]}) == 40
    assert sum(award["won"] for award in many["awards"]) == 40
    assert bigmarket(*line, "--times", "40").document == many


def test_draws_for_people(bigmarket: Bigmarket) -> None:
    bigmarket("demo")
    one = bigmarket("draw", "--user", "xiaofuge", "--activity", DEMO)
    assert "explain" in one.out
    many = bigmarket("draw", "--user", "xiaofuge", "--activity", DEMO, "--times", "30")
    assert "30 draws of 30" in many.out


def test_a_refusal_keeps_what_was_drawn_before_it(bigmarket: Bigmarket, tmp_path: Path) -> None:
    bigmarket("apply", campaign_file(tmp_path), "--yes")
    bigmarket("armory", "1")
    nothing = bigmarket("draw", "--user", "ann", "--activity", "1", "--json")
    assert (nothing.code, nothing.document["error"]["code"]) == (1, "quota_exhausted")
    bigmarket("recharge", "--user", "ann", "--sku", "12", "--out-business-no", "a1")
    some = bigmarket("draw", "--user", "ann", "--activity", "1", "--times", "9", "--json")
    assert (some.code, some.document["error"]["code"], some.document["drawn"]) == (1, "day_quota_exhausted", 2)
    human = bigmarket("draw", "--user", "ann", "--activity", "1")
    assert human.code == 1
    assert human.err.startswith("error: No draw left on ")


def test_explain_derives_a_draw_again(bigmarket: Bigmarket, home: Path) -> None:
    bigmarket("demo")
    order = bigmarket("draw", "--user", "xiaofuge", "--activity", DEMO, "--json").document["draws"][0]
    why = bigmarket("explain", order["order_id"], "--json")
    assert why.code == 0
    assert (why.document["matches"], why.document["derived_award_id"]) == (True, order["award_id"])
    assert why.document["time"].endswith("+08:00")
    assert why.document["seed"] is None
    rules = [step["rule"] for step in why.document["steps"]]
    assert rules[:2] == ["rule_weight", "roll"]
    assert "That is what is stored" in bigmarket("explain", order["order_id"]).out
    other = 102 if order["award_id"] != 102 else 103
    write(home, f"UPDATE user_award_record SET award_id = {other}")
    forged = bigmarket("explain", order["order_id"], "--json")
    assert (forged.code, forged.document["matches"]) == (1, False)
    assert "NOT what is stored" in bigmarket("explain", order["order_id"]).out
    assert bigmarket("explain", "nope", "--json").document["error"]["code"] == "not_found"


def test_odds_are_exact_and_say_why(bigmarket: Bigmarket, home: Path) -> None:
    bigmarket("demo")
    write(home, "UPDATE award_stock SET sold = alloc WHERE award_id = 102")
    seen = bigmarket("odds", DEMO, "--user", "xiaofuge", "--json").document
    odds = {award["award_id"]: award for award in seen["odds"]}
    assert sum(Fraction(award["chance"]) for award in seen["odds"]) == 1 == Fraction(seen["total"])
    assert (seen["draw"], seen["draw_today"], seen["refused"]) == (1, 1, None)
    assert odds[101]["chance"] == "22/25", "its own, and what 102, 105 and 106 cannot give"
    assert odds[102]["why"].startswith("sold out")
    assert odds[105]["why"].startswith("locked until 2 more draws today")
    assert odds[106]["why"].startswith("locked until 1 more draw today")
    assert odds[107]["chance"] == "3/100"
    stranger = bigmarket("odds", DEMO, "--user", "ann", "--json").document
    assert stranger["refused"]["code"] == "quota_exhausted"
    assert "cannot be made now" in bigmarket("odds", DEMO, "--user", "ann").out
    assert bigmarket("odds", "7", "--user", "ann", "--json").document["error"]["code"] == "not_found"


def test_odds_know_lists_and_tiers(bigmarket: Bigmarket, tmp_path: Path) -> None:
    bigmarket("apply", campaign_file(tmp_path), "--yes")
    bigmarket("armory", "1")
    listed = bigmarket("odds", "1", "--user", "mallory", "--json").document["odds"]
    assert [award["chance"] for award in listed] == ["1", "0", "0", "0"]
    bigmarket("recharge", "--user", "ann", "--sku", "11", "--out-business-no", "a1")
    bigmarket("draw", "--user", "ann", "--activity", "1", "--times", "2")
    third = bigmarket("odds", "1", "--user", "ann", "--json").document["odds"]
    assert [award["chance"] for award in third] == ["0", "3/5", "2/5", "0"]
    assert third[0]["why"] == "not on the guaranteed tier of draw 3"


# --- care ---------------------------------------------------------------------------------------------------------


def test_doctor_finds_what_is_broken(bigmarket: Bigmarket, home: Path) -> None:
    bigmarket("demo")
    bigmarket("draw", "--user", "xiaofuge", "--activity", DEMO, "--times", "20")
    healthy = bigmarket("doctor", "--json")
    assert (healthy.code, healthy.document["ok"]) == (0, True)
    write(home, "UPDATE award_stock SET sold = sold + 1 WHERE award_id = 108")
    sick = bigmarket("doctor", "--json")
    assert (sick.code, sick.document["ok"]) == (1, False)
    (broken,) = [finding for finding in sick.document["findings"] if not finding["ok"]]
    assert (broken["name"], broken["count"], broken["rows"][0]["id"]) == ("S2", 1, 108)
    human = bigmarket("doctor")
    assert human.code == 1
    assert "1 of" in human.out


def test_parked_tasks_are_listed_and_redriven(bigmarket: Bigmarket, home: Path) -> None:
    bigmarket("demo")
    assert bigmarket("parked", "list", "--json").document == {"parked": []}
    for name in ("A", "B"):
        write(
            home,
            "INSERT INTO task (message_id, user_id, topic, message, state, attempts, next_at_ms, reason) "
            f"""VALUES ('{name}', 'ann', 'nobody_takes_this', '{{"a":1}}', 'parked', 5, 0, 'no [bold] consumer')""",
        )
    first, second = bigmarket("parked", "list", "--json").document["parked"]
    assert (first["message_id"], first["message"], first["reason"]) == ("A", {"a": 1}, "no [bold] consumer")
    assert "no [bold] consumer" in bigmarket("parked", "list").out
    assert bigmarket("parked", "redrive", "nope", "--json").document["error"]["code"] == "not_found"
    assert bigmarket("parked", "redrive", "--json").document["error"]["code"] == "usage"
    assert bigmarket("parked", "redrive", "A", "--json").document == {"redriven": 1}
    assert bigmarket("parked", "redrive", "--all", "--json").document == {"redriven": 1}
    assert bigmarket("parked", "list", "--json").document == {"parked": []}
    assert second["message_id"] == "B"


def test_version(bigmarket: Bigmarket) -> None:
    assert bigmarket("version", "--json").document["version"] == bigmarket("version").out.strip()


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [("nope",), ("draw", "--user", "ann"), ("odds", "0", "--user", "a"), ("doctor", "x")]
)
def test_wrong_usage_is_2(line: tuple[str, ...], bigmarket: Bigmarket) -> None:
    human = bigmarket(*line)
    assert (human.code, human.out) == (2, "")
    assert "--help" in human.err
    program = bigmarket(*line, "--json")
    assert program.code == 2
    assert program.document["error"].keys() == {"code", "message", "outcome", "retryable"}


def test_all_faults_of_the_settings_are_listed(bigmarket: Bigmarket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGMARKET_PORT", "http")
    monkeypatch.setenv("BIGMARKET_LANE", "2")
    paths = {problem["path"] for problem in bigmarket("doctor", "--json").document["error"]["problems"]}
    assert paths == {"BIGMARKET_PORT", "BIGMARKET_LANE"}
    err = bigmarket("doctor").err
    assert "BIGMARKET_LANES" in err, "the nearest name"


def test_a_missing_database_is_said_and_not_made(bigmarket: Bigmarket, home: Path) -> None:
    result = bigmarket("doctor")
    assert result.code == 1
    assert "bigmarket demo" in result.err
    assert not home.exists()


def test_home_can_be_given(bigmarket: Bigmarket, home: Path, tmp_path: Path) -> None:
    assert bigmarket("--home", str(tmp_path / "else"), "demo").code == 0
    assert (tmp_path / "else" / "bigmarket.db").exists()
    assert not home.exists()


def test_a_fault_is_one_line_and_a_traceback_on_demand(bigmarket: Bigmarket, home: Path) -> None:
    home.mkdir()
    (home / "bigmarket.db").write_bytes(b"this is no database at all" * 100)
    result = bigmarket("doctor")
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert bigmarket("doctor", "--json").document["error"].keys() >= {"code", "message", "outcome", "retryable"}
    assert "Traceback" in bigmarket("--debug", "doctor").err


# --- processes ----------------------------------------------------------------------------------------------------


def test_only_json_reaches_stdout(home: Path) -> None:
    with process("demo", "--json") as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert json.loads(out)["database"] == str(home / "bigmarket.db")


def test_an_interrupted_run_keeps_what_was_drawn(bigmarket: Bigmarket, home: Path) -> None:
    bigmarket("demo")
    for number in range(8):
        bigmarket("recharge", "--user", "ann", "--sku", "9001", "--out-business-no", f"a{number}")
    with process("draw", "--user", "ann", "--activity", DEMO, "--times", "80000", "--json") as running:
        assert running.stderr is not None
        assert "Drawing" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    document = json.loads(out)
    assert document["error"]["code"] == "interrupted"
    assert 0 < document["drawn"] < 80_000
    assert document["drawn"] == count(home, "user_award_record")
    assert "Traceback" not in err


def test_the_demo_serves_and_ends_on_sigterm(home: Path) -> None:  # noqa: ARG001  sets the environment
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with process("demo", "--serve", env={**os.environ, "BIGMARKET_PORT": str(port)}) as running:
        assert running.stdout is not None
        screen = ""
        while "explain" not in screen:
            line = running.stdout.readline()
            assert line, running.communicate()
            screen += line
        url = re.search(r"serving +(\S+)", screen)
        assert url is not None
        page = re.search(r"play +(\S+)", screen)
        assert page is not None
        with urllib.request.urlopen(page[1], timeout=10) as answer:  # noqa: S310
            assert answer.headers["content-type"].startswith("text/html")
        draw = re.search(r"curl -i (\S+/activity/draw)", screen)
        assert draw is not None
        body = json.dumps({"userId": "xiaofuge", "activityId": int(DEMO)}).encode()
        request = urllib.request.Request(draw[1], body, {"content-type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            assert json.load(answer)["code"] == "0000"
        started = time.monotonic()
        running.terminate()
        running.communicate(timeout=30)
    assert running.returncode == 0
    assert time.monotonic() - started < 10
