"""A movement of points. Amounts are integer hundredths (``*_cents``); no balance moves without an order."""

from __future__ import annotations

from typing import Literal, NamedTuple

from bigmarket.errors import BigmarketError

#: Why points moved.
TradeName = Literal["award", "rebate", "exchange"]
TradeType = Literal["forward", "reverse"]


class CreditAccountClosed(BigmarketError):
    """The user's credit account is not ``open``; nothing was moved."""

    code = "credit_account_closed"


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
