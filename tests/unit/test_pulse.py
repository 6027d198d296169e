"""A failure counts unless the machine stood still meanwhile; then the test is run again, and that is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from time import sleep

import pytest

from pulse import STILL_SECONDS, Pulse

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    with Pulse() as felt:
        felt.begin()
        yield felt


def hold(pulse: Pulse, seconds: float = 2 * STILL_SECONDS) -> None:
    """To the pulse a machine that stands still looks like this."""
    os.kill(pulse.pid, signal.SIGSTOP)
    sleep(seconds)
    os.kill(pulse.pid, signal.SIGCONT)


def test_a_machine_that_goes_on_did_not_stand_still(pulse: Pulse) -> None:
    assert not pulse.stood_still()


def test_a_stall_is_felt_by_who_ran_meanwhile_and_by_nobody_else(pulse: Pulse) -> None:
    hold(pulse)
    assert pulse.stood_still()
    pulse.begin()
    assert not pulse.stood_still()


def test_nobody_waits_for_a_pulse_that_is_not_felt() -> None:
    assert not Pulse().stood_still()


def run_once_stalled(folder: Path, *, stalled: bool) -> subprocess.CompletedProcess[str]:
    """A run of a test that fails the first time, with our own conftest."""
    file = folder / "test_first.py"
    file.write_text(
        dedent(f"""
        import os, signal, time
        import conftest

        def test_first(tries=[]):
            tries.append(1)
            if len(tries) == 1 and {stalled}:
                os.kill(conftest.PULSE.pid, signal.SIGSTOP)
                time.sleep({2 * STILL_SECONDS})
                os.kill(conftest.PULSE.pid, signal.SIGCONT)
            assert len(tries) > 1, "it came too late"
        """)
    )
    command = [sys.executable, "-m", "pytest", "-c", str(REPOSITORY / "pyproject.toml"), "-p", "conftest", str(file)]
    return subprocess.run(  # noqa: S603  our own tests
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_failure_during_a_stall_is_run_again_and_told(tmp_path: Path) -> None:
    ran = run_once_stalled(tmp_path, stalled=True)
    assert ran.returncode == 0, ran.stdout
    assert "1 passed, 1 rerun" in ran.stdout
    assert "RUN AGAIN, as the machine stood still: 1" in ran.stdout
    assert "test_first: AssertionError: it came too late" in ran.stdout


def test_any_other_failure_counts(tmp_path: Path) -> None:
    ran = run_once_stalled(tmp_path, stalled=False)
    assert ran.returncode == 1, ran.stdout
    assert "1 failed" in ran.stdout
    assert "rerun" not in ran.stdout
