"""With a protection switched off, the checks that the other tests here rely on must go red."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from faults.load import Ask, Log, connected
from faults.processes import ServerProcess
from faults.unsafe import COMMITTED_TOGETHER
from faults.verdict import Wreck, broken, lost, opened, set_up

pytestmark = pytest.mark.faults

UNSAFE = Path(__file__).with_name("unsafe.py")


def unsafe(home: Path, name: str) -> ServerProcess:
    """A server without a protection; without a relay too, as some of them share its connection."""
    return ServerProcess(home, command=[str(UNSAFE), name], work=False)


def drawn(server: ServerProcess, asks: Sequence[Ask]) -> Log:
    """The asks in turn, each of which wins."""

    async def draw() -> Log:
        log = Log()
        async with connected(server.port) as connection:
            for ask in asks:
                log.note(ask, await connection.draw(ask))
        return log

    return asyncio.run(draw())


def test_teeth_a_draw_acknowledged_before_its_commit_is_missed_after_a_kill(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (user,) = set_up(home, users=1)
    asks = [Ask(user, f"r{number}") for number in range(COMMITTED_TOGETHER - 10)]
    with unsafe(home, "commits_late") as server:
        log = drawn(server, asks)
        assert len(log.won) == len(asks)
        server.kill()
    with opened(home) as store:
        assert lost(log.won, store) == asks
    with pytest.raises(AssertionError):
        Wreck(home, log.won, number=0).assert_sound()


def test_a_draw_acknowledged_after_its_commit_is_there_after_a_kill(tmp_path: Path) -> None:
    """The same with the protection on, so the set-up above makes sense."""
    home = tmp_path / "home"
    (user,) = set_up(home, users=1)
    asks = [Ask(user, f"r{number}") for number in range(COMMITTED_TOGETHER - 10)]
    with ServerProcess(home, work=False) as server:
        log = drawn(server, asks)
        server.kill()
    Wreck(home, log.won, number=0).assert_sound()
    assert len(log.won) == len(asks)


def test_teeth_a_forgotten_request_id_is_seen_by_its_second_answer(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (user,) = set_up(home, users=1)
    with unsafe(home, "forgetful") as server:
        log = drawn(server, [Ask(user, "r1"), Ask(user, "r1")])
    assert [ask for ask, _, _ in log.changed] == [Ask(user, "r1")]
    with opened(home) as store:
        assert lost(log.won, store) == [Ask(user, "r1")]


@pytest.mark.parametrize("pragma", ["synchronous = OFF", "synchronous = NORMAL", "journal_mode = MEMORY"])
def test_teeth_settings_that_lose_commits_are_found(tmp_path: Path, pragma: str) -> None:
    """kill -9 does not reveal them, as the operating system keeps what was written; a power cut would."""
    home = tmp_path / "home"
    set_up(home, users=1)
    with opened(home) as store:
        assert not broken(store)
        store._cold_writer.dispose()
        store._reader.dispose()
        store._writer.execute(f"PRAGMA {pragma}").fetchall()
        assert [finding.name for finding in broken(store)] == ["P1"]
