"""``draw``: many draws of one user through the lanes, stopped by Ctrl-C without losing count."""

from __future__ import annotations

import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from rich.console import RenderableType
from rich.text import Text

from bigmarket.app import World
from bigmarket.cli.console import Document, counted
from bigmarket.cli.results import won_table
from bigmarket.draw import Answer, Drawn
from bigmarket.errors import BigmarketError, OutcomeUnknown
from bigmarket.text import clean_text

WINDOW_MAX = 256  # draws on their way at once: what a lane commits together
REQUEST_ID_MAX = 64  # characters


class Spree(NamedTuple):
    """Draws made, in order, and what ended them early: a refusal, or an interruption (None with ``interrupted``)."""

    drawn: list[Drawn]
    refused: BigmarketError | None
    interrupted: bool


def draw_many(
    world: World,
    *,
    user_id: str,
    activity_id: int,
    request_ids: Sequence[str | None],
    progress: Callable[[int], None],
) -> Spree:
    """Draw once per request id, until all are done, one is refused, or Ctrl-C; what is on its way is waited for."""
    window: deque[Future[Answer]] = deque()
    drawn: list[Drawn] = []
    refused: BigmarketError | None = None
    waiting = deque(request_ids)
    width = min(WINDOW_MAX, world.settings.queue_max)
    with _interruptible() as interrupted:
        while window or (waiting and refused is None and not interrupted.is_set()):
            while waiting and len(window) < width and refused is None and not interrupted.is_set():
                window.append(_submitted(world, user_id, activity_id, waiting.popleft()))
            answer = _answer(window.popleft(), timeout_seconds=world.settings.draw_deadline_seconds)
            if isinstance(answer, Drawn):
                drawn.append(answer)
            else:
                refused = refused or answer
            progress(len(drawn))
    return Spree(drawn, refused, interrupted.is_set() and refused is None and len(drawn) < len(request_ids))


def request_ids_of(request_id: str | None, *, times: int) -> list[str | None]:
    """One id per draw: the given one, or with several draws ``ID-1``, ``ID-2`` and so on; None when none is given."""
    if request_id is None:
        return [None] * times
    ids = [request_id] if times == 1 else [f"{request_id}-{number}" for number in range(1, times + 1)]
    return [clean_text(one, name="request id", max_length=REQUEST_ID_MAX) for one in ids]


def spree_document(drawn: Sequence[Drawn], *, asked: int) -> Document:
    """Draws as JSON: how often each award was won, and every draw."""
    draws = [
        {
            "order_id": one.order_id,
            "award_id": one.award_id,
            "award_title": one.award_title,
            "award_index": one.award_index,
        }
        for one in drawn
    ]
    return {"asked": asked, "drawn": len(drawn), "awards": counts(drawn), "draws": draws}


def spree_views(
    drawn: Sequence[Drawn], *, asked: int, command: Callable[[str], str]
) -> tuple[RenderableType | None, ...]:
    """Draws for people: the award of one, how often each award was won by many."""
    if not drawn:
        return (Text("Nothing was drawn."),)
    last = drawn[-1]
    why = Text.assemble(("why: ", "dim"), command(f"explain {last.order_id}"))
    if asked == 1:
        won = Text.assemble(("won  ", "dim"), (last.award_title, "bold green"), f"  (award {last.award_id})")
        return (won, why)
    line = Text(f"{counted(len(drawn), 'draw')} of {asked:,}", "bold green" if len(drawn) == asked else "bold yellow")
    return (line, won_table(counts(drawn), total=len(drawn)), why)


def counts(drawn: Sequence[Drawn]) -> list[Document]:
    """How often each award was won, in the wheel's order."""
    won = Counter((one.award_index, one.award_id, one.award_title) for one in drawn)
    return [
        {"award_id": award_id, "award_title": title, "won": number}
        for (_, award_id, title), number in sorted(won.items())
    ]


def _submitted(world: World, user_id: str, activity_id: int, request_id: str | None) -> Future[Answer]:
    future: Future[Answer] = Future()
    world.lanes.submit(user_id, activity_id, request_id, reply=future)
    return future


def _answer(future: Future[Answer], *, timeout_seconds: float) -> Answer:
    try:
        return future.result(timeout_seconds)
    except TimeoutError:
        return OutcomeUnknown(
            f"No answer within {timeout_seconds:g} s; it is not known whether the draw was made. "
            "A draw with a --request-id can be repeated to learn its outcome."
        )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The event is set by the first Ctrl-C; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  what a handler is given
        stop.set()
        signal.signal(signal.SIGINT, former)

    former = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, former)
