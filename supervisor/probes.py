"""What the doctor reads: Python, HOME, settings, environments on disk, proxies. Nothing is started.

Each probe is one function from a Place to findings, so that each is tested alone. Keys are key_probes.py's.
What has to be tried instead of read, such as a worker or a port: trials.py, which also lists all probes.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import environments
from supervisor.catalog import CatalogError, load_catalog
from supervisor.config import PREFIX, Settings, dotenv_lines, load_settings, unknown_settings
from supervisor.doctor import Finding, Grade
from supervisor.environments import directory_size, environment_key, lock_digest, read_marker
from supervisor.errors import SettingsError
from supervisor.home import Home, default_root
from supervisor.providers import Catalog, EnvSpec, Provider
from supervisor.spawn import STAY_VARIABLE, path_limit
from supervisor.terminal import size_text
from supervisor.variants import lock_of

__all__ = [
    "Place",
    "catalog_of",
    "clock",
    "command",
    "disk",
    "dotenv_text",
    "foreign",
    "home_folder",
    "leftovers",
    "local_tables",
    "logs_folder",
    "missing",
    "network",
    "python",
    "settings_files",
    "settings_of",
]

NEWEST_PYTHON: Final = (3, 14)
"""The locks were made for the Pythons up to this one; a newer one may find no wheels."""

DEEPEST_FILE_CHARS: Final = 150
"""From HOME to the deepest file of an environment: 28 for envs and its key, 121 at most by measure."""

SYNCHRONISED: Final = (
    *("onedrive", "dropbox", "google drive", "googledrive", "my drive", "icloud", "mobile documents"),
    *("cloudstorage", "nextcloud", "owncloud", "box sync", "syncthing", "pcloud"),
)
"""Folders whose program moves, locks and uploads what is written into them; compared without case."""

LIGHT_BYTES: Final = 200_000_000
"""For an environment of packages alone: 15 MB by measure, times what an installer needs meanwhile."""
HEAVY_BYTES: Final = 8_000_000_000
"""For one with torch in it: half of that when it is done, the rest while it is made."""
SPARE_BYTES: Final = 500_000_000
"""Below this much free, logs and caches of whatever runs fill the disk soon."""

DAY_S: Final = 86_400.0
STORE_FOLDER: Final = "windowsapps"
"""In the path of every Python that the Microsoft Store installed."""
REDIRECTED_FOLDER: Final = "pythonsoftwarefoundation."
"""Begins the name of the folder to which such a Python's writes are redirected."""
CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
LOOPBACKS: Final = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look, and whom for."""

    home: Home
    checkout: Path
    environ: Mapping[str, str]
    names: tuple[str, ...] = ()
    """Of --llm; without any, whatever is installed is looked at."""

    @property
    def locks(self) -> list[Path]:
        """The lock of every environment that this checkout knows."""
        ours = sorted((self.checkout / "locks").glob("*.txt"))
        return [*ours, *sorted(self.home.builds.glob("*.txt"))]


def command(place: Place, *flags: str) -> str:
    """How a person runs install.py with these flags, for this HOME."""
    try:
        usual = place.home.root.samefile(default_root(place.environ))
    except (OSError, SettingsError):
        usual = False
    home = () if usual else ("--home", f'"{place.home.root}"')
    return " ".join(("python install.py", *flags, *home))


def settings_of(place: Place) -> Settings | None:
    """The settings, or None where they cannot be read, which is another probe's to tell."""
    try:
        return load_settings(["--home", str(place.home.root)], place.environ, place.checkout)
    except SettingsError:
        return None


def catalog_of(place: Place) -> Catalog:
    """All tables; ours alone if the operator's cannot be read, and none if ours cannot either."""
    for local in (place.home.local_catalog, None):
        try:
            return load_catalog(place.checkout / "venvs.toml", local)
        except CatalogError:
            continue
    return Catalog({}, {})


# ---------------------------------------------------------------- Python and HOME


def python(place: Place) -> Iterator[Finding]:
    """The Python below the supervisor's environment, which every environment is made from."""
    base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    version = ".".join(map(str, sys.version_info[:3]))
    text = f"{version}, {'64' if sys.maxsize > 2**32 else '32'}-bit, {base}"
    again = f"install a 64-bit one from python.org, then run {command(place)} with it"
    if sys.maxsize <= 2**32:
        yield Finding(Grade.WARN, "Python", f"{text}: many packages are not made for 32 bits", again)
    elif STORE_FOLDER in base.lower():
        why = "is the Microsoft Store's, which moves with every update and takes the environments with it"
        yield Finding(Grade.WARN, "Python", f"{text} {why}", again)
    elif sys.version_info[:2] > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        why = f"is newer than {newest}, the newest that our packages are pinned for"
        yield Finding(Grade.WARN, "Python", f"{text} {why}", f"use {newest} if an installation fails")
    else:
        yield Finding(Grade.OK, "Python", text)


