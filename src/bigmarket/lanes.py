"""The group-commit writers: one lane is one thread, one queue, one transaction at a time.

A lane takes everything that queued up while it committed (no timer, no waiting), draws it in one transaction and
hands all answers over at once. Users are hashed to lanes, so the draws of one user never race each other inside a
process; across processes the database's locks decide.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import structlog

from bigmarket.activity.model import LiveActivity
from bigmarket.draw import (
    Answer,
    BatchResult,
    Drawn,
    DrawRequest,
    DrawTx,
    GuardMissed,
    StockKey,
    StockShort,
    draw_batch,
)
from bigmarket.errors import Contention, OutcomeUnknown, Overloaded, Trouble
from bigmarket.ids import Ids
from bigmarket.outbox.task import Task

log = structlog.get_logger(__name__)

ATTEMPTS_MAX = 4  # the first try and three more after a lost race
RETRY_SECONDS_MAX = 0.3  # no further try once a batch has taken so long
JITTER_SECONDS = 0.02
FETCH_SECONDS_MAX = 0.6  # no further units are fetched for a batch that has taken so long
LOG_SECONDS = 1.0  # a failing lane says so once in this time
SETTLE_ATTEMPTS_MAX = 5
SETTLE_WAIT_SECONDS = 0.2


class DrawStore(Protocol):
    """What a lane needs of the store."""

    def drawing(self) -> AbstractContextManager[DrawTx]:
        """One write transaction: committed when the block ends, rolled back when it raises.

        Raises ``Contention`` (nothing was written, another try may succeed), ``StorageFull`` (nothing was written)
        or ``OutcomeUnknown`` (the connection was lost around the commit).
        """
        ...

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        """Those of ``draws`` that exist, by order id; never while a commit is under way."""
        ...


class Submission(NamedTuple):
    """A request in a lane's queue. ``reply`` is whatever the hand-over answers to."""

    user_id: str
    activity_id: int
    request_id: str | None
    queued_at: float  # by time.monotonic()
    reply: Any


Settled = Sequence[tuple[Any, Answer]]  # (reply, answer) pairs of one batch


class LaneStats(NamedTuple):
    """Counters of one lane since its start."""

    batches: int
    draws: int
    refusals: int
    troubles: int
    retries: int


FetchStock = Callable[[Mapping[StockKey, int]], None]  # brings units from other shards; raises Trouble


def nothing_elsewhere(wanted: Mapping[StockKey, int]) -> None:
    """With one shard there is nowhere to fetch units from, and nobody asks."""
    raise Trouble(f"No other shard has units to give ({len(wanted)} prizes asked for); nothing was spent.")


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """``queue_max`` requests wait at most in a lane, ``batch_max`` share a transaction at most.

    A request that waited for ``queue_seconds`` is refused, unspent, rather than drawn after its caller gave up.
    """

    lanes: int = 1
    batch_max: int = 256
    queue_max: int = 4096
    queue_seconds: float = 0.7


