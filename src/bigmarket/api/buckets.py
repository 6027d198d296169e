"""Token buckets in this process's memory, one for each user and each address."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from bigmarket.switches import Rate

BUCKETS_MAX = 100_000  # about 20 MB; the one that was longest not asked leaves first, and would be full again

Draft = tuple[str, Rate]  # whose bucket, and how it fills


class Buckets:
    """A bucket holds ``rate.calls`` and fills up in ``rate.seconds``; only its moment of being full is kept."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, drafts: Sequence[Draft]) -> float:
        """Take one from each bucket; or from none, and tell in how many seconds all of them have one."""
        now = self._clock()
        full_at = self._full_at
        later = []
        wait = 0.0
        for key, rate in drafts:
            one = rate.seconds / rate.calls
            then = max(full_at.get(key, now), now) + one
            wait = max(wait, then - now - rate.seconds - one * 1e-6)  # a millionth for rounding
            later.append((key, then))
        if wait > 0:
            return wait
        for key, then in later:
            full_at[key] = then
            full_at.move_to_end(key)
        while len(full_at) > BUCKETS_MAX:
            full_at.popitem(last=False)
        return 0.0
