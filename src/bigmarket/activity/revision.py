"""A Revision: one activity's configuration, immutable, named by the hash of its canonical JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from bigmarket.activity.quota import Bundle
from bigmarket.award.model import Award
from bigmarket.rebate.model import Rebate
from bigmarket.strategy.wheel import Wheel


@dataclass(frozen=True, slots=True)
class Revision:
    """``document`` is the canonical JSON it was compiled from, ``sha256`` its hash (64 hex digits).

    ``awards`` by award id, ``bundles`` by sku.
    """

    sha256: str
    document: str
    wheel: Wheel
    awards: Mapping[int, Award]
    bundles: Mapping[int, Bundle]
    rebates: tuple[Rebate, ...]

    @property
    def revision_id(self) -> str:
        """Its short name: the first 16 hex digits of the hash."""
        return revision_id_of(self.sha256)


def hash_of(document: str) -> str:
    """SHA-256 of a canonical document, in hex."""
    return sha256(document.encode()).hexdigest()


def revision_id_of(digest: str) -> str:
    """The short name that records carry."""
    return digest[:16]