class Lane:
    """One writer thread. Its methods below ``start`` run in that thread."""

    def __init__(
        self,
        store: DrawStore,
        *,
        live: Callable[[], Mapping[int, LiveActivity]],
        now_ms: Callable[[], int],
        ids: Ids,
        hand_over: Callable[[Settled], None],
        hand_tasks: Callable[[Sequence[Task]], None],
        fetch_stock: FetchStock,
        settings: LaneSettings,
    ) -> None:
        self._store = store
        self._live = live
        self._now_ms = now_ms
        self._ids = ids
        self._hand_over = hand_over
        self._hand_tasks = hand_tasks
        self._fetch_stock = fetch_stock
        self._settings = settings
        self._queue: SimpleQueue[Submission | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)
        self._accepting = True
        self._log_again_at = 0.0
        self._failures_unlogged = 0
        self._fetch_until = 0.0
        self.batches = self.draws = self.refusals = self.troubles = self.retries = 0

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue a request. Raises ``Overloaded`` when the queue is full or the lane is stopping."""
        if not self._accepting or self._queue.qsize() >= self._settings.queue_max:
            raise Overloaded("Too many draws are waiting; nothing was spent. Try again in a moment.")
        self._queue.put(submission)

    def stop(self, *, timeout_seconds: float) -> bool:
        """Draw what is queued, then end; whether that was done in time."""
        self._accepting = False
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return self._queue.qsize()

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._gather()
            try:
                self._serve(self._in_time(batch))
            except Exception:
                log.exception("answers were lost; their callers learn the outcome by their request id")

    def _gather(self) -> tuple[list[Submission], bool]:
        """Wait for a first request, then take what else is there already; True when the lane was told to stop."""
        get_nowait = self._queue.get_nowait
        batch: list[Submission] = []
        item = self._queue.get()
        try:
            while item is not None:
                batch.append(item)
                if len(batch) >= self._settings.batch_max:
                    return batch, False
                item = get_nowait()
        except Empty:
            return batch, False
        return batch, True

    def _in_time(self, batch: list[Submission]) -> list[Submission]:
        """The batch without the requests that waited too long, which are answered here."""
        oldest = time.monotonic() - self._settings.queue_seconds
        if not batch or batch[0].queued_at >= oldest:  # a queue: nobody waits longer than the first
            return batch
        late = [s for s in batch if s.queued_at < oldest]
        self._settle_all(late, [Overloaded("The draw waited too long for its turn; nothing was spent.")] * len(late))
        return batch[len(late) :]

    def _serve(self, batch: list[Submission]) -> None:
        if not batch:
            return
        self._fetch_until = time.monotonic() + FETCH_SECONDS_MAX
        now_ms = self._now_ms()
        make = self._ids.make
        requests = [DrawRequest(make(now_ms), s.user_id, s.activity_id, s.request_id) for s in batch]
        result = self._draw(requests, now_ms)
        if result.tasks:
            self._hand_tasks(result.tasks)
        self._settle_all(batch, result.answers)

    def _settle_all(self, batch: Sequence[Submission], answers: Sequence[Answer]) -> None:
        self._count(answers)
        self._hand_over([(s.reply, answer) for s, answer in zip(batch, answers, strict=True)])

    def _draw(self, requests: Sequence[DrawRequest], now_ms: int) -> BatchResult:
        """Draw the batch; when something in it breaks the transaction, halve it until the poison stands alone."""
        try:
            return self._try(requests, now_ms)
        except StockShort as short:
            return self._draw_apart(requests, short, now_ms)
        except Trouble as trouble:
            return self._failed(requests, trouble)
        except Exception as fault:
            if len(requests) == 1:
                log.exception("draw failed", user_id=requests[0].user_id, activity_id=requests[0].activity_id)
                return BatchResult([Trouble(f"The draw failed; nothing was spent ({type(fault).__name__}).")], [])
        middle = len(requests) // 2
        left, right = self._draw(requests[:middle], now_ms), self._draw(requests[middle:], now_ms)
        return BatchResult([*left.answers, *right.answers], [*left.tasks, *right.tasks])

    def _draw_apart(self, requests: Sequence[DrawRequest], short: StockShort, now_ms: int) -> BatchResult:
        """Draw those who miss nothing; then fetch what the others miss, and draw them: what came is used at once."""
        waiting = [request for request in requests if request.order_id in short.asked_as]
        ready = [request for request in requests if request.order_id not in short.asked_as]
        results = {True: self._draw(ready, now_ms) if ready else BatchResult([], [])}
        try:
            if time.monotonic() > self._fetch_until:
                raise Contention("Others kept taking the last units of a prize; nothing was spent. Try again.")
            self._fetch_stock(short.wanted)
            results[False] = self._draw(waiting, now_ms)
        except Trouble as trouble:
            results[False] = self._failed(waiting, trouble)
        answers = {was_ready: iter(result.answers) for was_ready, result in results.items()}
        return BatchResult(
            [next(answers[request.order_id not in short.asked_as]) for request in requests],
            [task for result in results.values() for task in result.tasks],
        )

    def _failed(self, requests: Sequence[DrawRequest], trouble: Trouble) -> BatchResult:
        self._log_failure(trouble)
        return BatchResult([trouble] * len(requests), [])

    def _try(self, requests: Sequence[DrawRequest], now_ms: int) -> BatchResult:
        """One transaction, tried again after a lost race, settled when its commit's fate is unknown."""
        give_up_at = time.monotonic() + RETRY_SECONDS_MAX
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with self._store.drawing() as tx:
                    result = draw_batch(tx, requests, live=self._live(), now_ms=now_ms)
            except OutcomeUnknown:
                return self._settle(requests, result)
            except (GuardMissed, Contention):
                self.retries += 1
                if time.monotonic() > give_up_at:
                    break
                if attempt < ATTEMPTS_MAX:
                    time.sleep(random.uniform(0, JITTER_SECONDS * attempt))  # noqa: S311  spreads retries, not prizes
            else:
                return result
        raise Contention("Others kept the database locked; nothing was spent. Try again.")

    def _settle(self, requests: Sequence[DrawRequest], result: BatchResult) -> BatchResult:
        """The connection was lost around the commit: look the orders up before answering.

        A transaction is all or nothing, so one order that exists proves the whole batch.
        """
        drawn = list({answer.order_id: answer for answer in result.answers if isinstance(answer, Drawn)}.values())
        for _ in range(SETTLE_ATTEMPTS_MAX):
            try:
                found = self._store.find_draws(drawn)
            except Trouble:
                time.sleep(SETTLE_WAIT_SECONDS)
                continue
            if all(answer.order_id in found for answer in drawn):
                return result
            return BatchResult([Trouble("The database refused the commit; nothing was spent.")] * len(requests), [])
        return BatchResult([OutcomeUnknown(_UNKNOWN)] * len(requests), [])

    def _log_failure(self, trouble: Trouble) -> None:
        """Say that batches fail, once in ``LOG_SECONDS``: on a full disk there are thousands a second."""
        self._failures_unlogged += 1
        if time.monotonic() >= self._log_again_at:
            log.warning("batches failed", code=trouble.code, batches=self._failures_unlogged, reason=str(trouble))
            self._log_again_at = time.monotonic() + LOG_SECONDS
            self._failures_unlogged = 0

    def _count(self, answers: Iterable[Answer]) -> None:
        self.batches += 1
        for answer in answers:
            if isinstance(answer, Drawn):
                self.draws += 1
            elif isinstance(answer, Trouble):
                self.troubles += 1
            else:
                self.refusals += 1


