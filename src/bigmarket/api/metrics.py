"""What ``/metrics`` tells. The hot path only adds to plain numbers; Prometheus reads them when it comes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bigmarket.api.snapshots import Snapshots
from bigmarket.app import World
from bigmarket.jobs.backlog import Sample
from bigmarket.jobs.dispatcher import sum_of
from bigmarket.outbox.relay import total_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BACKLOG_LEASE = "job:backlog"
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class CallMeter:
    """Counts the answers of one hot call. Only the event loop's thread writes."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(LATENCY_SECONDS) + 1)
        self.seconds = 0.0
        self.refused: Counter[str] = Counter()

    def answered(self, seconds: float) -> None:
        """A request was answered, whatever the answer."""
        self.buckets[bisect_left(LATENCY_SECONDS, seconds)] += 1
        self.seconds += seconds


class Metrics(Collector):
    """Reads a World and the meters of its hot calls, by name.

    With ``snapshots`` it also tells what the service's other workers left there.
    """

    def __init__(self, world: World, calls: Mapping[str, CallMeter], *, snapshots: Snapshots | None = None) -> None:
        self._world = world
        self._calls = calls
        self._snapshots = snapshots
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def text(self) -> bytes:
        """The metrics of the whole service as Prometheus reads them."""
        return self.own() if self._snapshots is None else self._snapshots.merged(self.own())

    def own(self) -> bytes:
        """This process's."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every metric of ours, from the counters as they stand."""
        yield from self._lanes()
        yield from self._edge()
        yield from self._relay()
        yield _counter(
            "bigmarket_sku_sold_out", "Times that a sku was told to be sold out.", sum(self._world.sold_out)
        )
        yield from self._consumers()
        yield from self._dispatchers()
        yield from self._jobs()
        yield from self._backlog()

    def _lanes(self) -> Iterator[Metric]:
        stats = self._world.lanes.stats()
        yield _counter("bigmarket_draws", "Draws made.", sum(s.made for s in stats))
        yield _counter("bigmarket_refusals", "Draws refused by the business.", sum(s.refusals for s in stats))
        yield _counter("bigmarket_troubles", "Draws failed by the machinery.", sum(s.troubles for s in stats))
        yield _counter(
            "bigmarket_lane_retries", "Transactions repeated after a lost race.", sum(s.retries for s in stats)
        )
        answered = sum(s.made + s.refusals + s.troubles for s in stats)
        batches = sum(s.batches for s in stats)
        yield _summary("bigmarket_batch_size", "Draws that shared a transaction.", batches, answered)
        waiting = sum(lane.waiting for lane in self._world.lanes.lanes)
        yield GaugeMetricFamily("bigmarket_lane_waiting", "Draws queued in the lanes.", value=waiting)
        yield from self._kinds_of_lanes()

    def _kinds_of_lanes(self) -> Iterator[Metric]:
        """Lanes of every kind, draws among them."""
        answers = CounterMetricFamily(
            "bigmarket_lane_answers", "Requests answered, by what came of them.", labels=["kind", "answer"]
        )
        batches = CounterMetricFamily("bigmarket_lane_batches", "Transactions that answered them.", labels=["kind"])
        retries = CounterMetricFamily("bigmarket_lane_repeats", "Those repeated after a lost race.", labels=["kind"])
        queued = GaugeMetricFamily("bigmarket_lane_queued", "Requests queued.", labels=["kind"])
        for lanes in self._world.lane_sets:
            if not lanes.lanes:  # a process that only works
                continue
            stats = lanes.stats()
            for answer, number in (
                ("made", sum(s.made for s in stats)),
                ("refused", sum(s.refusals for s in stats)),
                ("trouble", sum(s.troubles for s in stats)),
            ):
                answers.add_metric([lanes.noun, answer], number)
            batches.add_metric([lanes.noun], sum(s.batches for s in stats))
            retries.add_metric([lanes.noun], sum(s.retries for s in stats))
            queued.add_metric([lanes.noun], sum(lane.waiting for lane in lanes.lanes))
        yield from (answers, batches, retries, queued)

    def _edge(self) -> Iterator[Metric]:
        bounds = [*(str(bound) for bound in LATENCY_SECONDS), "+Inf"]
        seconds = HistogramMetricFamily(
            "bigmarket_request_seconds", "From a hot request's headers to its answer.", labels=["call"]
        )
        errors = CounterMetricFamily(
            "bigmarket_request_errors", "Hot requests refused or failed.", labels=["call", "code"]
        )
        for name, meter in self._calls.items():
            buckets = list(zip(bounds, map(float, accumulate(meter.buckets)), strict=True))
            seconds.add_metric([name], buckets, meter.seconds)
            for code, count in list(meter.refused.items()):
                errors.add_metric([name, code], count)
        yield from (seconds, errors)

    def _relay(self) -> Iterator[Metric]:
        relay = total_of(self._world.work.relays)
        yield _counter("bigmarket_relay_delivered", "Tasks delivered.", relay.delivered)
        yield _counter("bigmarket_relay_failed", "Attempts that failed.", relay.failed)
        yield _counter("bigmarket_relay_parked", "Tasks parked with a reason.", relay.parked)
        yield GaugeMetricFamily("bigmarket_relay_waiting", "Tasks in the relay's memory.", value=relay.waiting)
        yield GaugeMetricFamily(
            "bigmarket_relay_lag_seconds", "Age of the oldest of them.", value=relay.lag_ms / 1000
        )
        yield _counter("bigmarket_relay_troubles", "Deliveries that the machinery failed.", relay.troubles)
        yield GaugeMetricFamily(
            "bigmarket_relay_stalled", "Shards whose last delivery the machinery failed.", value=relay.stalled
        )

    def _consumers(self) -> Iterator[Metric]:
        stats = [consumer.stats() for consumer in self._world.work.consumers]
        if not stats:
            return
        yield _counter("bigmarket_consumed", "Messages whose effects are committed.", sum(s.consumed for s in stats))
        yield _counter("bigmarket_consumer_failed", "Attempts that failed.", sum(s.failed for s in stats))
        yield _counter("bigmarket_consumer_parked", "Messages parked.", sum(s.parked for s in stats))
        yield _counter(
            "bigmarket_consumer_troubles", "Times that the machinery failed.", sum(s.troubles for s in stats)
        )

    def _dispatchers(self) -> Iterator[Metric]:
        stats = sum_of(self._world.work.dispatchers)
        attempts = CounterMetricFamily(
            "bigmarket_delivery_attempts",
            "Attempts of deliveries that take more than a transaction.",
            labels=["outcome"],
        )
        for outcome, count in (("done", stats.done), ("failed", stats.failed), ("parked", stats.parked)):
            attempts.add_metric([outcome], count)
        yield attempts
        yield _counter("bigmarket_delivery_troubles", "Times that our own machinery failed.", stats.troubles)
        yield GaugeMetricFamily("bigmarket_delivery_in_flight", "Attempts under way.", value=stats.in_flight)

    def _jobs(self) -> Iterator[Metric]:
        leases = GaugeMetricFamily("bigmarket_lease", "1: this process does it.", labels=["name"])
        for name in sorted(self._world.work.leases.held()):
            leases.add_metric([name], 1)
        yield leases
        runs = CounterMetricFamily("bigmarket_job_runs", "Runs that succeeded.", labels=["job"])
        failures = CounterMetricFamily("bigmarket_job_failures", "Runs that failed.", labels=["job"])
        last = GaugeMetricFamily("bigmarket_job_success_time_seconds", "When it last succeeded.", labels=["job"])
        for job in self._world.work.schedule.stats():
            runs.add_metric([job.name], job.successes)
            failures.add_metric([job.name], job.failures)
            if job.succeeded_ms is not None:
                last.add_metric([job.name], job.succeeded_ms / 1000)
        yield from (runs, failures, last)

    def _backlog(self) -> Iterator[Metric]:
        """Told by the process that counts it; the others have nothing to say."""
        sample = self._world.backlog.latest
        if sample is None or not self._world.work.leases.holds(BACKLOG_LEASE):
            return
        waiting = GaugeMetricFamily("bigmarket_outbox_waiting", "Tasks not delivered.", labels=["shard"])
        lag = GaugeMetricFamily("bigmarket_outbox_lag_seconds", "How long the oldest is due.", labels=["shard"])
        parked = GaugeMetricFamily("bigmarket_parked", "Tasks and messages that wait for a person.", labels=["where"])
        for index, shard in enumerate(sample.shards):
            late_ms = 0 if shard.oldest_ms is None else max(0, sample.at_ms - shard.oldest_ms)
            waiting.add_metric([str(index)], shard.waiting)
            lag.add_metric([str(index)], late_ms / 1000)
            parked.add_metric([f"shard {index}"], shard.parked)
        yield from self._deliveries(sample)
        queued = GaugeMetricFamily("bigmarket_broker_messages", "Messages ready in the broker.", labels=["queue"])
        for queue, depth in sample.queues.items():
            queued.add_metric([queue], depth)
        if sample.queues:
            dead = sum(depth for queue, depth in sample.queues.items() if queue.endswith(".parked"))
            parked.add_metric(["broker"], dead)
            yield queued
        yield from (waiting, lag, parked)

    def _deliveries(self, sample: Sample) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("bigmarket_deliveries_waiting", "Deliveries not done.", labels=["shard"])
        lag = GaugeMetricFamily("bigmarket_deliveries_lag_seconds", "How long the oldest is due.", labels=["shard"])
        parked = GaugeMetricFamily(
            "bigmarket_deliveries_parked", "Deliveries that wait for a person.", labels=["shard"]
        )
        for index, shard in enumerate(sample.deliveries):
            late_ms = 0 if shard.oldest_ms is None else max(0, sample.at_ms - shard.oldest_ms)
            waiting.add_metric([str(index)], shard.waiting)
            lag.add_metric([str(index)], late_ms / 1000)
            parked.add_metric([str(index)], shard.parked)
        yield from (waiting, lag, parked)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _summary(name: str, text: str, count: int, total: int) -> Metric:
    metric = Metric(name, text, "summary")
    metric.add_sample(f"{name}_count", {}, count)
    metric.add_sample(f"{name}_sum", {}, total)
    return metric
