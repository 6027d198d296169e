"""What users have had, page by page, on every backend; on MySQL each query reads one range of one index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Select, Table, insert, text

from bigmarket.ids import Ids
from bigmarket.storage import history
from bigmarket.storage import schema as t
from bigmarket.storage.contract import Store
from bigmarket.storage.history import Place, Slice, latest_raffle_orders
from bigmarket.storage.routing import SplitTables
from databases import Databases
from support import DAY, NOON

Query = Callable[[Connection, SplitTables, str, Slice], Sequence[Any]]
QUERIES: list[Query] = [history.award_records, history.draws, history.credit_orders, history.quota_orders]
USERS = ("ann", "bob", "cid", "dan", "eve")
EACH = 23
IDS = Ids()  # of its own: its ids never lie behind those it made before, whatever other tests made


def fill(store: Store, users: Sequence[str], *, each: int) -> None:
    """A past for everyone: half of it imported, so that its order ids tell no time; three at a time."""
    for user in users:
        rows: dict[Table, list[dict[str, object]]] = {}
        for number in range(each):
            time_ms = NOON - 10**9 + number // 3 * 1000
            imported = number < each // 2
            order_id = f"{(number * 7919 + hash_of(user)) % 10**12:012}" if imported else IDS.make(time_ms)
            activity_id = 1 + number % 2
            mine = {"order_id": order_id, "user_id": user}
            rows.setdefault(t.user_raffle_order, []).append(
                {**mine, "activity_id": activity_id, "order_state": "used", "order_day": "2026-11-08"}
                | {"order_time_ms": time_ms}
            )
            rows.setdefault(t.user_award_record, []).append(
                {**mine, "activity_id": activity_id, "strategy_id": 9, "award_id": 1, "award_title": "points"}
                | {"award_index": 1, "award_state": "completed", "award_time_ms": time_ms, "revision_id": "r"}
                | {"epoch": 1, "trace": "1/1|all"}
            )
            rows.setdefault(t.user_credit_order, []).append(
                {**mine, "trade_name": "award", "trade_type": "forward", "amount_cents": number + 1}
                | {"out_business_no": order_id, "create_time_ms": time_ms}
            )
            rows.setdefault(t.raffle_activity_order, []).append(
                {**mine, "activity_id": activity_id, "sku": 11, "total_count": 1, "month_count": 1, "day_count": 1}
                | {"pay_cents": 5, "state": "completed", "out_business_no": order_id, "order_time_ms": time_ms}
            )
        with store.writing() as connection:
            for table, values in rows.items():
                connection.execute(insert(store.split.table_of(table, user)), values)


def hash_of(user: str) -> int:
    return int.from_bytes(user.encode()) * 104_729


@pytest.fixture
def filled(store: Store) -> Store:
    fill(store, USERS, each=EACH)
    return store


def pages(store: Store, query: Query, user: str, *, limit: int, activity_id: int | None = None) -> list[list[Any]]:
    """Every page until one is short."""
    found: list[list[Any]] = []
    after = None
    while not found or len(found[-1]) == limit:
        with store.reading() as connection:
            rows = list(query(connection, store.split, user, Slice(after, limit, activity_id)))
        found.append(rows)
        after = Place(rows[-1].time_ms, rows[-1].order_id) if rows else None
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.__name__)
@pytest.mark.parametrize("limit", [1, 4, 100])
def test_pages_show_every_row_once_newest_first(filled: Store, query: Query, limit: int) -> None:
    for user in USERS[:2]:
        rows = [row for page in pages(filled, query, user, limit=limit) for row in page]
        assert len(rows) == len({row.order_id for row in rows}) == EACH
        places = [(row.time_ms, row.order_id) for row in rows]
        assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("query", [q for q in QUERIES if q is not history.credit_orders], ids=lambda q: q.__name__)
def test_pages_of_one_activity(filled: Store, query: Query) -> None:
    rows = [row for page in pages(filled, query, "ann", limit=4, activity_id=2) for row in page]
    assert len(rows) == EACH // 2
    assert {row.activity_id for row in rows} == {2}


def test_nothing_is_shown_of_others(filled: Store) -> None:
    for query in QUERIES:
        assert pages(filled, query, "nobody", limit=5) == [[]]


def test_a_row_that_comes_meanwhile_disturbs_no_page(filled: Store) -> None:
    with filled.reading() as connection:
        first = history.credit_orders(connection, filled.split, "ann", Slice(None, 5))
    with filled.writing() as connection:
        row = {"order_id": IDS.make(NOON), "user_id": "ann", "trade_name": "award", "trade_type": "forward"}
        row |= {"amount_cents": 1, "out_business_no": "new", "create_time_ms": NOON}
        connection.execute(insert(filled.split.table_of(t.user_credit_order, "ann")).values(row))
    after = Place(first[-1].time_ms, first[-1].order_id)
    with filled.reading() as connection:
        rest = history.credit_orders(connection, filled.split, "ann", Slice(after, 100))
    assert len(first) + len(rest) == EACH


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_all_users_orders_newest_first_and_imported_ones_last(filled: Store, limit: int) -> None:
    found: list[Any] = []
    after, page = None, None
    while page is None or len(page) == limit:
        page = latest_raffle_orders([filled], after=after, limit=limit, now_ms=NOON)
        found += page
        after = found[-1].order_id
    assert len(found) == len({row.order_id for row in found}) == len(USERS) * EACH
    ids = [row.order_id for row in found]
    own = sum(len(order_id) == 26 for order_id in ids)
    assert {len(order_id) for order_id in ids[:own]} == {26}, "imported ones come last"
    small = sum(order_id < ids[0] for order_id in ids[own:])
    assert ids == [*sorted(ids[: own + small], reverse=True), *sorted(ids[own + small :], reverse=True)]
    assert all(row.award_time_ms == row.order_time_ms for row in found)


@pytest.mark.parametrize("backend", ["sqlite-split"])
def test_orders_of_all_shards_in_one_order(databases: Databases, backend: str) -> None:
    with databases.store(backend) as one, databases.store(backend) as other:
        fill(one, USERS[:2], each=EACH)
        fill(other, USERS[2:], each=EACH)
        found: list[Any] = []
        while page := latest_raffle_orders(
            [one, other], after=found[-1].order_id if found else None, limit=9, now_ms=NOON
        ):
            found += page
    assert len(found) == len({row.order_id for row in found}) == len(USERS) * EACH
    own = [row.order_id for row in found if len(row.order_id) == 26]
    assert own == sorted(own, reverse=True)
    assert {row.user_id for row in found[: len(own)]} == set(USERS)


# --- plans --------------------------------------------------------------------------------------------------------


class Explaining:
    """A connection that notes the plan of every query, and how many rows it walks along."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.plans: list[dict[str, Any]] = []
        self.rows_walked = 0

    def execute(self, query: Select[Any]) -> Any:
        sql = str(query.compile(dialect=self._connection.dialect, compile_kwargs={"literal_binds": True}))
        rows = self._connection.execute(text("EXPLAIN " + sql.replace(":", "\\:"))).mappings().all()
        self.plans += [dict(row) for row in rows]
        before = self._walked()
        found = self._connection.execute(query)
        self.rows_walked += self._walked() - before
        return found

    def _walked(self) -> int:
        counts = self._connection.execute(text("SHOW SESSION STATUS LIKE 'Handler_read%'")).all()
        return sum(int(value) for name, value in counts if name in ("Handler_read_next", "Handler_read_prev"))


