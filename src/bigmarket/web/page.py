"""The player page at ``/play/{activity_id}``: a wheel and what belongs to it. Plain files, no build step.

The files lie in ``static`` and are read once. Their addresses carry a hash of them all, so browsers may keep them for
ever and still see a new version at once; the page itself is asked for again each time and mostly answered 304.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bigmarket.activity.model import LiveActivity
from bigmarket.app import World
from bigmarket.rebate.behavior import SIGN
from bigmarket.web import DEMO_ACTIVITY, DEMO_USER

ACTIVITY_ID_MAX = 2**53 - 1  # JavaScript's numbers are exact up to here
PAGE = "play.html"

_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+")


@dataclass(frozen=True, slots=True)
class Files:
    """All files of the page by name, and the hash of them all that their addresses carry."""

    bodies: Mapping[str, bytes]
    version: str


def read_files() -> Files:
    """The files as they are installed."""
    folder = files("bigmarket.web") / "static"
    bodies = {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda file: file.name)}
    digest = sha256(b"".join(sha256(name.encode() + b"\0" + body).digest() for name, body in bodies.items()))
    return Files(bodies, digest.hexdigest()[:16])


def add_player_page(app: FastAPI, world: World) -> None:
    """Serve the page of every activity, its files, and ``/``, which leads to the demo where that is."""
    found = read_files()
    page = Template(found.bodies[PAGE].decode())
    guards = _guards(world.settings.cors_origins)

    async def play(request: Request) -> Response:
        asked = request.path_params["activity_id"]
        number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) <= 16 else 0
        activity = world.live.current.get(number) if number <= ACTIVITY_ID_MAX else None
        facts = _facts(activity, version=found.version, is_open=not world.settings.server_keys)
        body = page.substitute({name: escape(value) for name, value in facts.items()}).encode()
        tag = f'"{sha256(body).hexdigest()[:16]}"'
        headers = {"cache-control": "no-cache", "etag": tag, **guards}
        if activity is not None and tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, 200 if activity else 404, headers, _CONTENT_TYPES["html"])

    async def file(request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params["version"]
        if name not in found.bodies or name == PAGE:
            return Response(status_code=404, headers=guards)
        # A page of another version, during an upgrade, gets what there is, but must not keep it under that address.
        keep = "public, max-age=31536000, immutable" if version == found.version else "no-store"
        kind = _CONTENT_TYPES[name.rpartition(".")[2]]
        return Response(found.bodies[name], 200, {"cache-control": keep, **guards}, kind)

    async def root(_: Request) -> Response:
        if DEMO_ACTIVITY not in world.live.current:
            return RedirectResponse("docs")
        player = "" if world.settings.server_keys else f"?userId={DEMO_USER}"
        return RedirectResponse(f"play/{DEMO_ACTIVITY}{player}")

    app.router.routes += [
        Route("/", root),
        Route("/play/{activity_id}", play),
        Route("/play/files/{version}/{name}", file),
    ]


def _facts(activity: LiveActivity | None, *, version: str, is_open: bool) -> dict[str, str]:
    """What the page is told when it is served; the name of a campaign in preparation is nobody's business yet."""
    public = activity is not None and activity.state != "create"
    revision = activity.revision if activity else None
    signs = revision is not None and any(rebate.behavior == SIGN for rebate in revision.rebates)
    return {
        "version": version,
        "access": "open" if is_open else "token",
        "activity": str(activity.activity_id) if activity else "",
        "name": activity.name if activity and public else "",
        "begin": str(activity.begin_ms) if activity and public else "",
        "end": str(activity.end_ms) if activity and public else "",
        "zone": activity.zone.key if activity else "",
        "signs": "yes" if signs else "",
    }


def _guards(origins: Sequence[str]) -> dict[str, str]:
    """Headers that let the page run its own files only, and be framed only by named origins that may call the API."""
    framed_by = " ".join(["'self'", *(origin for origin in origins if _ORIGIN.fullmatch(origin))])
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'; "
        f"frame-ancestors {framed_by}"
    )
    return {
        "content-security-policy": policy,
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
