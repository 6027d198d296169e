"""Moving in from the reference system: from its dumps on the command line, and from its live databases."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from bigmarket.app import World, open_stores
from bigmarket.cli.running import run
from bigmarket.importing import load_users
from bigmarket.settings import PREFIX, load_settings
from databases import Databases
from reference_dumps import ACTIVITY, configuration, installation, mysqldump, sequel_ace, statements
from support import count
from waiting import eventually


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
    level, handlers = logging.root.level, logging.root.handlers[:]

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(arguments)
        return Result(code, *capsys.readouterr())

    yield call
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


def dumps(folder: Path, *, up: bool) -> list[str]:
    """Files of both kinds: S22 as Sequel Ace exports them, UP as mysqldump does."""
    files = []
    for database, tables in installation(up=up).items():
        text = mysqldump(tables, up=up) if up else sequel_ace(database, tables, up=up)
        (folder / f"{database}.sql").write_text(text, encoding="utf-8")
        files.append(str(folder / f"{database}.sql"))
    return files


def counted(sql: str) -> int:
    stores = open_stores(load_settings())
    try:
        return count(stores.config, sql)
    finally:
        stores.close()


def broken(bigmarket: Bigmarket) -> set[str]:
    findings = bigmarket("doctor", "--json").document["findings"]
    return {finding["name"] for finding in findings if not finding["ok"]}


def assert_all_rows_told(document: dict[str, Any]) -> None:
    for name, rows in document["tables"].items():
        fates = rows["written"] + rows["there_already"] + rows["merged"] + rows["skipped"]
        assert rows["read"] == fates, name
        assert rows["skipped"] == sum(e["count"] for e in document["skipped"] if e["table"] == name), name


# --- the story ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
def test_a_repaired_installation_is_sound_and_its_users_go_on_drawing(
    bigmarket: Bigmarket, tmp_path: Path, *, up: bool
) -> None:
    files = dumps(tmp_path, up=up)
    imported = bigmarket("import-dump", *files, "--repair", "--json")
    assert imported.code == 0
    document = imported.document
    assert_all_rows_told(document)
    (campaign,) = document["campaigns"]
    assert (campaign["outcome"], len(campaign["repairs"])) == ("imported", 5)
    assert all(fault["repaired"] for fault in document["faults"])
    expected = {"raffle_activity_order": 1, "task": 2, "user_behavior": 1, "user_raffle_order": 1}
    assert document["added"] == (expected | {"user_credit_order": 1} if up else expected)
    assert document["users"] == {"found": 2, "brought_over": 2}
    assert broken(bigmarket) == set()
    signed = "user_id = 'ann' AND behavior_type = 'sign' AND out_business_no = '20261001' AND streak = 1"
    assert counted(f"SELECT COUNT(*) FROM user_behavior WHERE {signed} AND activity_id = {ACTIVITY}") == 1
    again = ("behave", "--user", "ann", "--behavior", "sign", "--activity", str(ACTIVITY))
    assert bigmarket(*again, "--out-business-no", "20261001").code == 1, "that day was taken there"
    assert bigmarket(*again, "--out-business-no", "20261002", "--json").document["activities"][0]["streak"] == 2

    for user in ("ann", "max"):
        assert bigmarket("draw", "--user", user, "--activity", str(ACTIVITY)).code == 0
    assert counted("SELECT COUNT(*) FROM user_award_record WHERE revision_id = 'imported'") == 5
    delivered = "SELECT COUNT(*) FROM user_award_record WHERE award_id = 101 AND award_state = 'completed'"
    delivered = f"{delivered} AND revision_id = 'imported'"
    with World(load_settings()):
        eventually(lambda: counted(delivered) == 3)
    assert broken(bigmarket) == set()


@pytest.mark.parametrize("up", [False, True])
def test_a_second_run_writes_nothing(bigmarket: Bigmarket, tmp_path: Path, *, up: bool) -> None:
    files = dumps(tmp_path, up=up)
    bigmarket("import-dump", *files, "--repair")
    bigmarket("draw", "--user", "ann", "--activity", str(ACTIVITY))
    again = bigmarket("import-dump", *files, "--repair", "--json").document
    assert_all_rows_told(again)
    assert sum(rows["written"] for rows in again["tables"].values()) == 0
    assert again["tables"]["user_award_record"]["there_already"] == 5
    assert (again["added"], again["faults"], again["notes"]) == ({}, [], [])
    assert again["campaigns"][0]["outcome"] == "there already"
    assert broken(bigmarket) == set()


def test_without_repair_the_campaign_is_refused_with_all_its_problems(bigmarket: Bigmarket, tmp_path: Path) -> None:
    files = dumps(tmp_path, up=True)
    refused = bigmarket("import-dump", *files, "--json")
    assert refused.code == 1
    (campaign,) = refused.document["campaigns"]
    assert campaign["outcome"] == "refused"
    assert len(campaign["problems"]) >= 5
    assert len(campaign["repairs"]) == 5
    assert campaign["remaining"] == []
    assert refused.document["tables"]["raffle_activity_account"]["written"] == 0
    assert refused.document["tables"]["user_credit_account"]["written"] == 2, "points belong to no activity"
    told = bigmarket("import-dump", *files)
    assert told.code == 1
    assert "--repair would change" in told.out
    assert "Run this again with --repair" in told.out


def test_a_campaign_written_by_hand_first_is_kept_and_users_come_as_they_are(
    bigmarket: Bigmarket, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"""
