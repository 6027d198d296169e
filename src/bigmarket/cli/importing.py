"""``import`` and ``import-dump``: bring a reference installation over, and say what that came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bigmarket.activity.armory import nearest_zone
from bigmarket.activity.model import zone_of
from bigmarket.app import KIND_CHECKS, new_seed
from bigmarket.cli.console import counted, problem_line, working
from bigmarket.cli.results import pairs, table
from bigmarket.cli.session import Session, Stopped
from bigmarket.errors import BadInput, BigmarketError
from bigmarket.importing.loader import import_staged
from bigmarket.importing.report import CampaignResult, Report, Tally
from bigmarket.importing.sources import Say
from bigmarket.importing.staging import Staging, staging
from bigmarket.importing.terms import Options, Target, Undelivered
from bigmarket.storage.installation import Stores

EXAMPLES_SHOWN = 2
SHANGHAI = "Asia/Shanghai"

Fill = Callable[[Staging, Say], None]

# --- what both commands take --------------------------------------------------------------------------------------

Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Mend what is broken in the source and list every change. Without it, campaigns that cannot be armed "
        "are left out, and users' rows come as broken as they are.",
    ),
]
UndeliveredAwards = Annotated[
    Undelivered | None,
    typer.Option(
        "--undelivered",
        help="Awards that were won and never delivered: keep them as they are (the default), deliver them now (the "
        "default with --repair; this gives credits to their winners), or complete: let them count as delivered.",
    ),
]
TimeZone = Annotated[
    str, typer.Option("--time-zone", metavar="ZONE", help="By whose clock the reference's database wrote its times.")
]
NoArm = Annotated[bool, typer.Option("--no-arm", help="Do not make the campaigns live.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be brought over.")]

# --- the import ---------------------------------------------------------------------------------------------------


def options_of(
    repair: bool, undelivered: Undelivered | None, time_zone: str, *, no_arm: bool, dry_run: bool, now_ms: int
) -> Options:
    """What was asked for. Raises BadInput for an unknown zone."""
    if zone_of(time_zone) is None:
        raise BadInput(f"Unknown time zone `{time_zone}`. {nearest_zone(time_zone)}.")
    then: Undelivered = undelivered or ("deliver" if repair else "keep")
    return Options(time_zone, now_ms, repair=repair, undelivered=then, arm=not no_arm, dry_run=dry_run)


def bring_over(session: Session, fill: Fill, options: Options) -> Report:
    """Stage the source with ``fill``, then import it.

    Raises ``Stopped`` with what was brought over when it ends early.
    """
    report = Report(repair=options.repair, dry_run=options.dry_run)
    with working("Importing") as say, staging() as staged:
        fill(staged, say)
        with _stores(session, dry_run=options.dry_run) as stores:
            target = Target(stores, KIND_CHECKS, new_seed)
            try:
                import_staged(staged, target, options, report=report, say=say)
            except KeyboardInterrupt as interrupt:
                raise Stopped(None, report.document(), *views(report, session.command_line)) from interrupt
            except BigmarketError as cause:
                raise Stopped(cause, report.document(), *views(report, session.command_line)) from cause
    return report


@contextmanager
def _stores(session: Session, *, dry_run: bool) -> Iterator[Stores | None]:
    """The installation's databases; none when there are none and nothing shall be written."""
    if dry_run and not session.has_store():
        yield None
        return
    with session.stores(create=True) as stores:
        yield stores


def views(report: Report, command: Callable[[str], str]) -> list[RenderableType]:
    """The report for people."""
    shown: list[RenderableType] = [_tables(report)]
    if report.skipped:
        reasons = {f"{name}: {reason}": tally for (name, reason), tally in sorted(report.skipped.items())}
        shown.append(_tallies("skipped", reasons))
    if report.notes:
        shown.append(_tallies("to know", dict(sorted(report.notes.items()))))
    if report.faults:
        shown += _faults(report)
    shown += [view for campaign in report.campaigns for view in _campaign(campaign, report)]
    shown.append(_closing(report, command))
    return shown


