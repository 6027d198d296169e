"""What runs every so often: jobs on a timer, each by whichever process holds its lease."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any, NamedTuple

import structlog
from apscheduler.executors.base import BaseExecutor, run_job  # type: ignore[import-untyped]
from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]

from bigmarket.errors import Trouble

log = structlog.get_logger(__name__)

MISFIRE_GRACE_SECONDS = 60  # later than that a run is left out
LOG_SECONDS = 60.0  # trouble that lasts is told once in this time


class Job(NamedTuple):
    """``run`` does ``what``, every ``every_seconds``; it is given the fencing number of its lease."""

    name: str
    every_seconds: float
    what: str
    run: Callable[[int], object]

    @property
    def lease(self) -> str:
        """The name of its lease."""
        return f"job:{self.name}"


class JobStats(NamedTuple):
    """Counters since the start; ``succeeded_ms`` is when it last succeeded here (None: never)."""

    name: str
    successes: int
    failures: int
    succeeded_ms: int | None


class Schedule:
    """Runs ``jobs``; ``fencing_of`` tells a lease's number, None while another process holds it.

    A run that is late runs once, however often it was missed, and never beside itself.
    """

    def __init__(
        self, jobs: Sequence[Job], *, fencing_of: Callable[[str], int | None], now_ms: Callable[[], int]
    ) -> None:
        self.jobs = tuple(jobs)
        self._fencing_of = fencing_of
        self._now_ms = now_ms
        self._stats = {job.name: JobStats(job.name, 0, 0, None) for job in jobs}
        self._log_again_at: dict[str, float] = {}
        self._threads = _Threads()
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            daemon=True,
            executors={"default": self._threads},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": MISFIRE_GRACE_SECONDS},
        )
        for job in jobs:
            self._scheduler.add_job(
                self.run, "interval", args=[job], id=job.name, seconds=job.every_seconds, max_instances=1
            )

    def start(self) -> None:
        """Begin; each job runs for the first time after its interval."""
        self._scheduler.start()

    def stop(self, *, timeout_seconds: float) -> bool:
        """Begin no further run and wait for those under way; whether they ended in time."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        return self._threads.join(timeout_seconds)

    def run(self, job: Job) -> None:
        """Run the job now, unless its lease is another's. What it raises is logged and counted."""
        fencing = self._fencing_of(job.lease)
        if fencing is None:
            return
        stats = self._stats[job.name]
        try:
            job.run(fencing)
        except Trouble as trouble:
            self._stats[job.name] = stats._replace(failures=stats.failures + 1)
            if time.monotonic() >= self._log_again_at.get(job.name, 0.0):
                self._log_again_at[job.name] = time.monotonic() + LOG_SECONDS
                log.warning("job in trouble", job=job.name, code=trouble.code, reason=str(trouble))
        except Exception:
            self._stats[job.name] = stats._replace(failures=stats.failures + 1)
            log.exception("job failed", job=job.name)
        else:
            self._stats[job.name] = stats._replace(successes=stats.successes + 1, succeeded_ms=self._now_ms())

    def stats(self) -> Sequence[JobStats]:
        """Counters of every job."""
        return list(self._stats.values())


class _Threads(BaseExecutor):  # type: ignore[misc]
    """A thread per run. They do not keep the process from ending, as those of a pool would."""

    def __init__(self) -> None:
        super().__init__()
        self._running: set[threading.Thread] = set()

    def join(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        for thread in list(self._running):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self._running

    def _do_submit_job(self, job: Any, run_times: Any) -> None:
        thread = threading.Thread(target=self._run, args=(job, run_times), name=f"job {job.id}", daemon=True)
        self._running.add(thread)
        thread.start()

    def _run(self, job: Any, run_times: Any) -> None:
        try:
            events = run_job(job, "default", run_times, self._logger.name)
        except BaseException:  # noqa: BLE001  the scheduler counts runs down, whatever ends them
            self._run_job_error(job.id, *sys.exc_info()[1:])
        else:
            self._run_job_success(job.id, events)
        finally:
            self._running.discard(threading.current_thread())
