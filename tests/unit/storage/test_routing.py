"""Users live where the reference system's router would look for them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.storage.routing import Routing, SplitTables, at, java_hash, part_of
from bigmarket.storage.schema import SPLIT, user_raffle_order

TWO_BY_FOUR = Routing(2, 4)

#: Where rows of the reference data are: shard (its db01 is 0) and table.
PLACES = {
    "xfg": (0, 0),
    "xiaofuge": (0, 1),
    "liergou": (0, 1),
    "liergou2": (0, 2),
    "user003": (0, 2),
    "xfg-test02": (0, 2),
    "xiaofuge26": (0, 3),
    "oxfA9w8-23yvwTmo2ombz0E4zJv4": (0, 3),
    "http://你的地址.natapp1.cc/api/v1/mall/pay_notify": (1, 1),
    "user001": (1, 0),
    "user002": (1, 1),
    "xiaofuge1": (1, 0),
    "xiaofuge2": (1, 3),
    "xiaofuge3": (1, 2),
    "12345": (0, 1),
    "system": (0, 3),
}


@pytest.mark.parametrize("user_id", PLACES)
def test_a_user_of_the_reference_data_stays_where_they_are(user_id: str) -> None:
    assert (TWO_BY_FOUR.shard_of(user_id), TWO_BY_FOUR.table_of(user_id)) == PLACES[user_id]


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0), ("a", 97), ("hello", 99162322), ("polygenelubricants", 1 << 31), ("😀", 1772899)],
)
def test_the_hash_is_java_s(text: str, value: int) -> None:
    """A character beyond the basic plane counts as its two surrogates; the sum wraps at 32 bits."""
    assert java_hash(text) == value


@given(st.text(), st.sampled_from([(1, 1), (2, 4), (8, 1), (1, 4), (4, 16)]))
def test_every_user_has_one_place(user_id: str, layout: tuple[int, int]) -> None:
    routing = Routing(*layout)
    assert 0 <= routing.shard_of(user_id) < routing.shards
    assert 0 <= routing.table_of(user_id) < routing.tables
    assert SplitTables(routing).suffix_of(user_id) in SplitTables(routing).suffixes


def test_users_spread_evenly() -> None:
    places = Counter((TWO_BY_FOUR.shard_of(f"user-{n}"), TWO_BY_FOUR.table_of(f"user-{n}")) for n in range(8_000))
    assert len(places) == 8
    assert min(places.values()) > 800


def test_a_statement_is_pointed_at_a_part_of_each_split_table_and_of_no_other() -> None:
    statement = "SELECT * FROM user_raffle_order o JOIN user_award_record r JOIN raffle_activity_account a"
    parted = "SELECT * FROM user_raffle_order_001 o JOIN user_award_record_001 r JOIN raffle_activity_account a"
    assert at(statement, "_001") == parted
    assert at(statement, "") == statement


def test_rows_go_to_the_parts_of_their_users() -> None:
    split = SplitTables(TWO_BY_FOUR)
    rows = [(user, n) for n, user in enumerate(["xfg", "xiaofuge", "liergou", "user003", "xiaofuge26"])]
    parts = dict(split.parts(rows, lambda row: row[0]))
    assert parts == {"_000": [rows[0]], "_001": [rows[1], rows[2]], "_002": [rows[3]], "_003": [rows[4]]}


def test_parts_have_names_of_their_own_for_what_engines_want_to_be_unique() -> None:
    named = {item.name for n in range(4) for item in part_of(user_raffle_order, f"_{n:03}").indexes}
    assert len(named) == 4 * len(user_raffle_order.indexes)
    assert all(part_of(table, "") is table for table in SPLIT)