def _tables(report: Report) -> Table:
    names = ("read", "written", "there already", "merged", "skipped")
    made = table(
        "table",
        *names,
        title=f"rows of the reference system{', as they would be' if report.dry_run else ''}",
        right=names,
    )
    for name, count in sorted(report.tables.items()):
        numbers = (count.read, count.written, count.there_already, count.merged, count.skipped)
        made.add_row(Text(name), *(f"{number:,}" if number else Text("0", "dim") for number in numbers))
    return made


def _tallies(title: str, tallies: dict[str, Tally]) -> Table:
    made = table("", "rows", "such as", title=title, right=("rows",))
    for what, tally in tallies.items():
        made.add_row(Text(what), f"{tally.count:,}", Text(_examples(tally), "dim"))
    return made


def _examples(tally: Tally) -> str:
    shown = tally.examples[:EXAMPLES_SHOWN]
    rest = tally.count - len(shown)
    return "\n".join([*shown, f"and {rest:,} more"] if rest else shown)


def _faults(report: Report) -> list[RenderableType]:
    columns = ("doctor", "fault", "", "rows", "such as")
    made = table(*columns, title="broken in the source", right=("rows",))
    for (fault, mended), tally in sorted(report.faults.items(), key=itemgetter(0)):
        fate = Text.assemble(
            ("repaired: " if mended else "left; --repair: ", "green" if mended else "red"), fault.remedy
        )
        made.add_row(fault.check, Text(fault.title), fate, f"{tally.count:,}", Text(_examples(tally), "dim"))
    added = pairs({f"rows added to {name}": f"{count:,}" for name, count in sorted(report.added.items())})
    return [made, added] if report.added else [made]


def _campaign(campaign: CampaignResult, report: Report) -> Iterator[RenderableType]:
    style = {"imported": "bold green", "refused": "bold red"}.get(campaign.outcome, "dim")
    source = f"activity {campaign.activity_id}"
    revision = f", revision {campaign.revision_id}" if campaign.revision_id else ""
    yield Text.assemble((f"\n{source}", "bold"), f" {campaign.name}: ", (campaign.outcome, style), revision)
    if campaign.outcome == "refused":
        for problem in campaign.problems:
            yield problem_line(problem, source=source, style="red")
    if campaign.repairs:
        told = campaign.outcome == "imported"
        yield Text("  repaired:" if told else "  --repair would change:", "yellow")
        for line in campaign.repairs:
            yield Text(f"    {line}")
    if campaign.remaining and campaign.outcome == "refused":
        yield Text("  no repair mends:" if not report.repair else "  still wrong after the repairs:", "red")
        for problem in campaign.remaining:
            yield problem_line(problem, source=source, style="red")
    for warning in campaign.warnings:
        yield problem_line(warning, source=source, style="yellow")
    if campaign.stock and campaign.outcome == "imported":
        yield Text("  stock, where the reference's own count lags:", "dim")
        for line in campaign.stock:
            yield Text(f"    {line}", "dim")


def _closing(report: Report, command: Callable[[str], str]) -> Text:
    done = f"{report.users_done:,} of {counted(report.users, 'user')}"
    if report.dry_run:
        line = Text(f"\nNothing was written; {done} were looked at.", "yellow")
    else:
        line = Text(f"\n{done} are here. Next: {command('doctor')}", "bold green")
    if report.refused:
        mendable = all(campaign.repairs and not campaign.remaining for campaign in report.refused)
        hint = "Run this again with --repair to make the changes listed above, or" if mendable else "To go on,"
        line.append(
            f"\nNot brought over, with their users' rows: {counted(len(report.refused), 'campaign')} that cannot be "
            f"armed. {hint} write campaign files yourself, apply and arm them, then import again.",
            "bold red",
        )
    return line
