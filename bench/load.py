"""Load on a server from another process: wrk (or our generator) in a closed loop, our generator in an open one."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import generator
from campaign import ACTIVITY, SKU
from generator import MARK, Ask, Plan, Tally
from histogram import Histogram

API = "/api/v1/raffle"
USER = f'"userId":"user{MARK}"'
ABOUT_USER = f'{{{USER},"activityId":{ACTIVITY}}}'

DRAW = Ask("draw", f"{API}/activity/draw", ABOUT_USER)
AWARD_LIST = Ask("award list", f"{API}/strategy/query_raffle_award_list", ABOUT_USER)
ACCOUNT = Ask("account", f"{API}/activity/query_user_activity_account", ABOUT_USER)
RULE_WEIGHT = Ask("rule weight", f"{API}/strategy/query_raffle_strategy_rule_weight", ABOUT_USER)
SKU_LIST = Ask("sku list", f"{API}/activity/query_sku_product_list_by_activity_id?activityId={ACTIVITY}")
SIGN_IN = Ask("sign-in", f"{API}/activity/calendar_sign_rebate?userId=user{MARK}&activityId={ACTIVITY}", once=True)
EXCHANGE = Ask("exchange", f"{API}/activity/credit_pay_exchange_sku", f'{{{USER},"sku":{SKU}}}')

_WRK_SCRIPT = """
local head = {["content-type"] = "application/json"}
function init(args) math.randomseed(tonumber(tostring(args):match("0x(%%x+)"), 16) or 7) end
function request()
  local body, path = %s, "%s"
  return wrk.format("POST", path, head, body)
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
    """What the clients of a closed loop saw."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    cpu_seconds: float  # of the generator

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def loader() -> str:
    """Name of the program that ``drive`` uses."""
    return "wrk" if shutil.which("wrk") else "our generator"


def drive(*, port: int, connections: int, seconds: float, users: int, ask: Ask = DRAW) -> Load:
    """Load the server in a closed loop: each connection asks again as soon as it is answered, for a random user."""
    if loader() != "wrk":
        return _as_load(run(Plan(port, [ask], users, connections, seconds)))
    body = ask.body.replace('"', '\\"')
    said = f'string.format("{body}", math.random(0, {users - 1}))' if MARK in ask.body else "nil"
    assert MARK not in ask.path, "wrk names users in the body only"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK_SCRIPT % (said, ask.path))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "-s", script.name]
        command += ["--timeout", "10s", f"http://127.0.0.1:{port}"]
        before = _children_cpu()
        printed = _output_of(command)
    return Load(**json.loads(printed.strip().splitlines()[-1]), cpu_seconds=_children_cpu() - before)


def run(plan: Plan) -> Tally:
    """Run our generator in a process of its own."""
    return generator.load(_output_of([sys.executable, str(Path(generator.__file__))], given=json.dumps(asdict(plan))))


def start(plan: Plan) -> subprocess.Popen[str]:
    """Start our generator; ``finish`` waits for it."""
    process = subprocess.Popen(
        [sys.executable, str(Path(generator.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(plan)))
    process.stdin.close()
    return process


def finish(process: subprocess.Popen[str]) -> Tally:
    """What it saw."""
    assert process.stdout is not None
    printed = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError(f"the generator ended with {process.returncode}")
    return generator.load(printed)


def latencies(tally: Tally, *, status: str | None = None, name: str | None = None) -> Histogram:
    """Latencies of those answers, in one histogram."""
    whole = Histogram()
    for (of_name, of_status), found in tally.latencies.items():
        if status in (None, of_status) and name in (None, of_name):
            whole.merge(found)
    return whole


def answered(tally: Tally, *, name: str | None = None, status: str | None = None, code: str | None = None) -> int:
    """How many answers were of that kind, status and code."""
    return sum(
        number
        for (of_name, of_status, of_code), number in tally.answers.items()
        if name in (None, of_name) and status in (None, of_status) and code in (None, of_code)
    )


def _as_load(tally: Tally) -> Load:
    found, good = latencies(tally), answered(tally, status="200", code="0000")
    errors = answered(tally) - good + tally.broken
    p50, p95, p99 = (found.quantile_ms(quantile) for quantile in (0.5, 0.95, 0.99))
    return Load(good, tally.seconds, errors, p50, p95, p99, found.longest * 1000, tally.cpu_seconds)


def _output_of(command: list[str], *, given: str = "") -> str:
    """In a process group of its own, so that Ctrl-C is heard here first."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            printed, _ = process.communicate(given)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return printed


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
