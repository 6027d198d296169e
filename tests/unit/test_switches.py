"""What can be switched, and how rates are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.errors import BadInput, ConfigurationInvalid
from bigmarket.settings import load_settings
from bigmarket.switches import Rate, Switches, check_switch, rate_of

STANDARD = Switches(user_rate=Rate(5, 1), address_rate=None)


def test_rates_are_read() -> None:
    assert rate_of("5/1s") == Rate(5, 1)
    assert rate_of("100/2m") == Rate(100, 120)
    assert rate_of("1000000/24h") == Rate(1_000_000, 86_400)
    assert rate_of("off") is None
    for bad in (
        "",
        "5",
        "5/s",
        "0/1s",
        "5/0s",
        "1000001/1s",
        "1/25h",
        "-1/1s",
        "5/1d",
        " 5/1s",
        "5/1s\n",
        "٥/1s",
        "Off",
    ):
        with pytest.raises(BadInput, match="100/1m"):
            rate_of(bad)


@given(st.integers(1, 1_000_000), st.integers(1, 86_400))
def test_rates_are_written_as_they_are_read(calls: int, seconds: int) -> None:
    rate = Rate(calls, seconds)
    assert rate_of(Switches(user_rate=rate).written()["rateLimitUser"]) == rate


def test_operators_turn_switches() -> None:
    turned = STANDARD.turned(
        {"degradeSwitch": "open", "rateLimiterSwitch": "open", "rateLimitUser": "off", "rateLimitAddress": "9/1m"}
    )
    assert turned == Switches(degraded=True, limited=True, user_rate=None, address_rate=Rate(9, 60))
    assert turned.written() == {
        "degradeSwitch": "open",
        "rateLimiterSwitch": "open",
        "rateLimitUser": "off",
        "rateLimitAddress": "9/1m",
    }
    assert turned.turned(STANDARD.written()) == STANDARD


def test_what_another_version_said_is_let_be() -> None:
    said = {"degradeSwitch": "half", "somethingNew": "on", "rateLimitUser": "default", "rateLimiterSwitch": "open"}
    assert STANDARD.turned(said) == Switches(limited=True, user_rate=Rate(5, 1))


def test_a_switch_that_cannot_be_turned_so_is_refused_with_what_is_known() -> None:
    with pytest.raises(BadInput, match="degradeSwitch, rateLimiterSwitch, rateLimitUser, rateLimitAddress"):
        check_switch("degrade", "open")
    with pytest.raises(BadInput, match=r"`open` or `close`.*`default`"):
        check_switch("degradeSwitch", "on")
    with pytest.raises(BadInput, match="5/1s"):
        check_switch("rateLimitUser", "open")
    for key, value in (("degradeSwitch", "default"), ("rateLimitAddress", "1/1h"), ("rateLimitUser", "off")):
        check_switch(key, value)


def test_nothing_is_switched_unless_somebody_does() -> None:
    standing = load_settings({}).switches
    assert standing == Switches(degraded=False, limited=False, user_rate=Rate(5, 1), address_rate=Rate(100, 1))
    assert load_settings({"BIGMARKET_RATE_LIMIT_USER": "off"}).switches.user_rate is None
    with pytest.raises(ConfigurationInvalid, match="RATE_LIMIT_USER"):
        load_settings({"BIGMARKET_RATE_LIMIT_USER": "5"})
