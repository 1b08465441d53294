"""An engine in another build, from where the operator says; all of it offline, with wheels made here."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from supervisor import variants
from supervisor.environments import find, read_marker
from supervisor.errors import ProvisionError, SettingsError
from supervisor.home import find_home
from supervisor.installers import find_uv
from supervisor.own_build import FOLDER, fetched
from supervisor.providers import EnvSpec
from tests.wheelhouse import INSTALLERS, Site, lock_text, make_site, make_wheel

TABLES: Final = """
[env.engine]
requirements = ["msgpack>=1.1,<2", "engine-kit>=1", "helper>=1"]
imports = ["engine_kit", "helper"]
builds = ["engine-kit"]

[provider.thinker]
adapter = "scripted"
env = "engine"
"""
USUAL: Final = {"engine_kit.py": "BUILD = 'processor'\n"}
GPU: Final = {"engine_kit.py": "BUILD = 'gpu'\n"}
HELPER: Final = {"helper.py": ""}
PASSWORD: Final = "open-sesame-41"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A checkout with an engine, whose usual files are among the wheels; a newer helper lies there too."""
    site = make_site(tmp_path_factory.mktemp("site"))
    kit = make_wheel(site.wheels, "engine_kit", "1.0", USUAL)
    helper = make_wheel(site.wheels, "helper", "1.0", HELPER)
    make_wheel(site.wheels, "helper", "2.0", HELPER)
    base = (site.checkout / "locks" / "base.txt").read_text(encoding="utf-8")
    lock = site.checkout / "locks" / "engine.txt"
    lock.write_text(base + lock_text(kit, helper), encoding="utf-8")
    with (site.checkout / "venvs.toml").open("a", encoding="utf-8") as tables:
        tables.write(TABLES)
    return site


@pytest.fixture(scope="module")
def builds(site: Site) -> Path:
    """A folder with the build for a GPU."""
    folder = site.root / "builds für GPU"
    folder.mkdir()
    make_wheel(folder, "engine_kit", "1.0+gpu", GPU)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hôme of all")


@pytest.fixture
def home(site: Site, shared: Path) -> Path:
    """A HOME that has the supervisor's environment, made once, and no engine."""
    done = site.run("--remove", "thinker", home=shared)
    assert done.returncode == 0, done.stderr
    for marker in (shared / "envs").glob("*.json"):
        if '"name": "engine"' in marker.read_text(encoding="utf-8"):
            marker.unlink()
    return shared


