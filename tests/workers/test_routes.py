"""Addresses, this machine, and the proxies that the user's system names."""

from __future__ import annotations

import pytest

from tests.fakes.upstreams import forget_proxies
from workers.adapter import AdapterError
from workers.codes import Code
from workers.routes import address_of, is_loopback, proxy_for


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_proxies(monkeypatch)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "ftp://host/",
        "host:80",
        "http://",
        "http://user:pw@host/",
        "http://host:port/",
        "http://" + "a" * 300,
        "//host",
    ],
)
def test_a_base_url_that_is_none_is_refused_without_being_repeated(base_url: str) -> None:
    with pytest.raises(AdapterError) as caught:
        address_of(base_url, "Fake")
    assert caught.value.code is Code.UNREACHABLE
    assert not base_url or base_url not in caught.value.message


def test_an_address_has_the_port_of_its_scheme() -> None:
    assert address_of("https://a.example/v1", "x") == ("https", "a.example", 443)
    assert address_of("http://[::1]:8080/v1", "x") == ("http", "::1", 8080)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("a.LOCALHOST.", True),
        ("::1", True),
        ("192.168.1.2", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
    ],
)
def test_this_machine_is_known_by_its_names(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_what_a_machine_is_told_of_itself_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "proxy.example:3128")
    assert proxy_for("http", "metadata.google.internal", "x") is None
    assert proxy_for("http", "metadata.google.internal.example", "x") == "http://proxy.example:3128"


def test_d15_hosts_that_the_user_exempts_are_not_proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inner.example")
    assert proxy_for("https", "inner.example", "x") is None
    assert proxy_for("https", "outer.example", "x") == "http://proxy.example:3128"
