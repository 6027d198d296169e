"""Which awards' stock is read ahead."""

from __future__ import annotations

from bigmarket.storage.mysql_draw import Rolled


def test_a_wide_wheel_is_not_read_ahead() -> None:
    rolled = Rolled()
    some, others = {(1, n) for n in range(10)}, {(1, n) for n in range(10, 20)}
    rolled.note(some)
    rolled.note({(1, 0)})
    assert rolled.awards == some
    rolled.note(others)
    assert rolled.awards == others  # both together would be too many
    rolled.note(some | others)
    assert rolled.awards == set()
