"""Tasks held in memory between the lanes that wrote them and the relay that delivers them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from bigmarket.outbox.task import Task


class Held:
    """A bounded queue of task batches; every call is short, so lanes never wait behind a delivery."""

    def __init__(self, *, tasks_max: int) -> None:
        self._tasks_max = tasks_max
        self._batches: deque[tuple[int, Sequence[Task]]] = deque()
        self._mutex = threading.Lock()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest task came in; None when there is none."""
        with self._mutex:
            return self._batches[0][0] if self._batches else None

    def put(self, tasks: Sequence[Task], *, now_ms: int) -> bool:
        """Take the tasks in, or none of them when there is no room; whether they were taken."""
        with self._mutex:
            if self._count + len(tasks) > self._tasks_max:
                return False
            self._batches.append((now_ms, tasks))
            self._count += len(tasks)
            return True

    def take(self, limit: int) -> tuple[int, Sequence[Task]]:
        """Up to ``limit`` tasks, oldest first, and when the first of them came in; ``(0, ())`` when there is none."""
        taken: list[Task] = []
        with self._mutex:
            since_ms = self._batches[0][0] if self._batches else 0
            while self._batches and len(taken) < limit:
                at_ms, batch = self._batches.popleft()
                room = limit - len(taken)
                taken += batch[:room]
                if len(batch) > room:
                    self._batches.appendleft((at_ms, batch[room:]))
            self._count -= len(taken)
        return since_ms, taken

    def put_back(self, tasks: Sequence[Task], *, since_ms: int) -> None:
        """Return tasks that could not be delivered to the front; they had room before, so they are never refused."""
        with self._mutex:
            self._batches.appendleft((since_ms, tasks))
            self._count += len(tasks)
