"""compose.yaml and the image keep in step with the program, as far as can be told without Docker."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import typer.main
import yaml

from bigmarket.api.health import router
from bigmarket.cli.commands import app
from bigmarket.settings import PREFIX, Settings, is_loopback, load_settings
from faults.services import MariaDbProcess, program

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = [name for name, service in SERVICES.items() if "build" in service]
BALANCER = (ROOT / "deploy" / "haproxy.cfg").read_text()
IMAGE = "bigmarket:local"
SECRET = re.compile(r"PASS|KEY|SECRET|AUTH|TOKEN")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)([^}]*)\}")


class Step(NamedTuple):
    """An instruction of the Dockerfile, its continued lines joined."""

    name: str
    words: str


def _steps() -> list[Step]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [Step(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


STEPS = _steps()
FINAL = STEPS[max(index for index, step in enumerate(STEPS) if step.name == "FROM") :]


def _words(name: str, steps: list[Step] = FINAL) -> list[str]:
    return [step.words for step in steps if step.name == name]


def _exec_form(words: str) -> list[str]:
    found: list[str] = yaml.safe_load(words[words.index("[") :])
    return found


def _image_settings() -> dict[str, str]:
    return dict(word.split("=", 1) for words in _words("ENV") for word in words.split() if word.startswith(PREFIX))


def _variables() -> set[tuple[str, str]]:
    """What compose.yaml takes from .env: name, and what it says for when it is not set."""
    lines = [line for line in COMPOSE_TEXT.splitlines() if not line.lstrip().startswith("#")]
    return set(VARIABLE.findall("\n".join(lines)))


def _filled_in(value: str) -> str:
    """What docker compose makes of a value when only the secrets are set."""
    return VARIABLE.sub(lambda found: "s" * 48 if found[2].startswith(":?") else found[2].lstrip(":-"), value)


# --- the program --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", OWN)
def test_every_setting_exists(service: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given = set(SERVICES[service]["environment"]) | set(_image_settings())
    assert given <= known, f"no such setting: {sorted(given - known)}"


@pytest.mark.parametrize("service", OWN)
def test_the_settings_are_accepted(service: str) -> None:
    given = {name: _filled_in(value) for name, value in SERVICES[service]["environment"].items()}
    settings = load_settings(_image_settings() | given)
    assert settings.database_url.startswith("mysql")
    assert settings.shard_urls == (settings.database_url,)
    assert not settings.development
    assert is_loopback(settings.host) is (service != "serve"), (
        "the balancer reaches the servers, and nobody the worker"
    )


@pytest.mark.parametrize("service", OWN)
def test_every_command_exists(service: str) -> None:
    assert SERVICES[service]["image"] == IMAGE
    command, *options = SERVICES[service]["command"]
    _assert_command(command, options)


def test_the_image_starts_the_server() -> None:
    (entry,), (words,) = _words("ENTRYPOINT"), _words("CMD")
    assert _exec_form(entry) == ["bigmarket"]
    command, *options = _exec_form(words)
    assert command == "serve"
    _assert_command(command, options)


def _assert_command(name: str, options: list[str]) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands, f"no such command: bigmarket {name}"
    known = {option for parameter in commands[name].params for option in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


def test_everybody_means_the_same_port() -> None:
    port = str(Settings.model_fields["port"].default)
    assert SERVICES["serve"]["environment"][PREFIX + "PORT"] == port
    assert _words("EXPOSE") == [port]
    assert f" serve:{port} " in BALANCER
    bound = re.findall(r"^    bind :(\d+)$", BALANCER, re.MULTILINE)
    (published,) = SERVICES["balancer"]["ports"]
    assert published.rpartition(":")[2] in bound
    (url,) = [word for word in SERVICES["balancer"]["healthcheck"]["test"] if word.startswith("http")]
    assert re.search(r":(\d+)/", url)[1] in bound  # type: ignore[index]
    assert f"monitor-uri {url[url.index('/', 7) :]}" in BALANCER


def test_health_is_asked_where_it_is_answered() -> None:
    paths = {route.path for route in router.routes}  # type: ignore[attr-defined]
    asked = re.findall(r"httpchk GET (\S+)", BALANCER)
    hidden = re.findall(r"deny deny_status 404 if { path ([^}]+) }", BALANCER)
    assert asked == ["/readyz"]
    assert set(asked) <= paths
    assert set(hidden[0].split()) == paths, "what supervisors and Prometheus ask is not for the public"


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_image_knows_when_it_is_well(status: int | None, healthy: bool) -> None:
    (words,) = _words("HEALTHCHECK")
    python, *arguments = _exec_form(words)
    assert python == "python"
    with _answering(status) as port:
        done = subprocess.run(  # noqa: S603  what the image runs
            [sys.executable, *arguments], env={PREFIX + "PORT": str(port)}, capture_output=True, check=False
        )
    assert (done.returncode == 0) is healthy, done.stderr


@contextmanager
def _answering(status: int | None) -> Iterator[int]:
    """A server that answers /healthz with ``status``; with None, one that has gone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response((status or 500) if self.path == "/healthz" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it that
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port: int = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        if status is not None:
            thread.start()
            yield port
            server.shutdown()
            thread.join()
    if status is None:
        yield port


# --- the image ----------------------------------------------------------------------------------------------------


def test_the_image_has_a_python_that_will_do() -> None:
    (python,) = [words.removeprefix("PYTHON=") for words in _words("ARG", STEPS)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    found = re.match(r"(\d+)\.(\d+)-slim", python)
    assert needed is not None
    assert found is not None
    assert tuple(map(int, found.groups())) >= tuple(map(int, needed.groups()))
    assert f"Programming Language :: Python :: {found[1]}.{found[2]}" in project["classifiers"]
    assert {words.split()[0] for words in _words("FROM", STEPS)} == {"python:${PYTHON}"}


def test_the_image_is_installed_as_everywhere_else() -> None:
    makefile = (ROOT / "Makefile").read_text()
    version = re.search(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)[1]  # type: ignore[index]
    runs = _words("RUN", STEPS)
    assert any(f"uv=={version}" in run for run in runs)
    syncs = [run for run in runs if "uv sync" in run]
    assert syncs
    assert all("--frozen" in run and "--no-dev" in run for run in syncs)


def test_whatever_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [
        source for words in _words("COPY", STEPS) if not words.startswith("--from") for source in words.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in sent, f"{source} is ignored"
    for path in sent:
        assert (ROOT / path).exists(), path


def test_the_image_carries_what_its_build_needs() -> None:
    """The build backend reads these from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["project"]["readme"], *project["project"]["license-files"], *wheel["force-include"]}
    copied = set()
    for words in _words("COPY", STEPS):
        copied |= set(words.split()[:-1])
    assert needed <= copied


def test_the_image_runs_as_nobody_special_and_builds_nothing() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", _words("USER")[-1])
    assert not any(re.search(r"\b(uv|pip|apt-get|gcc)\b", run) for run in _words("RUN"))
    user = _words("USER")[-1].split(":")[0]
    home = _image_settings()[PREFIX + "HOME"]
    assert _exec_form(_words("VOLUME")[0]) == [home]
    for name in OWN:
        (writable,) = [mount for mount in SERVICES[name]["tmpfs"] if mount.startswith(home)]
        assert f"uid={user}," in writable


# --- the services -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_bounded_watched_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    _, _, tag = service["image"].partition(":")
    assert tag
    assert tag == "local" or re.match(r"\d+\.\d+", tag), "a tag that says at least the minor version"
    assert service["restart"] == "unless-stopped"
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["logging"]["options"]["max-size"]
    assert name in OWN or service["healthcheck"]["test"]


def test_whoever_is_waited_for_says_when_it_is_well() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            check = SERVICES[other].get("healthcheck", {})
            assert how["condition"] == "service_healthy", (name, other)
            assert not check.get("disable"), (name, other)
            assert "test" in check or other in OWN, (name, other)


def test_draws_do_not_wait_for_the_broker() -> None:
    assert set(SERVICES["serve"]["depends_on"]) == {"mariadb"}
    assert SERVICES["serve"]["deploy"]["replicas"] == 2


def test_nothing_is_published_beyond_this_machine_unless_asked() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith(("127.0.0.1:", "${PUBLISH:-127.0.0.1:")) for port in published)


def test_the_data_is_on_a_network_without_a_way_out() -> None:
    assert COMPOSE["networks"]["data"]["internal"] is True
    for name in ("mariadb", "redis"):
        assert SERVICES[name]["networks"] == ["data"]
        assert "ports" not in SERVICES[name]
    used = {network for service in SERVICES.values() for network in service["networks"]}
    assert used == set(COMPOSE["networks"])


def test_every_file_that_is_mounted_exists() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert {Path(file).name for file in files} == {path.name for path in (ROOT / "deploy").iterdir()}
    assert all((ROOT / file).is_file() for file in files)
    assert set(mounts) - set(files) == set(COMPOSE["volumes"])


def test_the_database_is_durable() -> None:
    assert "--innodb-flush-log-at-trx-commit=1" in SERVICES["mariadb"]["command"]
    assert "--innodb-doublewrite=ON" in SERVICES["mariadb"]["command"]


def test_the_database_knows_its_flags() -> None:
    MariaDbProcess.require()
    flags = [_filled_in(flag) for flag in SERVICES["mariadb"]["command"]]
    command = [str(program("mariadbd")), "--no-defaults", *flags, "--verbose", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  an installed program
    assert done.returncode == 0, done.stderr


# --- secrets ------------------------------------------------------------------------------------------------------


def test_no_secret_has_a_default() -> None:
    secrets = {(name, rest) for name, rest in _variables() if SECRET.search(name)}
    required = {name for name, rest in secrets if rest.startswith(":?")}
    assert required == {"MARIADB_ROOT_PASSWORD", "MARIADB_PASSWORD", "RABBITMQ_PASSWORD", PREFIX + "SERVER_KEYS"}
    (rest,) = {rest for name, rest in secrets if name not in required}
    assert rest == "-", "the optional service's own start refuses an empty one"
    assert ":?" in str(SERVICES["redis"]["command"])


def test_no_secret_is_written_down() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert VARIABLE.fullmatch(value), name
            if "://" in value:
                assert re.search(r"//\w+:\$\{\w+:\?[^}]+\}@", value), name
    assert not any(SECRET.search(word.split("=")[0]) for words in _words("ENV", STEPS) for word in words.split())


def test_the_example_lists_every_variable_and_fills_in_no_secret() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    listed = dict(found.groups() for line in lines if (found := re.match(r"#?([A-Z_]+)=(.*)", line)))
    assert set(listed) == {name for name, _ in _variables()}
    for name, rest in _variables():
        assert listed[name] == rest.removeprefix(":-") if rest.startswith(":-") else not listed[name], name
