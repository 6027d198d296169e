"""Results, each as JSON (``*_document``) and for people (``*_table``, ``*_views``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Literal
from zoneinfo import ZoneInfo

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from sqlalchemy import RowMapping

from bigmarket.activity.campaign import Change
from bigmarket.activity.orders import QuotaOrder
from bigmarket.activity.quota import Account
from bigmarket.cli.console import Document, counted, error_document, problem_document
from bigmarket.cli.parking import Found
from bigmarket.preview import Preview
from bigmarket.replay import Explanation, StoredDraw
from bigmarket.storage.campaigns import Armed
from bigmarket.storage.doctor import Finding

BAR_COLUMNS = 24
REVEAL_AFTER_MS = 5_000  # a closed epoch's seed stays secret while a server may not have heard of the next one


def table(*columns: str, title: str | None = None, right: Iterable[str] = ()) -> Table:
    """An empty table; ``right`` names the columns of numbers. Cells are ``Text``, so nothing in them is markup.

    Ids keep to one line, however narrow the screen, so that they can be copied.
    """
    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(column, justify=justify, overflow="fold", no_wrap=column in {"id", "order"})
    return made


def pairs(facts: Mapping[str, object]) -> Table:
    """Names and values, one pair per line."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, "dim"), value if isinstance(value, Text) else Text(str(value)))
    return grid


def moment(epoch_ms: int, *, time_zone: str = "UTC") -> str:
    """RFC 3339, by the clock of the zone."""
    when = datetime.fromtimestamp(epoch_ms / 1000, tz=UTC).astimezone(ZoneInfo(time_zone))
    return when.isoformat(timespec="milliseconds")


def changes_table(changes: Sequence[Change]) -> Table:
    """Path, before and after: green for what comes, red for what goes, yellow for what changes."""
    made = table("path", "before", "after")
    for path, before, after in changes:
        style = "green" if before is None else "red" if after is None else "yellow"
        made.add_row(Text(path, style), Text(before or "", "red"), Text(after or "", "green"))
    return made


def account_table(account: Account) -> Table:
    """A user's draws."""
    made = table("", "credited", "used", "left", right=("credited", "used", "left"))
    rows = {
        "total": (account.total_count, account.total_left),
        f"month {account.month}": (account.month_count, account.month_left),
        f"day {account.day}": (account.day_count, account.day_left),
    }
    for name, (count, left) in rows.items():
        made.add_row(name, f"{count:,}", f"{count - left:,}", Text(f"{left:,}", "bold"))
    return made


def account_document(account: Account) -> Document:
    """A user's draws as JSON."""
    return {
        "total_count": account.total_count,
        "total_left": account.total_left,
        "month": account.month,
        "month_count": account.month_count,
        "month_left": account.month_left,
        "day": account.day,
        "day_count": account.day_count,
        "day_left": account.day_left,
    }


def armed_document(armed: Armed, *, seconds: float) -> Document:
    """What arming came to, as JSON."""
    return {
        "activity_id": armed.activity_id,
        "revision_id": armed.revision_id,
        "changed": armed.changed,
        "epoch": armed.epoch,
        "seed_sha256": armed.seed_sha256,
        "awards": armed.awards,
        "seconds": round(seconds, 3),
        "warnings": [problem_document(warning) for warning in armed.warnings],
    }


def armed_facts(armed: Armed) -> dict[str, object]:
    """What arming came to, for people."""
    changed = Text("new, live now", "bold green") if armed.changed else Text("unchanged", "dim")
    return {
        "revision": Text.assemble((armed.revision_id, "bold"), "  ", changed),
        "seed epoch": f"{armed.epoch}{', just opened' if armed.changed else ''}",
        "seed hash": armed.seed_sha256,
        "awards": armed.awards,
    }


def recharge_document(order: QuotaOrder, account: Account) -> Document:
    """A recharge and the account after it, as JSON."""
    return {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "activity_id": order.activity_id,
        "sku": order.sku,
        "out_business_no": order.out_business_no,
        "repeated": order.repeated,
        "credited": dict(zip(("total", "month", "day"), (0, 0, 0) if order.repeated else order.counts, strict=True)),
        "account": account_document(account),
    }


