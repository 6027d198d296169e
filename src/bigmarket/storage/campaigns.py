"""Campaigns in the configuration database: write, read, arm, and what runs live.

Every function works on the connection it is given and never commits: the caller's transaction decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, Table, and_, delete, insert, literal, null, or_, select, true, update

from bigmarket.activity.armory import (
    KindCheck,
    compile_revision,
    in_order,
    inspect_campaign,
    read_revision,
    warnings_of,
    window_ms,
)
from bigmarket.activity.model import Campaign, LiveActivity, zone_of
from bigmarket.activity.revision import Revision
from bigmarket.errors import ConfigurationInvalid, Duplicate, NotFound, Problem
from bigmarket.storage import schema as t
from bigmarket.storage.campaign_rows import campaign_of, rows_of, rows_where
from bigmarket.storage.codes import codes_missing
from bigmarket.storage.endpoints import endpoints_missing
from bigmarket.strategy.dice import seed_hash
from bigmarket.strategy.model import Strategy

_IDS_PER_QUERY = 500  # an IN list longer than a thousand is refused by some engines


@dataclass(frozen=True, slots=True)
class Armed:
    """What arming came to: the live revision, whether it is another than before, and the open seed epoch."""

    activity_id: int
    revision_id: str
    changed: bool
    warnings: tuple[Problem, ...]
    epoch: int
    seed_sha256: str
    awards: int


def arm(
    connection: Connection,
    activity_id: int,
    *,
    kinds: Mapping[str, KindCheck],
    now_ms: int,
    new_seed: Callable[[], bytes],
) -> Armed:
    """Compile the stored configuration of an activity, provide its stock, and make it live, all in this database.

    With several, use ``arm_installation`` (arming.py).

    A new seed epoch begins when the revision is another than before. Raises NotFound for an unknown activity and
    ConfigurationInvalid, with all problems, for one that cannot be drawn.
    """
    row, campaign = locked_campaign(connection, activity_id)
    stocks = (_award_stock(connection, campaign.strategy), _sku_stock(connection, campaign))
    problems = inspect_campaign(campaign, kinds=kinds) + [found for stock in stocks for found in _below_sold(stock)]
    if not problems:
        problems = [found for stock in stocks for found in _provide(connection, stock)]
    if problems:
        raise ConfigurationInvalid(f"activity {activity_id}", problems)
    return make_live(connection, row, campaign, now_ms=now_ms, new_seed=new_seed)


def locked_campaign(connection: Connection, activity_id: int) -> tuple[RowMapping, Campaign]:
    """The activity's row, locked (where rows can be) so that those who arm it come one after the other.

    Raises NotFound.
    """
    query = select(t.raffle_activity).where(t.raffle_activity.c.activity_id == activity_id).with_for_update()
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no activity {activity_id}; load its campaign file with `bigmarket apply`.")
    campaign = read_campaign(connection, activity_id)
    assert campaign is not None, "its row is there"
    return row, campaign


def make_live(
    connection: Connection, row: RowMapping, campaign: Campaign, *, now_ms: int, new_seed: Callable[[], bytes]
) -> Armed:
    """Compile a sound campaign whose stock is provided, and let the activity run by it; ``row`` is locked."""
    activity_id = campaign.activity.activity_id
    revision = compile_revision(campaign)
    changed = row["revision_id"] != revision.revision_id
    _keep_revision(connection, activity_id, revision=revision, now_ms=now_ms)
    epoch, seed_sha256 = _epoch_of(connection, activity_id, renew=changed, now_ms=now_ms, new_seed=new_seed)
    connection.execute(
        update(t.raffle_activity)
        .where(t.raffle_activity.c.activity_id == activity_id)
        .values(revision_id=revision.revision_id, epoch=epoch)
    )
    return Armed(
        activity_id=activity_id,
        revision_id=revision.revision_id,
        changed=changed,
        warnings=(
            *warnings_of(campaign),
            *endpoints_missing(connection, campaign),
            *codes_missing(connection, campaign),
        ),
        epoch=epoch,
        seed_sha256=seed_sha256,
        awards=len(campaign.strategy.awards),
    )


def load_live(connection: Connection, known: Mapping[str, Revision]) -> dict[int, LiveActivity]:
    """Every activity as it runs now, by id; documents are read only for revisions not in ``known``."""
    rows = live_activities(connection)
    missing = {(row["activity_id"], row["revision_id"]) for row in rows if row["revision_id"] not in known}
    revisions = {**known, **_read_revisions(connection, missing)}
    return {row["activity_id"]: _live(row, revisions=revisions) for row in rows}


def live_activities(connection: Connection) -> Sequence[RowMapping]:
    """The row of every activity, with seed and beginning of its open epoch (NULL when it was never armed)."""
    activity, epoch = t.raffle_activity, t.seed_epoch
    joined = activity.outerjoin(
        epoch, and_(epoch.c.activity_id == activity.c.activity_id, epoch.c.epoch == activity.c.epoch)
    )
    query = select(activity, epoch.c.seed, epoch.c.seed_sha256, epoch.c.open_time_ms).select_from(joined)
    return connection.execute(query.order_by(activity.c.activity_id)).mappings().all()


def write_campaign(connection: Connection, campaign: Campaign) -> None:
    """Replace the configuration of this activity; what is live stays live until it is armed again.

    Raises ConfigurationInvalid if the campaign has problems, Duplicate if its strategy or a sku belongs to another
    activity.
    """
    if problems := inspect_campaign(campaign):
        raise ConfigurationInvalid(f"activity {campaign.activity.activity_id}", problems)
    _refuse_strangers(connection, campaign)
    _erase(connection, campaign)
    _upsert_activity(connection, campaign)
    for table, rows in rows_of(in_order(campaign)).items():
        if rows:
            connection.execute(insert(table), rows)


def read_campaign(connection: Connection, activity_id: int) -> Campaign | None:
    """The campaign as it was written, in the order of ``in_order``; None if there is no such activity."""
    found = rows_where(connection, t.raffle_activity, activity_id=activity_id)
    if not found:
        return None
    return in_order(campaign_of(connection, found[0]))


def activity_of_strategy(connection: Connection, strategy_id: int) -> int | None:
    """The activity whose wheel this strategy is."""
    query = select(t.raffle_activity.c.activity_id).where(t.raffle_activity.c.strategy_id == strategy_id)
    found: int | None = connection.execute(query).scalar_one_or_none()
    return found


# --- arming -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stock:
    """The stock rows of one table that an activity's configuration provides for.

    ``alloc`` is the units by the column ``key`` (None: unlimited), ``fixed`` the rest of the primary key, ``rows``
    what there is already, ``path`` where the configuration says how many.
    """

    table: Table
    key: str
    fixed: Mapping[str, int]
    alloc: Mapping[int, int | None]
    rows: Mapping[int, RowMapping]
    path: str


def _award_stock(connection: Connection, strategy: Strategy) -> _Stock:
    rows = rows_where(connection, t.award_stock, strategy_id=strategy.strategy_id)
    return _Stock(
        table=t.award_stock,
        key="award_id",
        fixed={"strategy_id": strategy.strategy_id},
        alloc={award.award_id: award.stock for award in strategy.awards},
        rows={row["award_id"]: row for row in rows},
        path="strategy.awards",
    )


def _sku_stock(connection: Connection, campaign: Campaign) -> _Stock:
    own = select(t.raffle_activity_sku.c.sku).where(
        t.raffle_activity_sku.c.activity_id == campaign.activity.activity_id
    )
    rows = connection.execute(select(t.sku_stock).where(t.sku_stock.c.sku.in_(own))).mappings()
    return _Stock(
        table=t.sku_stock,
        key="sku",
        fixed={},
        alloc={sku.sku: sku.stock for sku in campaign.skus},
        rows={row["sku"]: row for row in rows},
        path="skus",
    )


def _below_sold(stock: _Stock) -> list[Problem]:
    return [
        too_few(f"{stock.path}[{place}].stock", f"{stock.key} {key}", gone=_gone(stock.rows[key]))
        for place, (key, units) in enumerate(stock.alloc.items())
        if units is not None and key in stock.rows and units < _gone(stock.rows[key])
    ]


def _gone(row: RowMapping) -> int:
    """Units that were given and that no void gave back."""
    gone: int = row["sold"] - row.get("returned", 0)
    return gone


def _configured(row: RowMapping) -> int | None:
    """Units that the row was last armed with (None: unlimited)."""
    alloc: int | None = row["alloc"]
    return None if alloc is None else alloc - row.get("returned", 0)


def too_few(path: str, item: str, *, gone: int | None) -> Problem:
    """There are fewer units at ``path`` than are ``gone`` (None: some) of ``item``."""
    units = "units" if gone is None else f"{gone} units"
    reason = f"stock below what is already won: {units} of {item} are gone"
    return Problem(path, reason, "Raise it at least to that")


def _provide(connection: Connection, stock: _Stock) -> list[Problem]:
    """Bring the rows to their units; a row whose units were won meanwhile stays as it is and is a problem."""
    fresh = [
        {**stock.fixed, stock.key: key, "alloc": units, "sold": 0}
        for key, units in stock.alloc.items()
        if key not in stock.rows
    ]
    if fresh:
        connection.execute(insert(stock.table), fresh)
    columns = stock.table.c
    problems = []
    for place, (key, units) in enumerate(stock.alloc.items()):
        if key not in stock.rows or _configured(stock.rows[key]) == units:
            continue
        returned = columns.get("returned", literal(0))  # a unit that a void gave back is one more than configured
        alloc = null() if units is None else units + returned
        this = and_(columns[stock.key] == key, *(columns[name] == value for name, value in stock.fixed.items()))
        enough = true() if units is None else columns.sold <= alloc
        if connection.execute(update(stock.table).where(this, enough).values(alloc=alloc)).rowcount == 0:
            problems.append(too_few(f"{stock.path}[{place}].stock", f"{stock.key} {key}", gone=None))
    return problems


def _keep_revision(connection: Connection, activity_id: int, *, revision: Revision, now_ms: int) -> None:
    if not rows_where(connection, t.activity_revision, activity_id=activity_id, revision_id=revision.revision_id):
        connection.execute(
            insert(t.activity_revision).values(
                activity_id=activity_id,
                revision_id=revision.revision_id,
                sha256=revision.sha256,
                document=revision.document,
                create_time_ms=now_ms,
            )
        )


def _epoch_of(
    connection: Connection, activity_id: int, *, renew: bool, now_ms: int, new_seed: Callable[[], bytes]
) -> tuple[int, str]:
    """The open seed epoch and its hash; with ``renew``, or when there is none, a new one in place of the former."""
    table = t.seed_epoch
    rows = rows_where(connection, table, activity_id=activity_id)
    still_open = [row for row in rows if row["close_time_ms"] is None]
    if still_open and not renew:
        return still_open[-1]["epoch"], still_open[-1]["seed_sha256"]
    connection.execute(
        update(table)
        .where(table.c.activity_id == activity_id, table.c.close_time_ms.is_(None))
        .values(close_time_ms=now_ms)
    )
    seed = new_seed()
    epoch = rows[-1]["epoch"] + 1 if rows else 1
    digest = seed_hash(seed)
    connection.execute(
        insert(table).values(activity_id=activity_id, epoch=epoch, seed_sha256=digest, seed=seed, open_time_ms=now_ms)
    )
    return epoch, digest


# --- what runs live -----------------------------------------------------------------------------------------------


def _read_revisions(connection: Connection, wanted: Iterable[tuple[int, str | None]]) -> dict[str, Revision]:
    found = {}
    for activity_id, revision_id in wanted:
        if revision_id is not None:
            for row in rows_where(connection, t.activity_revision, activity_id=activity_id, revision_id=revision_id):
                found[revision_id] = read_revision(row["document"])
    return found


def _live(row: RowMapping, *, revisions: Mapping[str, Revision]) -> LiveActivity:
    zone = zone_of(row["time_zone"])
    assert zone is not None, "write_campaign refuses an unknown time zone"
    return LiveActivity(
        activity_id=row["activity_id"],
        name=row["activity_name"],
        strategy_id=row["strategy_id"],
        state=row["state"],
        begin_ms=row["begin_ms"],
        end_ms=row["end_ms"],
        zone=zone,
        revision=revisions.get(row["revision_id"]),
        epoch=row["epoch"],
        epoch_open_ms=row["open_time_ms"] or 0,
        seed=bytes(row["seed"] or b""),
    )


# --- writing ------------------------------------------------------------------------------------------------------


def _refuse_strangers(connection: Connection, campaign: Campaign) -> None:
    """Refuse ids that another activity has."""
    activity_id, strategy_id = campaign.activity.activity_id, campaign.strategy.strategy_id
    owner = activity_of_strategy(connection, strategy_id)
    taken = [] if owner in (None, activity_id) else [f"strategy {strategy_id} belongs to activity {owner}"]
    table = t.raffle_activity_sku
    for some in _batches([sku.sku for sku in campaign.skus]):
        # a sku's counts are kept under the sku's own id, which an imported sku of another activity may be using
        theirs = or_(table.c.sku.in_(some), table.c.activity_count_id.in_(some))
        query = select(table).where(theirs, table.c.activity_id != activity_id).order_by(table.c.sku)
        for row in connection.execute(query).mappings():
            number = row["sku"] if row["sku"] in some else row["activity_count_id"]
            taken.append(f"sku {number} belongs to activity {row['activity_id']}")
    if taken:
        raise Duplicate(f"{'; '.join(taken)}. Use other ids in activity {activity_id}.")


def _erase(connection: Connection, campaign: Campaign) -> None:
    """Delete this activity's configuration, except its own row."""
    activity_id = campaign.activity.activity_id
    former = {row["strategy_id"] for row in rows_where(connection, t.raffle_activity, activity_id=activity_id)}
    _erase_counts(connection, activity_id, skus=[sku.sku for sku in campaign.skus])
    for table in (t.raffle_activity_sku, t.award, t.daily_behavior_rebate):
        connection.execute(delete(table).where(table.c.activity_id == activity_id))
    wheels = sorted(former | {campaign.strategy.strategy_id})
    for table in _STRATEGY_TABLES:
        connection.execute(delete(table).where(table.c.strategy_id.in_(wheels)))


