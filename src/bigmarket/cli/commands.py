"""Every command: what it takes, whom it asks, what it answers."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bigmarket.activity.armory import read_revision
from bigmarket.activity.campaign import campaign_schema, schema_text
from bigmarket.activity.orders import SKU_MAX
from bigmarket.app import KIND_CHECKS, new_seed, now_ms
from bigmarket.cli import applying, buying, demo, drawing, earning, importing, results
from bigmarket.cli.claims import claim_commands
from bigmarket.cli.codes import codes
from bigmarket.cli.console import counted, counting, print_views, warning_lines, working
from bigmarket.cli.credits import credit_commands
from bigmarket.cli.deliveries import deliveries, delivery_line, delivery_of
from bigmarket.cli.parked import parked_commands
from bigmarket.cli.session import Json, Session, Stopped
from bigmarket.cli.stages import stages
from bigmarket.cli.switches import switches
from bigmarket.cli.voids import void, void_commands, void_document, void_line
from bigmarket.cli.webhooks import webhooks
from bigmarket.errors import NotFound
from bigmarket.importing.sources import stage_databases, stage_dumps
from bigmarket.importing.terms import Options
from bigmarket.preview import preview
from bigmarket.replay import explain as derive_again
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.campaign_rows import rows_where
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.doctor import TASK_LAG_LIMIT_MS, examine
from bigmarket.storage.escrowed import StockOfAll
from bigmarket.storage.rebates_read import REBATES_MAX, rebate_orders
from bigmarket.storage.replays import stored_draw
from bigmarket.storage.schema import raffle_activity, seed_epoch
from bigmarket.storage.voids import void_of
from bigmarket.text import KEY_MAX, clean_text

TIMES_MAX = 100_000
TOKEN_HOURS_MAX = 8760

RUN, CAMPAIGNS, DRAWS, CARE = "Run", "Campaigns", "Draws", "Care"  # the panels of --help

app = typer.Typer(
    name="bigmarket",
    help="A raffle and rewards engine. Every command takes --json; docs/cli.md has examples.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(parked_commands, name="parked", rich_help_panel=CARE)
app.add_typer(deliveries, name="deliveries", rich_help_panel=CARE)
app.add_typer(claim_commands, name="claims", rich_help_panel=CARE)
app.add_typer(codes, name="codes", rich_help_panel=CARE)
app.command("void", rich_help_panel=CARE)(void)
app.add_typer(void_commands, name="voids", rich_help_panel=CARE)
app.add_typer(webhooks, name="webhooks", rich_help_panel=CARE)
app.add_typer(credit_commands, name="credits", rich_help_panel=DRAWS)
app.add_typer(stages, name="stages", rich_help_panel=CAMPAIGNS)
app.add_typer(switches, name="switches", rich_help_panel=RUN)

ActivityId = Annotated[int, typer.Argument(metavar="ACTIVITY", min=1, max=SKU_MAX, help="Id of the activity.")]
User = Annotated[str, typer.Option("--user", metavar="USER", help="The user's id.")]


@app.callback()
def options(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="FOLDER", help="Folder with the data, in place of BIGMARKET_HOME."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before the command."""
    session: Session = ctx.obj
    session.home, session.debug = home, debug


