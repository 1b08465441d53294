"""What the tests against the real module share: an installation without network, a module, an upstream."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from supervisor.catalog import load_catalog
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from tests.e2e.client import Client, connect
from tests.e2e.figures import Figures, tables
from tests.e2e.hostile import IMPATIENT, REAL_PATIENCE, make_hostile
from tests.e2e.light_engines import make_place
from tests.e2e.module import Installation, Module
from tests.e2e.upstream import Upstream
from tests.wheelhouse import CHECKOUT, copy_checkout, repack_lock


def pytest_addoption(parser: pytest.Parser) -> None:
    """How thorough the measurements are."""
    parser.addoption("--kills", type=int, default=15, help="of a worker under open streams (default: 15)")
    parser.addoption("--chunks", type=int, default=3000, help="for a client beside one that does not read")
    parser.addoption(
        "--real-patience", action="store_true", help="the module's own figures for stuck workers"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives a measurement the time that its size needs."""
    needed_s = 60 + KILL_S * config.getoption("--kills") + CHUNK_S * config.getoption("--chunks")
    for item in items:
        if "figures" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(needed_s))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was measured."""
    for title, lines in tables():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def figures() -> Figures:
    """Where a test puts what it measured."""
    return Figures()


KILL_S: Final = 4.0
CHUNK_S: Final = 0.005
"""Far more than each takes, on a machine that has something else to do too."""
ENVIRONMENTS: Final = ("base", "http")
UNMADE: Final = tuple(sorted({*load_catalog(CHECKOUT / "venvs.toml").envs} - {*ENVIRONMENTS}))
"""Environments that are not made; llama.cpp's own tests pack its wheel."""
BACKLOG: Final = 128


@pytest.fixture(scope="session")
def unprovisioned(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A checkout whose locks pin wheels that are here, and whose HOME does not exist yet."""
    root = tmp_path_factory.mktemp("checkout of 漢字")
    wheels = root / "wheels"
    wheels.mkdir()
    checkout = copy_checkout(root / "the checkout", wheels)
    lock = repack_lock(wheels, CHECKOUT / "locks" / "http.txt")
    (checkout / "locks" / "http.txt").write_text(lock, encoding="utf-8")
    for name in UNMADE:
        shutil.copy(CHECKOUT / "locks" / f"{name}.txt", checkout / "locks")
    shutil.copy(CHECKOUT / "venvs.toml", checkout / "venvs.toml")
    return Installation(checkout, root / "no home", wheels)


@pytest.fixture(scope="session")
def installation(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The same with the environments of all providers in its HOME."""
    place = Installation(
        unprovisioned.checkout, tmp_path_factory.mktemp("hôme of 漢字"), unprovisioned.wheels
    )
    envs = load_catalog(place.checkout / "venvs.toml").envs
    for name in ENVIRONMENTS:
        recipe = Recipe(name, place.checkout / "locks" / f"{name}.txt", envs[name].imports)
        provision(find_home(str(place.home), {}), recipe, wheelhouse=place.wheels)
    return place


@pytest.fixture(scope="session")
def engines_place(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation with the engines that install as a wheel, and tiny models of both formats."""
    return make_place(unprovisioned, tmp_path_factory.mktemp("hôme with engines"))


@pytest.fixture(scope="session")
def hostile_place(unprovisioned: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation with providers that misbehave."""
    return make_hostile(unprovisioned, tmp_path_factory.mktemp("hostile hôme"))


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> float:
    """How many times as patient the module is with a stuck worker as it is in a usual run of these tests."""
    return REAL_PATIENCE if request.config.getoption("--real-patience") else 1.0


@pytest.fixture
def impatient(hostile_place: Installation, patience: float) -> Iterator[Module]:
    """A module of it that waits for nobody."""
    with Module(hostile_place, IMPATIENT if patience == 1.0 else ()) as running:
        yield running


@pytest.fixture
async def hostile(impatient: Module) -> AsyncIterator[Client]:
    """A connection that has loaded a provider that misbehaves."""
    async with connect(impatient) as client:
        done = await client.load("hostile")
        assert done["is_error"] is False, done.get("message")
        yield client


@pytest.fixture(scope="module")
def listening() -> Iterator[socket.socket]:
    """The upstream's port, which stays the same while its server is a new one for each test."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(BACKLOG)
        yield sock


@pytest.fixture(scope="module")
def module(installation: Installation, listening: socket.socket) -> Iterator[Module]:
    """A running module for all tests of a file, whose openai is the upstream."""
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    with Module(installation, variables={"OPENAI_BASE_URL": url}) as running:
        yield running


@pytest.fixture
async def upstream(listening: socket.socket) -> AsyncIterator[Upstream]:
    """A server that speaks the OpenAI wire, where the module looks for openai."""
    async with Upstream(listening) as running:
        yield running


@pytest.fixture
async def client(module: Module) -> AsyncIterator[Client]:
    """A connection in the SDK's dialect, checked at its end."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(connect(module))
    module.check_keys()


@pytest.fixture
async def openai(client: Client, upstream: Upstream) -> Client:
    """A connection that has loaded openai with a key of its own."""
    done = await client.load("openai", api_key=client.module.new_key())
    assert done["is_error"] is False, done
    return client


@pytest.fixture
async def seed_openai(module: Module, upstream: Upstream) -> AsyncIterator[Client]:
    """The same in the seed's dialect."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(module, seed=True))
        done = await client.load("openai", api_key=module.new_key())
        assert done["is_error"] is False, done.get("message")
        yield client
    module.check_keys()


@pytest.fixture
def own_home(unprovisioned: Installation, tmp_path: Path) -> Installation:
    """An installation whose HOME is new and empty."""
    return Installation(unprovisioned.checkout, tmp_path / "hôme", unprovisioned.wheels)
