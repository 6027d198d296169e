"""The group-commit writers: one lane is one thread, one queue, one transaction at a time.

A lane takes everything that queued up while it committed (no timer, no waiting), lets its desk (desks.py) serve it in
one transaction and hands all answers over at once. A shard's first lane serves alone while it keeps up: a few large
transactions cost less than many small ones. Else users are hashed to all lanes, so that the requests of one user
rarely race each other inside a process; where they do, as across processes, the database's locks decide.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from zlib import crc32

import msgspec
import structlog

from bigmarket.activity.stock import GuardMissed, StockKey, StockShort
from bigmarket.errors import BigmarketError, Contention, OutcomeUnknown, Overloaded, Trouble
from bigmarket.ids import Ids
from bigmarket.outbox.task import BatchResult, Task

log = structlog.get_logger(__name__)

ATTEMPTS_MAX = 4  # the first try and three more after a lost race
RETRY_SECONDS_MAX = 0.3  # no further try once a batch has taken so long
JITTER_SECONDS = 0.02
FETCH_SECONDS_MAX = 0.6  # no further units are fetched for a batch that has taken so long
SPLIT_SECONDS_MAX = 1.2  # nor is one halved that keeps losing races
WAIT_SHARE = 0.25  # of the longest wait in the queue is what a new request may have to expect
STUCK_SHARE = 0.7  # of it may the first in the queue have waited
PACE_SHARE = 0.3  # of the newest batch in what is thought of the next ones
SPREAD_AT = 100  # requests in hand, or a whole batch: so many keep more than one lane busy
SPREAD_SECONDS = 0.03  # a transaction that takes longer waits, for a lock or a distant database; others need not
LOG_SECONDS = 1.0  # a failing lane says so once in this time
SETTLE_ATTEMPTS_MAX = 5
SETTLE_WAIT_SECONDS = 0.2


Made = TypeVar("Made")  # what a request comes to unless it is refused


class Request(Protocol):
    """``order_id`` is made before anything else, so that its fate can be looked up."""

    @property
    def order_id(self) -> str:
        """The id of whatever it leads to."""
        ...


class Desk(Protocol[Made]):
    """What a lane serves. Its ``request`` takes an order id and the words of ``LaneSet.submit``."""

    @property
    def noun(self) -> str:
        """What one request asks for, for messages."""
        ...

    @property
    def writes(self) -> bool:
        """Whether serving a request changes anything; if not, one that is late has spent nothing."""
        ...

    @property
    def open(self) -> Callable[[], AbstractContextManager[Any]]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises ``Contention`` (nothing was written, another try may succeed), ``StorageFull`` (nothing was written)
        or ``OutcomeUnknown`` (the connection was lost around the commit).
        """
        ...

    @property
    def request(self) -> Callable[..., Request]:
        """The request, with the order id that it was given."""
        ...

    @property
    def fetch_stock(self) -> Callable[[Mapping[StockKey, int]], None]:
        """Bring units from other shards. Raises ``Trouble``."""
        ...

    def serve(self, tx: Any, requests: Sequence[Any], *, now_ms: int) -> BatchResult[Made]:
        """An answer to each request. Raises ``GuardMissed`` or ``StockShort`` to be rolled back."""
        ...

    def were_made(self, answers: Sequence[Made]) -> bool:
        """Whether the answers of a transaction are committed; it waits for one under way. Raises ``Trouble``."""
        ...


class Submission(msgspec.Struct, frozen=True, gc=False):
    """A request in a lane's queue: what is asked for, the user first. ``reply`` is what the hand-over answers to."""

    asked: tuple[Any, ...]
    queued_at: float  # by time.monotonic()
    reply: Any


Settled = Sequence[tuple[Any, Any]]  # (reply, answer) pairs of one batch: what was made, or a BigmarketError


class LaneStats(NamedTuple):
    """Counters of one lane since its start."""

    batches: int
    made: int
    refusals: int
    troubles: int
    retries: int


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """``queue_max`` requests wait at most in a lane, ``batch_max`` share a transaction at most.

    A request that waited for ``queue_seconds`` is refused, unspent, rather than served after its caller gave up; so
    is, when it comes, one that has to expect ``WAIT_SHARE`` of that: what is let in is served soon, however much more
    comes.
    """

    lanes: int = 1
    batch_max: int = 256
    queue_max: int = 4096
    queue_seconds: float = 0.7