def built_in(site: Site, home: Path) -> str:
    """Which build the environment in use holds; empty without one."""
    spec = EnvSpec("engine", (), ())
    place = find_home(str(home), {})
    found = find(place, variants.lock_of(place, site.checkout, spec))
    if found is None:
        return ""
    return (found.site_packages / "engine_kit.py").read_text(encoding="utf-8").split("'")[1]


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_build_from_a_folder_is_used_until_it_is_removed(
    site: Site, builds: Path, home: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--installer", installer, "--llm", "thinker")
    if installer == "uv":
        monkeypatch.setenv("PATH", str(Path(find_uv() or "").parent), prepend=os.pathsep)
    assert site.run(*flags, home=home).returncode == 0
    assert built_in(site, home) == "processor"
    done = site.run(*flags, "--builds", str(builds), home=home)
    assert done.returncode == 0, done.stderr
    assert built_in(site, home) == "gpu"
    assert "is installed" in site.run(*flags, home=home).stdout, "what was made is in use without saying more"
    assert site.run("--gc", home=home).returncode == 0
    assert built_in(site, home) == "gpu", "what is in use is no garbage"
    assert site.run("--remove", "thinker", home=home).returncode == 0
    assert built_in(site, home) == "processor"
    assert not list((home / "cache").glob(f"{FOLDER}*")), "the files are gone"


def test_what_our_lock_pins_of_the_others_holds_for_them_too(site: Site, builds: Path, home: Path) -> None:
    place = find_home(str(home), {})
    done = site.run("--llm", "thinker", "--builds", str(builds), home=home)
    assert done.returncode == 0, done.stderr
    made = [read_marker(place, path.stem) for path in place.envs.glob("*.json")]
    (engine,) = [environment for environment in made if environment and environment.name == "engine"]
    assert engine.packages["helper"] == "1.0"
    lock = variants.own_lock(place, "engine").read_text(encoding="utf-8")
    assert "engine-kit==1.0+gpu" in lock
    assert lock.count("--hash=sha256:") == 3


def test_one_wheel_is_enough(site: Site, builds: Path, home: Path) -> None:
    (wheel,) = builds.iterdir()
    done = site.run("--llm", "thinker", "--builds", str(wheel), home=home)
    assert done.returncode == 0, done.stderr
    assert built_in(site, home) == "gpu"


@pytest.fixture
def index(builds: Path, tmp_path: Path) -> Iterator[str]:
    """The build on an index, as a package index serves it."""
    page = tmp_path / "index" / "engine-kit"
    page.mkdir(parents=True)
    (wheel,) = builds.iterdir()
    (page / wheel.name).write_bytes(wheel.read_bytes())
    name = wheel.name.replace("+", "%2B")
    (page / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{wheel.name}</a>', encoding="utf-8")
    handler = partial(_Quiet, directory=str(page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://somebody:{PASSWORD}@127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join(5)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing."""


def test_a_build_from_an_index_and_no_password_of_it_is_kept(site: Site, index: str, home: Path) -> None:
    done = site.run("--llm", "thinker", "--builds", index, home=home)
    assert done.returncode == 0, done.stderr
    assert built_in(site, home) == "gpu"
    kept = [path for path in home.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert kept == []
    assert PASSWORD not in done.stdout + done.stderr


def test_a_build_that_has_gone_is_not_replaced_in_silence(site: Site, builds: Path, home: Path) -> None:
    assert site.run("--llm", "thinker", "--builds", str(builds), home=home).returncode == 0
    place = find_home(str(home), {})
    found = find(place, variants.own_lock(place, "engine"))
    assert found is not None
    (place.envs / f"{found.key}.json").unlink()
    again = site.run("--llm", "thinker", home=home)
    assert again.returncode == 4
    assert f'--builds "{builds}"' in again.stderr
    assert "--remove thinker" in again.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--llm", "demo"), "goes with one --llm"),
        (("--llm", "thinker", "--variant", "cpu"), "without --variant"),
        ((), "goes with one --llm"),
    ],
    ids=["no engine", "a variant too", "nobody"],
)
def test_builds_must_mean_something(
    site: Site, builds: Path, home: Path, flags: tuple[str, ...], told: str
) -> None:
    done = site.run(*flags, "--builds", str(builds), home=home)
    assert done.returncode == 2
    assert told in done.stderr


# ---- what comes is looked at; without the whole installer


def fetch(site: Site, where: str, tmp_path: Path) -> str:
    """The lock of what was fetched from there."""
    requirements = ("msgpack>=1.1,<2", "engine-kit>=1", "helper>=1")
    spec = EnvSpec("engine", requirements, (), builds=("engine-kit",))
    usual = site.checkout / "locks" / "engine.txt"
    home = find_home(str(tmp_path / "a home"), {})
    with fetched(home, spec, usual, where, wheelhouse=site.wheels, say=lambda text: None) as build:
        return build.lock.read_text(encoding="utf-8")


def test_the_usual_build_is_no_other_one(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no other build of engine_kit than the usual one"):
        fetch(site, str(site.wheels), tmp_path)


def test_a_wheel_of_something_else_is_refused(site: Site, tmp_path: Path) -> None:
    stranger = make_wheel(tmp_path, "stranger", "1.0", {"stranger.py": ""})
    with pytest.raises(SettingsError, match="is none of engine-kit"):
        fetch(site, str(stranger), tmp_path)


def test_another_file_of_what_our_lock_pins_is_refused(site: Site, builds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    for wheel in [*site.wheels.iterdir(), *builds.iterdir()]:
        (folder / wheel.name).write_bytes(wheel.read_bytes())
    make_wheel(folder, "helper", "1.0", {"helper.py": "CHANGED = True\n"})
    changed = Site(site.root, site.checkout, folder)
    with pytest.raises(ProvisionError, match=r"helper-1\.0.* is not the file that our lock pins"):
        fetch(changed, str(builds), tmp_path)


def test_a_folder_without_the_engine_says_so(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="the build of engine cannot be fetched from"):
        fetch(site, str(tmp_path), tmp_path)


@pytest.mark.parametrize("where", ["nowhere/at/all", "ftp://127.0.0.1/x"])
def test_what_is_no_place_is_refused(site: Site, tmp_path: Path, where: str) -> None:
    with pytest.raises(SettingsError, match="is no file, no folder and no URL of an index"):
        fetch(site, where, tmp_path)
