"""Pages of a list: how a caller asks for the next one."""

from __future__ import annotations

import base64
import re

import msgspec

from bigmarket.api.reader import Int64
from bigmarket.errors import BadInput
from bigmarket.storage.history import PAGE_MAX, Place

LIMIT = 20

_WRITTEN = re.compile(r"(\d{1,15})\.([!-~]{1,26})", re.ASCII)


class PageIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A page of a list: ``cursor`` is the ``nextCursor`` of the page before, ``limit`` 1 to 100 items."""

    cursor: str | None = None
    limit: Int64 | None = None


class ActivityPageIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A page of a list, of one activity if it is named."""

    activity_id: Int64 | None = None
    cursor: str | None = None
    limit: Int64 | None = None


def limit_of(asked: PageIn | ActivityPageIn, *, default: int = LIMIT) -> int:
    """How many items are wanted. Raises BadInput."""
    limit = default if asked.limit is None else asked.limit
    if not 1 <= limit <= PAGE_MAX:
        raise BadInput(f"limit must be 1 to {PAGE_MAX}.")
    return limit


def place_of(asked: PageIn | ActivityPageIn) -> Place | None:
    """The row that the page begins after; None for the first page. Raises BadInput."""
    if asked.cursor is None:
        return None
    try:
        text = base64.b64decode(asked.cursor.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        text = ""
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise BadInput(
            "cursor is none that this server gave; send the last page's, unchanged, or none to start anew."
        )
    return Place(int(written[1]), written[2])


def cursor_of(place: Place) -> str:
    """How the place of a page's last row is given to a caller: not to be read, only to be sent back."""
    return base64.urlsafe_b64encode(f"{place.time_ms}.{place.order_id}".encode()).decode()