class Lane(Generic[Made]):
    """One writer thread. Its methods below ``start`` run in that thread."""

    def __init__(
        self,
        desk: Desk[Made],
        *,
        now_ms: Callable[[], int],
        ids: Ids,
        hand_over: Callable[[Settled], None],
        hand_tasks: Callable[[Sequence[Task]], None],
        settings: LaneSettings,
    ) -> None:
        self._desk = desk
        self.noun = desk.noun
        self.writes = desk.writes
        self._now_ms = now_ms
        self._ids = ids
        self._hand_over = hand_over
        self._hand_tasks = hand_tasks
        self._settings = settings
        self._wait_seconds = settings.queue_seconds * WAIT_SHARE
        self._stuck_seconds = settings.queue_seconds * STUCK_SHARE
        self._queue: SimpleQueue[Submission | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"{desk.noun} lane", daemon=True)
        self._accepting = True
        self._log_again_at = 0.0
        self._failures_unlogged = 0
        self._began = 0.0
        self._serving = 0
        self._head_at = 0.0  # the first in the queue came no earlier
        self._seconds_each = 0.0  # that a request in a large batch takes, of late
        self.batches = self.made = self.refusals = self.troubles = self.retries = 0

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue a request. Raises ``Overloaded`` when the lane is ``crowded``."""
        if self.crowded():
            raise overloaded(self.noun)
        if self._queue.empty():
            self._head_at = submission.queued_at
        self._queue.put(submission)

    def crowded(self) -> bool:
        """Whether a request is refused now: the queue is full, too slow or stuck, or the lane is stopping."""
        if not self._accepting:
            return True
        waiting = self._queue.qsize()
        if not waiting:
            return False
        return (
            waiting >= self._settings.queue_max
            or (waiting >= self._settings.batch_max and waiting * self._seconds_each > self._wait_seconds)
            or time.monotonic() - self._head_at > self._stuck_seconds
        )

    def keeps_up(self, now: float) -> bool:
        """Whether its transaction, if one is under way, is not a long one."""
        return not self._serving or now - self._began < SPREAD_SECONDS

    def stop(self, *, timeout_seconds: float) -> bool:
        """Serve what is queued, then end; whether that was done in time."""
        self._accepting = False
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return self._queue.qsize()

    @property
    def in_hand(self) -> int:
        """Requests that are not answered yet."""
        return self._queue.qsize() + self._serving

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._gather()
            self._began, self._serving = time.monotonic(), len(batch)
            try:
                self._answer(self._in_time(batch))
            except Exception:
                log.exception("answers were lost; their callers learn the outcome by their request id")
            self._serving = 0

    def _gather(self) -> tuple[list[Submission], bool]:
        """Wait for a first request, then take what else is there already; True when the lane was told to stop."""
        get_nowait = self._queue.get_nowait
        batch: list[Submission] = []
        item = self._queue.get()
        try:
            while item is not None:
                batch.append(item)
                if len(batch) >= self._settings.batch_max:
                    self._head_at = item.queued_at
                    return batch, False
                item = get_nowait()
        except Empty:
            return batch, False
        return batch, True

    def _in_time(self, batch: list[Submission]) -> list[Submission]:
        """The batch without the requests that waited too long, which are answered here."""
        oldest = self._began - self._settings.queue_seconds
        if not batch or batch[0].queued_at >= oldest:  # a queue: nobody waits longer than the first
            return batch
        late = [s for s in batch if s.queued_at < oldest]
        refusal = Overloaded(f"The {self.noun} waited too long for its turn; nothing was spent.")
        self._settle_all(late, [refusal] * len(late))
        return batch[len(late) :]

    def _answer(self, batch: list[Submission]) -> None:
        if not batch:
            return
        now_ms = self._now_ms()
        order_ids, request = self._ids.make_many(now_ms, len(batch)), self._desk.request
        requests = [request(order_id, *s.asked) for order_id, s in zip(order_ids, batch, strict=True)]
        result = self._serve(requests, now_ms)
        if result.tasks:
            self._hand_tasks(result.tasks)
        self._settle_all(batch, result.answers)
        self._keep_pace(len(batch), time.monotonic() - self._began)

    def _keep_pace(self, served: int, seconds: float) -> None:
        """Note how fast requests are served. What a small batch takes for each is more than a large one would."""
        each = seconds / served
        if each < self._seconds_each or served * 2 > self._settings.batch_max:
            self._seconds_each += (each - self._seconds_each) * PACE_SHARE

    def _settle_all(self, batch: Sequence[Submission], answers: Sequence[Made | BigmarketError]) -> None:
        self._count(answers)
        self._hand_over([(s.reply, answer) for s, answer in zip(batch, answers, strict=True)])

    def _serve(self, requests: Sequence[Request], now_ms: int) -> BatchResult[Made]:
        """Serve the batch; when something in it breaks the transaction, halve it until the poison stands alone."""
        try:
            return self._try(requests, now_ms)
        except StockShort as short:
            return self._serve_apart(requests, short, now_ms)
        except Trouble as trouble:
            return self._failed(requests, trouble)
        except Exception as fault:
            if len(requests) == 1:
                log.exception("request failed", noun=self.noun, request=requests[0])
                failed = Trouble(f"The {self.noun} failed; nothing was spent ({type(fault).__name__}).")
                return BatchResult([failed], [])
        middle = len(requests) // 2
        left, right = self._serve(requests[:middle], now_ms), self._serve(requests[middle:], now_ms)
        return BatchResult([*left.answers, *right.answers], [*left.tasks, *right.tasks])

    def _serve_apart(self, requests: Sequence[Request], short: StockShort, now_ms: int) -> BatchResult[Made]:
        """Serve those who miss nothing; then fetch what the others miss, and serve them: what came is used."""
        waiting = [request for request in requests if request.order_id in short.asked_as]
        ready = [request for request in requests if request.order_id not in short.asked_as]
        results = {True: self._serve(ready, now_ms) if ready else BatchResult[Made]([], [])}
        try:
            if time.monotonic() > self._began + FETCH_SECONDS_MAX:
                raise Contention("Others kept taking the last units; nothing was spent. Try again.")
            self._desk.fetch_stock(short.wanted)
            results[False] = self._serve(waiting, now_ms)
        except Trouble as trouble:
            results[False] = self._failed(waiting, trouble)
        answers = {was_ready: iter(result.answers) for was_ready, result in results.items()}
        return BatchResult(
            [next(answers[request.order_id not in short.asked_as]) for request in requests],
            [task for result in results.values() for task in result.tasks],
        )

    def _failed(self, requests: Sequence[Request], trouble: Trouble) -> BatchResult[Made]:
        self._log_failure(trouble)
        return BatchResult([trouble] * len(requests), [])

    def _try(self, requests: Sequence[Request], now_ms: int) -> BatchResult[Made]:
        """One transaction, tried again after a lost race, settled when its commit's fate is unknown.

        Raises ``GuardMissed`` when something in the batch seems to be refused for ever.
        """
        give_up_at = time.monotonic() + RETRY_SECONDS_MAX
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with self._desk.open() as tx:
                    result = self._desk.serve(tx, requests, now_ms=now_ms)
            except OutcomeUnknown:
                return self._settle(requests, result)
            except (GuardMissed, Contention) as lost:
                self.retries += 1
                if attempt == ATTEMPTS_MAX and self._may_halve(requests, lost):
                    raise
                if time.monotonic() > give_up_at:
                    break
                if attempt < ATTEMPTS_MAX:
                    time.sleep(random.uniform(0, JITTER_SECONDS * attempt))  # noqa: S311  spreads retries, not prizes
            else:
                return result
        raise Contention("Others kept the database locked; nothing was spent. Try again.")

    def _may_halve(self, requests: Sequence[Request], lost: Exception) -> bool:
        in_time = time.monotonic() < self._began + SPLIT_SECONDS_MAX
        return isinstance(lost, GuardMissed) and len(requests) > 1 and in_time

    def _settle(self, requests: Sequence[Request], result: BatchResult[Made]) -> BatchResult[Made]:
        """The connection was lost around the commit: look before answering what became of it."""
        made = [answer for answer in result.answers if not isinstance(answer, BigmarketError)]
        for _ in range(SETTLE_ATTEMPTS_MAX):
            try:
                if self._desk.were_made(made):
                    return result
            except Trouble:
                time.sleep(SETTLE_WAIT_SECONDS)
                continue
            return BatchResult([Trouble("The database refused the commit; nothing was spent.")] * len(requests), [])
        return BatchResult([_unknown(self.noun)] * len(requests), [])

    def _log_failure(self, trouble: Trouble) -> None:
        """Say that batches fail, once in ``LOG_SECONDS``: on a full disk there are thousands a second."""
        self._failures_unlogged += 1
        if time.monotonic() >= self._log_again_at:
            log.warning("batches failed", code=trouble.code, batches=self._failures_unlogged, reason=str(trouble))
            self._log_again_at = time.monotonic() + LOG_SECONDS
            self._failures_unlogged = 0

    def _count(self, answers: Iterable[Made | BigmarketError]) -> None:
        self.batches += 1
        for answer in answers:
            if not isinstance(answer, BigmarketError):
                self.made += 1
            elif isinstance(answer, Trouble):
                self.troubles += 1
            else:
                self.refusals += 1


def _unknown(noun: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"It is not known yet whether the {noun} was made; repeat it with the same request id to learn its outcome."
    )


def late(noun: str) -> Overloaded:
    """What is said of a request that changes nothing and whose answer did not come in time."""
    return Overloaded(f"The {noun} is late; nothing was spent. Try again in a moment.")


def overloaded(noun: str) -> Overloaded:
    """What a request is told that is refused because of those before it."""
    return Overloaded(f"Too many {noun}s are waiting; nothing was spent. Try again in a moment.")


def set_futures(settled: Settled) -> None:
    """The hand-over for callers that wait in threads: replies are ``concurrent.futures.Future``."""
    for reply, answer in settled:
        future: Future[Any] = reply
        if future.set_running_or_notify_cancel():
            future.set_result(answer)


class LaneShard(NamedTuple, Generic[Made]):
    """A shard's desk, and who takes the tasks that its work leaves behind."""

    desk: Desk[Made]
    hand_tasks: Callable[[Sequence[Task]], None]


