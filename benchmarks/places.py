"""Where the benchmark's environments are, and how they are made: all below HOME/cache/benchmarks.

That directory is a HOME of its own, so the operator's settings, tables and logs have no part in what is
measured, and it may be deleted at any time. The standard library alone is imported.

The locks beside this file are made as locks/refresh.py makes its own, from these lines:

    client.txt    aiohttp>=3.13,<4  openai>=3,<4  websockets>=15,<18  psutil>=6
                  uvloop>=0.21; sys_platform != "win32"
    litellm.txt   litellm[proxy]>=1.100,<2
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.bootstrap import supervisor_recipe
from supervisor.environments import Environment, find
from supervisor.errors import ProvisionError
from supervisor.home import Home, find_home
from supervisor.provision import OnProgress, Recipe, provision

__all__ = ["CHECKOUT", "Places", "found", "make"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = "benchmarks"

_HERE: Final = CHECKOUT / "benchmarks"
_HTTP: Final = Recipe("http", CHECKOUT / "locks" / "http.txt", ("msgpack", "aiohttp"), bootstrap=True)
_CLIENT: Final = Recipe(
    "benchmark clients", _HERE / "client.txt", ("aiohttp", "websockets", "psutil"), bootstrap=True
)
_LITELLM: Final = Recipe("LiteLLM proxy", _HERE / "litellm.txt", ("litellm",), bootstrap=True)


@dataclass(frozen=True, slots=True)
class Places:
    """The environments of one benchmark."""

    home: Home
    supervisor: Environment
    http: Environment
    client: Environment
    litellm: Environment | None


def make(flag: str | None, installer: str, on_progress: OnProgress, *, litellm: bool) -> Places:
    """Every environment, found or made.

    Raises:
        ModuleError: HOME cannot be used, or one of them cannot be made.
    """
    home = _home(flag)

    def made(recipe: Recipe) -> Environment:
        return provision(home, recipe, installer=installer, on_progress=on_progress)

    return Places(
        home,
        made(supervisor_recipe()),
        made(_HTTP),
        made(_CLIENT),
        made(_LITELLM) if litellm else None,
    )


def found(flag: str | None) -> Places:
    """What `make` made.

    Raises:
        ModuleError: something of it is not there.
    """
    home = _home(flag)

    def there(recipe: Recipe) -> Environment:
        environment = find(home, recipe.lock)
        if environment is None:
            raise ProvisionError(f"the environment {recipe.name!r} is missing: run benchmarks/run.py")
        return environment

    return Places(home, there(supervisor_recipe()), there(_HTTP), there(_CLIENT), find(home, _LITELLM.lock))


def _home(flag: str | None) -> Home:
    outer = find_home(flag, os.environ)
    return find_home(str(outer.cache / FOLDER), {})
