"""The two engines that install as a wheel, in one installation, each with tiny models.

place = make_place(unprovisioned, home)
async with connect(module) as client:
    await loaded(client, engine)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor.catalog import load_catalog
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
from tests.e2e.client import Client, Reply
from tests.e2e.module import Installation, Module
from tests.tiny_gguf import make_tiny_gguf
from tests.tiny_model import Shape
from tests.tiny_safetensors import make_tiny_safetensors
from tests.wheelhouse import CHECKOUT, repack_lock

__all__ = [
    "ENGINES",
    "LARGER",
    "TALK_S",
    "Engine",
    "load",
    "loaded",
    "make_model",
    "make_place",
    "running",
    "say",
]

TALK_S: Final = 20.0
LARGER: Final = Shape(width=512, layers=8, heads=8, kv_heads=8, feed_forward=1024, context=1 << 17)
"""Some ninety megabytes of weights, and 16 KB for each token of a context."""
OPTIONS: Final = {"threads": 1, "context_length": 2048}


@dataclass(frozen=True, slots=True)
class Engine:
    """A provider, its environment, and how its models are made."""

    provider: str
    env: str
    make: Callable[..., None]
    ending: str
    """Of the name of a model's file."""


ENGINES: Final = (
    Engine("llama-cpp", "llama-cpp", make_tiny_gguf, ".gguf"),
    Engine("huggingface-local", "mistralrs", make_tiny_safetensors, ""),
)


def make_place(unprovisioned: Installation, home: Path) -> Installation:
    """An installation with both engines, each in an environment of its own; HOME/models has `tiny`, `other`,
    and `third` in both formats."""
    for engine in ENGINES:
        lock = unprovisioned.checkout / "locks" / f"{engine.env}.txt"
        lock.write_text(
            repack_lock(unprovisioned.wheels, CHECKOUT / "locks" / f"{engine.env}.txt"), encoding="utf-8"
        )
        imports = load_catalog(unprovisioned.checkout / "venvs.toml").envs[engine.env].imports
        provision(
            find_home(str(home), {}), Recipe(engine.env, lock, imports), wheelhouse=unprovisioned.wheels
        )
        for name in ("tiny", "other", "third"):
            make_model(home, engine, name)
    return Installation(unprovisioned.checkout, home, unprovisioned.wheels)


def make_model(home: Path, engine: Engine, name: str, **fields: Any) -> None:
    """Puts one more model where that engine finds it."""
    (home / "models").mkdir(exist_ok=True)
    engine.make(home / "models" / f"{name}{engine.ending}", **fields)


def running(place: Installation, *flags: str) -> Module:
    """A module of that installation, which sees no model of the machine's own."""
    return Module(place, flags, variables={"HF_HUB_CACHE": str(place.home / "no hub")})


async def loaded(client: Client, engine: Engine, model: str = "tiny", **options: Any) -> dict[str, Any]:
    """The load_done of a load of a model, which must be a success."""
    done = await load(client, engine, model, **options)
    assert done["is_error"] is False, done
    return done


async def load(client: Client, engine: Engine, model: str = "tiny", **options: Any) -> dict[str, Any]:
    """The load_done of such a load, whatever it says."""
    options = {**OPTIONS, **options}
    return await client.load(engine.provider, timeout_s=TALK_S, preload_model_id=model, options=options)


async def say(client: Client, text: str = "Hello", **params: Any) -> Reply:
    """A short reply."""
    return await client.say(text, params={"max_output_length": 3, **params}, timeout_s=TALK_S)
