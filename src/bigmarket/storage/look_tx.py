"""The transactions of looks (activity/looking.py): they lock nothing. An engine's own file words their statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bigmarket.activity.looking import AccountKey, Kept, ShelvesTx
from bigmarket.activity.quota import Account
from bigmarket.storage.bulk import Bulk


@dataclass(frozen=True, slots=True)
class LookStatements:
    """The templates of one engine (bulk.py); keys are accounts, skus and activities."""

    load_accounts: str
    load_units: str
    load_kept: str


class SqlLookTx:
    """``LookTx`` on an open transaction. It sees the stock that is in its own database."""

    def __init__(self, bulk: Bulk, statements: LookStatements) -> None:
        self._bulk = bulk
        self._sql = statements

    def accounts_of(self, keys: Sequence[AccountKey]) -> dict[AccountKey, Account]:
        """The accounts as stored."""
        return {(row[0], row[1]): Account(*row[2:]) for row in self._bulk.select(self._sql.load_accounts, keys)}

    def units_left(self, skus: Sequence[int]) -> dict[int, int]:
        """Units of these skus left here; one that was never armed is left out."""
        return dict(self._bulk.select(self._sql.load_units, [(sku,) for sku in skus]))

    def kept(self, activity_ids: Sequence[int]) -> dict[int, Kept]:
        """The skus of these activities, as configured."""
        found = self._bulk.select(self._sql.load_kept, [(activity_id,) for activity_id in activity_ids])
        return {sku: Kept(count_id, stock) for sku, count_id, stock in found}


class EscrowedShelves:
    """``ShelvesTx`` where stock is in several databases: ``units_left`` of all of them is asked for beside ``tx``."""

    def __init__(self, tx: ShelvesTx, units_left: Callable[[Sequence[int]], dict[int, int]]) -> None:
        self.units_left = units_left
        self.kept = tx.kept