_UNKNOWN = "It is not known yet whether the draw was made; repeat it with the same request id to learn its outcome."


def set_futures(settled: Settled) -> None:
    """The hand-over for callers that wait in threads: replies are ``concurrent.futures.Future``."""
    for reply, answer in settled:
        future: Future[Answer] = reply
        if future.set_running_or_notify_cancel():
            future.set_result(answer)


class DrawShard(NamedTuple):
    """A shard's store, who takes the tasks that its draws leave behind, and where units of other shards come from."""

    store: DrawStore
    hand_tasks: Callable[[Sequence[Task]], None]
    fetch_stock: FetchStock = nothing_elsewhere


class LaneSet:
    """All lanes: ``settings.lanes`` of each shard. ``shard_of`` gives a user's, from 0."""

    def __init__(
        self,
        shards: Sequence[DrawShard],
        *,
        shard_of: Callable[[str], int],
        live: Callable[[], Mapping[int, LiveActivity]],
        now_ms: Callable[[], int],
        ids: Ids,
        settings: LaneSettings,
        hand_over: Callable[[Settled], None] = set_futures,
    ) -> None:
        self._shard_of = shard_of
        self._lanes_each = settings.lanes
        self.lanes = tuple(
            Lane(
                shard.store,
                live=live,
                now_ms=now_ms,
                ids=ids,
                hand_over=hand_over,
                hand_tasks=shard.hand_tasks,
                fetch_stock=shard.fetch_stock,
                settings=settings,
            )
            for shard in shards
            for _ in range(settings.lanes)
        )

    def start(self) -> None:
        """Start every lane's thread."""
        for lane in self.lanes:
            lane.start()

    def submit(self, user_id: str, activity_id: int, request_id: str | None, *, reply: object) -> None:
        """Queue a draw; ``hand_over`` gets ``(reply, answer)``. Raises ``Overloaded``; then nothing was queued."""
        lanes = self.lanes
        each = self._lanes_each
        lane = lanes[self._shard_of(user_id) * each + (crc32(user_id.encode()) % each if each > 1 else 0)]
        lane.submit(Submission(user_id, activity_id, request_id, time.monotonic(), reply))

    def draw(self, user_id: str, activity_id: int, request_id: str | None = None, *, timeout_seconds: float) -> Drawn:
        """Draw and wait (with the default hand-over). Raises the refusal; ``OutcomeUnknown`` after the time-out."""
        future: Future[Answer] = Future()
        self.submit(user_id, activity_id, request_id, reply=future)
        try:
            answer = future.result(timeout_seconds)
        except TimeoutError:
            raise OutcomeUnknown(_UNKNOWN) from None
        if isinstance(answer, Drawn):
            return answer
        raise answer

    def stop(self, *, timeout_seconds: float) -> bool:
        """Draw everything queued and end; whether all lanes did so in time."""
        deadline = time.monotonic() + timeout_seconds
        in_time = [lane.stop(timeout_seconds=max(0.0, deadline - time.monotonic())) for lane in self.lanes]
        return all(in_time)

    def stats(self) -> list[LaneStats]:
        """Counters per lane."""
        return [LaneStats(x.batches, x.draws, x.refusals, x.troubles, x.retries) for x in self.lanes]
