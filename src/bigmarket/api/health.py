"""Is it alive, is it ready, how is it doing: for supervisors, load balancers and Prometheus. Never needs a key."""

from __future__ import annotations

import shutil
import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bigmarket.api.metrics import CONTENT_TYPE, Metrics
from bigmarket.app import World
from bigmarket.errors import Trouble
from bigmarket.storage.queries import ping

LIVE_AGE_SECONDS_MAX = 5.0
LANE_STALL_SECONDS_MAX = 5.0
DISK_FREE_BYTES_MIN = 64 << 20

router = APIRouter(tags=["operation"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> dict[str, bool]:
    """Answers as long as the event loop turns."""
    return {"alive": True}


@router.get("/readyz", summary="Can it take draws?", responses={503: {"description": "No; `reasons` says why."}})
def readyz(request: Request) -> JSONResponse:
    """503 with the reasons when the store, the live configuration, a lane or the disk is not in order."""
    readiness: Readiness = request.app.state.readiness
    reasons = readiness.reasons()
    return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)


@router.get("/metrics", summary="Counters for Prometheus", response_class=Response)
def metrics(request: Request) -> Response:
    """Prometheus text format."""
    found: Metrics = request.app.state.metrics
    return Response(found.text(), media_type=CONTENT_TYPE)


class Readiness:
    """Watches what a draw depends on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stalled: dict[str, tuple[int, float]] = {}  # lane: its batches, and when they were first seen to stand

    def reasons(self) -> list[str]:
        """Why draws should go elsewhere; empty when all is well."""
        found = [self._store(), self._live(), self._disk(), *self._lanes(time.monotonic())]
        return [reason for reason in found if reason]

    def _store(self) -> str | None:
        try:
            with self._world.stores.config.reading() as connection:
                ping(connection)
        except Trouble as trouble:
            return f"The store does not answer: {trouble}"
        return None

    def _live(self) -> str | None:
        age = time.monotonic() - self._world.live.refreshed_at
        if age <= LIVE_AGE_SECONDS_MAX:
            return None
        return f"The live configuration was last read {age:.0f} s ago."

    def _disk(self) -> str | None:
        try:
            free = shutil.disk_usage(self._world.settings.home).free
        except OSError as error:
            return f"The disk cannot be looked at: {error.strerror}."
        if free >= DISK_FREE_BYTES_MIN:
            return None
        return f"Only {free >> 20} MiB of disk are free; at least {DISK_FREE_BYTES_MIN >> 20} are needed."

    def _lanes(self, now: float) -> list[str]:
        """Lanes with requests in their queue that have not finished a batch for too long: dead or stuck."""
        found = []
        named = [(f"{x.noun} {n}", lane) for x in self._world.lane_sets for n, lane in enumerate(x.lanes)]
        for name, lane in named:
            batches, since = self._stalled.get(name, (-1, now))
            if lane.waiting == 0:
                self._stalled.pop(name, None)
            elif lane.batches != batches:
                self._stalled[name] = (lane.batches, now)
            elif now - since > LANE_STALL_SECONDS_MAX:
                found.append(f"Lane {name} has finished no batch for {now - since:.0f} s while {lane.noun}s wait.")
        return found
