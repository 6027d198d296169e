"""No space left: draws are refused and spend nothing, reads go on, and freed space brings everything back."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.load import ACTIVITY, Ask, Log, Reply, connected
from faults.processes import ServerProcess
from faults.verdict import DRAWS_EACH, assert_delivered, broken, lost, opened, set_up, stored_draws
from waiting import eventually

pytestmark = pytest.mark.faults

DISK_MIB = 96
ROOM_BYTES = 400_000
USERS = 40
ACCOUNT_PATH = "/api/v1/raffle/activity/query_user_activity_account"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        pytest.skip(f"THE FULL DISK IS NOT TESTED: there is no mount command ({error})")
    if mounted.returncode:
        pytest.skip(f"THE FULL DISK IS NOT TESTED: no file system can be mounted here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


def test_a_full_disk_refuses_draws_and_passes(disk: Path) -> None:
    home = disk / "home"
    users = set_up(home, users=USERS)
    log = Log()
    with ServerProcess(home) as server:
        assert asyncio.run(_ready(server.port)).status == 200
        _fill(disk, leave_bytes=ROOM_BYTES)
        refused = asyncio.run(_draw_until_refused(server.port, users, log))
        assert refused.headers["bigmarket-outcome"] == "none"
        assert "full; nothing was spent" in refused.info
        asyncio.run(_assert_reads_answer(server.port, users[0]))
        ready = asyncio.run(_ready(server.port))
        assert ready.status == 503
        assert b"of disk are free" in ready.body
        (disk / "filler").unlink()
        eventually(lambda: asyncio.run(_ready(server.port)).status == 200, seconds=10)
        _assert_goes_on(server, users, home, log)


@pytest.mark.parametrize("errors_to", [None, Path("/dev/full")], ids=["log", "no room for the log"])
def test_a_file_size_limit_refuses_draws_and_passes(tmp_path: Path, errors_to: Path | None) -> None:
    """The same by a limit on the process, which needs no rights: no file may grow, though the disk is empty.

    The lanes warn of every refusal; where that cannot be written they must live on all the same.
    """
    home = tmp_path / "home"
    users = set_up(home, users=USERS)
    log = Log()
    grown = max(path.stat().st_size for path in home.iterdir())

    def limit() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (grown + ROOM_BYTES, hard))

    with ServerProcess(home, before_exec=limit, errors_to=errors_to) as server:
        refused = asyncio.run(_draw_until_refused(server.port, users, log))
        assert refused.headers["bigmarket-outcome"] == "none"
        assert "nothing was spent" in refused.info
        asyncio.run(_assert_reads_answer(server.port, users[0]))
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        _assert_goes_on(server, users, home, log)


def _fill(disk: Path, *, leave_bytes: int) -> None:
    """Leave that much of the disk."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, free - leave_bytes)


async def _draw_until_refused(port: int, users: list[str], log: Log) -> Reply:
    """Draw until there is no room; then each of the next draws is refused as well. Returns the last refusal."""
    refusals = 0
    async with connected(port) as connection:
        for number in range(DRAWS_EACH):
            for user in users:
                ask = Ask(user, f"r{number}")
                reply = await connection.draw(ask)
                log.note(ask, reply)
                if reply.won is None:
                    assert reply.status == 503, reply
                    refusals += 1
                if refusals == USERS:
                    return reply
    raise AssertionError(f"never refused: {log}")


async def _assert_reads_answer(port: int, user: str) -> None:
    body = f'{{"userId": "{user}", "activityId": {ACTIVITY}}}'.encode()
    async with connected(port) as connection:
        account = await connection.request("POST", ACCOUNT_PATH, body)
        assert (account.status, account.code) == (200, "0000")
        assert (await connection.request("GET", "/healthz")).status == 200


async def _ready(port: int) -> Reply:
    async with connected(port) as connection:
        return await connection.request("GET", "/readyz")


def _assert_goes_on(server: ServerProcess, users: list[str], home: Path, log: Log) -> None:
    """Everybody draws again; what was refused had no effect, what was acknowledged is there."""
    with opened(home) as store:
        assert stored_draws(store) == log.won, "a refusal spent nothing"
    asyncio.run(_draw_once_more(server.port, users, log))
    with opened(home) as store:
        assert_delivered(store)
        assert not lost(log.won, store)
        assert not broken(store)


async def _draw_once_more(port: int, users: list[str], log: Log) -> None:
    async with connected(port) as connection:
        for user in users:
            ask = Ask(user, "afterwards")
            reply = await connection.draw(ask)
            assert reply.won, reply
            log.note(ask, reply)
