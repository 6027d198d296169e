"""Pools of redemption codes, in the configuration database: fill one, give a code out, see what is left.

A code is reserved for an order in one transaction here and delivered in another one in the winner's shard. The
order's id stands with the code from the first on, so whatever happens in between, the next attempt finds the same
code. It is never given to anybody else: also not when the award is voided before the winner has seen it, as nobody
can tell for sure that they have not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.activity.model import Campaign
from bigmarket.award.deliveries import Answer, AwardDelivery, Fulfilled, Unfulfilled
from bigmarket.award.kinds.code import Code
from bigmarket.errors import BadInput, Contention, Problem
from bigmarket.storage.installation import Stores
from bigmarket.storage.schema import award_delivery, redemption_code
from bigmarket.text import clean_text

CODE_MAX = 128
BATCH = 500
ATTEMPTS_MAX = 5  # to write a batch while others upload the same codes
DUPLICATES_SHOWN_MAX = 20
POOLS_MAX = 1_000


class Uploaded(NamedTuple):
    """What became of a file's codes: ``added``, or ``there`` before; ``duplicates`` stand in it more than once.

    ``duplicate_lines`` are the first of those, by line number.
    """

    added: int = 0
    there: int = 0
    duplicates: int = 0
    duplicate_lines: tuple[int, ...] = ()


class Pool(NamedTuple):
    """A pool: codes that nobody has, codes that were won, and winners who ``wait`` for one."""

    pool: str
    free: int
    taken: int
    waiting: int = 0


class Config(Protocol):
    """The configuration database."""

    def updating(self) -> AbstractContextManager[Connection]:
        """One short write transaction."""
        ...


class CodeFulfiller:
    """Delivers awards of the kind ``code``: their result is a code of the pool that is the delivery's place."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, delivery: AwardDelivery, *, now_ms: int) -> Answer:
        """Reserve a code, or find the one that an earlier attempt reserved. Raises ``Trouble``."""
        with self._config.updating() as connection:
            code = reserve_code(connection, pool=delivery.place, order_id=delivery.order_id, now_ms=now_ms)
        if code is None:
            return Unfulfilled(f"The pool {delivery.place} has no code left; upload more.")
        return Fulfilled({"code": code})


def reserve_code(connection: Connection, *, pool: str, order_id: str, now_ms: int) -> str | None:
    """The order's code: the one it has, else a free one of the pool; None when there is none.

    Raises Contention when others were about to take the last ones.
    """
    c = redemption_code.c
    earlier: str | None = connection.execute(select(c.code).where(c.order_id == order_id)).scalar_one_or_none()
    if earlier is not None:
        return earlier
    free = select(c.code).where(c.pool == pool, c.order_id.is_(None)).order_by(c.code).limit(1)
    free = free.with_hint(redemption_code, "FORCE INDEX (ix_redemption_code_free)", "mysql")
    code: str | None = connection.execute(free.with_for_update(skip_locked=True)).scalar_one_or_none()
    if code is None:
        if connection.execute(free).first() is not None:
            raise Contention(f"Others are taking the last codes of the pool {pool}; nothing was spent. Try again.")
        return None
    take = update(redemption_code).where(c.pool == pool, c.code == code, c.order_id.is_(None))
    try:
        with connection.begin_nested():
            taken = connection.execute(take.values(order_id=order_id, taken_time_ms=now_ms)).rowcount
    except IntegrityError as error:
        raise Contention("Another attempt reserves a code for this order; nothing was spent. Try again.") from error
    if taken != 1:
        raise Contention("Somebody else took that code; nothing was spent. Try again.")
    return code


def upload_codes(
    stores: Stores, pool: str, lines: Iterable[str], *, now_ms: int, progress: Callable[[int], None] = lambda _: None
) -> Uploaded:
    """Add the codes, one a line, batch by batch; those that are there already count as such, so it may be repeated.

    Whoever waits for a code of this pool is due at once afterwards. Raises BadInput for a line that is no code; those
    before it are there then.
    """
    total = Uploaded()
    for batch in _batches(_codes(lines)):
        total = _plus(total, _upload(stores, pool, batch, now_ms=now_ms))
        progress(len(batch))
    for shard in stores.shards:
        with shard.writing() as connection:  # a hundred thousand may wait
            waiting = (_WAITING, award_delivery.c.place == pool)
            due = {"state": "due", "attempts": 0, "next_at_ms": now_ms, "reason": None, "update_time_ms": now_ms}
            connection.execute(update(award_delivery).where(*waiting).values(due))
    return total


