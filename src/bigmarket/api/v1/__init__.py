"""The v1 API: the reference system's paths, fields, codes and envelope, so that its clients work as they are."""

from __future__ import annotations

from fastapi import APIRouter

from bigmarket.api.v1 import activity, dcc, erp, history, hot, signing_in, stages, strategy
from bigmarket.api.v1.hot import hot_calls, operations

_SUBJECTS = (strategy.calls, activity.calls, signing_in.calls, history.calls, stages.calls, erp.calls, dcc.calls)

router = APIRouter(prefix="/api/v1/raffle")
for _calls in _SUBJECTS:
    router.include_router(_calls.router)

#: Every type that the OpenAPI document names.
SCHEMAS = (*hot.SCHEMAS, *(kind for calls in _SUBJECTS for kind in calls.schemas))

__all__ = ["SCHEMAS", "hot_calls", "operations", "router"]
