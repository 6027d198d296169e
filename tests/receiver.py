"""A receiver of webhooks for tests: a real HTTP server that verifies each call as a receiving system would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from waiting import eventually

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0LXJlY2VpdmVyLTMyYg=="
OTHER_SECRET = "whsec_" + "YW5vdGhlci1zZWNyZXQtb2YtdGhlLXJlY2VpdmVyLTE="


@dataclass(frozen=True)
class Call:
    """One call: ``genuine`` when its signature was right."""

    webhook_id: str
    genuine: bool
    body: dict[str, Any]
    raw: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Say:
    """An answer; the body is written ``repeat`` times with ``pause_seconds`` in between."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    repeat: int = 1
    pause_seconds: float = 0.0
    wait_seconds: float = 0.0  # before anything is said


Answering = Callable[[Call, int], Say]  # how often that id came before


@dataclass
class Receiver:
    """What came, and how it answers; ``answering`` may be replaced at any time."""

    port: int = 0
    answering: Answering = lambda _call, _before: Say()
    secrets: Sequence[str] = (SECRET,)
    calls: list[Call] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def ids(self) -> list[str]:
        """The id of each call, in order."""
        return [call.webhook_id for call in self.calls]

    def wait_for(self, number: int, *, seconds: float = 10.0) -> None:
        """Until so many calls came."""
        eventually(lambda: len(self.calls) >= number, seconds=seconds)


@contextmanager
def receiving(answering: Answering = lambda _call, _before: Say()) -> Iterator[Receiver]:
    """A receiver on a free port of loopback, until the block ends."""
    receiver = Receiver(answering=answering)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(
                headers.get("webhook-id", ""), _genuine(receiver, raw, headers), json.loads(raw), raw, headers
            )
            with receiver.lock:
                before = receiver.ids.count(call.webhook_id)
                receiver.calls.append(call)
                receiver.at_once += 1
                receiver.most_at_once = max(receiver.most_at_once, receiver.at_once)
            try:
                self._say(receiver.answering(call, before))
            except OSError:
                self.close_connection = True  # the other side has heard enough
            finally:
                with receiver.lock:
                    receiver.at_once -= 1

        def _say(self, say: Say) -> None:
            time.sleep(say.wait_seconds)
            self.send_response(say.status)
            for name, value in say.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(say.body) * say.repeat))
            self.end_headers()
            for _ in range(say.repeat):
                self.wfile.write(say.body)
                time.sleep(say.pause_seconds)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _genuine(receiver: Receiver, raw: bytes, headers: dict[str, str]) -> bool:
    for secret in receiver.secrets:
        try:
            Webhook(secret).verify(raw, headers)
        except WebhookVerificationError:
            continue
        return True
    return False
