"""``credits``: what a user has and had, and what an operator does about it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy import Row

from bigmarket.cli.console import Document, working
from bigmarket.cli.results import moment, table
from bigmarket.cli.session import Json, Session
from bigmarket.credit.model import AccountStatus, CreditAccount, in_credits
from bigmarket.errors import BadInput, NotFound
from bigmarket.storage import history
from bigmarket.storage.history import Slice
from bigmarket.storage.queries import credit_account_of
from bigmarket.text import KEY_MAX, clean_text

CENTS = 100

credit_commands = typer.Typer(help="Users' credits: look, give, take, close.")

User = Annotated[str, typer.Option("--user", metavar="USER", help="The user's id.")]


@credit_commands.command("show")
def credits_show(
    ctx: typer.Context,
    user: User,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=history.PAGE_MAX, help="How many movements.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Show what a user has, and the last movements, newest first."""
    session: Session = ctx.obj
    user_id = clean_text(user, name="user", max_length=KEY_MAX)
    with session.stores() as stores:
        store = stores.of(user_id)
        with store.reading() as connection:
            account = credit_account_of(connection, user_id)
            orders = history.credit_orders(connection, store.split, user_id, Slice(None, limit))
    if account is None:
        raise NotFound(f"The user {user_id} has no credit account yet.")
    document = {**_account(user_id, account), "orders": [_document(order) for order in orders]}
    session.answer(document, _line(user_id, account), _table(orders), as_json=as_json)


@credit_commands.command("adjust")
def credits_adjust(  # noqa: PLR0917  an option each
    ctx: typer.Context,
    user: User,
    amount: Annotated[
        str, typer.Option("--amount", metavar="CREDITS", help="How many are given, such as 12.50; below 0: taken.")
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the movement.")],
    out_business_no: Annotated[
        str,
        typer.Option("--out-business-no", metavar="NUMBER", help="Your number for this movement; counts only once."),
    ],
    as_json: Json = False,
) -> None:
    """Give or take a user's credits, once per out-business number; it may be the payment of an order that waits."""
    session: Session = ctx.obj
    with working("Adjusting"), session.world() as world:
        order = world.adjust_credits(
            user, amount_cents=cents_of(amount), reason=reason, out_business_no=out_business_no
        )
        with world.stores.of(order.user_id).reading() as connection:
            account = credit_account_of(connection, order.user_id)
    assert account is not None, "an account is opened by the first credits"
    moved = f"{in_credits(abs(order.amount_cents))} credits {'given to' if order.amount_cents > 0 else 'taken from'}"
    line = (
        Text(f"{order.out_business_no} was done before; nothing was changed.", "yellow")
        if order.repeated
        else Text(f"{moved} {order.user_id}.", "green")
    )
    document = {
        "order_id": order.order_id,
        "amount": in_credits(order.amount_cents),
        "out_business_no": order.out_business_no,
        "reason": order.reason,
        "repeated": order.repeated,
        **_account(order.user_id, account),
    }
    session.answer(document, line, _line(order.user_id, account), as_json=as_json)


@credit_commands.command("close")
def credits_close(ctx: typer.Context, user: User, as_json: Json = False) -> None:
    """Close a user's credit account: credits neither come nor go until it is opened again."""
    _set_status(ctx.obj, user, "close", as_json=as_json)


@credit_commands.command("open")
def credits_open(ctx: typer.Context, user: User, as_json: Json = False) -> None:
    """Open a user's credit account again."""
    _set_status(ctx.obj, user, "open", as_json=as_json)


def cents_of(amount: str) -> int:
    """An amount of credits as people write it, in hundredths. Raises BadInput."""
    try:
        cents = Decimal(amount) * CENTS
        if cents == cents.to_integral_value():
            return int(cents)
    except (InvalidOperation, OverflowError, ValueError):
        pass
    raise BadInput("--amount must be a number of credits with two decimals at most, such as 12.50 or -3.")


def _set_status(session: Session, user: str, status: AccountStatus, *, as_json: bool) -> None:
    user_id = clean_text(user, name="user", max_length=KEY_MAX)
    with session.world() as world:
        world.set_credit_status(user_id, status=status)
        with world.stores.of(user_id).reading() as connection:
            account = credit_account_of(connection, user_id)
    assert account is not None, "NotFound was raised"
    session.answer(_account(user_id, account), _line(user_id, account), as_json=as_json)


def _account(user_id: str, account: CreditAccount) -> Document:
    return {
        "user_id": user_id,
        "available": in_credits(account.available_cents),
        "account_status": account.account_status,
    }


def _line(user_id: str, account: CreditAccount) -> Text:
    closed = "" if account.account_status == "open" else "; the account is closed"
    return Text(f"{user_id} has {in_credits(account.available_cents)} credits{closed}.", "bold")


def _document(order: Row[Any]) -> Document:
    return {
        "order_id": order.order_id,
        "time": moment(order.time_ms),
        "trade_name": order.trade_name,
        "amount": in_credits(order.amount_cents),
        "out_business_no": order.out_business_no,
        "reason": order.reason,
    }


def _table(orders: Sequence[Row[Any]]) -> Table:
    made = table("time", "what", "credits", "number", "reason", right=("credits",))
    for order in orders:
        made.add_row(
            moment(order.time_ms),
            Text(order.trade_name),
            Text(in_credits(order.amount_cents), "green" if order.amount_cents > 0 else "red"),
            Text(order.out_business_no),
            Text(order.reason or ""),
        )
    return made
