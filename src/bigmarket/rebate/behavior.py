"""What a user did, when it counts, and what it earns: plain arithmetic on days and rebates."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta
from functools import lru_cache

from bigmarket.errors import BadInput
from bigmarket.rebate.model import Rebate
from bigmarket.text import KEY_MAX, clean_text

SIGN = "sign"

#: Behaviors of a day: done once on each, numbered by it (``yyyymmdd``), and the days in a row are counted.
CALENDAR = frozenset({SIGN})

BEHAVIOR_MAX = 32
NUMBER_MAX = 100  # so that a biz_id has room for everything: 300 characters

_DAY = re.compile(r"\d{8}", re.ASCII)


def clean_behavior(user_id: object, behavior: object, out_business_no: object = None) -> tuple[str, str, str | None]:
    """The user id, the behavior in lower case, and its number, as they may be submitted. Raises BadInput."""
    user = clean_text(user_id, name="user_id", max_length=KEY_MAX)
    name = clean_text(behavior, name="behavior", max_length=BEHAVIOR_MAX).lower()
    if out_business_no is None:
        return user, name, None
    number = clean_text(out_business_no, name="out_business_no", max_length=NUMBER_MAX)
    if name in CALENDAR and day_of(number) is None:
        raise BadInput(f"The out-business number of `{name}` is the day that it is for, such as 20260131.")
    return user, name, number


def number_of(day: str) -> str:
    """The number of a day that is written ``yyyy-mm-dd``."""
    return day.replace("-", "")


def day_of(number: str) -> date | None:
    """The day of such a number; None when it is none."""
    if not _DAY.fullmatch(number):
        return None
    try:
        return date(int(number[:4]), int(number[4:6]), int(number[6:]))
    except ValueError:  # a 30th of February
        return None


@lru_cache(maxsize=1024)
def day_before(number: str) -> str | None:
    """The number of the day before; None when ``number`` is no day."""
    day = day_of(number)
    return None if day is None or day == date.min else number_of((day - timedelta(days=1)).isoformat())


def earned(rebates: Iterable[Rebate], *, streak: int) -> list[Rebate]:
    """Those of a behavior's ``rebates`` that doing it for the ``streak``-th day in a row earns."""
    return [rebate for rebate in rebates if not rebate.streak_days or streak % rebate.streak_days == 0]


def biz_id_of(user_id: str, activity_id: int, rebate: Rebate, out_business_no: str) -> str:
    """The key under which a rebate is earned once."""
    return f"{user_id}_{activity_id}_{rebate.behavior}_{rebate.type}{rebate.streak_days or ''}_{out_business_no}"