class LaneSet(Generic[Made]):
    """All lanes of one kind: ``settings.lanes`` of each shard. ``shard_of`` gives a user's, from 0."""

    def __init__(
        self,
        shards: Sequence[LaneShard[Made]],
        *,
        shard_of: Callable[[str], int],
        now_ms: Callable[[], int],
        ids: Ids,
        settings: LaneSettings,
        hand_over: Callable[[Settled], None] = set_futures,
    ) -> None:
        self._shard_of = shard_of
        self._spread_at = min(SPREAD_AT, settings.batch_max)
        self._by_shard = [
            [
                Lane(
                    shard.desk,
                    now_ms=now_ms,
                    ids=ids,
                    hand_over=hand_over,
                    hand_tasks=shard.hand_tasks,
                    settings=settings,
                )
                for _ in range(settings.lanes)
            ]
            for shard in shards
        ]
        self.lanes = tuple(chain.from_iterable(self._by_shard))

    @property
    def noun(self) -> str:
        """What a request asks for, where there are lanes."""
        return self.lanes[0].noun

    @property
    def writes(self) -> bool:
        """Whether requests change anything, where there are lanes."""
        return self.lanes[0].writes

    def start(self) -> None:
        """Start every lane's thread."""
        for lane in self.lanes:
            lane.start()

    def crowded(self) -> bool:
        """Whether a request would be refused now, whoever it is about."""
        for lane in self.lanes:  # noqa: SIM110  asked for every request, and the first mostly tells
            if not lane.crowded():
                return False
        return True

    def submit(self, user_id: str, *asked: Any, reply: object) -> None:
        """Queue a request; ``hand_over`` gets ``(reply, answer)``. Raises ``Overloaded``; then nothing was queued.

        ``user_id`` and ``asked`` are what the desk's ``request`` takes.
        """
        now = time.monotonic()
        self._lane_for(user_id, now).submit(Submission((user_id, *asked), now, reply))

    def _lane_for(self, user_id: str, now: float) -> Lane[Made]:
        lanes = self._by_shard[self._shard_of(user_id)]
        first = lanes[0]
        if len(lanes) == 1 or (first.keeps_up(now) and sum([lane.in_hand for lane in lanes]) < self._spread_at):
            return first
        return lanes[crc32(user_id.encode()) % len(lanes)]

    def ask(self, user_id: str, *asked: Any, timeout_seconds: float) -> Made:
        """Submit and wait (with the default hand-over). Raises the refusal; after the time-out ``OutcomeUnknown``,
        or ``Overloaded`` where nothing can have been spent.
        """
        future: Future[Made | BigmarketError] = Future()
        self.submit(user_id, *asked, reply=future)
        try:
            answer = future.result(timeout_seconds)
        except TimeoutError:
            raise (_unknown(self.noun) if self.writes else late(self.noun)) from None
        if isinstance(answer, BigmarketError):
            raise answer
        return answer

    def stop(self, *, timeout_seconds: float) -> bool:
        """Serve everything queued and end; whether all lanes did so in time."""
        deadline = time.monotonic() + timeout_seconds
        in_time = [lane.stop(timeout_seconds=max(0.0, deadline - time.monotonic())) for lane in self.lanes]
        return all(in_time)

    def stats(self) -> list[LaneStats]:
        """Counters per lane."""
        return [LaneStats(x.batches, x.made, x.refusals, x.troubles, x.retries) for x in self.lanes]
