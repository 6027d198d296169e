"""A movement of points. Amounts are integer hundredths (``*_cents``); no balance moves without an order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from bigmarket.errors import BadInput, BigmarketError
from bigmarket.text import KEY_MAX, clean_text

AMOUNT_CENTS_MAX = 10**12  # of one adjustment
EXCHANGE = "exchange_"  # begins the numbers of exchanges
REASON_MAX = 255

#: Why points moved.
TradeName = Literal["award", "rebate", "exchange", "adjust", "void"]
TradeType = Literal["forward", "reverse"]
AccountStatus = Literal["open", "close"]


class CreditAccountClosed(BigmarketError):
    """The user's credit account is not ``open``; nothing was moved."""

    code = "credit_account_closed"


class CreditShort(BigmarketError):
    """The user has not enough points; nothing was moved."""

    code = "credit_short"
    v1_code = "ERR_CREDIT_001"


class CreditAccount(NamedTuple):
    """What a user may spend, and whether they may."""

    available_cents: int
    account_status: AccountStatus = "open"


class CreditTrade(NamedTuple):
    """One credit order to be: ``amount_cents`` is signed and not 0; ``out_business_no`` can be used only once."""

    order_id: str
    user_id: str
    trade_name: TradeName
    amount_cents: int
    out_business_no: str

    @property
    def trade_type(self) -> TradeType:
        """``forward`` gives points, ``reverse`` takes them."""
        return "forward" if self.amount_cents > 0 else "reverse"


@dataclass(frozen=True, slots=True)
class CreditOrder:
    """One movement of points; ``repeated`` when it was answered from an earlier one with its ``out_business_no``."""

    order_id: str
    user_id: str
    trade_name: str
    amount_cents: int
    out_business_no: str
    create_time_ms: int
    reason: str | None
    repeated: bool = False


def clean_number(out_business_no: str) -> str:
    """An out_business_no from outside. Raises BadInput, also for one that an exchange could have."""
    number = clean_text(out_business_no, name="out_business_no", max_length=KEY_MAX)
    if number.startswith(EXCHANGE):
        raise BadInput(f"Numbers that begin with {EXCHANGE} are kept for exchanges; use another out_business_no.")
    return number


def adjustment(
    *, order_id: str, user_id: str, amount_cents: int, reason: str, out_business_no: str, now_ms: int
) -> CreditOrder:
    """A credit order that somebody outside asks for. Raises BadInput."""
    if not 0 < abs(amount_cents) <= AMOUNT_CENTS_MAX:
        raise BadInput(f"the amount must be 0.01 to {in_credits(AMOUNT_CENTS_MAX)} credits, given or taken.")
    return CreditOrder(
        order_id,
        clean_text(user_id, name="user_id", max_length=KEY_MAX),
        "adjust",
        amount_cents,
        clean_number(out_business_no),
        now_ms,
        clean_text(reason, name="reason", max_length=REASON_MAX),
    )


def in_credits(cents: int) -> str:
    """An amount as people write it: 12.50."""
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02}"
