"""Several processes' metrics as one exposition."""

from __future__ import annotations

import os
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bigmarket.api.snapshots import STALE_SECONDS, Snapshots, merge

DRAWS = """# HELP draws_total Draws made.
# TYPE draws_total counter
draws_total {draws}
# HELP seconds How long it took.
# TYPE seconds histogram
seconds_bucket{{le="0.1"}} {draws}
seconds_bucket{{le="+Inf"}} {draws}
seconds_count {draws}
seconds_sum 0.5
"""


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_worker_stands_under_its_label_and_each_metric_is_told_once() -> None:
    merged = merge({"0": DRAWS.format(draws=3), "1": DRAWS.format(draws=4)})
    found = samples(merged)
    assert found["draws_total", (("worker", "0"),)] == 3
    assert found["draws_total", (("worker", "1"),)] == 4
    assert found["seconds_bucket", (("le", "+Inf"), ("worker", "1"))] == 4
    assert merged.count(b"# TYPE draws_total counter") == 1
    assert merged.count(b"# TYPE seconds histogram") == 1


def test_odd_label_values_survive() -> None:
    odd = '# TYPE a gauge\na{name="x{y}, \\"z\\" \\\\"} 1\n'
    (key,) = samples(merge({"0": odd}))
    assert dict(key[1])["name"] == 'x{y}, "z" \\'


def test_whoever_is_asked_tells_of_all_and_of_itself_as_it_is_now(tmp_path: Path) -> None:
    one, two = Snapshots(tmp_path, name="0"), Snapshots(tmp_path, name="1")
    one.write(DRAWS.format(draws=1).encode())
    two.write(DRAWS.format(draws=2).encode())
    found = samples(two.merged(DRAWS.format(draws=5).encode()))
    assert found["draws_total", (("worker", "0"),)] == 1
    assert found["draws_total", (("worker", "1"),)] == 5


def test_who_is_gone_is_left_out(tmp_path: Path) -> None:
    gone = Snapshots(tmp_path, name="0")
    gone.write(DRAWS.format(draws=1).encode())
    long_ago = time.time() - STALE_SECONDS - 1
    os.utime(tmp_path / "0.prom", (long_ago, long_ago))
    found = samples(Snapshots(tmp_path, name="1").merged(DRAWS.format(draws=5).encode()))
    assert {dict(labels)["worker"] for _, labels in found} == {"1"}