def home_folder(place: Place) -> Iterator[Finding]:
    """HOME: can it be written to, is it too deep, does another program move its files."""
    root = place.home.root
    move = "give another with --home DIR or WAIFU_LLM_HOME, in a folder that is yours alone"
    limit = path_limit()
    reason = _not_writable(root)
    if reason:
        yield Finding(Grade.BAD, "HOME", f"{root} cannot be written to ({reason})", move)
    elif _synchronised(root):
        text = f"{root} is in {_synchronised(root)}, which moves and locks files while they are used"
        yield Finding(Grade.WARN, "HOME", text, move)
    elif REDIRECTED_FOLDER in str(root).lower():
        text = f"{root} is where the Microsoft Store's Python redirects it; other programs look elsewhere"
        yield Finding(Grade.WARN, "HOME", text, f"use the Python of python.org, or {move}")
    elif limit is not None and len(str(root)) + DEEPEST_FILE_CHARS > limit:
        text = f"{root} is {len(str(root))} characters long, and a whole path may have {limit}"
        yield Finding(Grade.WARN, "HOME", text, "allow long paths in Windows, or give a shorter --home DIR")
    else:
        yield Finding(Grade.OK, "HOME", f"{root}")


def _not_writable(folder: Path) -> str:
    """Why nothing can be written there, or nothing. The file that is tried goes when it is closed."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"?")
    except OSError as exc:
        return exc.strerror or type(exc).__name__
    return ""


def _synchronised(path: Path) -> str:
    """The folder of a synchronising program that the path leads through, or nothing."""
    return next((part for part in path.parts if part.lower().startswith(SYNCHRONISED)), "")


def disk(place: Place) -> Iterator[Finding]:
    """The free space, against what the named providers still need."""
    free = shutil.disk_usage(place.home.root).free
    wanted = {spec.name: spec for _, spec in missing(place)}
    needed = sum(HEAVY_BYTES if spec.heavy else LIGHT_BYTES for spec in wanted.values())
    text = f"{size_text(free)} are free"
    remedy = "make room there, or put HOME on another disk with --home DIR"
    if needed and free < needed:
        wants = f"{', '.join(wanted)} may need {size_text(needed)} while they are made"
        yield Finding(Grade.BAD, "disk", f"{text}; {wants}", remedy)
    elif free < SPARE_BYTES:
        yield Finding(Grade.WARN, "disk", f"only {text}", remedy)
    else:
        yield Finding(Grade.OK, "disk", text)


def missing(place: Place) -> Iterator[tuple[Provider, EnvSpec]]:
    """The named providers whose environment is not there."""
    catalog = catalog_of(place)
    for provider in filter(None, map(catalog.find, place.names)):
        spec = catalog.env_of(provider)
        if environments.find(place.home, lock_of(place.home, place.checkout, spec)) is None:
            yield provider, spec


def logs_folder(place: Place) -> Iterator[Finding]:
    """Whether the log can be written."""
    file = place.home.logs / "supervisor.log"
    reason = _not_writable(place.home.logs)
    if not reason and file.exists() and not os.access(file, os.W_OK):
        reason = "the file belongs to somebody else, or is read-only"
    if reason:
        text = f"{file} cannot be written ({reason}); the module runs, and leaves no log"
        yield Finding(Grade.BAD, "log", text, f"delete the folder {place.home.logs}, or make it yours")
    else:
        yield Finding(Grade.OK, "log", str(file))


def clock(place: Place) -> Iterator[Finding]:
    """A clock that is behind makes every certificate invalid; our own files are older than now."""
    newest = max((path.stat().st_mtime for path in place.locks), default=0.0)
    now = time.strftime("%Y-%m-%d %H:%M")
    if time.time() < newest - DAY_S:
        text = f"it is {now} here, which is before this checkout was made: certificates will not hold"
        yield Finding(Grade.WARN, "clock", text, "set the date and time of this machine")
    else:
        yield Finding(Grade.OK, "clock", now)


# ---------------------------------------------------------------- files of the operator


def settings_files(place: Place) -> Iterator[Finding]:
    """settings.toml, our variables and the `.env` files."""
    found = [*_settings(place), *_dotenv_files(place)]
    yield from found
    if not found:
        there = [path.name for path in (place.home.settings, place.home.dotenv) if path.exists()]
        yield Finding(Grade.OK, "settings", " and ".join(there) or "all as they come")


def _settings(place: Place) -> Iterator[Finding]:
    try:
        load_settings(["--home", str(place.home.root)], place.environ, place.checkout)
        names = unknown_settings(place.home, _without_ours(place.environ))
    except SettingsError as exc:
        remedy = f"mend that; README.md, Settings, shows how {place.home.settings} is written"
        yield Finding(Grade.BAD, "settings", str(exc), remedy)
        return
    for name in names:
        where = "the environment" if name.startswith(PREFIX) else str(place.home.settings)
        text = f"nothing reads {name}, which stands in {where}"
        yield Finding(Grade.WARN, "settings", text, "correct its name (README.md, Settings) or remove it")


def _without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name != STAY_VARIABLE}


def _dotenv_files(place: Place) -> Iterator[Finding]:
    for path in (place.home.dotenv, place.checkout / ".env"):
        lines = (dotenv_text(path) or "").splitlines()
        for number, (name, value) in enumerate(dotenv_lines(lines), start=1):
            if not name and value and not value.startswith("#"):
                text = f"line {number} of {path} is no NAME=VALUE"
                remedy = "write every value on one line; a line that is a remark begins with #"
                yield Finding(Grade.WARN, "settings", text, remedy)


def dotenv_text(path: Path) -> str | None:
    """What a `.env` says as far as it can be read, whatever wrote it; None if there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # what PowerShell's > writes
    return data.decode("utf-16" if wide else "utf-8-sig", "replace")


