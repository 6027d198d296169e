"""Brings what is staged over: campaigns first, then users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from bigmarket.importing.campaigns import map_campaigns, read_configuration
from bigmarket.importing.drafting import Gone
from bigmarket.importing.load_campaigns import load_campaigns
from bigmarket.importing.load_users import load_users
from bigmarket.importing.report import Report
from bigmarket.importing.staging import Staging
from bigmarket.importing.terms import Options, Target, Terms
from bigmarket.importing.users import count_gone, sort_out


def import_staged(
    staging: Staging,
    target: Target,
    options: Options,
    *,
    report: Report,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Bring everything over; ``report`` is always up to what is committed, also when this ends early.

    Raises BadInput (a configuration row that cannot be read), Duplicate (an id that another activity here has),
    StockShort, or a Trouble of the stores. What was committed before stays; running it again goes on from there.
    """
    say("counting what was won")
    gone = _count_gone(staging)
    say("campaigns")
    configuration = read_configuration(staging.configuration())
    mapped = map_campaigns(configuration, time_zone=options.time_zone, kinds=target.kinds, gone=gone)
    activities = load_campaigns(mapped, configuration, target, options, report)
    terms = Terms(options.zone, options.now_ms, activities, options.repair, options.undelivered, staging.collisions())
    report.users = staging.count_users()
    load_users(staging, target, terms, dry_run=options.dry_run, report=report, say=say)


def _count_gone(staging: Staging) -> Gone:
    """Units taken by the rows to come, which is what the reference's own counters lag behind."""
    awards: Counter[tuple[int, int]] = Counter()
    skus: Counter[int] = Counter()
    unread = Report(repair=False, dry_run=True)
    for user_id, rows in staging.users():
        count_gone(sort_out(user_id, rows, home_of=staging.home_of, report=unread), awards=awards, skus=skus)
    return Gone(awards, skus)
