"""Charts as plain SVG: bars, stacked bars, lines over steps, panels over time. Each has its own background."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 760
MARGIN = 20
TITLE_HEIGHT = 56
LABELS = 210  # room for the labels of horizontal bars
NUMBERS = 150  # room for the values behind them
ROW, BAR = 30, 20
INK, FAINT, PAPER, LINE = "#1f2328", "#59636e", "#ffffff", "#d1d9e0"
COLORS = ("#2f6feb", "#8250df", "#1a7f37", "#bc4c00", "#7d8590")
HALO = f'stroke="{PAPER}" stroke-width="3" paint-order="stroke"'  # keeps text readable over lines
OURS, THEIRS = COLORS[0], "#a6afb8"


class Bar(NamedTuple):
    """One bar: ``note`` stands behind its value; one that is no figure of ours is grey."""

    label: str
    value: float
    note: str = ""
    ours: bool = True


class Panel(NamedTuple):
    """One quantity over time."""

    name: str
    unit: str
    points: Sequence[tuple[float, float]]


def bars(title: str, unit: str, found: Sequence[Bar]) -> str:
    """Horizontal bars, one below the other."""
    room = WIDTH - 2 * MARGIN - LABELS - NUMBERS
    longest = max((bar.value for bar in found), default=0) or 1
    parts = []
    for number, bar in enumerate(found):
        y = TITLE_HEIGHT + number * ROW
        width = max(2.0, bar.value / longest * room)
        parts += [
            _text(MARGIN + LABELS - 8, y + 15, bar.label, anchor="end"),
            _box(MARGIN + LABELS, y, width, BAR, OURS if bar.ours else THEIRS),
            _text(MARGIN + LABELS + width + 8, y + 15, f"{number_text(bar.value)}  {bar.note}".rstrip()),
        ]
    return _page(title, unit, parts, height=TITLE_HEIGHT + len(found) * ROW + MARGIN)


def stacked(title: str, unit: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Horizontal bars of parts, with the sum behind each."""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    top = TITLE_HEIGHT + 26
    room = WIDTH - 2 * MARGIN - LABELS - NUMBERS
    longest = max((sum(parts.values()) for _, parts in rows), default=0) or 1
    drawn = _legend(names, y=TITLE_HEIGHT)
    for number, (label, parts) in enumerate(rows):
        x, y = float(MARGIN + LABELS), top + number * ROW
        drawn.append(_text(x - 8, y + 15, label, anchor="end"))
        for name, value in parts.items():
            width = value / longest * room
            drawn.append(_box(x, y, width, BAR, COLORS[names.index(name) % len(COLORS)]))
            if width > 30:
                drawn.append(_text(x + width / 2, y + 14, number_text(value), anchor="middle", color=PAPER, size=11))
            x += width
        drawn.append(_text(x + 8, y + 15, number_text(sum(parts.values()))))
    return _page(title, unit, drawn, height=top + len(rows) * ROW + MARGIN)


def steps(title: str, unit: str, labels: Sequence[str], lines: Mapping[str, Sequence[float]], *, below: str) -> str:
    """A line for each series over equal steps; every point shows its value. ``below`` names what the steps are."""
    height, top, left, bottom = 360, TITLE_HEIGHT + 40, 70, 56
    most = _round(max((value for values in lines.values() for value in values), default=0))
    floor = height - bottom
    step = (WIDTH - left - 60) / max(1, len(labels) - 1)
    drawn = _legend(list(lines), y=TITLE_HEIGHT)
    drawn += _grid(most, left=left, right=WIDTH - 40, top=top, floor=floor)
    drawn += [_text(left + n * step, floor + 20, label, anchor="middle") for n, label in enumerate(labels)]
    drawn.append(_text((left + WIDTH - 40) / 2, floor + 42, below, anchor="middle", color=FAINT))
    taken: dict[int, list[float]] = {}
    for number, values in reversed(list(enumerate(lines.values()))):  # the last line's values come first
        color = COLORS[number % len(COLORS)]
        points = [(left + n * step, floor - value / most * (floor - top)) for n, value in enumerate(values)]
        drawn.append(_path(points, color))
        for n, ((x, y), value) in enumerate(zip(points, values, strict=True)):
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>')
            if all(abs(y - other) >= 12 for other in taken.setdefault(n, [])):
                taken[n].append(y)
                drawn.append(_text(x, y - 8, number_text(value), anchor="middle", color=color, size=11))
    return _page(title, unit, drawn, height=height)


def panels(title: str, below: str, found: Sequence[Panel]) -> str:
    """Quantities over the same time, each from 0 on a scale of its own."""
    each, left, right = 118, 80, WIDTH - 30
    longest = max((x for panel in found for x, _ in panel.points), default=0) or 1
    drawn = []
    for number, panel in enumerate(found):
        top = TITLE_HEIGHT + 24 + number * each
        floor = top + each - 46
        highest = max((y for _, y in panel.points), default=0)
        most = _round(highest)
        first, last = (panel.points[0][1], panel.points[-1][1]) if panel.points else (0.0, 0.0)
        shown = f"{number_text(first)} first, {number_text(last)} last, {number_text(highest)} most"
        said = f"{panel.name}, {panel.unit}: {shown}"
        drawn.append(_text(left, top - 8, said, color=COLORS[number % len(COLORS)]))
        drawn += _grid(most, left=left, right=right, top=top, floor=floor, lines=2)
        points = [(left + x / longest * (right - left), floor - y / most * (floor - top)) for x, y in panel.points]
        drawn.append(_path(points, COLORS[number % len(COLORS)]))
    floor = TITLE_HEIGHT + len(found) * each - 10
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + share * (right - left)
        drawn.append(_text(x, floor + 6, number_text(share * longest), anchor="middle", color=FAINT, size=11))
    return _page(title, below, drawn, height=floor + 24)


def number_text(value: float) -> str:
    """A number with as many digits as a chart needs."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _round(value: float) -> float:
    """The end of a scale that reaches so far."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return float(next(power * step for step in (1, 2, 4, 6, 8, 10) if power * step >= value))


def _page(title: str, unit: str, parts: Sequence[str], *, height: float) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img" '
        f'aria-label="{escape(title)}">'
    )
    paper = (
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="6" fill="{PAPER}" stroke="{LINE}"/>'
    )
    top = [_text(MARGIN, 28, title, size=16, weight="600"), _text(MARGIN, 46, unit, color=FAINT)]
    return "\n".join([head, paper, *top, *parts, "</svg>"]) + "\n"


def _grid(most: float, *, left: float, right: float, top: float, floor: float, lines: int = 4) -> list[str]:
    drawn = []
    for number in range(lines + 1):
        y = floor - number / lines * (floor - top)
        drawn.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{LINE}"/>')
        drawn.append(_text(left - 8, y + 4, number_text(most * number / lines), anchor="end", color=FAINT, size=11))
    return drawn


def _legend(names: Sequence[str], *, y: float) -> list[str]:
    drawn, x = [], float(MARGIN)
    for number, name in enumerate(names):
        drawn += [_box(x, y + 2, 12, 12, COLORS[number % len(COLORS)]), _text(x + 18, y + 12, name, size=12)]
        x += 40 + 7 * len(name)
    return drawn


def _box(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{color}"/>'


def _path(points: Sequence[tuple[float, float]], color: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", color: str = INK, size: int = 13, weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{color}" '
        f'text-anchor="{anchor}" xml:space="preserve" {HALO if color != PAPER else ""}>{escape(text)}</text>'
    )
