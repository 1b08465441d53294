"""The module that a command starts for itself: its start, its end, and whoever is not there.

With the real module; how it goes with a command around it: test_chat.py and tests/e2e/test_live_probe.py.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import psutil
import pytest

from supervisor import own_module as owning
from supervisor.home import Home
from supervisor.own_module import EXIT_GONE, EXIT_SETTINGS, NoModuleError, connected, own_module


def test_it_is_talked_to_like_any_other_and_is_gone_with_the_block(home: Home) -> None:
    with own_module(home.root) as url:
        processes = psutil.Process().children(recursive=True)
        with connected(url, None) as connection:
            connection.send('{"type":"status"}')
            assert json.loads(connection.recv(timeout=5))["type"] == "status_done"
    assert processes
    assert not any(process.is_running() for process in processes)


def test_its_complaints_and_its_code_are_those_of_the_module(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.local_catalog.write_text("[provider.demo]\nkind = 'riddle'\n", encoding="utf-8")
    with pytest.raises(NoModuleError, match=r"did not start \(status 2\)") as caught, own_module(home.root):
        pass
    assert caught.value.exit_code == 2
    assert "kind 'riddle'" in capsys.readouterr().err


def test_one_that_never_gets_ready_is_not_waited_for_and_ended(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = home.root / "supervisor"
    script.write_text("import sys; sys.stdin.read()\n", encoding="utf-8")
    monkeypatch.setattr(owning, "CHECKOUT", home.root)
    monkeypatch.setattr(owning, "READY_S", 0.1)
    with pytest.raises(NoModuleError, match="was not ready") as caught, own_module(home.root):
        pass
    assert caught.value.exit_code == EXIT_GONE


def test_one_that_does_not_end_by_itself_is_killed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    script = home.root / "supervisor"
    text = "import threading\nprint('{\"port\": 1}', flush=True)\nthreading.Event().wait()\n"
    script.write_text(text, encoding="utf-8")
    monkeypatch.setattr(owning, "CHECKOUT", home.root)
    monkeypatch.setattr(owning, "STOP_S", 0.1)
    with own_module(home.root) as url:
        (process,) = psutil.Process().children()
        assert url == "ws://127.0.0.1:1"
    assert not process.is_running()


def _nobody() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize(
    ("make_url", "code", "said"),
    [
        pytest.param(_nobody, EXIT_GONE, "cannot be reached", id="nobody listens"),
        pytest.param(lambda: "http://127.0.0.1", EXIT_SETTINGS, "is not a WebSocket URL", id="another kind"),
    ],
)
def test_where_there_is_none_one_sentence_says_so(make_url: Callable[[], str], code: int, said: str) -> None:
    with pytest.raises(NoModuleError, match=said) as caught:
        connected(make_url(), None)
    assert caught.value.exit_code == code


def test_a_module_that_wants_a_token_lets_only_its_holder_in(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAIFU_LLM_TOKEN", "a-canary-token")
    with own_module(home.root) as url:
        with pytest.raises(NoModuleError, match="does not let us in") as caught:
            connected(url, None)
        assert "a-canary-token" not in str(caught.value)
        with connected(url, "a-canary-token") as connection:
            connection.send('{"type":"status"}')
            assert json.loads(connection.recv(timeout=5))["type"] == "status_done"
