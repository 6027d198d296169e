"""Pure: one user in one activity, and what mapping each of their rows needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bigmarket.errors import BadInput
from bigmarket.importing import reference as r
from bigmarket.importing.report import Fault, Report
from bigmarket.importing.terms import ActivityFacts, Terms
from bigmarket.importing.users import UserRows, moment_ms

Values = dict[str, Any]  # a row of ours


@dataclass(frozen=True, slots=True)
class Part:
    """The user's rows of the activity, and how to speak of them."""

    user: UserRows
    activity_id: int
    facts: ActivityFacts
    terms: Terms
    report: Report

    def mine(self, kind: type[r.R]) -> list[r.R]:
        """The rows of a kind."""
        return [row for row in self.user.of(kind) if getattr(row, "activity_id", None) == self.activity_id]

    def key(self, number: str = "") -> str:
        """How the report calls a row."""
        return f"{self.user.user_id} {number or f'activity {self.activity_id}'}"

    def number(self, table: str, number: str) -> str:
        """An order id as it will be here."""
        given = self.terms.number(table, number, self.user.user_id)
        if given != number:
            text = f"another user has its number in another table: {table} gets a new one"
            self.report.note(text, key=self.key(given))
        return given

    def state(self, table: str, state: str, known: Mapping[str, str], number: str) -> str | None:
        """A state in our words; None, and told, when there is no such state."""
        if state not in known:
            self.report.skip(table, reason=f"its state is `{state}`", key=self.key(number))
        return known.get(state)

    def when(self, table: str, text: str, row: r.QuotaOrderRow | r.RaffleOrderRow | r.RecordRow) -> int | None:
        """A row's own time; None, and told, when it is none."""
        key = f"{table} {self.key(row.order_id)}"
        try:
            return moment_ms(text, created=row.create_time, terms=self.terms, report=self.report, key=key)
        except BadInput as bad:
            self.report.skip(table, reason=f"its time cannot be read: {bad}", key=self.key(row.order_id))
            return None

    def fault(self, fault: Fault, number: str = "") -> bool:
        """Tell it; whether it is to be repaired."""
        self.report.fault(fault, key=self.key(number), mended=self.terms.repair)
        return self.terms.repair

    def merged(self, table: str, rows: list[r.R], is_now: Callable[[r.R], bool], *, reason: str) -> list[r.R]:
        """The rows of now, which become part of the account's; the others are skipped."""
        kept = []
        for row in rows:
            if is_now(row):
                kept.append(row)
                self.report.table(table).merged += 1
            else:
                self.report.skip(table, reason=reason, key=self.key())
        return kept