def won_table(counts: Sequence[Document], *, total: int) -> Table:
    """How often each award was won."""
    made = table("award", "title", "won", "share", "", right=("award", "won", "share"))
    for row in counts:
        share = Fraction(row["won"], total)
        won = f"{row['won']:,}"
        made.add_row(str(row["award_id"]), Text(row["award_title"]), won, f"{float(share):.2%}", _bar(share))
    return made


def odds_table(preview: Preview) -> Table:
    """Every award's exact chance, and why."""
    made = table("award", "title", "chance", "percent", "", "why", right=("award", "chance", "percent"))
    for prospect in preview.prospects:
        style = "" if prospect.chance else "dim"
        made.add_row(
            str(prospect.award_id),
            Text(prospect.title, style),
            str(prospect.chance),
            f"{float(prospect.chance):.6%}",
            _bar(prospect.chance),
            Text(prospect.why, style),
        )
    total = sum((prospect.chance for prospect in preview.prospects), Fraction(0))
    made.add_section()
    made.add_row("", "total", str(total), f"{float(total):.6%}")
    return made


def odds_document(preview: Preview) -> Document:
    """Every award's exact chance, as JSON."""
    total = sum((prospect.chance for prospect in preview.prospects), Fraction(0))
    return {
        "user_id": preview.user_id,
        "activity_id": preview.activity_id,
        "revision_id": preview.revision_id,
        "draw": preview.ordinal,
        "draw_today": preview.ordinal_today,
        "refused": error_document(preview.refused) if preview.refused else None,
        "odds": [
            {
                "award_id": prospect.award_id,
                "award_title": prospect.title,
                "chance": str(prospect.chance),
                "percent": float(prospect.chance * 100),
                "why": prospect.why,
            }
            for prospect in preview.prospects
        ],
        "total": str(total),
    }


def _bar(share: Fraction) -> Text:
    """At least a sliver for what is not impossible."""
    eighths = round(share * BAR_COLUMNS * 8)
    full, rest = divmod(max(eighths, 1 if share else 0), 8)
    return Text("█" * full + " ▏▎▍▌▋▊▉"[rest].strip(), "cyan")


def explanation_views(stored: StoredDraw, explanation: Explanation) -> tuple[RenderableType, ...]:
    """The draw's facts, its steps, and whether the same award came out again."""
    steps = table("#", "rule", "facts", "verdict", "why", right=("#",))
    for number, step in enumerate(explanation.steps, 1):
        verdict = Text(step.verdict, "bold")
        steps.add_row(str(number), Text(step.rule, "cyan"), Text(step.facts), verdict, Text(step.why))
    won = f"award {explanation.award_id}, {explanation.award_title}"
    if explanation.matches:
        verdict = Text(f"✔ Derived again: {won}. That is what is stored.", "bold green")
    else:
        lines = [f"✘ Derived again: {won}. That is NOT what is stored:", *explanation.differences]
        verdict = Text("\n    ".join(lines), "bold red")
    return (pairs(draw_facts(stored)), steps, verdict)


def explanation_document(stored: StoredDraw, explanation: Explanation) -> Document:
    """The same as JSON."""
    return {
        "order_id": stored.order_id,
        "user_id": stored.user_id,
        "activity_id": stored.activity_id,
        "time": moment(stored.order_time_ms, time_zone=stored.time_zone),
        "time_zone": stored.time_zone,
        "request_id": stored.request_id,
        "award_id": stored.award_id,
        "award_title": stored.award_title,
        "award_state": stored.award_state,
        "revision_id": stored.revision_id,
        "revision_sha256": stored.revision_sha256,
        "epoch": stored.epoch,
        "epoch_open": stored.epoch_open,
        "seed_sha256": stored.seed_sha256,
        "seed": None if stored.epoch_open else stored.seed.hex(),
        "rolled": stored.rolled,
        "trace": stored.trace,
        "steps": [
            {"rule": step.rule, "facts": step.facts, "verdict": step.verdict, "why": step.why}
            for step in explanation.steps
        ],
        "derived_award_id": explanation.award_id,
        "matches": explanation.matches,
        "differences": list(explanation.differences),
    }


