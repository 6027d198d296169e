"""Every error bigmarket raises for the world's doing (an assertion is for our own bugs).

Each class carries a stable ``code`` (what the v2 API and ``--json`` say), the ``v1_code`` of the reference
envelope, whether a repeat can help (``retryable``) and what was spent (``outcome``). HTTP statuses are the edge's
business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Outcome = Literal["none", "unknown", "done"]


class BigmarketError(Exception):
    """Something was refused or failed; the message says what, and how to go on."""

    code: ClassVar[str] = "error"
    v1_code: ClassVar[str] = "0001"
    outcome: ClassVar[Outcome] = "none"
    retryable: ClassVar[bool] = False


class BadInput(BigmarketError):
    """The request itself is wrong; repeating it unchanged cannot help."""

    code = "bad_input"
    v1_code = "0002"


class NotFound(BigmarketError):
    """No such activity, strategy, sku, order or file."""

    code = "not_found"
    v1_code = "0001"


class Duplicate(BigmarketError):
    """The idempotency key was used before for something else."""

    code = "duplicate"
    v1_code = "0003"


class NotArmed(BigmarketError):
    """The activity has no live revision; run ``bigmarket armory``."""

    code = "not_armed"
    v1_code = "ERR_BIZ_002"


class ActivityClosed(BigmarketError):
    """The activity's state is not ``open``."""

    code = "activity_closed"
    v1_code = "ERR_BIZ_003"


class OutOfWindow(BigmarketError):
    """Now lies outside the activity's window."""

    code = "out_of_window"
    v1_code = "ERR_BIZ_004"


class SkuSoldOut(BigmarketError):
    """The sku has no unit left."""

    code = "sku_sold_out"
    v1_code = "ERR_BIZ_005"


class QuotaExhausted(BigmarketError):
    """No draw left in the account."""

    code = "quota_exhausted"
    v1_code = "ERR_BIZ_006"


class MonthQuotaExhausted(BigmarketError):
    """No draw left this month."""

    code = "month_quota_exhausted"
    v1_code = "ERR_BIZ_007"


class DayQuotaExhausted(BigmarketError):
    """No draw left today."""

    code = "day_quota_exhausted"
    v1_code = "ERR_BIZ_008"


class Trouble(BigmarketError):
    """The machinery failed, not the request: never a losing ticket, and nothing was spent."""

    code = "unavailable"
    v1_code = "0001"
    retryable = True


class Overloaded(Trouble):
    """The queue is full; nothing was spent, come back later."""

    code = "overloaded"
    v1_code = "0006"


class Contention(Trouble):
    """The database stayed locked by others; nothing was spent."""

    code = "contention"


class StorageFull(Trouble):
    """The disk or file is full; nothing was spent."""

    code = "storage_full"


class OutcomeUnknown(Trouble):
    """The commit's fate is not known yet; repeat with the same request id to learn it."""

    code = "outcome_unknown"
    outcome = "unknown"


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration: where, what, and what to do about it."""

    path: str
    reason: str
    fix: str
    line: int | None = None


class ConfigurationInvalid(BigmarketError):
    """A configuration has faults; ``problems`` lists all of them. Nothing was written."""

    code = "configuration_invalid"
    v1_code = "0002"

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        count = len(problems)
        lines = [f"{source}: {count} problem{'s' if count != 1 else ''}, nothing was written"]
        lines += [f"  {p.path}{f' (line {p.line})' if p.line else ''}: {p.reason}. {p.fix}" for p in problems]
        super().__init__("\n".join(lines))
