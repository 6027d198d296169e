"""One ``/metrics`` for several processes: each leaves its own in a shared folder, and whoever is asked adds them up.

They stand side by side under the label ``worker``, so that Prometheus sees every counter start over when a process
does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

log = structlog.get_logger(__name__)

WRITE_SECONDS = 1.0
STALE_SECONDS = 10.0  # who has written nothing for so long is gone
_SUFFIX = ".prom"


class Snapshots:
    """The folder as the process ``name`` sees it."""

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder = folder
        self._name = name
        self._stopping = threading.Event()

    def keep_writing(self, text: Callable[[], bytes]) -> None:
        """Write ``text()`` every second from a thread of its own, until ``stop``."""
        threading.Thread(target=self._run, args=(text,), name="snapshots", daemon=True).start()

    def stop(self) -> None:
        """Write no more."""
        self._stopping.set()

    def write(self, text: bytes) -> None:
        """Leave this process's metrics for the others, as a whole or not at all."""
        path = self._folder / f"{self._name}{_SUFFIX}"
        half = path.with_suffix(".half")
        half.write_bytes(text)
        half.replace(path)

    def merged(self, own: bytes) -> bytes:
        """The metrics of all processes; ``own`` are this one's as they are now."""
        texts = {self._name: own.decode()}
        oldest = time.time() - STALE_SECONDS
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                if path.stem != self._name and path.stat().st_mtime >= oldest:
                    texts[path.stem] = path.read_text()
            except FileNotFoundError:  # the folder goes when the service ends
                continue
        return merge(texts)

    def _run(self, text: Callable[[], bytes]) -> None:
        while not self._stopping.wait(WRITE_SECONDS):
            try:
                self.write(text())
            except Exception:
                log.exception("metrics not written; the other workers show this one's last")


def merge(texts: dict[str, str]) -> bytes:
    """Several expositions as one; ``texts`` by the value of the label ``worker``."""
    families: dict[str, Metric] = {}
    for worker, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [_labelled(sample, worker) for sample in family.samples]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ready(families.values()))
    return generate_latest(registry)


def _labelled(sample: Sample, worker: str) -> Sample:
    return sample._replace(labels={"worker": worker, **sample.labels})


class _Ready(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics
