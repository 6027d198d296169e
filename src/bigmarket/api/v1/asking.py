"""How a v1 call is read and answered: who asks, bodies, parameters, the envelope, and what a call is about.

Every call about a user has two routes and one handler: the plain one names the user, its ``_by_token`` twin is about
the user whose token it carries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from bigmarket.api.auth import BY_TOKEN, CallerHere, OperatorHere, TokenUserHere, user_of
from bigmarket.api.errors import Unreadable, success
from bigmarket.api.openapi import operation
from bigmarket.api.reader import BODY_BYTES_MAX, Int64, JsonReader, form_of, int_of, read_body, read_bytes, text_of
from bigmarket.api.waiting import READ_SECONDS
from bigmarket.app import World

T = TypeVar("T", bound=msgspec.Struct)
Method = Literal["GET", "POST"]
Read = Callable[[type[Any]], Callable[[Request], Awaitable[Any]]]
Handler = Callable[[World, T], object]
UserHandler = Callable[[World, str, T], object]

EXAMPLE_USER = "xiaofuge"
EXAMPLE_ACTIVITY: Mapping[str, Any] = {"activityId": 100301}


class NothingIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """Nothing more is asked."""


class ActivityIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """An activity."""

    activity_id: Int64


async def _world(request: Request) -> World:
    world: World = request.app.state.world
    return world


WorldHere = Annotated[World, Depends(_world)]


class Calls:
    """The calls of one subject: their routes, and the types that the OpenAPI document names.

    A call ``asks`` for what ``read`` (``body_of`` or ``parameters_of``) makes of the request; ``described`` is for
    ``operation``. The application has admitted the caller before.
    """

    def __init__(self) -> None:
        self.router = APIRouter()
        self.schemas: list[type] = []

    def of_all(
        self, path: str, *, methods: Sequence[Method], asks: type[T], read: Read, **described: Any
    ) -> Callable[[Handler[T]], Handler[T]]:
        """A call that is about no user, and anyone's."""

        def register(handler: Handler[T]) -> Handler[T]:
            asking = Depends(read(asks))

            def route(world: WorldHere, asked: Any = asking) -> Response:
                return _answered(handler(world, asked))

            for method in methods:
                self._add(path, method, route, asks=asks, read=read, described=_told(handler, described))
            return handler

        return register

    def of_operators(
        self, path: str, *, method: Method, asks: type[T], read: Read, **described: Any
    ) -> Callable[[Handler[T]], Handler[T]]:
        """A call that no user's token may make."""

        def register(handler: Handler[T]) -> Handler[T]:
            asking = Depends(read(asks))

            def route(world: WorldHere, _: OperatorHere, asked: Any = asking) -> Response:
                return _answered(handler(world, asked))

            self._add(path, method, route, asks=asks, read=read, described=_told(handler, described))
            return handler

        return register

    def of_users(
        self, path: str, *, asks: type[T], read: Read, **described: Any
    ) -> Callable[[UserHandler[T]], UserHandler[T]]:
        """A call about a user, by POST, and its ``_by_token`` twin."""
        named = and_user(asks)
        example = described.pop("body_example", {})

        def register(handler: UserHandler[T]) -> UserHandler[T]:
            asking_named, asking = Depends(read(named)), Depends(read(asks))

            def route(world: WorldHere, caller: CallerHere, asked: Any = asking_named) -> Response:
                return _answered(handler(world, user_of(caller, asked.user_id), asked))

            def twin(world: WorldHere, user_id: TokenUserHere, asked: Any = asking) -> Response:
                return _answered(handler(world, user_id, asked))

            told = _told(handler, described)
            plain = {**told, "body_example": {"userId": EXAMPLE_USER, **example}}
            summary = f"{told['summary']}: the token's user"
            by_token = {**told, "summary": summary, "body_example": example, "by_token": True}
            self._add(path, "POST", route, asks=named, read=read, described=plain)
            self._add(path + BY_TOKEN, "POST", twin, asks=asks, read=read, described=by_token)
            return handler

        return register

    def _add(
        self,
        path: str,
        method: Method,
        route: Callable[..., Response],
        *,
        asks: type,
        read: Read,
        described: Mapping[str, Any],
    ) -> None:
        self.schemas.append(described["data"])
        if read is body_of:
            self.schemas.append(asks)
            told = operation(**described, body=asks)
        else:
            told = operation(**{**described, "body_example": None}, query=asks)
        self.router.add_api_route(path, route, methods=[method], openapi_extra=told)


def _told(handler: Callable[..., object], described: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": handler.__doc__, **described}


def _answered(data: object) -> Response:
    return data if isinstance(data, Response) else reply(data)


@lru_cache
def and_user(kind: type[T]) -> type[T]:
    """The same Struct with the ``userId`` that it is about."""
    return msgspec.defstruct(  # type: ignore[return-value]
        f"User{kind.__name__}", [("user_id", str)], bases=(kind,), kw_only=True, namespace={"__doc__": kind.__doc__}
    )


def body_of(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads the JSON body as ``kind``."""
    reader = JsonReader(kind)

    async def read(request: Request) -> T:
        return reader.decode(await _in_time(read_body(request.receive, _headers(request), bytes_max=BODY_BYTES_MAX)))

    return read


def parameters_of(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads query parameters, or the fields of a form, as ``kind``; those not asked for are let be.

    Fields are whole numbers or texts; an optional one is None where it is missing.
    """
    fields = msgspec.structs.fields(kind)

    async def read(request: Request) -> T:
        given: dict[str, list[str]] = {}
        for name, value in [*form_of(request.scope["query_string"]), *await _form(request)]:
            given.setdefault(name, []).append(value)
        found: dict[str, Any] = {}
        for field in fields:
            values = given.get(field.encode_name, [])
            if values or field.required:
                found[field.name] = _value_of(field, values)
        return kind(**found)

    return read


def _value_of(field: msgspec.structs.FieldInfo, values: list[str]) -> int | str:
    if field.type in (str, str | None):
        return text_of(values, name=field.encode_name)
    return int_of(values, name=field.encode_name)


async def _form(request: Request) -> list[tuple[str, str]]:
    media = request.headers.get("content-type", "").partition(";")[0]
    if request.method != "POST" or media.strip().lower() != "application/x-www-form-urlencoded":
        return []
    return form_of(await _in_time(read_bytes(request.receive, _headers(request), bytes_max=BODY_BYTES_MAX)))


async def _in_time(reading: Awaitable[bytes]) -> bytes:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await reading
    except TimeoutError:
        raise Unreadable(408, "The body did not come in time.") from None


def _headers(request: Request) -> dict[bytes, bytes]:
    return dict(request.scope["headers"])


def reply(data: object) -> Response:
    """The envelope of a call that worked."""
    return Response(success(data), media_type="application/json")


def credits_of(cents: int) -> float:
    """Hundredths of a credit as v1 writes credits: a number with two decimals at most."""
    return cents / 100


def iso_of(ms: int) -> str:
    """Epoch milliseconds as v1 writes times: ``2026-11-21T04:26:27.000+00:00``."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds")
