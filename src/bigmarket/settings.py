"""Settings: every ``BIGMARKET_*`` environment variable, checked at start; an unknown one is refused."""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bigmarket.errors import ConfigurationInvalid, Problem

PREFIX = "BIGMARKET_"
_SERVER_KEY_CHARACTERS_MIN = 24

Words = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What an installation can set. Field ``x`` is the variable ``BIGMARKET_X``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(default=Path(".bigmarket"), description="Folder that holds everything: the database file.")
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
    lanes: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="Writer threads; SQLite has one writer, so more bring nothing there."
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
    relay: bool = Field(default=True, description="Deliver awards in this process.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["console", "json"] = Field(default="console", description="How log lines look.")

    @field_validator("server_keys", "cors_origins", mode="before")
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

    @model_validator(mode="after")
    def _open_on_loopback_only(self) -> Settings:
        if not self.server_keys and not is_loopback(self.host):
            raise ValueError(
                f"without server keys the API is open to anyone who reaches it, so it may not listen on {self.host}; "
                f"set {PREFIX}SERVER_KEYS, or listen on 127.0.0.1"
            )
        return self

    @property
    def database_path(self) -> Path:
        """The SQLite file of the embedded default."""
        return self.home / "bigmarket.db"


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