# --- run ----------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=RUN)
def serve(
    ctx: typer.Context,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, max=64, help="Processes, in place of BIGMARKET_WORKERS."),
    ] = None,
    work: Annotated[
        bool | None,
        typer.Option("--work/--no-work", help="Also deliver and run jobs, in place of BIGMARKET_WORK."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C; logs go to stderr."""
    session: Session = ctx.obj
    session.workers, session.work = workers, work
    _serve(session, lambda url: session.answer({"url": url}, as_json=as_json))


@app.command("work", rich_help_panel=RUN)
def run_work(ctx: typer.Context, as_json: Json = False) -> None:
    """Deliver what draws won and run the jobs, without serving draws; health and metrics answer at the port."""
    from bigmarket.api.server import work  # noqa: PLC0415  slow to import

    session: Session = ctx.obj
    raise typer.Exit(work(session.settings(), ready=lambda url: session.answer({"url": url}, as_json=as_json)))


@app.command(rich_help_panel=RUN)
def token(
    ctx: typer.Context,
    user: User,
    hours: Annotated[
        float, typer.Option("--hours", metavar="HOURS", min=0.01, max=TOKEN_HOURS_MAX, help="How long it is valid.")
    ] = 12,
    as_json: Json = False,
) -> None:
    """Print a token that lets a user call the API for themselves; the first of BIGMARKET_TOKEN_SECRETS signs it."""
    from bigmarket.api.tokens import Tokens  # noqa: PLC0415  slow to import

    session: Session = ctx.obj
    signed = Tokens.of(session.settings(), now_ms=now_ms).sign(user, hours=hours)
    session.answer({"user": user, "token": signed, "hours": hours}, Text(signed), as_json=as_json)


@app.command("demo", rich_help_panel=RUN)
def run_demo(
    ctx: typer.Context,
    and_serve: Annotated[bool, typer.Option("--serve", help="Go on to serve the API.")] = False,
    as_json: Json = False,
) -> None:
    """Load the demo campaign, arm it, and give the user xiaofuge 10,000 draws; once set up, it stays as it is."""
    session: Session = ctx.obj
    settings = session.settings()
    with working("Setting up the demo"), session.world(create=True) as world:
        stands = demo.set_up(world)

    def show(url: str | None) -> None:
        screen = demo.screen(stands, settings, command=session.command_line, url=url)
        session.answer(demo.document(stands, settings, url=url), *screen, as_json=as_json)

    if and_serve:
        _serve(session, show)
    else:
        show(None)


def _serve(session: Session, ready: Callable[[str], None]) -> None:
    settings = session.settings()
    if settings.workers > 1:
        from bigmarket.api.supervisor import supervise  # noqa: PLC0415  the parent needs nothing of the server

        raise typer.Exit(supervise(settings, ready=ready))
    from bigmarket.api.server import serve  # noqa: PLC0415  slow to import, and only these two commands need it

    raise typer.Exit(serve(settings, ready=ready))


@app.command(rich_help_panel=RUN)
def version(ctx: typer.Context, as_json: Json = False) -> None:
    """Print the version."""
    session: Session = ctx.obj
    document = {"version": version_of("bigmarket"), "python": platform.python_version()}
    session.answer(document, Text(document["version"]), as_json=as_json)


# --- campaigns ----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=CAMPAIGNS)
def apply(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Campaign files (YAML).")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking, also in a terminal.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    as_json: Json = False,
) -> None:
    """Check campaign files, show what they change, and write it in one transaction.

    Every problem of every file is listed, and then nothing is written. In a terminal it asks before it writes.
    What is written becomes live with armory.
    """
    session: Session = ctx.obj
    if yes and dry_run:
        raise typer.BadParameter("choose --yes or --dry-run")
    asks = not yes and not as_json and sys.stdin.isatty()
    with working("Checking"):
        campaigns = applying.read_files(files)
    if dry_run and not session.has_store():
        planned, writes = applying.plan_first(campaigns), False
        _show(planned, as_json=as_json)
    else:
        with session.stores(create=True) as stores:
            store = stores.config
            planned = applying.plan(store, campaigns)
            _show(planned, as_json=as_json)
            writes = not dry_run and any(item.changes for item in planned)
            writes = writes and not (asks and not typer.confirm("Write this?", err=True))
            if writes:
                applying.write(store, planned)
    document = {"written": writes, "campaigns": [applying.planned_document(item) for item in planned]}
    session.answer(document, applying.closing_line(planned, writes, command=session.command_line), as_json=as_json)


def _show(planned: Sequence[applying.Planned], *, as_json: bool) -> None:
    if not as_json:
        print_views(*(view for item in planned for view in applying.planned_views(item)))


@app.command(rich_help_panel=CAMPAIGNS)
def armory(ctx: typer.Context, activity_id: ActivityId, as_json: Json = False) -> None:
    """Compile an activity's configuration and make it live, everywhere within a second."""
    session: Session = ctx.obj
    started = time.perf_counter()
    with working(f"Arming activity {activity_id}"), session.stores() as stores:
        armed = arm_installation(stores, activity_id, kinds=KIND_CHECKS, now_ms=now_ms(), new_seed=new_seed)
    seconds = time.perf_counter() - started
    session.answer(
        results.armed_document(armed, seconds=seconds),
        Text(f"Activity {activity_id} is armed ({seconds:.2f} s)", "bold"),
        results.pairs(results.armed_facts(armed)),
        warning_lines(armed.warnings, source=f"activity {activity_id}"),
        as_json=as_json,
    )


@app.command(rich_help_panel=CAMPAIGNS)
def epochs(ctx: typer.Context, activity_id: ActivityId, as_json: Json = False) -> None:
    """List an activity's seed epochs; a seed is revealed once its epoch is closed."""
    session: Session = ctx.obj
    with session.stores() as stores, stores.config.reading() as connection:
        activity = rows_where(connection, raffle_activity, activity_id=activity_id)
        if not activity:
            raise NotFound(f"There is no activity {activity_id}; load its campaign file with `bigmarket apply`.")
        rows = rows_where(connection, seed_epoch, activity_id=activity_id)
    found = [results.epoch_document(row, time_zone=activity[0]["time_zone"], now_ms=now_ms()) for row in rows]
    hint = None if found else Text(f"No epoch yet; {session.command_line(f'armory {activity_id}')} opens the first.")
    views = [results.pairs(results.epoch_facts(epoch)) for epoch in found]
    session.answer({"activity_id": activity_id, "epochs": found}, hint, *views, as_json=as_json)


@app.command(rich_help_panel=CAMPAIGNS)
def schema(ctx: typer.Context, as_json: Json = False) -> None:
    """Print the JSON Schema of campaign files, for editors."""
    session: Session = ctx.obj
    session.answer(campaign_schema(), Text(schema_text().rstrip()), as_json=as_json)


# --- draws --------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=DRAWS)
def recharge(
    ctx: typer.Context,
    user: User,
    sku: Annotated[int, typer.Option("--sku", metavar="SKU", min=1, max=SKU_MAX, help="The bundle of draws.")],
    out_business_no: Annotated[
        str,
        typer.Option("--out-business-no", metavar="NUMBER", help="Your number for this recharge; counts only once."),
    ],
    as_json: Json = False,
) -> None:
    """Credit a user with a sku's draws, once per out-business number."""
    session: Session = ctx.obj
    with working("Recharging"), session.world() as world:
        order = world.recharge(user, sku=sku, out_business_no=out_business_no)
        account = demo.account_after(world, order)
    total, month, day = order.counts
    draws = f"{counted(total, 'draw')}, at most {month:,} more a month and {day:,} more a day"
    line = (
        Text(f"{order.out_business_no} was credited before ({draws}); nothing was changed.", "yellow")
        if order.repeated
        else Text(f"{order.user_id} was credited with {draws}, in activity {order.activity_id}.", "green")
    )
    session.answer(results.recharge_document(order, account), line, results.account_table(account), as_json=as_json)


app.command(rich_help_panel=DRAWS)(buying.exchange)
app.command(rich_help_panel=DRAWS)(buying.place)
app.command(rich_help_panel=DRAWS)(buying.orders)


@app.command(rich_help_panel=DRAWS)
def draw(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    user: User,
    activity_id: Annotated[
        int, typer.Option("--activity", metavar="ACTIVITY", min=1, max=SKU_MAX, help="Id of the activity.")
    ],
    request_id: Annotated[
        str | None,
        typer.Option("--request-id", metavar="ID", help="Repeating it gives the same draw; with --times: ID-1, ..."),
    ] = None,
    times: Annotated[int, typer.Option("--times", metavar="N", min=1, max=TIMES_MAX, help="How often.")] = 1,
    as_json: Json = False,
) -> None:
    """Draw for a user, once or several times; Ctrl-C stops and keeps what was drawn."""
    session: Session = ctx.obj
    user_id = clean_text(user, name="user", max_length=KEY_MAX)
    request_ids = drawing.request_ids_of(request_id, times=times)
    with session.running_world() as world, counting("Drawing", total=times) as progress:
        spree = drawing.draw_many(
            world, user_id=user_id, activity_id=activity_id, request_ids=request_ids, progress=progress
        )
    if spree.refused is not None and not spree.drawn:
        raise spree.refused
    document = {
        "user_id": user_id,
        "activity_id": activity_id,
        **drawing.spree_document(spree.drawn, asked=times),
    }
    views = drawing.spree_views(spree.drawn, asked=times, command=session.command_line)
    if spree.refused is not None or spree.interrupted:
        raise Stopped(spree.refused, document, *views)
    session.answer(document, *views, as_json=as_json)


@app.command(rich_help_panel=DRAWS)
def explain(
    ctx: typer.Context,
    order_id: Annotated[str, typer.Argument(metavar="ORDER_ID", help="The draw's order id.")],
    as_json: Json = False,
) -> None:
    """Say rule by rule why a draw gave its award; exit 1 if the stored award is not what comes out again."""
    session: Session = ctx.obj
    wanted = clean_text(order_id, name="order id", max_length=KEY_MAX)
    with session.stores() as stores:
        stored = stored_draw(stores, wanted.upper())
        if stored is None:
            raise NotFound(f"There is no draw with order id {wanted}.")
        delivery = delivery_of(stores, stored.user_id, stored.order_id)
        with stores.of(stored.user_id).reading() as connection:
            voided = void_of(connection, stored.order_id)
    explanation = derive_again(stored, read_revision(stored.document))
    session.answer(
        {
            **results.explanation_document(stored, explanation),
            "delivery": delivery,
            "voided": void_document(voided),
        },
        *results.explanation_views(stored, explanation),
        delivery_line(delivery),
        void_line(voided),
        as_json=as_json,
    )
    if not explanation.matches:
        raise typer.Exit(1)


@app.command(rich_help_panel=DRAWS)
def odds(ctx: typer.Context, activity_id: ActivityId, user: User, as_json: Json = False) -> None:
    """Show the exact odds that a user has now, award by award, with reasons."""
    session: Session = ctx.obj
    user_id = clean_text(user, name="user", max_length=KEY_MAX)
    with session.stores() as stores:
        with stores.config.reading() as connection:
            live = load_live(connection, {})
        with stores.of(user_id).drawing() as tx:
            everywhere = StockOfAll(tx, stock_left=stores.stock_left)
            seen = preview(everywhere, user_id=user_id, activity_id=activity_id, live=live, now_ms=now_ms())
    title = f"The next draw of {user_id} in activity {activity_id} is number {seen.ordinal}"
    refused = Text(f"It cannot be made now: {seen.refused}", "yellow") if seen.refused else None
    session.answer(
        results.odds_document(seen),
        Text(f"{title} ({seen.ordinal_today} today), revision {seen.revision_id}", "bold"),
        refused,
        results.odds_table(seen),
        as_json=as_json,
    )


@app.command(rich_help_panel=DRAWS)
def behave(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    user: User,
    behavior: Annotated[str, typer.Option("--behavior", metavar="NAME", help="What the user did, such as sign.")],
    activity_id: Annotated[
        int | None,
        typer.Option(
            "--activity",
            metavar="ACTIVITY",
            min=1,
            max=SKU_MAX,
            help="Id of the activity; without, all that are open.",
        ),
    ] = None,
    out_business_no: Annotated[
        str | None,
        typer.Option("--out-business-no", metavar="NUMBER", help="Its number, which counts once; without, the day."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a user's behavior, such as signing in, once; what it earns is given at once."""
    session: Session = ctx.obj
    with session.running_world() as world:
        behaved = earning.behave(world, user, behavior, activity_id=activity_id, out_business_no=out_business_no)
    session.answer(earning.behaved_document(behaved), *earning.behaved_views(behaved), as_json=as_json)


@app.command(rich_help_panel=DRAWS)
def rebates(
    ctx: typer.Context,
    user: User,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=REBATES_MAX, help="How many at most.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List what a user's behavior earned, newest first, and whether it was given."""
    session: Session = ctx.obj
    user_id = clean_text(user, name="user", max_length=KEY_MAX)
    with session.stores() as stores:
        store = stores.of(user_id)
        with store.reading() as connection:
            orders = rebate_orders(connection, store.split, user_id, limit=limit)
    session.answer(earning.rebates_document(user_id, orders), earning.rebates_view(orders), as_json=as_json)


# --- moving in ----------------------------------------------------------------------------------------------------


@app.command("import", rich_help_panel=CARE)
def import_databases(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    urls: Annotated[
        list[str],
        typer.Argument(metavar="URL...", help="Its databases, each as mysql://user:password@host/database."),
    ],
    repair: importing.Repair = False,
    undelivered: importing.UndeliveredAwards = None,
    time_zone: importing.TimeZone = importing.SHANGHAI,
    no_arm: importing.NoArm = False,
    dry_run: importing.DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring a live reference installation over; its databases are only read, and nothing is written twice here."""
    options = importing.options_of(repair, undelivered, time_zone, no_arm=no_arm, dry_run=dry_run, now_ms=now_ms())
    _import(ctx.obj, lambda staged, say: stage_databases(staged, urls, say=say), options, as_json=as_json)


@app.command("import-dump", rich_help_panel=CARE)
def import_dump(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="SQL dumps of all its databases: .sql, or .sql.gz.")
    ],
    repair: importing.Repair = False,
    undelivered: importing.UndeliveredAwards = None,
    time_zone: importing.TimeZone = importing.SHANGHAI,
    no_arm: importing.NoArm = False,
    dry_run: importing.DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring a reference installation over from SQL dumps; no server is needed, and none of the SQL is executed."""
    options = importing.options_of(repair, undelivered, time_zone, no_arm=no_arm, dry_run=dry_run, now_ms=now_ms())
    _import(ctx.obj, lambda staged, say: stage_dumps(staged, files, say=say), options, as_json=as_json)


def _import(session: Session, fill: importing.Fill, options: Options, *, as_json: bool) -> None:
    report = importing.bring_over(session, fill, options)
    session.answer(report.document(), *importing.views(report, session.command_line), as_json=as_json)
    if report.refused:
        raise typer.Exit(1)


# --- care ---------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=CARE)
def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Check every promise against the stored data; exit 1 if one is broken."""
    session: Session = ctx.obj
    with session.stores() as stores, working("Examining") as step:
        grace_ms = TASK_LAG_LIMIT_MS if session.settings().broker else 0
        findings = examine(stores, now_ms=now_ms(), grace_ms=grace_ms, progress=step)
    broken = [finding for finding in findings if not finding.ok]
    session.answer(
        results.findings_document(findings),
        results.findings_table(findings),
        *(results.rows_table(finding) for finding in broken),
        Text(f"{len(broken)} of {len(findings)} promises are broken.", "bold red")
        if broken
        else Text(f"All {len(findings)} promises hold.", "bold green"),
        as_json=as_json,
    )
    if broken:
        raise typer.Exit(1)
