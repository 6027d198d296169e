"""What is skipped or run again is said loudly at the end; with CI=true nothing may be skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import redis
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from bigmarket.api.server import SWITCH_SECONDS
from databases import Databases
from pulse import Pulse

#: These kill servers, measure time or drive a browser, and would disturb each other.
ALONE = (
    "tests/faults/",
    "tests/flows/test_player_page.py",
    "tests/flows/test_through_a_broker.py",
    "tests/unit/bench/test_generator.py",
)


#: A test that fails while the machine stands still is run again, so often at most; any other failure counts.
RERUNS_MAX = 2
PULSE = Pulse()


@pytest.fixture(scope="session", autouse=True)
def _pulse() -> Iterator[None]:
    """Somebody feels the machine's pulse."""
    with PULSE:
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Any test may be stopped by the machine."""
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=RERUNS_MAX, condition=PULSE.stood_still))


def pytest_runtest_logstart() -> None:
    """A test begins, perhaps again."""
    PULSE.begin()


@pytest.fixture(scope="session", autouse=True)
def _turns_of_threads() -> None:
    """Threads take turns as often as in a server, which many tests run in a thread."""
    sys.setswitchinterval(SWITCH_SECONDS)


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Databases to test on, dropped at the end."""
    made = Databases(tmp_path_factory.mktemp("databases"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A real Redis: that of ``TEST_REDIS_URL`` (no setting of ours, so without our prefix)."""
    url = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            client.ping()
    except redis.RedisError as error:
        pytest.skip(f"no Redis for tests at {url}; set TEST_REDIS_URL ({error})")
    return url


class Turns(LoadScopeScheduling):
    """Where tests run side by side, those of ``ALONE`` run one after another, in one process, and begin first."""

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if nodeid.startswith(ALONE) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Turns:
    """Who runs what where tests run side by side."""
    return Turns(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was not tested, and what was tested again, and why."""
    again = terminalreporter.getreports("rerun")
    if again:
        terminalreporter.section(f"RUN AGAIN, as the machine stood still: {len(again)}", yellow=True, bold=True)
    for report in again:
        terminalreporter.line(f"{report.nodeid}: {_last_line(report)}", yellow=True)
    skipped = terminalreporter.getreports("skipped")
    if not skipped:
        return
    terminalreporter.section(f"NOT TESTED: {len(skipped)}", red=True, bold=True)
    for report in skipped:
        _, _, reason = report.longrepr
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}", red=True)


def _last_line(report: pytest.TestReport) -> str:
    """What the failure came to."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).partition("\n")[0]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a missing tool is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    in_ci = os.environ.get("CI", "").lower() == "true"
    if in_ci and exitstatus == pytest.ExitCode.OK and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