def local_tables(place: Place) -> Iterator[Finding]:
    """venvs.toml and the operator's own tables."""
    try:
        catalog = load_catalog(place.checkout / "venvs.toml", place.home.local_catalog)
    except CatalogError as exc:
        remedy = f"mend that, or move {place.home.local_catalog} away; README.md, Adding a provider, helps"
        yield Finding(Grade.BAD, "providers", str(exc), remedy)
        catalog = catalog_of(place)
    else:
        own = " with venvs.local.toml" if place.home.local_catalog.is_file() else ""
        yield Finding(Grade.OK, "providers", f"{len(catalog.providers)} are known{own}")
    for name in place.names:
        if catalog.find(name) is None:
            near = " or ".join(catalog.nearest(name))
            remedy = f"did you mean {near}?" if near else f"{command(place, '--list')} shows all"
            yield Finding(Grade.BAD, "providers", f"there is no provider {name!r}", remedy)


# ---------------------------------------------------------------- environments on disk


def leftovers(place: Place) -> Iterator[Finding]:
    """What --gc would remove."""
    digests = {lock_digest(path.read_bytes()) for path in place.locks}
    known = [read_marker(place.home, path.stem) for path in place.home.envs.glob("*.json")]
    kept = {
        environment.directory
        for environment in known
        if environment is not None
        and environment.lock_digest in digests
        and all(landmark.exists() for landmark in environment.landmarks)
    }
    gone = [path for path in place.home.envs.glob("*-*") if path.is_dir() and path not in kept]
    if gone:
        size = size_text(sum(map(directory_size, gone)))
        text = f"older or unfinished environments ({len(gone)}) take {size}"
        yield Finding(Grade.WARN, "leftovers", text, command(place, "--gc"))
    else:
        yield Finding(Grade.OK, "leftovers", "none")


def foreign(place: Place) -> Iterator[Finding]:
    """The unrelated distribution of our package's name, in the environment that we run in."""
    own = read_marker(place.home, environment_key((place.checkout / "locks" / "supervisor.txt").read_bytes()))
    folders = [] if own is None else [str(own.site_packages)]
    if own is not None and any(importlib.metadata.distributions(name="supervisor", path=folders)):
        text = f"an unrelated package named supervisor is in {own.site_packages}"
        remedy = f'pip --python "{own.python}" uninstall supervisor'
        yield Finding(Grade.WARN, "packages", text, remedy)
    else:
        yield Finding(Grade.OK, "packages", "no other package has our name")


# ---------------------------------------------------------------- the way to the network


def network(place: Place) -> Iterator[Finding]:
    """Proxies and certificates, by the names of their variables alone: a proxy's URL may hold a password."""
    found = [*_certificates(place), *_proxies(place)]
    yield from found
    if not found:
        yield Finding(Grade.OK, "network", "no proxy, and the system's certificates")


def _certificates(place: Place) -> Iterator[Finding]:
    for name in CERTIFICATES:
        value = place.environ.get(name)
        if value and not Path(value).exists():
            text = f"{name} names something that does not exist, so nothing can be trusted"
            yield Finding(Grade.BAD, "network", text, f"unset {name}, or let it name your certificates")


def _proxies(place: Place) -> Iterator[Finding]:
    names = sorted(
        n.upper() for n in place.environ if n.lower().endswith("_proxy") and n.lower() != "no_proxy"
    )
    if not names:
        return
    exempt = place.environ.get("no_proxy") or place.environ.get("NO_PROXY") or ""
    taken = not {"*", *LOOPBACKS}.intersection(exempt.replace(",", " ").lower().split())
    text = f"a proxy is set ({', '.join(dict.fromkeys(names))})"
    if taken:
        why = "no exception for local addresses: some programs will not find this module or a local server"
        remedy = f"set NO_PROXY={','.join(LOOPBACKS)}"
        yield Finding(Grade.WARN, "network", f"{text} and {why}", remedy)
    else:
        yield Finding(Grade.OK, "network", f"{text}, not for local addresses")
