"""What a failed connection is called, and whether it is worth another try."""

from __future__ import annotations

import ssl

import pytest

from workers.codes import Code
from workers.faults import Fault, Unreachable, unsent

PROXY = "http://user:hunter2@proxy.example:3128"
AGAIN = (Fault.NAME, Fault.CONNECT, Fault.CONNECT_TIME, Fault.PROXY, Fault.CLOSED_WARM)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_is_one_sentence_that_names_the_provider_and_no_password(fault: Fault) -> None:
    error = unsent(fault, "Fake", "host.example:443", PROXY, OSError("secret words"), 407)
    expected = {Fault.NOT_HTTP: Code.UPSTREAM_PROTOCOL, Fault.ANSWER_TIME: Code.TIMEOUT}
    assert error.code is expected.get(fault, Code.UNREACHABLE)
    assert "Fake" in error.message
    assert "{" not in error.message
    assert not any(word in error.message for word in ("hunter2", "user:", "secret words"))
    assert (isinstance(error, Unreachable) and error.transient) == (fault in AGAIN)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ConnectionRefusedError(111, "x"), "refused"),
        (ConnectionResetError(104, "x"), "reset"),
        (TimeoutError(), "timeout"),
        (OSError(101, "x"), "system error 101"),
        (OSError("x"), "failed"),
    ],
)
def test_the_cause_is_said_in_our_words(cause: OSError, words: str) -> None:
    assert f"({words}" in unsent(Fault.CONNECT, "Fake", "h:1", None, cause).message


def test_a_fault_of_tls_keeps_what_the_library_says_of_the_certificate() -> None:
    cause = ssl.SSLError(1, "x")
    cause.reason = "CERTIFICATE_VERIFY_FAILED"
    assert "(certificate verify failed)" in unsent(Fault.TLS, "Fake", "h:1", None, cause).message


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        (PROXY, "proxy.example:3128"),
        ("http://proxy.example", "proxy.example"),
        ("http://p:x", "p"),
        (None, "of the system"),
    ],
)
def test_a_proxy_is_shown_by_host_and_port(proxy: str | None, shown: str) -> None:
    assert f"the proxy {shown} (" in unsent(Fault.PROXY, "Fake", "h:1", proxy, OSError()).message