def draw_facts(stored: StoredDraw) -> dict[str, object]:
    """The header of an explanation."""
    state = "open: its seed is revealed when it closes" if stored.epoch_open else "closed"
    facts: dict[str, object] = {
        "order": stored.order_id,
        "user": stored.user_id,
        "activity": f"{stored.activity_id} {stored.activity_name}",
        "time": f"{moment(stored.order_time_ms, time_zone=stored.time_zone)} ({stored.time_zone})",
        "request id": stored.request_id or "none",
        "award": f"{stored.award_id} {stored.award_title} ({stored.award_state})",
        "revision": stored.revision_sha256,
        "seed epoch": f"{stored.epoch} ({state})",
        "seed hash": stored.seed_sha256,
    }
    return facts if stored.epoch_open else {**facts, "seed": stored.seed.hex()}


def findings_table(findings: Sequence[Finding]) -> Table:
    """A tick or a cross for every promise."""
    made = table("", "", "promise", "broken", "seconds", right=("broken", "seconds"))
    for finding in findings:
        mark = Text("✔", "green") if finding.ok else Text("✘", "bold red")
        broken = "" if finding.ok else f"{finding.count:,}"
        made.add_row(mark, finding.name, Text(finding.title), Text(broken, "bold red"), f"{finding.seconds:.3f}")
    return made


def findings_document(findings: Sequence[Finding]) -> Document:
    """Every promise, and the first rows that break it, as JSON."""
    return {
        "ok": all(finding.ok for finding in findings),
        "findings": [
            {
                "name": finding.name,
                "title": finding.title,
                "ok": finding.ok,
                "count": finding.count,
                "rows": list(finding.rows),
                "seconds": round(finding.seconds, 3),
            }
            for finding in findings
        ],
    }


def rows_table(finding: Finding) -> Table:
    """The first rows that break a promise."""
    shown = f", the first {len(finding.rows)}" if len(finding.rows) < finding.count else ""
    columns = list(dict.fromkeys(name for row in finding.rows for name in row))
    made = table(*columns, title=f"{finding.name} {finding.title}: {counted(finding.count, 'row')}{shown}")
    for row in finding.rows:
        made.add_row(*(Text("" if row.get(name) is None else str(row[name])) for name in columns))
    return made


def epoch_document(row: RowMapping, *, time_zone: str, now_ms: int) -> Document:
    """A row of ``seed_epoch`` as JSON; its seed only once nobody draws with it any more."""
    closed_ms = row["close_time_ms"]
    revealed = closed_ms is not None and closed_ms + REVEAL_AFTER_MS <= now_ms
    return {
        "epoch": row["epoch"],
        "open": closed_ms is None,
        "opened": moment(row["open_time_ms"], time_zone=time_zone),
        "closed": None if closed_ms is None else moment(closed_ms, time_zone=time_zone),
        "seed_sha256": row["seed_sha256"],
        "seed": bytes(row["seed"]).hex() if revealed else None,
    }


def epoch_facts(epoch: Document) -> dict[str, object]:
    """A seed epoch for people, one line per fact, so that hash and seed can be copied whole."""
    state = Text("open", "green") if epoch["open"] else Text("closed")
    seed = epoch["seed"] or Text("revealed some seconds after the epoch closes", "dim")
    facts = {"epoch": Text.assemble((str(epoch["epoch"]), "bold"), "  ", state), "opened": epoch["opened"]}
    if not epoch["open"]:
        facts["closed"] = epoch["closed"]
    return {**facts, "seed hash": epoch["seed_sha256"], "seed": seed}


def parked_table(found: Sequence[Found]) -> Table:
    """What is parked, for people."""
    made = table("id", "where", "topic", "user", "attempts", "reason", right=("attempts",))
    for where, shard, task in found:
        made.add_row(
            Text(task.message_id),
            f"{where} {shard}",
            Text(task.topic),
            Text(task.user_id),
            str(task.attempts),
            Text(task.reason, "red"),
        )
    return made


def parked_documents(found: Sequence[Found]) -> Document:
    """What is parked, as JSON."""
    return {
        "parked": [
            {
                "message_id": task.message_id,
                "where": where,
                "shard": shard,
                "topic": task.topic,
                "user_id": task.user_id,
                "attempts": task.attempts,
                "reason": task.reason,
                "message": _message(task.message),
            }
            for where, shard, task in found
        ]
    }


def _message(body: bytes) -> object:
    """A message that is no JSON may be the very reason why it is parked."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
