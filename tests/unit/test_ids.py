"""Ids sort by the time and the order in which they were made."""

from __future__ import annotations

from bigmarket.ids import Ids, encode, first_at

NOON = 1_763_726_400_000


def test_ids_that_are_made_together_are_as_many_as_asked_for_and_in_order() -> None:
    ids = Ids()
    made = [*ids.make_many(NOON, 300), ids.make(NOON), *ids.make_many(NOON + 1, 2)]
    assert made == sorted(set(made))
    assert [id_[:10] for id_ in made] == [first_at(NOON)[:10]] * 301 + [first_at(NOON + 1)[:10]] * 2
    assert ids.make_many(NOON, 0) == []


def test_a_clock_that_goes_back_makes_no_smaller_ids() -> None:
    ids = Ids()
    before = ids.make(NOON)
    assert before < ids.make(NOON - 60_000) < ids.make_many(NOON - 1, 2)[1]


def test_the_layout_is_that_of_ulids() -> None:
    assert encode(0) == "0" * 26
    assert encode((1 << 128) - 1) == "7" + "Z" * 25
    assert encode(NOON << 80 | 31) == first_at(NOON)[:10] + "0" * 15 + "Z"
