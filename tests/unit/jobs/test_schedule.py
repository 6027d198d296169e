"""Jobs on a timer: who holds the lease runs them, one run at a time, and no fault ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from bigmarket.errors import Trouble
from bigmarket.jobs.schedule import Job, JobStats, Schedule
from waiting import eventually

NOW = 1_790_000_000_000
WAIT = 10.0


def schedule_of(*jobs: Job, held: Callable[[str], int | None] = lambda _: 1) -> Schedule:
    return Schedule(jobs, fencing_of=held, now_ms=lambda: NOW)


@pytest.fixture
def started() -> Iterator[Callable[..., Schedule]]:
    """Starts schedules that are stopped at the end."""
    running: list[Schedule] = []

    def start(*jobs: Job, **options: object) -> Schedule:
        running.append(schedule_of(*jobs, **options))  # type: ignore[arg-type]
        running[-1].start()
        return running[-1]

    yield start
    for schedule in running:
        assert schedule.stop(timeout_seconds=WAIT)


def test_a_run_is_given_the_number_of_its_lease() -> None:
    given: list[int] = []
    job = Job("sweep", 60, "sweeps", given.append)
    schedule = schedule_of(job, held={"job:sweep": 7}.get)
    schedule.run(job)
    assert given == [7]
    assert schedule.stats() == [JobStats("sweep", 1, 0, NOW)]


def test_without_the_lease_nothing_runs() -> None:
    given: list[int] = []
    job = Job("sweep", 60, "sweeps", given.append)
    schedule = schedule_of(job, held=lambda _: None)
    schedule.run(job)
    assert not given
    assert schedule.stats() == [JobStats("sweep", 0, 0, None)]


@pytest.mark.parametrize("fault", [Trouble("gone"), ValueError("a bug")])
def test_a_fault_is_counted_and_ends_nothing(fault: Exception) -> None:
    faults: list[Exception] = [fault]

    def run(_: int) -> None:
        if faults:
            raise faults.pop()

    job = Job("sweep", 60, "sweeps", run)
    schedule = schedule_of(job)
    schedule.run(job)
    assert schedule.stats() == [JobStats("sweep", 0, 1, None)]
    schedule.run(job)
    assert schedule.stats() == [JobStats("sweep", 1, 1, NOW)]


def test_jobs_run_again_and_again(started: Callable[..., Schedule]) -> None:
    schedule = started(Job("a", 0.02, "", lambda _: None), Job("b", 0.02, "", lambda _: 1 / 0))
    eventually(lambda: schedule.stats()[0].successes >= 3)
    eventually(lambda: schedule.stats()[1].failures >= 3)


def test_a_slow_run_is_never_joined_by_another(started: Callable[..., Schedule]) -> None:
    at_once, most = 0, 0
    go_on = threading.Event()
    beats: list[int] = []

    def slow(_: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        assert go_on.wait(WAIT)
        at_once -= 1

    schedule = started(Job("slow", 0.01, "", slow), Job("beat", 0.02, "", beats.append))
    eventually(lambda: at_once == 1)
    seen = len(beats)
    eventually(lambda: len(beats) >= seen + 5)  # many of its turns pass meanwhile
    go_on.set()
    eventually(lambda: schedule.stats()[0].successes >= 2)
    assert most == 1


def test_stopping_waits_for_a_run_but_not_for_ever() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        begun.set()
        assert go_on.wait(WAIT)

    schedule = schedule_of(Job("slow", 0.01, "", slow))
    schedule.start()
    assert begun.wait(WAIT)
    assert not schedule.stop(timeout_seconds=0.05)
    go_on.set()
    assert schedule.stop(timeout_seconds=WAIT)
    assert schedule.stats()[0].successes == 1


def test_a_schedule_that_never_ran_can_be_stopped() -> None:
    assert schedule_of(Job("a", 60, "", lambda _: None)).stop(timeout_seconds=0.1)