activity: {{activity_id: {ACTIVITY}, name: mine, time_zone: Asia/Shanghai, begin: "2026-01-01 00:00:00",
           end: "2099-01-01 00:00:00"}}
skus: [{{sku: 7011, stock: 10, total_count: 10, month_count: 10, day_count: 10}}]
strategy: {{strategy_id: 70006, name: mine, awards: [{{award_id: 101, title: points, rate: "1", sort: 1}}]}}
awards: [{{award_id: 101, kind: user_credit_random, config: "1,2"}}]
""",
        encoding="utf-8",
    )
    assert bigmarket("apply", str(file), "--yes").code == 0
    imported = bigmarket("import-dump", *dumps(tmp_path, up=True), "--json")
    assert imported.code == 0
    assert imported.document["campaigns"][0]["outcome"] == "there already"
    told = {fault["check"] for fault in imported.document["faults"]}
    assert not any(fault["repaired"] for fault in imported.document["faults"])
    assert broken(bigmarket) == told == {"Q2", "Q3", "D1", "M1", "C1"}
    assert bigmarket("draw", "--user", "max", "--activity", str(ACTIVITY)).code == 0


def test_undelivered_awards_can_count_as_delivered(bigmarket: Bigmarket, tmp_path: Path) -> None:
    files = dumps(tmp_path, up=False)
    document = bigmarket("import-dump", *files, "--repair", "--undelivered", "complete", "--json").document
    assert "task" not in document["added"]
    assert counted("SELECT COUNT(*) FROM task") == 1, "the one that was pending there"
    assert counted("SELECT COUNT(*) FROM user_award_record WHERE award_state = 'create'") == 1
    assert broken(bigmarket) == set()


def test_a_dry_run_writes_nothing(bigmarket: Bigmarket, tmp_path: Path, home: Path) -> None:
    files = dumps(tmp_path, up=True)
    planned = bigmarket("import-dump", *files, "--repair", "--dry-run", "--json")
    assert planned.code == 0
    assert not home.exists()
    done = bigmarket("import-dump", *files, "--repair", "--json").document
    for name in ("tables", "skipped", "faults", "added"):
        assert planned.document[name] == done[name]
    assert "Nothing was written" in bigmarket("import-dump", *files, "--repair", "--dry-run").out


def test_what_is_not_armed_can_be_armed_later(bigmarket: Bigmarket, tmp_path: Path) -> None:
    files = dumps(tmp_path, up=True)
    document = bigmarket("import-dump", *files, "--repair", "--no-arm", "--json").document
    assert document["campaigns"][0]["revision_id"] is None
    assert any("not armed" in entry["reason"] for entry in document["skipped"] if entry["table"] == "task")
    assert bigmarket("armory", str(ACTIVITY)).code == 0
    assert broken(bigmarket) == {"M1"}, "its tasks needed a seed"


# --- half-done ----------------------------------------------------------------------------------------------------


def test_an_import_that_ended_half_way_is_run_again(
    bigmarket: Bigmarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dumps(tmp_path, up=True)
    monkeypatch.setattr(load_users, "USERS_PER_CHUNK", 1)
    write = load_users.insert_rows
    calls = []

    def interrupted(connection: Any, table: Any, rows: Any, *, split: Any) -> None:
        write(connection, table, rows, split=split)
        calls.extend(row["user_id"] for row in rows)
        if "max" in calls:  # in the middle of his transaction
            raise KeyboardInterrupt

    monkeypatch.setattr(load_users, "insert_rows", interrupted)
    stopped = bigmarket("import-dump", *files, "--repair", "--json")
    assert stopped.code == 130
    assert stopped.document["error"]["code"] == "interrupted"
    assert stopped.document["users"] == {"found": 2, "brought_over": 1}
    assert counted("SELECT COUNT(*) FROM raffle_activity_account") == 1
    assert broken(bigmarket) == set(), "whoever is here is whole"
    monkeypatch.setattr(load_users, "insert_rows", write)
    again = bigmarket("import-dump", *files, "--repair", "--json").document
    assert again["tables"]["raffle_activity_account"] == {
        "read": 3, "written": 1, "there_already": 1, "merged": 0, "skipped": 1
    }  # fmt: skip
    assert broken(bigmarket) == set()


def test_what_came_later_is_told_and_not_brought_over(bigmarket: Bigmarket, tmp_path: Path) -> None:
    files = dumps(tmp_path, up=True)
    bigmarket("import-dump", *files, "--repair")
    first = Path(files[1])
    first.write_text(first.read_text(encoding="utf-8").replace("600000000002", "600000000042"), encoding="utf-8")
    again = bigmarket("import-dump", *files, "--repair", "--json").document
    late = {e["table"]: e["count"] for e in again["skipped"] if "here already" in e["reason"]}
    assert late == {"user_raffle_order": 1, "user_award_record": 1}
    assert_all_rows_told(again)
    assert broken(bigmarket) == set()


def test_too_little_stock_ends_the_import_before_anybody_is_oversold(bigmarket: Bigmarket, tmp_path: Path) -> None:
    files = dumps(tmp_path, up=True)
    Path(files[0]).with_name("none.sql").write_text(mysqldump(configuration(up=True), up=True), encoding="utf-8")
    bigmarket("import-dump", str(Path(files[0]).with_name("none.sql")), "--repair")
    stores = open_stores(load_settings())
    with stores.config.writing() as connection:
        connection.exec_driver_sql("UPDATE award_stock SET alloc = 0 WHERE award_id = 102")
    stores.close()
    refused = bigmarket("import-dump", *files, "--repair", "--json")
    assert refused.code == 1
    assert refused.document["error"]["code"] == "stock_short"
    assert refused.document["users"]["brought_over"] == 0
    assert counted("SELECT COUNT(*) FROM user_award_record") == 0


# --- wrong usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import-dump", "nowhere.sql"], "nowhere.sql"),
        (["import-dump", "{empty}"], "no row of the reference system"),
        (["import-dump", "{broken}"], "broken.sql:2: "),
        (["import-dump", "{empty}", "--time-zone", "Asia/Shanghi"], "Asia/Shanghai"),
        (["import", "postgres://a/b"], "mysql://user:password@host"),
        (["import", "mysql://localhost"], "mysql://user:password@host"),
        (["import", "no url"], "mysql://user:password@host"),
        (["import", "mysql://root:verysecret@127.0.0.1:1/x"], "cannot be read"),
    ],
)
def test_wrong_usage_is_told(bigmarket: Bigmarket, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty.sql").write_text("SET NAMES utf8;", encoding="utf-8")
    (tmp_path / "broken.sql").write_text("\nINSERT INTO task VALUES (1);", encoding="utf-8")
    filled = [a.format(empty=tmp_path / "empty.sql", broken=tmp_path / "broken.sql") for a in arguments]
    refused = bigmarket(*filled)
    assert refused.code == 1
    assert message in refused.err
    assert "verysecret" not in refused.out + refused.err


# --- live ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
def test_live_databases_give_the_same_as_their_dumps(
    bigmarket: Bigmarket, databases: Databases, tmp_path: Path, *, up: bool
) -> None:
    dumped = bigmarket("import-dump", *dumps(tmp_path, up=up), "--repair", "--dry-run", "--json").document
    with ExitStack() as stack:
        urls = []
        for tables in installation(up=up).values():
            url = stack.enter_context(databases.bare())
            _set_up(url, list(statements(tables, up=up)))
            urls.append(url.replace("mysql+pymysql://", "mysql://"))
        live = bigmarket("import", *urls, "--repair", "--dry-run", "--json")
        assert live.code == 0, live.err
        again = bigmarket("import", *urls, "--repair", "--json")
    assert again.code == 0
    assert broken(bigmarket) == set()
    assert live.document["tables"] == again.document["tables"]
    assert dumped["tables"] == live.document["tables"]
    assert dumped["faults"] == live.document["faults"]


def _set_up(url: str, lines: list[str]) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for line in lines:
            connection.exec_driver_sql(line.replace("%", "%%"))
    engine.dispose()


# --- several databases --------------------------------------------------------------------------------------------


def test_users_go_to_their_shards_and_units_with_them(
    bigmarket: Bigmarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("config", "one", "two")]
    monkeypatch.setenv("BIGMARKET_DATABASE", urls[0])
    monkeypatch.setenv("BIGMARKET_SHARDS", ",".join(urls[1:]))
    monkeypatch.setenv("BIGMARKET_TABLES_PER_SHARD", "4")
    files = dumps(tmp_path, up=True)
    assert bigmarket("import-dump", *files, "--repair", "--no-arm").code == 1
    assert bigmarket("import-dump", *files, "--repair", "--json").document["users"]["brought_over"] == 2
    stores = open_stores(load_settings())
    try:
        there = [count(shard, "SELECT COUNT(*) FROM user_award_record") for shard in stores.shards]
        assert there == [2, 3], "ann's and max's"
        for shard in stores.shards:
            assert count(shard, "SELECT COUNT(*) FROM user_award_record") == count(
                shard, "SELECT SUM(sold) FROM award_stock"
            )
        assert stores.stock_left(70006) == {101: None, 102: 51, 103: 52, 104: 53}
        with World(load_settings()):
            for shard, owed in zip(stores.shards, (1, 2), strict=True):
                done = "SELECT COUNT(*) FROM user_award_record WHERE award_id = 101 AND award_state = 'completed'"
                eventually(partial(lambda s, n, q: count(s, q) == n, shard, owed, done))
    finally:
        stores.close()
