"""How the player page is served: small, cached by content, and shut against anything that is not its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmarket.web import DEMO_ACTIVITY
from bigmarket.web.page import read_files
from serving import Served, install_small, serving

BYTES_MAX = 60_000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as running:
        install_small(running.world)
        yield running


def files_of(page: str) -> list[str]:
    """The addresses of files that the page names."""
    return re.findall(r'(?:src|href)="(files/[^"]+)"', page)


def test_it_is_small() -> None:
    assert sum(map(len, read_files().bodies.values())) < BYTES_MAX


def test_nothing_comes_from_elsewhere() -> None:
    for name, body in read_files().bodies.items():
        addresses = set(re.findall(rb"https?://[^\s\"'`]+", body)) - {b"http://www.w3.org/2000/svg"}
        assert not addresses, f"{name} names {addresses}"


def test_types_and_caching(served: Served) -> None:
    page = served.client.get("/play/1")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    same = served.client.get("/play/1", headers={"if-none-match": page.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    types = {}
    for address in files_of(page.text):
        file = served.client.get(f"/play/{address}")
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        types[address.rpartition(".")[2]] = file.headers["content-type"]
    assert types == {
        "svg": "image/svg+xml",
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
    }
    assert served.client.head("/play/1").status_code == 200


def test_the_etag_follows_the_campaign(served: Served) -> None:
    first = served.client.get("/play/1").headers["etag"]
    install_small(served.world, activity_id=2)
    assert served.client.get("/play/2").headers["etag"] != first
    install_small(served.world, end="2030-01-01 00:00:00")
    assert served.client.get("/play/1").headers["etag"] != first


def test_a_page_of_another_version_gets_files_but_must_not_keep_them(served: Served) -> None:
    file = served.client.get("/play/files/0123456789abcdef/play.js")
    assert file.headers["cache-control"] == "no-store"
    assert file.content == read_files().bodies["play.js"]


@pytest.mark.parametrize("name", ["play.html", "none.js", "..%2f__init__.py", "%2e%2e"])
def test_only_files_of_the_page_are_served(served: Served, name: str) -> None:
    assert served.client.get(f"/play/files/{read_files().version}/{name}").status_code == 404


def test_only_its_own_files_may_run(served: Served) -> None:
    page = served.client.get("/play/1")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.endswith("frame-ancestors 'self'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "<style" not in page.text
    assert not re.search(r"<script(?![^>]+src=)|\son\w+=|style=", page.text)


def test_named_origins_may_frame_it(tmp_path: Path) -> None:
    with serving(tmp_path, cors_origins="https://shop.example,*") as served:
        policy = served.client.get("/play/1").headers["content-security-policy"]
        assert policy.endswith("frame-ancestors 'self' https://shop.example")


def test_a_campaign_in_preparation_is_not_told_of(served: Served) -> None:
    install_small(served.world, activity_id=2, state="create")
    page = served.client.get("/play/2")
    assert page.status_code == 200
    assert "small" not in page.text


def test_the_front_leads_to_the_demo_where_it_is(served: Served) -> None:
    assert served.client.get("/").headers["location"] == "docs"
    install_small(served.world, activity_id=DEMO_ACTIVITY)
    assert served.client.get("/").headers["location"] == "play/100301?userId=xiaofuge"
    assert served.client.get("/", follow_redirects=True).status_code == 200
