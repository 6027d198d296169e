"""A closed-loop HTTP load generator for the draw: wrk where it is installed, else the client in this file.

Run as a program it is the client: ``python load.py PORT CONNECTIONS SECONDS USERS ACTIVITY`` prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PATH = "/api/v1/raffle/activity/draw"

_WRK_SCRIPT = """
local users = %d
local head = {["content-type"] = "application/json"}
function init(args) math.randomseed(tonumber(tostring(args):match("0x(%%x+)"), 16) or 7) end
function request()
  local body = string.format('{"userId":"user%%07d","activityId":%d}', math.random(0, users - 1))
  return wrk.format("POST", "%s", head, body)
end
function done(summary, latency, requests)
  local faults = summary.errors
  io.write(string.format('\\n{"requests":%%d,"seconds":%%f,"errors":%%d,' ..
    '"p50_ms":%%f,"p95_ms":%%f,"p99_ms":%%f,"max_ms":%%f}\\n',
    summary.requests, summary.duration / 1e6,
    faults.connect + faults.read + faults.write + faults.status + faults.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""


@dataclass(frozen=True)
class Load:
    """What the clients saw."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def generator() -> str:
    """Name of the load generator that ``drive`` uses."""
    return "wrk" if shutil.which("wrk") else "bundled client"


def drive(*, port: int, connections: int, seconds: float, users: int, activity: int) -> Load:
    """Load the server from another process; each connection asks again as soon as it is answered."""
    if generator() == "wrk":
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(_WRK_SCRIPT % (users, activity, PATH))
            script.flush()
            command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "-s", script.name]
            command += ["--timeout", "10s", f"http://127.0.0.1:{port}"]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    else:
        words = [port, connections, seconds, users, activity]
        command = [sys.executable, str(Path(__file__)), *map(str, words)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Load(**json.loads(printed.strip().splitlines()[-1]))


class Connection(asyncio.Protocol):
    """One keep-alive connection; every answer must be a draw."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._left = b""
        self._asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._left += data
        head, found, body = self._left.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            return
        self._left = b""
        self._run.note(time.perf_counter() - self._asked_at, drawn=b'"code":"0000"' in body)
        if self._run.open:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._run.ended()

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        self._transport.write(self._run.request())


class Run:
    """What all connections share."""

    def __init__(self, *, connections: int, seconds: float, users: int, activity: int) -> None:
        self._users, self._activity, self._alive = users, activity, connections
        self._until = time.perf_counter() + seconds
        self._random = random.Random()
        self.latencies: list[float] = []
        self.errors = 0
        self.finished = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether to ask again."""
        return time.perf_counter() < self._until

    def request(self) -> bytes:
        """A draw for a random user."""
        user = self._random.randrange(self._users)
        body = f'{{"userId":"user{user:07}","activityId":{self._activity}}}'
        head = f"POST {PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        return f"{head}\r\n\r\n{body}".encode()

    def note(self, seconds: float, *, drawn: bool) -> None:
        """Count an answer."""
        self.latencies.append(seconds)
        self.errors += not drawn

    def ended(self) -> None:
        """A connection is gone."""
        self._alive -= 1
        if not self._alive:
            self.finished.set()


async def _client(port: int, connections: int, seconds: float, users: int, activity: int) -> None:
    loop = asyncio.get_running_loop()
    run = Run(connections=connections, seconds=seconds, users=users, activity=activity)
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(run), "127.0.0.1", port)
    await run.finished.wait()
    took = time.perf_counter() - started
    ordered = sorted(run.latencies)
    p50, p95, p99 = (ordered[int(len(ordered) * quantile)] * 1000 for quantile in (0.5, 0.95, 0.99))
    load = Load(len(ordered), took, run.errors, p50, p95, p99, ordered[-1] * 1000)
    print(json.dumps(load.__dict__))


if __name__ == "__main__":
    import uvloop

    port, connections, seconds, users, activity = sys.argv[1:]
    uvloop.run(_client(int(port), int(connections), float(seconds), int(users), int(activity)))
