"""Which addresses webhooks may reach."""

from __future__ import annotations

import ipaddress

import pytest

from bigmarket.errors import BadInput, ConfigurationInvalid
from bigmarket.settings import load_settings
from bigmarket.webhooks.address import AddressRefused, Allowed, fault_of, look_up, reachable, read_url

NOBODY = Allowed()

REFUSED = {
    "127.0.0.1": "loopback",
    "127.9.9.9": "loopback",
    "::1": "loopback",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "192.168.1.1": "private",
    "fd00:ec2::254": "private",
    "198.18.0.1": "private",
    "169.254.169.254": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "site-local",
    "168.63.129.16": "metadata",
    "100.100.100.200": "not public",
    "0.0.0.0": "no address",  # noqa: S104
    "::": "no address",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::ffff:10.0.0.1": "a form of 10.0.0.1, private",
    "::ffff:169.254.169.254": "a form of 169.254.169.254, link-local",
    "2002:7f00:1::": "a form of 127.0.0.1, loopback",
    "64:ff9b::a00:1": "a form of 10.0.0.1, private",
    "64:ff9b:1::a9fe:a9fe": "a form of 169.254.169.254, link-local",
    "::7f00:1": "a form of 127.0.0.1, loopback",
    "2001:0:4136:e378:8000:63bf:80ff:fffe": "a form of 127.0.0.1, loopback",
}


@pytest.mark.parametrize(("text", "fault"), REFUSED.items())
def test_no_address_that_is_not_public_is_called(text: str, fault: str) -> None:
    assert fault in (fault_of(ipaddress.ip_address(text)) or "")
    with pytest.raises(AddressRefused, match="BIGMARKET_WEBHOOK_ALLOW"):
        reachable("crm.example", 443, allowed=NOBODY, resolve=lambda *_: [text])


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_ones_are(text: str) -> None:
    assert reachable("crm.example", 443, allowed=NOBODY, resolve=lambda *_: [text]) == [text]


def test_one_bad_address_of_several_is_enough() -> None:
    with pytest.raises(AddressRefused, match=r"crm\.example leads to 10\.0\.0\.1, which is private"):
        reachable("crm.example", 443, allowed=NOBODY, resolve=lambda *_: ["8.8.8.8", "10.0.0.1"])


def test_a_listed_host_may_be_private_but_no_more_than_that() -> None:
    allowed = Allowed(hosts=("crm.internal",))
    assert reachable("crm.internal", 80, allowed=allowed, resolve=lambda *_: ["10.0.0.1"]) == ["10.0.0.1"]
    assert reachable("crm.internal", 80, allowed=allowed, resolve=lambda *_: ["127.0.0.1"]) == ["127.0.0.1"]
    with pytest.raises(AddressRefused):
        reachable("crm.internal", 80, allowed=allowed, resolve=lambda *_: ["169.254.169.254"])
    with pytest.raises(AddressRefused):
        reachable("other.internal", 80, allowed=allowed, resolve=lambda *_: ["10.0.0.1"])


def test_a_listed_network_may_be_anything() -> None:
    allowed = Allowed(networks=(ipaddress.ip_network("10.1.0.0/16"),))
    assert reachable("crm.example", 80, allowed=allowed, resolve=lambda *_: ["10.1.2.3"]) == ["10.1.2.3"]
    with pytest.raises(AddressRefused):
        reachable("crm.example", 80, allowed=allowed, resolve=lambda *_: ["10.2.2.3"])


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost"])
def test_numbers_in_disguise_are_judged_by_where_they_lead(host: str) -> None:
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1|::1"):
        reachable(host, 80, allowed=NOBODY, resolve=look_up)


def test_a_name_without_address_is_told() -> None:
    with pytest.raises(AddressRefused, match="no address"):
        reachable("crm.example", 443, allowed=NOBODY, resolve=lambda *_: [])


# --- URLs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "1 to 512 ASCII characters"),
        ("https://crm.example/" + "a" * 500, "1 to 512 ASCII characters"),
        ("https://crm.example/a b", "no space"),
        ("https://crm.example/\n", "no space"),
        ("https://crm.bücher/", "xn-- form"),
        ("http://crm.example/", "must begin with https://"),
        ("ftp://crm.example/", "must begin with https://"),
        ("crm.example", "must begin with https://"),
        ("https:///path", "must name a host"),
        ("https://crm_%2e.example/", "must name a host"),
        ("https://user:password@crm.example/", "no user name or password"),
        ("https://user@crm.example/", "no user name or password"),
        ("https://crm.example/#part", "no fragment"),
        ("https://crm.example:99999/", "cannot be read"),
        ("https://[::1", "cannot be read"),
    ],
)
def test_what_is_no_endpoint(url: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        read_url(url, allowed=NOBODY)


def test_what_is_one() -> None:
    target = read_url("https://Crm.Example:8443/hooks?key=1", allowed=NOBODY)
    assert (target.host, target.port, target.path) == ("crm.example", 8443, "/hooks?key=1")
    assert read_url("https://crm.example", allowed=NOBODY).path == "/"
    assert read_url("http://crm.internal/", allowed=Allowed(hosts=("crm.internal",))).port == 80
    networks = (ipaddress.ip_network("127.0.0.1"),)
    assert read_url("http://127.0.0.1:8000/", allowed=Allowed(networks=networks)).scheme == "http"


# --- the setting --------------------------------------------------------------------------------------------------


def test_what_may_be_reached_is_read_as_hosts_and_networks() -> None:
    settings = load_settings({"BIGMARKET_WEBHOOK_ALLOW": "CRM.internal, 10.1.0.0/16,127.0.0.1,::1"})
    assert settings.webhook_hosts == ("crm.internal",)
    assert [str(network) for network in settings.webhook_networks] == ["10.1.0.0/16", "127.0.0.1/32", "::1/128"]


@pytest.mark.parametrize("value", ["10.1.2.3/16", "http://crm.internal", "crm internal", "crm.internal:8080", "*"])
def test_what_is_neither_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"neither a host, such as crm\.internal, nor a network"):
        load_settings({"BIGMARKET_WEBHOOK_ALLOW": value})
