"""Dice follow from their seed, and no face is likelier than another."""

from __future__ import annotations

import hmac
from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.strategy.dice import roll, seed_hash

SEED = bytes(range(32))
ORDER = "01JABCDEFGHJKMNPQRSTVWXYZ0"


@pytest.mark.parametrize(
    ("order_id", "purpose", "faces", "rolled"),
    [
        (ORDER, "award", 100, 42),
        (ORDER, "award", 10**12, 118292249442),
        (ORDER, "credit", 100, 77),
        ("", "award", 7, 6),
        ("签到", "award", 2**127, 77375030093735960087636256331077411544),
    ],
)
def test_rolls_are_reproducible_for_ever(order_id: str, purpose: str, faces: int, rolled: int) -> None:
    assert roll(SEED, order_id, purpose=purpose, faces=faces) == rolled


def test_anyone_can_compute_a_roll_from_the_published_recipe() -> None:
    digest = hmac.new(SEED, f"{ORDER}|award|0".encode(), sha256).digest()
    assert roll(SEED, ORDER, purpose="award", faces=1000) == int.from_bytes(digest[:16], "big") % 1000


@given(st.binary(min_size=1, max_size=200), st.text(st.characters(codec="utf-8"), max_size=40))
def test_it_is_hmac_with_seeds_of_any_length(seed: bytes, order_id: str) -> None:
    digest = hmac.new(seed, f"{order_id}|award|0".encode(), sha256).digest()
    assert roll(seed, order_id, purpose="award", faces=1 << 127) == int.from_bytes(digest[:16], "big") % (1 << 127)


def test_a_number_in_the_uneven_rest_is_rolled_again() -> None:
    faces = (1 << 126) + (1 << 125)  # two laps of 3 * 2^125 in a space of 8 * 2^125: a quarter is rolled again
    limit = (1 << 128) - (1 << 128) % faces
    order_id = next(f"order-{i}" for i in range(1000) if _number(f"order-{i}|p|0") >= limit)
    assert roll(SEED, order_id, purpose="p", faces=faces) == _number(f"{order_id}|p|1") % faces


def _number(text: str) -> int:
    return int.from_bytes(hmac.digest(SEED, text.encode(), "sha256")[:16])


@given(st.binary(min_size=1, max_size=64), st.text(max_size=26), st.integers(1, 2**127))
def test_a_roll_lies_on_the_die(seed: bytes, order_id: str, faces: int) -> None:
    assert 0 <= roll(seed, order_id, purpose="award", faces=faces) < faces


def test_every_face_comes_up_about_equally_often() -> None:
    faces, rolls = 10, 20_000
    counted = Counter(roll(SEED, f"order-{i}", purpose="award", faces=faces) for i in range(rolls))
    expected = rolls / faces
    chi_square = sum((counted[face] - expected) ** 2 / expected for face in range(faces))
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001; the seed is fixed, so this cannot flicker


def test_purposes_and_orders_roll_independently() -> None:
    rolled = {
        roll(SEED, order_id, purpose=purpose, faces=2**64)
        for order_id in (ORDER, "another")
        for purpose in ("award", "credit")
    }
    assert len(rolled) == 4


def test_no_die_without_faces() -> None:
    with pytest.raises(AssertionError):
        roll(SEED, ORDER, purpose="award", faces=0)


def test_the_published_hash_is_the_seeds_sha256() -> None:
    assert seed_hash(SEED) == "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd"