_STRATEGY_TABLES = (
    t.strategy,
    t.strategy_award,
    t.strategy_rule,
    t.rule_tree,
    t.rule_tree_node,
    t.rule_tree_node_line,
)


def _erase_counts(connection: Connection, activity_id: int, *, skus: Sequence[int]) -> None:
    """Delete the counts of the activity's skus that no other activity's sku shares."""
    count, sku = t.raffle_activity_count.c.activity_count_id, t.raffle_activity_sku.c
    own = select(sku.activity_count_id).where(sku.activity_id == activity_id)
    shared = select(sku.activity_count_id).where(sku.activity_id != activity_id)
    connection.execute(delete(t.raffle_activity_count).where(count.in_(own), count.not_in(shared)))
    for some in _batches(skus):
        connection.execute(delete(t.raffle_activity_count).where(count.in_(some)))


def _upsert_activity(connection: Connection, campaign: Campaign) -> None:
    """Write the activity's row; of one that exists, the live revision and its epoch stay."""
    activity = campaign.activity
    begin_ms, end_ms = window_ms(activity)
    values = {
        "activity_name": activity.name,
        "activity_desc": activity.description,
        "time_zone": activity.time_zone,
        "begin_ms": begin_ms,
        "end_ms": end_ms,
        "strategy_id": campaign.strategy.strategy_id,
        "state": activity.state,
    }
    if rows_where(connection, t.raffle_activity, activity_id=activity.activity_id):
        this = t.raffle_activity.c.activity_id == activity.activity_id
        connection.execute(update(t.raffle_activity).where(this).values(values))
    else:
        connection.execute(insert(t.raffle_activity).values(activity_id=activity.activity_id, **values))


def _batches(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _IDS_PER_QUERY):
        yield ids[start : start + _IDS_PER_QUERY]
