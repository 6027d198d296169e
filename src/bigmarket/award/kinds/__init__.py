"""The kinds of award, one file each. A new kind is a new file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from bigmarket.award.kinds.base import Kind, OutsideKind, TaskKind
from bigmarket.award.kinds.code import Code
from bigmarket.award.kinds.nothing import Nothing
from bigmarket.award.kinds.openai_model import OpenaiModel
from bigmarket.award.kinds.openai_use_count import OpenaiUseCount
from bigmarket.award.kinds.physical import Physical
from bigmarket.award.kinds.sku import Sku
from bigmarket.award.kinds.user_credit_blacklist import UserCreditBlacklist
from bigmarket.award.kinds.user_credit_random import UserCreditRandom
from bigmarket.award.kinds.webhook import Webhook

#: Kinds whose task notes a delivery that is carried out afterwards.
OUTSIDE_KINDS: Mapping[str, OutsideKind] = {
    kind.name: kind for kind in (Code(), OpenaiModel(), OpenaiUseCount(), Webhook())
}

#: Kinds that a task of the outbox delivers.
TASK_KINDS: Mapping[str, TaskKind] = {
    **{kind.name: kind for kind in (Sku(), UserCreditBlacklist(), UserCreditRandom())},
    **OUTSIDE_KINDS,
}

_OTHER_KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (Nothing(), Physical())}

KINDS: Mapping[str, Kind] = {**_OTHER_KINDS, **TASK_KINDS}
