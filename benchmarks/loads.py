"""How long a load takes, for every adapter over HTTP: the real module, before a fake provider of its wire.

    python benchmarks/loads.py --home HOME [--rounds N]

HOME is one in which `install.py --llm all` has run; run it in the development environment, which has what the
fakes need. The load checks the key and lists the models, as any load does; its worker is a new one each time.
Times are in milliseconds; nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any, Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from websockets.asyncio.client import connect  # noqa: E402  # as all below: the checkout is on the path only now

from supervisor.catalog import load_catalog  # noqa: E402
from supervisor.own_module import own_module  # noqa: E402
from supervisor.providers import Provider  # noqa: E402
from tests.fakes.bound import CANARY  # noqa: E402
from tests.fakes.http_server import FakeServer  # noqa: E402
from tests.fakes.wire import Wire  # noqa: E402
from tests.fakes.wires import WIRES  # noqa: E402

ROUNDS: Final = 7
WAIT_S: Final = 30.0
PARTS: Final = ("start", "import", "connect")

Json = dict[str, Any]


class LoadError(Exception):
    """A wire that cannot be loaded from a fake: Google's tokens come from Google alone."""


def main() -> int:
    """Prints a row for each wire."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    flags = parser.parse_args()
    providers = load_catalog(CHECKOUT / "venvs.toml").providers.values()
    by_adapter = {provider.adapter: provider for provider in reversed(providers)}
    _say(f"{'wire':20}{'provider':20}{'environment':13}{'median':>8}{'worst':>8}   " + "  ".join(PARTS))
    for wire in WIRES:
        provider = by_adapter[_adapter(wire)]
        try:
            done = [_loaded(flags.home, wire, provider) for _ in range(flags.rounds)]
        except LoadError as exc:
            _say(f"{wire.name:20}{provider.id:20}{exc}")
            continue
        spent = [ms for ms, _ in done]
        parts = "  ".join(f"{median(timings[part] for _, timings in done):>5g}" for part in PARTS)
        names = f"{wire.name:20}{provider.id:20}{provider.env:13}"
        _say(f"{names}{median(spent):8.0f}{max(spent):8.0f}   {parts}")
    return 0


def _adapter(wire: Wire) -> str:
    """The name of the file that the wire's adapter is in; some tests have a quicker one made of it."""
    package = "workers.adapters."
    return next(
        kind.__module__.removeprefix(package) for kind in wire.adapter.__mro__ if package in kind.__module__
    )


def _loaded(home: Path, wire: Wire, provider: Provider) -> tuple[float, Json]:
    """One load in a module of its own: what it took, and its `timings_ms`."""
    with own_module(home) as url:
        return asyncio.run(_load(url, wire, provider))


async def _load(url: str, wire: Wire, provider: Provider) -> tuple[float, Json]:
    async with FakeServer(wire) as server, wire.beside(), connect(url, compression=None) as socket:
        request = {
            "type": "load",
            "provider": provider.id,
            "api_key": wire.credential(CANARY),
            "base_url": server.base_url,
            "options": {**_named(provider), **wire.options},
        }
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await socket.send(json.dumps(request))
        done: Json = {"type": ""}
        while done["type"] != "load_done":
            done = json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))
        if done["is_error"]:
            raise LoadError(done["message"])
        return (loop.time() - begun) * 1000, done["timings_ms"]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _named(provider: Provider) -> Json:
    """Something for every setting that a load must name."""
    return {setting.name: "x" for setting in provider.settings if setting.required}


if __name__ == "__main__":
    sys.exit(main())
