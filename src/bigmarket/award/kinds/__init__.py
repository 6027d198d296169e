"""The kinds of award, one file each. A new kind is a new file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from bigmarket.award.kinds.base import Kind, TaskKind
from bigmarket.award.kinds.nothing import Nothing
from bigmarket.award.kinds.physical import Physical
from bigmarket.award.kinds.user_credit_blacklist import UserCreditBlacklist
from bigmarket.award.kinds.user_credit_random import UserCreditRandom

#: Kinds that a task of the outbox delivers.
TASK_KINDS: Mapping[str, TaskKind] = {kind.name: kind for kind in (UserCreditBlacklist(), UserCreditRandom())}

_OTHER_KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (Nothing(), Physical())}

KINDS: Mapping[str, Kind] = {**_OTHER_KINDS, **TASK_KINDS}
