"""Counts of latencies in buckets that grow by one percent: small, quick to add to, and histograms can be added up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

BUCKETS_PER_E = 100  # neighbouring buckets differ by 1 %, so a quantile is right within 0.5 %
SECONDS_MIN = 1e-6


@dataclass(slots=True)
class Histogram:
    """How many latencies lay in each bucket, and the longest of them in seconds."""

    counts: dict[int, int] = field(default_factory=dict)
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        bucket = int(math.log(max(SECONDS_MIN, seconds)) * BUCKETS_PER_E - 0.5)
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.longest = max(self.longest, seconds)

    def merge(self, other: Histogram) -> None:
        """Add what another histogram counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.longest = max(self.longest, other.longest)

    @property
    def total(self) -> int:
        """Latencies counted."""
        return sum(self.counts.values())

    def quantile_ms(self, quantile: float) -> float:
        """The latency in milliseconds that this share stayed at or below; 0 when nothing was counted."""
        wanted = quantile * self.total
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(math.exp(bucket / BUCKETS_PER_E), self.longest) * 1000
        return 0.0

    def dump(self) -> dict[str, object]:
        """As JSON takes it."""
        return {"counts": {str(bucket): count for bucket, count in self.counts.items()}, "longest": self.longest}

    @classmethod
    def load(cls, dumped: Mapping[str, object]) -> Histogram:
        """What ``dump`` gave."""
        counts, longest = dumped["counts"], dumped["longest"]
        assert isinstance(counts, dict)
        assert isinstance(longest, float)
        return cls({int(bucket): count for bucket, count in counts.items()}, longest)