def pools(stores: Stores) -> list[Pool]:
    """Every pool that has codes, or winners who wait for one; by name."""
    c = redemption_code.c
    count = select(c.pool, func.count(), func.count(c.order_id)).group_by(c.pool).order_by(c.pool).limit(POOLS_MAX)
    with stores.config.reading() as connection:
        found = {pool: Pool(pool, codes - taken, taken) for pool, codes, taken in connection.execute(count)}
    place = award_delivery.c.place
    for shard in stores.shards:
        with shard.reading() as connection:
            query = select(place, func.count()).where(_WAITING).group_by(place).limit(POOLS_MAX)
            for pool, waiting in connection.execute(query):
                known = found.get(pool, Pool(pool, 0, 0))
                found[pool] = known._replace(waiting=known.waiting + waiting)
    return sorted(found.values())


def codes_missing(connection: Connection, campaign: Campaign) -> Iterator[Problem]:
    """A warning for each pool with fewer codes, those that are taken included, than can be won out of it."""
    pools = {award.award_id: award.config.strip() for award in campaign.awards if award.kind == Code().name}
    wanted: dict[str, int | None] = {}
    for sector in campaign.strategy.awards:
        pool = pools.get(sector.award_id)
        if pool is not None:
            before = wanted.get(pool, 0)
            wanted[pool] = None if before is None or sector.stock is None else before + sector.stock
    for place, award in enumerate(campaign.awards):
        pool = pools.get(award.award_id)
        if pool is None or pool not in wanted:
            continue
        units = wanted.pop(pool)
        count = select(func.count()).select_from(redemption_code).where(redemption_code.c.pool == pool)
        codes = connection.execute(count).scalar_one()
        if units is None or units > codes:
            won = "any number" if units is None else units
            fix = f"Upload more with `bigmarket codes upload {pool} FILE`; whoever wins one too many waits until then"
            yield Problem(f"awards[{place}].config", f"pool `{pool}` has {codes} codes, but {won} can be won", fix)


_WAITING = award_delivery.c.state.in_(("due", "parked")) & (award_delivery.c.award_key == "code")

Numbered = tuple[int, str]  # a line's number from 1, and the code that stands there


def _codes(lines: Iterable[str]) -> Iterator[Numbered]:
    """The codes with their lines; blank lines are left out."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, clean_text(line, name="the code", max_length=CODE_MAX)
            except BadInput as bad:
                raise BadInput(f"Line {number}: {bad} The codes of earlier lines may be there already.") from bad


def _batches(codes: Iterator[Numbered]) -> Iterator[Sequence[Numbered]]:
    while batch := list(islice(codes, BATCH)):
        yield batch


def _upload(stores: Stores, pool: str, batch: Sequence[Numbered], *, now_ms: int) -> Uploaded:
    for _ in range(ATTEMPTS_MAX):
        try:
            with stores.config.updating() as connection:
                return _add(connection, pool, batch, now_ms=now_ms)
        except IntegrityError:  # others upload the same codes; look again what is there
            continue
    raise Contention("Others keep uploading the same codes. Try again; what is there counts as such.")


def _add(connection: Connection, pool: str, batch: Sequence[Numbered], *, now_ms: int) -> Uploaded:
    """What this very upload wrote has its time, which tells a code that stands twice in a file of any size."""
    c = redemption_code.c
    query = select(c.code, c.upload_time_ms).where(c.pool == pool, c.code.in_([code for _, code in batch]))
    known: dict[str, int] = dict(connection.execute(query).tuples().all())
    seen: set[str] = set()
    twice: list[int] = []
    for number, code in batch:
        if code in seen or known.get(code) == now_ms:
            twice.append(number)
        seen.add(code)
    rows = [{"pool": pool, "code": code, "upload_time_ms": now_ms} for code in sorted(seen - known.keys())]
    if rows:
        connection.execute(insert(redemption_code), rows)
    return Uploaded(len(rows), len(batch) - len(rows) - len(twice), len(twice), tuple(twice))


def _plus(one: Uploaded, other: Uploaded) -> Uploaded:
    lines = (one.duplicate_lines + other.duplicate_lines)[:DUPLICATES_SHOWN_MAX]
    return Uploaded(one.added + other.added, one.there + other.there, one.duplicates + other.duplicates, lines)
