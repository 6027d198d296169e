"""What an import came to: rows by table, what was skipped and why, what is broken, what was repaired."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from bigmarket.errors import Problem

EXAMPLES_MAX = 5


class Fault(NamedTuple):
    """A kind of known fault in the reference's data: the ``doctor`` check it breaks, and what a repair does."""

    check: str
    title: str
    remedy: str


@dataclass(slots=True)
class Tally:
    """How often something was met, and the first few of it."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """One more."""
        self.count += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(example)

    def absorb(self, other: Tally) -> None:
        """All of the other, too."""
        self.count += other.count
        self.examples += other.examples[: EXAMPLES_MAX - len(self.examples)]


@dataclass(slots=True)
class TableCount:
    """Rows of one of the reference's tables: ``read`` = ``written`` + ``there_already`` + ``merged`` + ``skipped``.

    A merged row is part of another one here: a month's counters of the account, a node of the campaign.
    """

    read: int = 0
    written: int = 0
    there_already: int = 0
    merged: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """What became of an activity: ``imported``, ``there already``, or ``refused`` with all its problems.

    ``repairs`` were made, or (of a refused one) would be made with ``--repair``; ``remaining`` problems are those
    that no repair mends.
    """

    activity_id: int
    name: str
    outcome: str
    problems: tuple[Problem, ...] = ()
    repairs: tuple[str, ...] = ()
    remaining: tuple[Problem, ...] = ()
    stock: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    revision_id: str | None = None


@dataclass(slots=True)
class Report:
    """Everything worth telling; ``users_done`` of ``users`` were brought over so far."""

    repair: bool
    dry_run: bool
    tables: dict[str, TableCount] = field(default_factory=dict)
    skipped: dict[tuple[str, str], Tally] = field(default_factory=dict)  # by table and reason
    faults: dict[tuple[Fault, bool], Tally] = field(default_factory=dict)  # and whether it was mended
    notes: dict[str, Tally] = field(default_factory=dict)
    added: Counter[str] = field(default_factory=Counter)  # rows that have no source, by our table
    campaigns: list[CampaignResult] = field(default_factory=list)
    users: int = 0
    users_done: int = 0

    @property
    def refused(self) -> list[CampaignResult]:
        """The campaigns that armory would refuse."""
        return [campaign for campaign in self.campaigns if campaign.outcome == "refused"]

    def table(self, name: str) -> TableCount:
        """The counts of a table of the reference."""
        return self.tables.setdefault(name, TableCount())

    def skip(self, table: str, *, reason: str, key: str) -> None:
        """A row that is not brought over."""
        self.table(table).skipped += 1
        self.skipped.setdefault((table, reason), Tally()).add(key)

    def fault(self, fault: Fault, *, key: str, mended: bool) -> None:
        """A row that was broken before it came here."""
        self.faults.setdefault((fault, mended), Tally()).add(key)

    def note(self, text: str, *, key: str) -> None:
        """Something done to a row that one should know of."""
        self.notes.setdefault(text, Tally()).add(key)

    def absorb(self, other: Report, *, faults: bool) -> None:
        """Add what was found of one user; without ``faults`` only what became of the rows."""
        for name, count in other.tables.items():
            mine = self.table(name)
            for key in TableCount.__slots__:
                setattr(mine, key, getattr(mine, key) + getattr(count, key))
        for reason, tally in other.skipped.items():
            self.skipped.setdefault(reason, Tally()).absorb(tally)
        if not faults:
            return
        for broken, tally in other.faults.items():
            self.faults.setdefault(broken, Tally()).absorb(tally)
        for note, tally in other.notes.items():
            self.notes.setdefault(note, Tally()).absorb(tally)

    def document(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return {
            "dry_run": self.dry_run,
            "repair": self.repair,
            "users": {"found": self.users, "brought_over": self.users_done},
            "tables": {
                name: {key: getattr(count, key) for key in TableCount.__slots__}
                for name, count in sorted(self.tables.items())
            },
            "skipped": [
                {"table": table, "reason": reason, "count": tally.count, "examples": tally.examples}
                for (table, reason), tally in sorted(self.skipped.items(), key=itemgetter(0))
            ],
            "campaigns": [_campaign_document(campaign) for campaign in self.campaigns],
            "faults": [
                {
                    "check": fault.check,
                    "title": fault.title,
                    "repaired": mended,
                    "remedy": fault.remedy,
                    "count": tally.count,
                    "examples": tally.examples,
                }
                for (fault, mended), tally in sorted(self.faults.items(), key=itemgetter(0))
            ],
            "added": dict(sorted(self.added.items())),
            "notes": [
                {"text": text, "count": tally.count, "examples": tally.examples}
                for text, tally in sorted(self.notes.items(), key=itemgetter(0))
            ],
        }


def _campaign_document(campaign: CampaignResult) -> dict[str, Any]:
    return {
        "activity_id": campaign.activity_id,
        "name": campaign.name,
        "outcome": campaign.outcome,
        "revision_id": campaign.revision_id,
        "problems": [_problem_document(problem) for problem in campaign.problems],
        "repairs": list(campaign.repairs),
        "remaining": [_problem_document(problem) for problem in campaign.remaining],
        "stock": list(campaign.stock),
        "warnings": [_problem_document(problem) for problem in campaign.warnings],
    }


def _problem_document(problem: Problem) -> dict[str, Any]:
    return {"path": problem.path, "reason": problem.reason, "fix": problem.fix}
