"""What ``/metrics`` tells. The hot path only adds to plain numbers; Prometheus reads them when it comes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bigmarket.app import World
from bigmarket.outbox.relay import total_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class DrawMeter:
    """Counts the answers of the draw route. Only the event loop's thread writes."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(LATENCY_SECONDS) + 1)
        self.seconds = 0.0
        self.refused: Counter[str] = Counter()

    def answered(self, seconds: float) -> None:
        """A draw request was answered, whatever the answer."""
        self.buckets[bisect_left(LATENCY_SECONDS, seconds)] += 1
        self.seconds += seconds


class Metrics(Collector):
    """Reads a World and its draw route."""

    def __init__(self, world: World, draws: DrawMeter) -> None:
        self._world = world
        self._draws = draws
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every metric of ours, from the counters as they stand."""
        yield from self._lanes()
        yield from self._edge()
        yield from self._relay()

    def _lanes(self) -> Iterator[Metric]:
        stats = self._world.lanes.stats()
        yield _counter("bigmarket_draws", "Draws made.", sum(s.draws for s in stats))
        yield _counter("bigmarket_refusals", "Draws refused by the business.", sum(s.refusals for s in stats))
        yield _counter("bigmarket_troubles", "Draws failed by the machinery.", sum(s.troubles for s in stats))
        yield _counter(
            "bigmarket_lane_retries", "Transactions repeated after a lost race.", sum(s.retries for s in stats)
        )
        answered = sum(s.draws + s.refusals + s.troubles for s in stats)
        batches = sum(s.batches for s in stats)
        yield _summary("bigmarket_batch_size", "Draws that shared a transaction.", batches, answered)
        waiting = sum(lane.waiting for lane in self._world.lanes.lanes)
        yield GaugeMetricFamily("bigmarket_lane_waiting", "Draws queued in the lanes.", value=waiting)

    def _edge(self) -> Iterator[Metric]:
        draws = self._draws
        bounds = [*(str(bound) for bound in LATENCY_SECONDS), "+Inf"]
        yield HistogramMetricFamily(
            "bigmarket_draw_request_seconds",
            "From the draw request's headers to its answer.",
            buckets=list(zip(bounds, map(float, accumulate(draws.buckets)), strict=True)),
            sum_value=draws.seconds,
        )
        errors = CounterMetricFamily(
            "bigmarket_draw_errors", "Draw requests not answered with an award.", labels=["code"]
        )
        for code, count in list(draws.refused.items()):
            errors.add_metric([code], count)
        yield errors

    def _relay(self) -> Iterator[Metric]:
        relay = total_of(self._world.work.relays)
        yield _counter("bigmarket_relay_delivered", "Tasks delivered.", relay.delivered)
        yield _counter("bigmarket_relay_failed", "Attempts that failed.", relay.failed)
        yield _counter("bigmarket_relay_parked", "Tasks parked with a reason.", relay.parked)
        yield GaugeMetricFamily("bigmarket_relay_waiting", "Tasks in the relay's memory.", value=relay.waiting)
        yield GaugeMetricFamily(
            "bigmarket_relay_lag_seconds", "Age of the oldest of them.", value=relay.lag_ms / 1000
        )


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _summary(name: str, text: str, count: int, total: int) -> Metric:
    metric = Metric(name, text, "summary")
    metric.add_sample(f"{name}_count", {}, count)
    metric.add_sample(f"{name}_sum", {}, total)
    return metric
