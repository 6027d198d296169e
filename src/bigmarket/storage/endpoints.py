"""Endpoints of webhooks, in the configuration database."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.activity.model import Campaign
from bigmarket.award.endpoints import Endpoint, EndpointState
from bigmarket.award.kinds import OUTSIDE_KINDS
from bigmarket.errors import BadInput, Duplicate, NotFound, Problem
from bigmarket.storage.schema import webhook_endpoint

ENDPOINTS_MAX = 200

_COLUMNS = tuple(webhook_endpoint.c[name] for name in Endpoint._fields)


def find_endpoint(connection: Connection, name: str) -> Endpoint | None:
    """The endpoint of that name; None when there is none."""
    row = connection.execute(select(*_COLUMNS).where(webhook_endpoint.c.endpoint == name)).one_or_none()
    return None if row is None else Endpoint(*row)


def list_endpoints(connection: Connection) -> list[Endpoint]:
    """All of them, by name."""
    rows = connection.execute(select(*_COLUMNS).order_by(webhook_endpoint.c.endpoint).limit(ENDPOINTS_MAX))
    return [Endpoint(*row) for row in rows]


def add_endpoint(connection: Connection, endpoint: Endpoint) -> None:
    """Write a new one. Raises Duplicate when the name is taken, BadInput when there are ``ENDPOINTS_MAX``."""
    if connection.execute(select(func.count()).select_from(webhook_endpoint)).scalar_one() >= ENDPOINTS_MAX:
        raise BadInput(f"There are {ENDPOINTS_MAX} endpoints, which is the most there can be.")
    try:
        with connection.begin_nested():
            connection.execute(insert(webhook_endpoint).values(endpoint._asdict()))
    except IntegrityError:
        raise Duplicate(f"There is an endpoint {endpoint.endpoint} already.") from None


def rotate_secret(connection: Connection, name: str, *, secret: str, previous_until_ms: int) -> None:
    """Sign with ``secret``, and until then with the present one too. Raises NotFound."""
    column = webhook_endpoint.c
    change = (
        update(webhook_endpoint)
        .where(column.endpoint == name)
        # In this order: MySQL computes one value after the other, with those that are set already.
        .ordered_values(
            (column.previous_secret, column.secret),
            (column.previous_until_ms, previous_until_ms),
            (column.secret, secret),
        )
    )
    if not connection.execute(change).rowcount:
        raise _unknown(name)


def set_endpoint_state(connection: Connection, name: str, state: EndpointState) -> None:
    """Open or close it. Raises NotFound."""
    change = update(webhook_endpoint).where(webhook_endpoint.c.endpoint == name).values(state=state)
    if not connection.execute(change).rowcount and find_endpoint(connection, name) is None:
        raise _unknown(name)


def endpoints_missing(connection: Connection, campaign: Campaign) -> Iterator[Problem]:
    """A warning for each endpoint that awards of the campaign go to and that cannot be called."""
    states = {endpoint.endpoint: endpoint.state for endpoint in list_endpoints(connection)}
    told: set[str] = set()
    for path, place in _places(campaign):
        if place in told or states.get(place) == "open":
            continue
        told.add(place)
        if place in states:
            yield Problem(
                path, f"endpoint `{place}` is closed", f"`bigmarket webhooks open {place}`; until then it waits"
            )
        else:
            fix = f"Make it with `bigmarket webhooks add {place} URL`; until then what is won waits"
            yield Problem(path, f"there is no endpoint `{place}`", fix)


def _places(campaign: Campaign) -> Iterator[tuple[str, str]]:
    """Where awards go, by the catalogue or by a rule that puts another config in its place."""
    kinds = {award.award_id: OUTSIDE_KINDS.get(award.kind) for award in campaign.awards}
    configs = [(f"awards[{n}].config", award.award_id, award.config) for n, award in enumerate(campaign.awards)]
    strategy = campaign.strategy
    rules: list[tuple[str, object]] = [(f"strategy.chain[{n}].config", rule) for n, rule in enumerate(strategy.chain)]
    rules += [
        (f"strategy.trees[{t}].nodes[{n}].config", rule)
        for t, tree in enumerate(strategy.trees)
        for n, rule in enumerate(tree.nodes)
    ]
    for path, rule in rules:
        if config := getattr(rule, "config", None):
            configs.append((path, getattr(rule, "award_id", 0), config))
    for path, award_id, config in configs:
        kind = kinds.get(award_id)
        if kind is not None and kind.gives == "webhook":
            yield path, kind.place_of(config)


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no endpoint {name}. `bigmarket webhooks list` shows those there are.")
