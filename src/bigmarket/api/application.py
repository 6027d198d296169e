"""Puts the edge together: the hot calls, and FastAPI with v1, health and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import as_file, files
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from bigmarket.api import health, v1
from bigmarket.api.asgi import App, Receive, Scope, Send
from bigmarket.api.auth import Callers
from bigmarket.api.errors import (
    NoSuchPath,
    Unreadable,
    WrongMethod,
    broken,
    headers_of,
    refusal,
    send_error,
    status_of,
)
from bigmarket.api.hot import EXPOSED, HotCall, HotCalls
from bigmarket.api.limits import Limits
from bigmarket.api.metrics import Metrics
from bigmarket.api.openapi import components
from bigmarket.api.reader import ClientGone
from bigmarket.api.snapshots import Snapshots
from bigmarket.api.waiting import Waiting
from bigmarket.app import World
from bigmarket.errors import BigmarketError, Overloaded
from bigmarket.web.page import add_player_page

log = structlog.get_logger(__name__)

COLD_REQUESTS_MAX = 128

_ABOUT = """A raffle and rewards engine: weighted draws under rules, exactly once, unable to oversell.

**v1** speaks as the reference system does: HTTP 200 for every outcome of the business, and `code` says which.
Trouble of the machinery is HTTP 503 and never a losing ticket; `Bigmarket-Outcome` then says what was spent."""


def build_app(
    world: World, *, waiting: Waiting, limits: Limits | None = None, snapshots: Snapshots | None = None
) -> tuple[App, HotCalls]:
    """The ASGI application that serves ``world``, and the hot calls, which connections answer without it.

    ``waiting`` is where the world's lanes hand their answers to; ``limits`` are those of the world's settings, unless
    given; ``snapshots`` are the metrics of this service's other workers.
    """
    calls = v1.hot_calls(world)
    limits = limits or Limits.of(world.settings)
    callers = Callers.of(world.settings, now_ms=world.now_ms)
    origins = list(world.settings.cors_origins)
    app = FastAPI(title="bigmarket", description=_ABOUT, docs_url=None, redoc_url=None, redirect_slashes=False)
    metrics = Metrics(world, {call.name: call.meter for call in calls.values()}, snapshots=snapshots)
    if snapshots is not None:
        snapshots.keep_writing(metrics.own)
    _equip(app, world, metrics, callers=callers, limits=limits, hot=calls)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED.decode().split(", "),
    )
    app.include_router(v1.router)
    app.include_router(health.router)
    add_player_page(app, world)
    _add_docs(app, callers)
    return app, HotCalls(calls, world=world, waiting=waiting, callers=callers, limits=limits, origins=origins)


def build_work_app(world: World) -> App:
    """The ASGI application of a process that does not draw: health and metrics only."""
    app = FastAPI(title="bigmarket work", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    callers = Callers.of(world.settings, now_ms=world.now_ms)
    _equip(app, world, Metrics(world, {}), callers=callers, limits=Limits(), hot={})
    app.include_router(health.router)
    return app


def _equip(
    app: FastAPI, world: World, metrics: Metrics, *, callers: Callers, limits: Limits, hot: Mapping[str, HotCall]
) -> None:
    """What every application has: the World, its health, and our way to answer faults."""
    app.state.world = world
    app.state.metrics = metrics
    app.state.readiness = health.Readiness(world)
    app.add_exception_handler(BigmarketError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(Cold, world=world, callers=callers, limits=limits, hot=hot)


class Cold:
    """ASGI: guards all but the hot calls: who may call, how often, how many at once; no fault gets out as it is."""

    def __init__(
        self, app: App, *, world: World, callers: Callers, limits: Limits, hot: Mapping[str, HotCall]
    ) -> None:
        self._app = app
        self._live = world.live
        self._callers = callers
        self._limits = limits
        self._hot = hot
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noting_start(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        self._running += 1
        try:
            await self._admit(scope)
            await self._app(scope, receive, noting_start)
        except ClientGone:
            return
        except BigmarketError as error:
            allow = [(b"allow", ", ".join(error.methods).encode())] if isinstance(error, WrongMethod) else []
            await send_error(error, send, *allow)
        except Exception:
            log.exception("request broke", method=scope["method"], path=scope["path"])
            if started:
                raise
            await send_error(broken(), send)
        finally:
            self._running -= 1

    async def _admit(self, scope: Scope) -> None:
        if self._running > COLD_REQUESTS_MAX:
            raise Overloaded("Too many requests are being served; nothing was spent. Try again in a moment.")
        if scope["path"].startswith("/api/"):
            authorization = dict(scope["headers"]).get(b"authorization")
            caller = self._callers.admit(scope["path"], authorization)
            scope.setdefault("state", {})["caller"] = caller
            switches = self._live.switches
            if switches.limited:
                peer = scope["client"][0] if scope["client"] else None
                asking = self._limits.spend(switches, peer, scope["headers"], caller)
                if asking is not None:
                    await asking
        call = self._hot.get(scope["path"])
        if call is not None:
            raise WrongMethod(call.methods)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, BigmarketError)
    body = refusal(error)
    response = Response(body, status_of(error))
    response.raw_headers = headers_of(error, body)
    return response


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        fault: Unreadable = NoSuchPath(405, "This path does not answer this method; see /docs")
    elif error.status_code == 404:
        fault = NoSuchPath(404, "There is nothing at this path; see /docs")
    else:
        fault = Unreadable(400, "The request cannot be read.")
    response = await _on_error(request, fault)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _add_docs(app: FastAPI, callers: Callers) -> None:
    """``/docs`` with Swagger UI from this machine, not from the internet."""
    with as_file(files("fastapi_offline") / "static") as assets:
        app.mount("/docs/assets", StaticFiles(directory=assets), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="bigmarket API",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon.png",
        )

    app.openapi = cache(partial(_openapi, app, callers))  # type: ignore[method-assign]


def _openapi(app: FastAPI, callers: Callers) -> dict[str, Any]:
    """The whole document, with the hot calls, which FastAPI does not route. It takes a tenth of a second."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["paths"] |= v1.operations()
    document.setdefault("components", {}).setdefault("schemas", {}).update(components(v1.SCHEMAS))
    document["components"]["securitySchemes"] = {
        "serverKey": {"type": "http", "scheme": "bearer"},
        "userToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }
    if not callers.open:
        document["security"] = [{"serverKey": []}, {"userToken": []}] if callers.tokens_used else [{"serverKey": []}]
    return document
