"""Settings: every ``BIGMARKET_*`` environment variable, checked at start; an unknown one is refused."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bigmarket.errors import BadInput, ConfigurationInvalid, Problem
from bigmarket.switches import Switches, rate_of

PREFIX = "BIGMARKET_"
_SERVER_KEY_CHARACTERS_MIN = 24
_TOKEN_SECRET_CHARACTERS_MIN = 32
_RANDOM = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"

Words = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What an installation can set. Field ``x`` is the variable ``BIGMARKET_X``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(default=Path(".bigmarket"), description="Folder of the embedded default's database file.")
    database: str = Field(
        default="",
        description="URL of the configuration database: mysql+pymysql://user:password@host/name, or sqlite:///file; "
        "by default a file in the home folder.",
    )
    shards: Words = Field(
        default=(),
        description="Comma-separated URLs of the databases that hold the users; by default the configuration "
        "database is the only one. Number and order can never be changed.",
    )
    tables_per_shard: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Into how many tables each shard splits its orders. Shards times tables must be a power of two.",
    )
    broker: str = Field(
        default="", description="URL of RabbitMQ, amqp://user:password@host/; by default messages stay in process."
    )
    broker_prefix: str = Field(
        default="bigmarket.",
        pattern=r"^[A-Za-z0-9_.-]{0,64}$",
        description="What the names of our queues begin with.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=8091, description="Port to listen on.")
    server_keys: Words = Field(
        default=(),
        description="Comma-separated keys; when set, API calls need `Authorization: Bearer <key>`. "
        "Required to listen beyond loopback.",
    )
    token_secrets: Words = Field(
        default=(),
        description="Comma-separated secrets of users' tokens (JWT, HS256): the first signs, all verify.",
    )
    token_public_key: str = Field(
        default="", description="PEM file with the public key of tokens that another system signs."
    )
    token_audience: str = Field(default="", description="Audience that tokens must be for, if any.")
    partners: Words = Field(
        default=(), description="Comma-separated `app-id:token` of partners that may have users rebated."
    )
    rate_limit_user: str = Field(
        default="5/1s", description="Draws, sign-ins and exchanges of a user, while the rate limiter is open."
    )
    rate_limit_address: str = Field(
        default="100/1s", description="API calls from an address, while the rate limiter is open."
    )
    trusted_proxies: Words = Field(
        default=(), description="Comma-separated networks of proxies whose X-Forwarded-For is believed."
    )
    redis: str = Field(
        default="", description="URL of Redis, redis://user:password@host/: processes limit rates together."
    )
    cors_origins: Words = Field(
        default=("*",), description="Comma-separated origins that may call from a browser; * for any."
    )
    lanes: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0, description="Writer threads per shard; 0: one for SQLite, which has one writer, two for MySQL."
    )
    batch_max: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=256, description="Draws that share a transaction at most."
    )
    queue_max: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=4096, description="Draws that may wait in a lane; more are answered 503 overloaded at once."
    )
    draw_deadline_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=2.0, description="A draw is answered within this time, if only with 503 outcome_unknown."
    )
    order_minutes: Annotated[int, Field(ge=1, le=10_080)] = Field(
        default=15, description="How long an order that was placed waits for its payment."
    )
    contact_days: Annotated[int, Field(ge=1, le=3_650)] = Field(
        default=90, description="Where a thing was sent to is erased so many days after it was shipped."
    )
    work: bool = Field(default=True, description="Whether `serve` also consumes and runs jobs; else `work` must run.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Processes that `serve` starts.")
    webhook_allow: Words = Field(
        default=(),
        description="Comma-separated hosts and networks that webhooks may reach although they are private; a host "
        "named here may also be called without TLS.",
    )
    development: bool = Field(
        default=False, description="Only warn when a database would not keep what is acknowledged."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["console", "json"] = Field(default="console", description="How log lines look.")

    @field_validator(
        "server_keys",
        "token_secrets",
        "partners",
        "cors_origins",
        "shards",
        "trusted_proxies",
        "webhook_allow",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("server_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(key) < _SERVER_KEY_CHARACTERS_MIN for key in keys):
            raise ValueError(
                f"a server key needs at least {_SERVER_KEY_CHARACTERS_MIN} characters; make one with: {_RANDOM}"
            )
        return keys

    @field_validator("token_secrets")
    @classmethod
    def _long_enough_to_sign(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(secret) < _TOKEN_SECRET_CHARACTERS_MIN for secret in secrets):
            raise ValueError(
                f"a token secret needs at least {_TOKEN_SECRET_CHARACTERS_MIN} characters; make one with: {_RANDOM}"
            )
        return secrets

    @field_validator("partners")
    @classmethod
    def _apps_with_tokens(cls, partners: tuple[str, ...]) -> tuple[str, ...]:
        pairs = [partner.partition(":") for partner in partners]
        if any(not app or len(token) < _SERVER_KEY_CHARACTERS_MIN for app, _, token in pairs):
            raise ValueError(
                f"write each partner as app-id:token, the token of at least {_SERVER_KEY_CHARACTERS_MIN} characters; "
                f"make one with: {_RANDOM}"
            )
        if len({app for app, _, _ in pairs}) < len(pairs):
            raise ValueError("an app id is listed twice")
        return partners

    @field_validator("rate_limit_user", "rate_limit_address")
    @classmethod
    def _one_rate(cls, value: str) -> str:
        try:
            rate_of(value)
        except BadInput as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                ipaddress.ip_network(value)
            except ValueError:
                raise ValueError(f"{value} is no network; write 10.0.0.0/8, or the address of one proxy") from None
        return values

    @field_validator("database", "broker", "redis")
    @classmethod
    def _one_url(cls, value: str, info: ValidationInfo) -> str:
        if value:
            check_url(value, schemes=_SCHEMES[info.field_name or ""])
        return value

    @field_validator("shards")
    @classmethod
    def _shard_urls(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            check_url(value, schemes=DATABASE_SCHEMES)
        if len(set(values)) < len(values):
            raise ValueError("a shard is listed twice")
        return values

    @field_validator("webhook_allow")
    @classmethod
    def _hosts_and_networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if _network_of(value) is None and _HOST.fullmatch(value) is None:
                raise ValueError(
                    f"`{value}` is neither a host, such as crm.internal, nor a network, such as 10.1.0.0/16"
                )
        return tuple(value.lower() for value in values)

    @model_validator(mode="after")
    def _power_of_two(self) -> Settings:
        shards, tables = max(1, len(self.shards)), self.tables_per_shard
        if (shards * tables).bit_count() != 1:
            raise ValueError(
                f"{shards} shards of {tables} tables are {shards * tables} slots, which is no power of two; "
                f"change {PREFIX}SHARDS or {PREFIX}TABLES_PER_SHARD"
            )
        return self

    @model_validator(mode="after")
    def _open_on_loopback_only(self) -> Settings:
        if not self.server_keys and not is_loopback(self.host):
            raise ValueError(
                f"without server keys the API is open to anyone who reaches it, so it may not listen on {self.host}; "
                f"set {PREFIX}SERVER_KEYS, or listen on 127.0.0.1"
            )
        return self

    @property
    def database_url(self) -> str:
        """Where campaigns are kept."""
        return self.database or f"sqlite:///{self.home / 'bigmarket.db'}"

    @property
    def database_path(self) -> Path | None:
        """The configuration database's file; None when it is on a server."""
        url = self.database_url
        return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:") else None

    @property
    def webhook_hosts(self) -> tuple[str, ...]:
        """Hosts that webhooks may reach although they are private."""
        return tuple(value for value in self.webhook_allow if _network_of(value) is None)

    @property
    def webhook_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Networks that webhooks may reach although they are private."""
        return tuple(network for value in self.webhook_allow if (network := _network_of(value)) is not None)

    @property
    def switches(self) -> Switches:
        """What operators may switch, as it is until they do."""
        return Switches(user_rate=rate_of(self.rate_limit_user), address_rate=rate_of(self.rate_limit_address))

    @property
    def proxy_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Where the proxies are whose X-Forwarded-For is believed."""
        return tuple(ipaddress.ip_network(value) for value in self.trusted_proxies)

    @property
    def partner_tokens(self) -> dict[str, str]:
        """Partners' tokens, by app id."""
        return {app: token for app, _, token in (partner.partition(":") for partner in self.partners)}

    @property
    def shard_urls(self) -> tuple[str, ...]:
        """Where users are kept, by shard."""
        return self.shards or (self.database_url,)


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def _network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """An address is a network of one; None when it is no address either."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


DATABASE_SCHEMES = ("mysql+pymysql", "mysql+mysqldb", "sqlite")
BROKER_SCHEMES = ("amqp", "amqps")
REDIS_SCHEMES = ("redis", "rediss")
_SCHEMES = {"database": DATABASE_SCHEMES, "broker": BROKER_SCHEMES, "redis": REDIS_SCHEMES}


def check_url(url: str, *, schemes: tuple[str, ...]) -> None:
    """Raise ValueError, never showing the URL, which may hold a password, when it is none of these."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("cannot be read as a URL; percent-encode the special characters of a password") from error
    if parts.scheme not in schemes:
        hint = "; write mysql+pymysql:// for mysql://" if parts.scheme == "mysql" else ""
        raise ValueError(f"must be a URL beginning with {', '.join(f'{scheme}://' for scheme in schemes)}{hint}")
    if parts.scheme == "sqlite":
        if host or len(parts.path) < len("/x"):
            raise ValueError("must name a file: sqlite:///relative/path or sqlite:////absolute/path")
        return
    if not host:
        raise ValueError("must name a host")
    far = not is_loopback(host)
    if parts.scheme in BROKER_SCHEMES:
        if far and (parts.username or "guest") == "guest" and (parts.password or "guest") == "guest":
            raise ValueError("uses RabbitMQ's default user off this machine; make a user of its own")
        return
    if parts.scheme in REDIS_SCHEMES and not re.fullmatch(r"/?|/[0-9]{1,4}", parts.path):
        raise ValueError("may only name a database by its number: redis://:password@host/0")
    if parts.scheme in DATABASE_SCHEMES and not parts.path.strip("/"):
        raise ValueError("must name a database: mysql+pymysql://user:password@host/NAME")
    if far and (parts.password or "") in WEAK_PASSWORDS:
        raise ValueError("uses no password, or an example's, off this machine; set a real one")


WEAK_PASSWORDS = frozenset({"", "password", "secret", "changeme", "change-me", "example", "root", "bigmarket"})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process. Raises ``ConfigurationInvalid`` with every fault at once."""
    environment = os.environ if environment is None else environment
    problems = _unknown(environment)
    values = {
        name: environment[PREFIX + name.upper()]
        for name in Settings.model_fields
        if PREFIX + name.upper() in environment
    }
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [_problem(fault["loc"], fault["msg"]) for fault in error.errors()]
    if problems:
        raise ConfigurationInvalid("settings", problems)
    return settings


def _unknown(environment: Mapping[str, str]) -> list[Problem]:
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    problems = []
    for name in environment:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            fix = f"Did you mean {near[0]}?" if near else f"Unset it. Known are: {', '.join(known)}."
            problems.append(Problem(name, "no such setting", fix))
    return problems


def _problem(location: tuple[int | str, ...], message: str) -> Problem:
    name = PREFIX + str(location[0]).upper() if location else "settings"
    return Problem(name, message.removeprefix("Value error, "), "Correct it and start again.")
