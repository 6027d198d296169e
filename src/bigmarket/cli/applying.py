"""``apply``: what campaign files would change, and writing them, all in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text
from sqlalchemy import Connection

from bigmarket.activity.armory import warnings_of
from bigmarket.activity.campaign import Campaign, Change, differences, load_campaign
from bigmarket.app import KIND_CHECKS
from bigmarket.cli.console import Document, FilesInvalid, counted, problem_document, warning_lines
from bigmarket.cli.results import changes_table, moment, pairs
from bigmarket.errors import ConfigurationInvalid, Contention, Duplicate, NotFound, Problem
from bigmarket.rebate.model import Rebate
from bigmarket.storage.campaigns import read_campaign, write_campaign
from bigmarket.storage.contract import Store


@dataclass(frozen=True, slots=True)
class Planned:
    """A campaign file, what is stored of its activity now, and what the file would change."""

    file: Path
    campaign: Campaign
    before: Campaign | None
    changes: tuple[Change, ...]
    warnings: tuple[Problem, ...]

    @property
    def activity_id(self) -> int:
        """The activity it describes."""
        return self.campaign.activity.activity_id


def read_files(files: Sequence[Path]) -> list[tuple[Path, Campaign]]:
    """The campaigns in the files. Raises ConfigurationInvalid or FilesInvalid with the problems of all of them."""
    campaigns: list[tuple[Path, Campaign]] = []
    faults: list[ConfigurationInvalid] = []
    for file in files:
        try:
            campaigns.append((file, load_campaign(file, kinds=KIND_CHECKS)))
        except ConfigurationInvalid as fault:
            faults.append(fault)
        except NotFound as missing:
            reason = str(missing).removeprefix(f"{file}: ")
            faults.append(ConfigurationInvalid(str(file), [Problem("file", reason, "Check its name")]))
    if faults:
        raise faults[0] if len(faults) == 1 else FilesInvalid(faults)
    _refuse_twins(campaigns)
    return campaigns


def plan(store: Store, campaigns: Sequence[tuple[Path, Campaign]]) -> list[Planned]:
    """What would change. It is written and rolled back, so that what the database refuses is known beforehand."""
    with store.writing() as connection, connection.begin_nested() as trial:
        planned = [_planned(connection, file, campaign) for file, campaign in campaigns]
        for item in planned:
            write_campaign(connection, item.campaign)
        trial.rollback()
    return planned


def plan_first(campaigns: Sequence[tuple[Path, Campaign]]) -> list[Planned]:
    """What would change if there were nothing yet."""
    return [_compared(None, file, campaign) for file, campaign in campaigns]


def write(store: Store, planned: Sequence[Planned]) -> None:
    """Write them all. Raises Contention when somebody changed one of them since it was planned."""
    with store.writing() as connection:
        for item in planned:
            if read_campaign(connection, item.activity_id) != item.before:
                raise Contention(
                    f"Activity {item.activity_id} was changed meanwhile; nothing was written. Try again."
                )
            write_campaign(connection, item.campaign)


def planned_document(item: Planned) -> Document:
    """A file's changes as JSON."""
    return {
        "file": str(item.file),
        "activity_id": item.activity_id,
        "name": item.campaign.activity.name,
        "new": item.before is None,
        "changes": [change._asdict() for change in item.changes],
        "warnings": [problem_document(warning) for warning in item.warnings],
    }


def planned_views(item: Planned) -> list[RenderableType]:
    """A file's changes for people: a summary of what is new, a table of what is different."""
    heading = Text.assemble((str(item.file), "bold"), f"  activity {item.activity_id} {item.campaign.activity.name}")
    views: list[RenderableType] = [heading]
    if item.before is None:
        views.append(pairs(_summary(item.campaign)))
    elif item.changes:
        views.append(changes_table(item.changes))
    else:
        views.append(Text("  no change", "dim"))
    warnings = warning_lines(item.warnings, source=str(item.file))
    return views if warnings is None else [*views, warnings]


def closing_line(planned: Sequence[Planned], written: bool, *, command: Callable[[str], str]) -> Text:
    """What was done, and how it becomes live."""
    if not any(item.changes for item in planned):
        return Text("Nothing to write: the database says the same.", "green")
    if not written:
        return Text("Nothing was written.", "yellow")
    changed = [item.activity_id for item in planned if item.changes]
    lines = [Text(f"Written in one transaction: {counted(len(changed), 'campaign')}. To make it live:", "bold green")]
    return Text("\n").join([*lines, *(Text(f"  {command(f'armory {activity_id}')}") for activity_id in changed)])


def _planned(connection: Connection, file: Path, campaign: Campaign) -> Planned:
    return _compared(read_campaign(connection, campaign.activity.activity_id), file, campaign)


def _compared(before: Campaign | None, file: Path, campaign: Campaign) -> Planned:
    return Planned(file, campaign, before, tuple(differences(before, campaign)), tuple(warnings_of(campaign)))


def _refuse_twins(campaigns: Sequence[tuple[Path, Campaign]]) -> None:
    seen: dict[int, Path] = {}
    for file, campaign in campaigns:
        first = seen.setdefault(campaign.activity.activity_id, file)
        if first is not file:
            raise Duplicate(f"{first} and {file} both describe activity {campaign.activity.activity_id}; keep one.")


def _summary(campaign: Campaign) -> dict[str, object]:
    activity, strategy = campaign.activity, campaign.strategy
    window = (round(when.timestamp() * 1000) for when in (activity.begin, activity.end))
    limited = sum(award.stock is not None for award in strategy.awards)
    return {
        "": Text("new", "bold green"),
        "window": " to ".join(moment(when, time_zone=activity.time_zone) for when in window),
        "state": activity.state,
        "awards": f"{len(strategy.awards)}, {limited} of them limited",
        "chain": ", ".join(rule.rule for rule in strategy.chain) or "none",
        "trees": ", ".join(tree.tree_id for tree in strategy.trees) or "none",
        "skus": ", ".join(f"{sku.sku} ({counted(sku.total_count, 'draw')})" for sku in campaign.skus) or "none",
        "rebates": ", ".join(map(_rebate, campaign.rebates)) or "none",
    }


def _rebate(rebate: Rebate) -> str:
    often = f" every {rebate.streak_days} days in a row" if rebate.streak_days else ""
    return f"{rebate.behavior}: {rebate.type}{often}"
