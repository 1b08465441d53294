"""The example clients against the real module: what a newcomer copies has to work as it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from examples.client import Client, LLMError, connected
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from tests.e2e.module import Installation, Module
from tests.wheelhouse import CHECKOUT, copy_checkout, make_site

pytestmark = pytest.mark.install

PATIENCE_S: Final = 20.0
HANGS: Final = {"options": {"replies": [{"text": "Once upon a", "hang": True}]}}
HELLO: Final = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """A running module with the demo installed."""
    root = tmp_path_factory.mktemp("examples")
    wheels = root / "wheels"
    wheels.mkdir()
    checkout = copy_checkout(root / "checkout", wheels)
    shutil.copy(CHECKOUT / "venvs.toml", checkout / "venvs.toml")
    home = find_home(str(root / "home"), {})
    provision(home, Recipe("base", checkout / "locks" / "base.txt", ("msgpack",)), wheelhouse=wheels)
    with Module(Installation(checkout, home.root, wheels)) as running:
        yield running


def url_of(module: Module) -> str:
    """Where it listens."""
    return f"ws://127.0.0.1:{module.port}"


def test_the_program_shows_every_call_once(module: Module) -> None:
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "examples" / "client.py"), url_of(module)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "demo: 1 models",
        "generate: Hello! 👋 I am listening. Ask me for a story, a joke, or help.",
        "stream:   Why did the stream go quiet? The punch line was still buffering. 🥁",
        "interrupt: Once a small lighthouse stood [INTERRUPT]",
    ]


def test_it_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "examples" / "client.py")],
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "python examples/client.py ws://" in done.stderr


async def test_requests_may_run_at_the_same_time(module: Module) -> None:
    async with connected(url_of(module)) as client:
        await client.load("demo", options={"replies": [{"text": "one two"}, {"text": "three four"}]})
        first, second = client.stream(HELLO), client.stream(HELLO)
        pieces = [await anext_of(first), await anext_of(second)]
        pieces += [piece async for piece in first] + [piece async for piece in second]
    assert sorted(pieces) == ["four", "one ", "three ", "two"]


async def anext_of(pieces: Any) -> str:
    """The next piece; `anext` by its old name."""
    piece: str = await pieces.__anext__()
    return piece


async def test_an_interrupted_reply_ends_with_the_name_of_its_reason(module: Module) -> None:
    async with connected(url_of(module)) as client:
        await client.load("demo", **HANGS)
        assert await collected(client) == (["Once ", "upon ", "a"], "INTERRUPT")


async def collected(client: Client) -> tuple[list[str], str]:
    """The pieces of a reply that is interrupted after three of them, and why it ended."""
    pieces = []
    try:
        async for piece in client.stream(HELLO):
            pieces.append(piece)  # a comprehension would lose them at the end
            if len(pieces) == 3:
                await client.interrupt()
    except LLMError as exc:
        return pieces, exc.name
    raise AssertionError(f"it ended by itself: {pieces}")


async def test_what_the_module_refuses_is_raised_with_its_name_and_its_advice(module: Module) -> None:
    async with connected(url_of(module)) as client:
        with pytest.raises(LLMError, match="Did you mean demo") as refused:
            await client.load("dmeo")
        assert (refused.value.name, refused.value.retryable) == ("INVALID_PROVIDER", False)
        with pytest.raises(LLMError, match="No provider is loaded") as refused:
            await client.generate(HELLO)
        assert refused.value.name == "NOT_LOADED"


async def test_a_request_that_waits_hears_of_the_end_of_the_connection(module: Module) -> None:
    with Module(module.installation) as dying:
        async with connected(url_of(dying)) as client:
            await client.load("demo", **HANGS)
            pieces = client.stream(HELLO)
            assert await anext_of(pieces) == "Once "
            dying.process.kill()
            with pytest.raises(LLMError, match="closed the connection") as ended:
                async for _ in pieces:
                    pass
            assert ended.value.name == "GONE"


# ---------------------------------------------------------------- Node

NODE: Final = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not on PATH")
EXAMPLE: Final = str(CHECKOUT / "examples" / "client.mjs")


def node(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs node to its end."""
    return subprocess.run(
        [str(NODE), *words], capture_output=True, encoding="utf-8", timeout=PATIENCE_S, check=False
    )


def websocket_flags() -> list[str]:
    """What this Node needs to have a WebSocket; the test fails where it is too old to have one at all."""
    built_in = node("-p", "typeof WebSocket").stdout.strip() == "function"
    return [] if built_in else ["--experimental-websocket"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HOME as install.py leaves it to an application."""
    site = make_site(tmp_path_factory.mktemp("example"))
    shutil.copy(CHECKOUT / "venvs.toml", site.checkout / "venvs.toml")
    done = site.run("--llm", "demo", home=site.root / "the hôme")
    assert done.returncode == 0, done.stderr
    return site.root / "the hôme"


@needs_node
def test_the_application_in_node_starts_the_module_talks_to_it_and_ends_it(home: Path) -> None:
    done = node(*websocket_flags(), EXAMPLE, str(home))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "demo: 1 models",
        "stream: Why did the stream go quiet? The punch line was still buffering. 🥁",
        "interrupt: Once a small lighthouse stood [INTERRUPT]",
        "closed: the module ended with code 0",
    ]


@needs_node
def test_the_application_in_node_fails_with_the_modules_own_sentence_and_leaves_nothing(home: Path) -> None:
    done = node(*websocket_flags(), EXAMPLE, str(home), "dmeo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Did you mean demo" in done.stderr
    assert "module closed" in done.stderr, "it ends when its stdin does"


@needs_node
def test_a_node_without_a_websocket_is_told_what_to_do(home: Path) -> None:
    without = "data:text/javascript,delete globalThis.WebSocket"
    done = node("--import", without, EXAMPLE, str(home))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "this Node has no WebSocket: use Node 22, or node --experimental-websocket\n"
