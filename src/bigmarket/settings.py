"""Settings: every ``BIGMARKET_*`` environment variable, checked at start; an unknown one is refused."""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bigmarket.errors import ConfigurationInvalid, Problem

PREFIX = "BIGMARKET_"
_SERVER_KEY_CHARACTERS_MIN = 24

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
    work: bool = Field(
        default=True, description="Whether `serve` also relays, consumes and runs jobs; else `work` must run."
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Processes that `serve` starts.")
    development: bool = Field(
        default=False, description="Only warn when a database would not keep what is acknowledged."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["console", "json"] = Field(default="console", description="How log lines look.")

    @field_validator("server_keys", "cors_origins", "shards", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("server_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(key) < _SERVER_KEY_CHARACTERS_MIN for key in keys):
            raise ValueError(
                f"a server key needs at least {_SERVER_KEY_CHARACTERS_MIN} characters; "
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        return keys

    @field_validator("database", "broker")
    @classmethod
    def _one_url(cls, value: str, info: ValidationInfo) -> str:
        if value:
            check_url(value, schemes=BROKER_SCHEMES if info.field_name == "broker" else DATABASE_SCHEMES)
        return value

    @field_validator("shards")
    @classmethod
    def _shard_urls(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            check_url(value, schemes=DATABASE_SCHEMES)
        if len(set(values)) < len(values):
            raise ValueError("a shard is listed twice")
        return values

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
    def shard_urls(self) -> tuple[str, ...]:
        """Where users are kept, by shard."""
        return self.shards or (self.database_url,)


DATABASE_SCHEMES = ("mysql+pymysql", "mysql+mysqldb", "sqlite")
BROKER_SCHEMES = ("amqp", "amqps")


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
    if parts.scheme in BROKER_SCHEMES:
        default = (parts.username or "guest") == "guest" and (parts.password or "guest") == "guest"
        if default and not is_loopback(host):
            raise ValueError("uses RabbitMQ's default user off this machine; make a user of its own")
    elif not parts.path.strip("/"):
        raise ValueError("must name a database: mysql+pymysql://user:password@host/NAME")
    elif not is_loopback(host) and (parts.password or "") in WEAK_PASSWORDS:
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
