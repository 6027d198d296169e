"""Charts are well-formed and say their values; tables are made of samples alone."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

import http_draw
from charts import Bar, Panel, bars, number_text, panels, stacked, steps
from part import Group, brief, groups

HTTP = {
    "where": http_draw.SERVERS,
    "variant": http_draw.LANES,
    "connections": 64,
    "per_second": 6000.0,
    "p50_ms": 9.0,
    "p95_ms": 12.0,
    "p99_ms": 14.0,
    **{f"{name}_us": 20.0 for name in http_draw.SPENDERS},
    "backlog": 10,
    "drain_seconds": 0.2,
}


@pytest.mark.parametrize(
    "svg",
    [
        bars("A & B", "per second", [Bar("ours <1>", 12_345, "7.2 x"), Bar("theirs", 1_700, ours=False)]),
        bars("nothing", "-", []),
        stacked("CPU", "us", [("64", {"serve": 50.0, "work": 20.5}), ("512", {"serve": 40.0})]),
        steps("latency", "ms", ["1", "64"], {"p50": [2.5, 9.0], "p99": [8.0, 15.0]}, below="connections"),
        steps("one", "ms", ["1"], {"p50": [0.0]}, below="connections"),
        panels("soak", "s", [Panel("memory", "MB", [(0.0, 100.0), (10.0, 101.0)]), Panel("none", "-", [])]),
    ],
)
def test_a_chart_is_well_formed_and_lies_inside_its_page(svg: str) -> None:
    page = ET.fromstring(svg)  # noqa: S314  our own
    width, height = float(page.attrib["width"]), float(page.attrib["height"])
    for text in page.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_bars_show_their_values_and_notes() -> None:
    svg = bars("A", "per second", [Bar("ours", 12_345, "7.2 x"), Bar("theirs", 1_700)])
    assert "12,345  7.2 x" in svg
    assert "1,700" in svg


def test_numbers_have_as_many_digits_as_they_need() -> None:
    assert [number_text(value) for value in (0, 0.254, 3, 3.14, 12_345.6)] == ["0", "0.25", "3", "3.1", "12,346"]


def test_a_group_tells_the_median_and_the_spread() -> None:
    group = Group([{"rate": 3.0}, {"rate": 1.0}, {"rate": 1000.0}])
    assert group["rate"] == 3
    assert group.spread("rate") == "3 (1..1,000)"
    assert Group([{"rate": 3.0}]).spread("rate") == "3"


def test_groups_keep_the_order_of_their_first_appearance() -> None:
    found = groups([{"a": 2, "v": 1}, {"a": 1, "v": 2}, {"a": 2, "v": 3}], "a")
    assert list(found) == [(2,), (1,)]
    assert found[2,]["v"] == 2


def test_the_ratio_is_that_of_the_same_number_of_connections() -> None:
    single = HTTP | {"variant": http_draw.SINGLE, "per_second": 1000.0}
    (table,) = http_draw.tables([HTTP, single, HTTP | {"connections": 512}])
    assert [row[-1] for row in table.rows] == ["6.0 x", "1.0 x", ""]
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert set(http_draw.charts([HTTP, single])) == {"http-throughput.svg", "http-cpu.svg", "http-latency.svg"}


def test_a_sample_in_a_line_names_its_variant_and_figure() -> None:
    assert brief(HTTP).endswith("lanes, 64 connections: 6,000 per second")
    assert "late" in brief({"not valid": "it was late"})
