"""The v1 API: the reference system's paths, fields, codes and envelope, so that its clients work as they are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from bigmarket.api.hot import HotCall
from bigmarket.api.v1 import activity, dcc, erp, history, hot, looking, signing_in, stages, strategy
from bigmarket.app import World

_SUBJECTS = (strategy.calls, activity.calls, signing_in.calls, history.calls, stages.calls, erp.calls, dcc.calls)

router = APIRouter(prefix="/api/v1/raffle")
for _calls in _SUBJECTS:
    router.include_router(_calls.router)

#: Every type that the OpenAPI document names.
SCHEMAS = (*hot.SCHEMAS, *looking.SCHEMAS, *(kind for calls in _SUBJECTS for kind in calls.schemas))


def hot_calls(world: World) -> dict[str, HotCall]:
    """The calls that FastAPI does not route, by path."""
    return hot.hot_calls(world) | looking.hot_calls(world)


def operations() -> dict[str, Any]:
    """Their operations, by path."""
    return hot.operations() | looking.operations()


__all__ = ["SCHEMAS", "hot_calls", "operations", "router"]
