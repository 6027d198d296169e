"""The demo: the reference's campaign, armed, and one user with draws. Setting it up again changes nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from bigmarket.activity.campaign import Campaign, parse_campaign
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.orders import QuotaOrder
from bigmarket.activity.quota import Account, empty_account, period_of, roll_over
from bigmarket.app import KIND_CHECKS, World
from bigmarket.cli.console import Document
from bigmarket.cli.results import account_document, pairs
from bigmarket.settings import Settings
from bigmarket.storage.campaigns import read_campaign, write_campaign
from bigmarket.storage.codes import pools, upload_codes
from bigmarket.storage.queries import account_of
from bigmarket.web import DEMO_ACTIVITY, DEMO_USER

ACTIVITY = DEMO_ACTIVITY
USER = DEMO_USER
SKU = 9001
SIGN_IN_SKU = 9011
OUT_BUSINESS_NO = "demo-xiaofuge"
POOL = "payment-coupon"
CODES = 100  # as many as can be won
CODE_CHARACTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # none that is taken for another

_FILE = f"{ACTIVITY}.yaml"


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo as it stands, and which of its four steps this very run had to take."""

    activity: LiveActivity
    account: Account
    loaded: bool
    filled: bool
    armed: bool
    credited: bool


def set_up(world: World) -> Demo:
    """Load the campaign unless the activity exists, fill its pool of codes unless it has any, arm it unless it is,
    credit the user unless that was done.
    """
    with world.stores.config.writing() as connection:
        loaded = read_campaign(connection, ACTIVITY) is None
        if loaded:
            write_campaign(connection, demo_campaign())
    filled = not any(pool.pool == POOL and pool.free + pool.taken for pool in pools(world.stores))
    if filled:
        upload_codes(world.stores, POOL, (new_code() for _ in range(CODES)), now_ms=world.now_ms())
    world.live.refresh()
    armed = world.live.current[ACTIVITY].revision is None
    if armed:
        world.arm(ACTIVITY)
    order = world.recharge(USER, sku=SKU, out_business_no=OUT_BUSINESS_NO)
    activity = world.live.current[ACTIVITY]
    return Demo(activity, account_after(world, order), loaded, filled, armed, not order.repeated)


def new_code() -> str:
    """A redemption code such as ``PAY-7QX2-M9KD``."""
    one, other = ("".join(secrets.choice(CODE_CHARACTERS) for _ in range(4)) for _ in range(2))
    return f"PAY-{one}-{other}"


def account_after(world: World, order: QuotaOrder) -> Account:
    """What the user of a recharge has now, in that activity."""
    period = period_of(world.now_ms(), zone=world.live.current[order.activity_id].zone)
    with world.stores.of(order.user_id).reading() as connection:
        account = account_of(connection, order.user_id, order.activity_id) or empty_account(period)
    roll_over(account, period)
    return account


def demo_campaign() -> Campaign:
    """The demo's campaign file: inside an installed package, or in the examples of a checkout."""
    packaged = files("bigmarket") / "examples" / _FILE
    source = packaged if packaged.is_file() else Path(__file__).parents[3] / "examples" / _FILE
    return parse_campaign(source.read_text(encoding="utf-8"), source=_FILE, kinds=KIND_CHECKS)


def document(stands: Demo, settings: Settings, *, url: str | None) -> Document:
    """The demo as JSON; ``url`` when it is being served."""
    revision = stands.activity.revision
    assert revision is not None, "set_up armed it"
    return {
        "home": str(settings.home),
        "database": str(settings.database_path),
        "url": url,
        "page": _page(url, settings) if url else None,
        "activity_id": ACTIVITY,
        "revision_id": revision.revision_id,
        "user_id": USER,
        "account": account_document(stands.account),
        "loaded": stands.loaded,
        "filled": stands.filled,
        "armed": stands.armed,
        "credited": stands.credited,
    }


def screen(
    stands: Demo, settings: Settings, *, command: Callable[[str], str], url: str | None
) -> tuple[RenderableType, ...]:
    """What is there, where, and what to try."""
    server = Text(f"{url}  (API documentation: {url}/docs)") if url else Text(f"not started: {command('serve')}")
    done = ", ".join(step for step, new in _steps(stands).items() if new) or "nothing; all of it was there before"
    facts = {
        "serving": server,
        **({"play": Text(_page(url, settings), "bold")} if url else {}),
        "data": f"{settings.database_path}  (the folder is BIGMARKET_HOME)",
        "campaign": f"{ACTIVITY} {stands.activity.name}, armed",
        "user": f"{USER}, {stands.account.total_left:,} draws left, {stands.account.day_left:,} of them today",
        "set up now": done,
    }
    host = url or f"http://{settings.host}:{settings.port}"
    return (Text("bigmarket demo", "bold"), pairs(facts), _to_try(host, settings=settings, command=command))


def _page(host: str, settings: Settings) -> str:
    """The player page of the demo's user, who needs a token where the server has keys."""
    player = f"#token=<a token of {USER}>" if settings.server_keys else f"?userId={USER}"
    return f"{host}/play/{ACTIVITY}{player}"


def _steps(stands: Demo) -> dict[str, bool]:
    return {
        "campaign loaded": stands.loaded,
        f"{CODES} codes uploaded": stands.filled,
        "armed": stands.armed,
        f"{USER} credited": stands.credited,
    }


def _to_try(host: str, *, settings: Settings, command: Callable[[str], str]) -> Text:
    """Lines to copy; one line per command, so that copying works whatever the width."""
    key = " -H 'authorization: Bearer <one of BIGMARKET_SERVER_KEYS>'" if settings.server_keys else ""
    raffle = f"{host}/api/v1/raffle"
    body = f"""-H 'content-type: application/json' -d '{{"userId":"{USER}","activityId":{ACTIVITY}}}'"""
    lines = {
        "Arm the campaign (again, after a change)": f"curl '{raffle}/activity/armory?activityId={ACTIVITY}'{key}",
        f"Draw for {USER}; the header bigmarket-order-id names the draw": (
            f"curl -i {raffle}/activity/draw{key} {body}"
        ),
        "The wheel as the user sees it": f"curl {raffle}/strategy/query_raffle_award_list{key} {body}",
        "How many draws are left": f"curl {raffle}/activity/query_user_activity_account{key} {body}",
        "Credit a new user with the sign-in bundle": command(
            f"recharge --user you --sku {SIGN_IN_SKU} --out-business-no you-1"
        ),
        "What was claimed on the player page and waits to be shipped": command("claims list"),
        "Why did a draw give what it gave?": command("explain <order id>"),
    }
    text = Text("\nTry:\n")
    for what, line in lines.items():
        text.append(f"\n  # {what}\n", "dim").append(f"  {line}\n", "cyan")
    return text
