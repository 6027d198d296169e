"""``webhooks``: endpoints of other systems, where awards are delivered by HTTP."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bigmarket.app import new_webhook_secret, now_ms, poster_of
from bigmarket.award.endpoints import Endpoint
from bigmarket.award.kinds.webhook import read_endpoint
from bigmarket.cli.console import Document, counted
from bigmarket.cli.results import moment, pairs, table
from bigmarket.cli.session import Json, Session, Stopped
from bigmarket.errors import NotFound, Trouble
from bigmarket.ids import Ids
from bigmarket.storage.deliveries import parked_at
from bigmarket.storage.endpoints import (
    add_endpoint,
    find_endpoint,
    list_endpoints,
    rotate_secret,
    set_endpoint_state,
)
from bigmarket.webhooks.address import read_url
from bigmarket.webhooks.post import NoReply
from bigmarket.webhooks.sending import send, trial_body

KEEP_HOURS_MAX = 30 * 24
HOUR_MS = 3_600_000

webhooks = typer.Typer(help="Endpoints of other systems, where awards are delivered by HTTP.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the endpoint.")]


@webhooks.command("list")
def webhooks_list(ctx: typer.Context, as_json: Json = False) -> None:
    """List the endpoints; secrets are never shown again."""
    session: Session = ctx.obj
    now = now_ms()
    with session.stores() as stores, stores.config.reading() as connection:
        found = list_endpoints(connection)
    nothing = None if found else Text("There is no endpoint. `bigmarket webhooks add NAME URL` makes one.")
    document = {"endpoints": [_document(endpoint, now) for endpoint in found]}
    session.answer(document, nothing or _table(found, now), as_json=as_json)


@webhooks.command("add")
def webhooks_add(
    ctx: typer.Context,
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where awards are posted to: https://...")],
    as_json: Json = False,
) -> None:
    """Make an endpoint and print its secret, this once; `webhooks test` tells whether it can be reached."""
    session: Session = ctx.obj
    now, secret = now_ms(), new_webhook_secret()
    endpoint = Endpoint(read_endpoint(name, name="The name of an endpoint"), url, secret, None, None, "open", now)
    read_url(url, allowed=poster_of(session.settings()).allowed)
    with session.stores(create=True) as stores, stores.config.writing() as connection:
        add_endpoint(connection, endpoint)
    _answer_secret(session, endpoint.endpoint, secret, as_json=as_json)


@webhooks.command("rotate")
def webhooks_rotate(
    ctx: typer.Context,
    name: Name,
    keep_hours: Annotated[
        float,
        typer.Option(
            "--keep-hours", metavar="HOURS", min=0, max=KEEP_HOURS_MAX, help="So long the old secret also signs."
        ),
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Give an endpoint a new secret and print it, this once; calls are signed with both until the old one ends."""
    session: Session = ctx.obj
    secret = new_webhook_secret()
    until_ms = now_ms() + int(keep_hours * HOUR_MS)
    with session.stores() as stores, stores.config.writing() as connection:
        rotate_secret(connection, name, secret=secret, previous_until_ms=until_ms)
    _answer_secret(session, name, secret, as_json=as_json, previous_until=moment(until_ms))


@webhooks.command("close")
def webhooks_close(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Call an endpoint no more; its awards wait, and are parked after a while."""
    session: Session = ctx.obj
    with session.stores() as stores, stores.config.writing() as connection:
        set_endpoint_state(connection, name, "close")
    session.answer({"endpoint": name, "state": "close"}, Text(f"{name} is closed."), as_json=as_json)


@webhooks.command("open")
def webhooks_open(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Call an endpoint again. What was parked meanwhile waits for `deliveries replay`."""
    session: Session = ctx.obj
    parked = 0
    with session.stores() as stores:
        with stores.config.writing() as connection:
            set_endpoint_state(connection, name, "open")
        for shard in stores.shards:
            with shard.reading() as connection:
                parked += parked_at(connection, name)
    hint = session.command_line(f"deliveries replay --all --place {name}")
    more = Text(f"{counted(parked, 'award')} parked meanwhile: {hint}", "yellow") if parked else None
    document = {"endpoint": name, "state": "open", "parked": parked}
    session.answer(document, Text(f"{name} is open."), more, as_json=as_json)


@webhooks.command("test")
def webhooks_test(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Call an endpoint once with a `bigmarket.test` event, whatever its state, and say what it answered."""
    session: Session = ctx.obj
    now = now_ms()
    with session.stores() as stores, stores.config.reading() as connection:
        endpoint = find_endpoint(connection, name)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {name}. `bigmarket webhooks list` shows those there are.")
    webhook_id = Ids().make(now)
    document: Document = {"endpoint": name, "webhook_id": webhook_id, "status": None, "delivered": False}
    try:
        reply = send(
            poster_of(session.settings()),
            endpoint,
            webhook_id=webhook_id,
            body=trial_body(name, now_ms=now),
            now_ms=now,
        )
    except NoReply as error:
        raise Stopped(Trouble(f"{name} did not answer: {error}"), document) from error
    document |= {"status": reply.status, "delivered": 200 <= reply.status < 300}
    if not document["delivered"]:
        raise Stopped(Trouble(f"{name} answered {reply.phrase}: {reply.excerpt}"), document)
    session.answer(document, Text(f"✔ {name} answered {reply.phrase}.", "green"), as_json=as_json)


def _answer_secret(
    session: Session, name: str, secret: str, *, as_json: bool, previous_until: str | None = None
) -> None:
    facts = {"endpoint": name, "secret": secret}
    if previous_until is not None:
        facts["previous_until"] = previous_until
    note = Text("Hand the secret to the receiver now; it is not shown again.", "yellow")
    session.answer(
        facts, pairs({key.replace("_", " "): value for key, value in facts.items()}), note, as_json=as_json
    )


def _table(found: list[Endpoint], now: int) -> Table:
    made = table("endpoint", "state", "url", "secrets", "since")
    for endpoint in found:
        made.add_row(
            Text(endpoint.endpoint),
            Text(endpoint.state, "green" if endpoint.state == "open" else "red"),
            Text(endpoint.url),
            str(len(endpoint.secrets(now))),
            moment(endpoint.create_time_ms),
        )
    return made


def _document(endpoint: Endpoint, now: int) -> Document:
    until_ms = endpoint.previous_until_ms if len(endpoint.secrets(now)) > 1 else None
    return {
        "endpoint": endpoint.endpoint,
        "url": endpoint.url,
        "state": endpoint.state,
        "created": moment(endpoint.create_time_ms),
        "previous_until": None if until_ms is None else moment(until_ms),
    }
