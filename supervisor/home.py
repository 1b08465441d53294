"""HOME: the one directory that this module writes to, and what lies where in it.

    envs/KEY-xxxx/, envs/KEY.json   environments, and the markers that make them count
    locks/KEY.lock                  who builds
    logs/                           the supervisor's rotating log
    variants.json                   which variant of an environment was made last
    builds/ENV.txt                  what an operator's own build consists of
    bin/w-ai-fu-llm, spawn.json     how an application starts the module; install.py writes them
    venvs.local.toml, settings.toml, .env   the operator's own

Never in the checkout, which may be read-only, synchronised or replaced. The standard library alone is
imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.errors import SettingsError
from supervisor.spawn import user_data_directory

__all__ = ["DIRECTORY_NAME", "VARIABLE", "Home", "default_root", "find_home", "home_flag"]

DIRECTORY_NAME: Final = "w-ai-fu-llm"
VARIABLE: Final = "WAIFU_LLM_HOME"
FLAG: Final = "--home"


@dataclass(frozen=True, slots=True)
class Home:
    """The directory, which exists, with its links resolved."""

    root: Path

    @property
    def envs(self) -> Path:
        """Environments and their markers."""
        return self.root / "envs"

    @property
    def locks(self) -> Path:
        """Lock files of builders; they are never deleted."""
        return self.root / "locks"

    @property
    def logs(self) -> Path:
        """The supervisor's log files."""
        return self.root / "logs"

    @property
    def bin(self) -> Path:
        """The launcher."""
        return self.root / "bin"

    @property
    def cache(self) -> Path:
        """What may be deleted at any time."""
        return self.root / "cache"

    @property
    def spawn_json(self) -> Path:
        """The argv that an application spawns."""
        return self.root / "spawn.json"

    @property
    def local_catalog(self) -> Path:
        """The operator's own provider tables."""
        return self.root / "venvs.local.toml"

    @property
    def variants(self) -> Path:
        """Which variant of an environment the operator made last."""
        return self.root / "variants.json"

    @property
    def builds(self) -> Path:
        """The locks of builds that the operator took from elsewhere; made with the first one."""
        return self.root / "builds"

    @property
    def settings(self) -> Path:
        """The operator's settings."""
        return self.root / "settings.toml"

    @property
    def dotenv(self) -> Path:
        """The operator's variables, keys among them."""
        return self.root / ".env"


def find_home(flag: str | None, environ: Mapping[str, str]) -> Home:
    """HOME by flag, else by variable, else in the user's data directory; made if it is not there.

    Links are resolved after it is made: the Microsoft Store's Python redirects what it writes below AppData,
    and another program must be told the place where the files really are.

    Raises:
        SettingsError: it cannot be made, or is no directory.
    """
    given = flag or environ.get(VARIABLE)
    root = Path(given).expanduser() if given else default_root(environ)
    home = Home(root)
    try:
        home = Home(root.absolute())  # asks for the working directory, which may be gone, only if it must
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = Home(home.root.resolve(strict=True))
        for directory in (home.envs, home.locks, home.logs, home.bin, home.cache):
            directory.mkdir(exist_ok=True)
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of links, before Python 3.13
        reason = exc.strerror if isinstance(exc, OSError) else "a loop of links"
        raise SettingsError(
            f"the directory {home.root} cannot be used ({reason}): give another with {FLAG} DIR or {VARIABLE}"
        ) from exc
    return home


def default_root(environ: Mapping[str, str]) -> Path:
    """Where HOME is when nobody says otherwise."""
    return user_data_directory(environ) / DIRECTORY_NAME


def home_flag(argv: Sequence[str]) -> str | None:
    """The value of --home in a command line that is parsed elsewhere."""
    for index, word in enumerate(argv):
        if word == FLAG and index + 1 < len(argv):
            return argv[index + 1]
        if word.startswith(FLAG + "="):
            return word.partition("=")[2]
    return None