@pytest.fixture(scope="module")
def large(databases: Databases) -> Iterator[Store]:
    with databases.store("mysql") as store:
        fill(store, [f"user-{number}" for number in range(60)], each=40)
        fill(store, ["whale"], each=3_000)
        with store.writing() as connection:
            for table in (t.user_raffle_order, t.user_award_record, t.user_credit_order, t.raffle_activity_order):
                connection.execute(text(f"ANALYZE TABLE {table.name}")).all()
        yield store


@contextmanager
def explained(store: Store) -> Iterator[Explaining]:
    with store.reading() as connection:
        yield Explaining(connection)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.__name__)
@pytest.mark.parametrize("user", ["whale", "user-7"])
@pytest.mark.parametrize("after", [None, Place(NOON - 10**9 + 5_000, "zzz")])
@pytest.mark.parametrize("activity_id", [None, 2])
def test_a_page_is_one_range_of_one_index(
    large: Store, query: Query, user: str, after: Place | None, activity_id: int | None
) -> None:
    part = Slice(after, 21, None if query is history.credit_orders else activity_id)
    with explained(large) as connection:
        query(connection, large.split, user, part)  # type: ignore[arg-type]
    if part.activity_id is None:
        assert connection.rows_walked <= part.limit, "no more than the page shows"
    driving, *joined = connection.plans
    assert driving["type"] in {"ref", "range"}, driving
    assert str(driving["key"]).endswith("_user"), driving
    assert "filesort" not in (driving["Extra"] or ""), driving
    assert "temporary" not in (driving["Extra"] or ""), driving
    assert all(step["type"] in {"eq_ref", "const"} for step in joined), joined


def test_all_users_orders_are_read_by_primary_key(large: Store) -> None:
    with explained(large) as connection:
        after = IDS.make(NOON - 10**9 + DAY)
        list(history._of_part(connection, "", after, 11, IDS.make(NOON + DAY)))  # type: ignore[arg-type]
    for plan in connection.plans:
        assert plan["key"] == "PRIMARY", plan
        assert "filesort" not in (plan["Extra"] or ""), plan
