"""Environments made while the service runs: several askers, one build, and no leftovers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil
import pytest

from supervisor import provisioner
from supervisor.environments import Environment, environment_key, find
from supervisor.errors import ProvisionError
from supervisor.home import Home, find_home
from supervisor.provision import Phase, Progress
from supervisor.provisioner import provision_child
from supervisor.spawn import STAY_VARIABLE, exclusive_lock
from supervisor.variants import FROM, own_lock
from tests.wheelhouse import CHECKOUT, PATIENCE_S, Site, lock_text, make_site, make_wheel, wait_until

pytestmark = pytest.mark.install

CATALOG: Final = """
[env.tiny]
requirements = ["tiny"]
imports = ["tiny"]

[env.stuck]
requirements = ["stuck"]
imports = ["stuck"]

[env.large]
requirements = ["tiny"]
imports = ["tiny"]
heavy = true

[provider.giant]
adapter = "scripted"
env = "large"
"""

TINY: Final = """
import os, pathlib
pathlib.Path(__file__).with_suffix(".seen").write_text(chr(10).join(os.environ))
"""

STUCK: Final = """
import os, pathlib, time
part = pathlib.Path(__file__).with_suffix(".part")
part.write_text(str(os.getpid()))
part.rename(part.with_suffix(".pid"))
time.sleep(600)
"""


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheelhouse; the provisioner works in a copied checkout whose locks pin what is in it."""
    directory = tmp_path / "wheels of 漢字"
    checkout = tmp_path / "chéckout"
    (checkout / "locks").mkdir(parents=True)
    directory.mkdir()
    for name in ("supervisor", "workers"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "venvs.toml").write_text(CATALOG, encoding="utf-8")
    for name, text in {"tiny": TINY, "stuck": STUCK}.items():
        wheel = make_wheel(directory, name, "1.0", {f"{name}.py": text})
        (checkout / "locks" / f"{name}.txt").write_text(lock_text(wheel), encoding="utf-8")
    (checkout / "locks" / "large.txt").write_text(
        lock_text(directory / "tiny-1.0-py3-none-any.whl"), encoding="utf-8"
    )
    monkeypatch.setattr(provisioner, "CHECKOUT", checkout)
    return directory


def lock_of(name: str) -> Path:
    return provisioner.CHECKOUT / "locks" / f"{name}.txt"


async def made(home: Home, wheels: Path, heard: list[Progress], name: str = "tiny") -> Environment:
    return await provision_child(home, name, on_progress=heard.append, wheelhouse=wheels)


async def test_a_missing_environment_is_made_by_a_child_that_tells_how_far_it_is(
    home: Home, wheels: Path
) -> None:
    heard: list[Progress] = []
    environment = await made(home, wheels, heard)
    assert environment == find(home, lock_of("tiny"))
    assert list(dict.fromkeys(progress.phase for progress in heard)) == [
        Phase.CREATE,
        Phase.INSTALL,
        Phase.VERIFY,
        Phase.DONE,
    ]


async def test_an_environment_that_is_there_starts_no_child(
    home: Home, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = await made(home, wheels, [])
    monkeypatch.setattr(sys, "executable", "no such program")
    heard: list[Progress] = []
    assert await made(home, wheels, heard) == environment
    assert heard == []


async def test_no_key_reaches_the_child_the_installers_or_the_packages(
    home: Home, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GROQ_API_KEY", "OPENAI_API_KEY", "WAIFU_LLM_TOKEN", "PYTHONPATH"):
        monkeypatch.setenv(name, "canary")
    environment = await made(home, wheels, [])
    seen = (environment.site_packages / "tiny.seen").read_text(encoding="utf-8").splitlines()
    assert "PATH" in seen
    assert not {"GROQ_API_KEY", "OPENAI_API_KEY", "WAIFU_LLM_TOKEN", "PYTHONPATH"} & set(seen)


def test_the_child_sees_what_installers_need_and_nothing_else() -> None:
    kept = {"PATH": "p", "PIP_INDEX_URL": "i", "UV_INDEX_X_PASSWORD": "w", "https_proxy": "h"}
    kept["PYTHONPYCACHEPREFIX"] = "c"
    secret = {"GROQ_API_KEY": "k", "PIP_TARGET": "t", "OPENAI_BASE_URL": "u"}
    assert provisioner._child_environment({**kept, **secret}) == {**kept, STAY_VARIABLE: "1"}


async def test_why_it_cannot_be_made_is_the_error_s_message(home: Home, wheels: Path) -> None:
    with pytest.raises(ProvisionError, match=r"the environment 'tiny' cannot be made: .*tiny"):
        await made(home, wheels / "of nobody", [])
    assert list(home.envs.iterdir()) == []


async def test_a_large_environment_is_refused_with_the_command_that_makes_it(
    home: Home, wheels: Path
) -> None:
    with pytest.raises(ProvisionError, match=r"python install\.py --llm giant"):
        await made(home, wheels, [], "large")


async def test_an_own_build_that_has_gone_is_refused_with_the_command_that_brought_it(
    home: Home, wheels: Path
) -> None:
    home.builds.mkdir()
    own_lock(home, "tiny").write_text(
        f"{FROM}the folder of mine\n" + lock_of("large").read_text(encoding="utf-8"), encoding="utf-8"
    )
    with pytest.raises(ProvisionError, match=r'--builds "the folder of mine".*--remove') as caught:
        await made(home, wheels, [], "tiny")
    assert "has gone" in caught.value.message


async def test_an_environment_of_no_table_is_refused(home: Home, wheels: Path) -> None:
    lock_of("other").write_text(lock_of("tiny").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ProvisionError, match=r"no table \[env\.other\]"):
        await made(home, wheels, [], "other")


async def test_a_child_that_dies_without_a_word_is_an_error_that_says_so(home: Home, wheels: Path) -> None:
    package = provisioner.CHECKOUT / "supervisor"
    (package / "__main__.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    with pytest.raises(ProvisionError, match="'tiny' died"):
        await made(home, wheels, [])


def stuck_pid(home: Home) -> int | None:
    """The process that hangs in the import of the package `stuck`."""
    file = next(home.envs.glob("*/**/stuck.pid"), None)
    return None if file is None else int(file.read_text(encoding="utf-8"))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free(lock: Path) -> bool:
    """Whether nobody holds the lock file."""
    try:
        with exclusive_lock(lock, timeout_s=0):
            return True
    except TimeoutError:
        return False


async def test_cancelling_ends_the_child_and_all_that_it_started(home: Home, wheels: Path) -> None:
    task = asyncio.create_task(made(home, wheels, [], "stuck"))
    await asyncio.to_thread(wait_until, lambda: stuck_pid(home) is not None, "the start of the import")
    pid = stuck_pid(home)
    assert pid is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: gone(pid), "the end of the child's child")
    key = environment_key(lock_of("stuck").read_bytes())
    assert free(home.locks / f"{key}.lock")
    assert find(home, lock_of("stuck")) is None


def test_the_child_ends_with_whoever_started_it(home: Home, wheels: Path) -> None:
    argv = [sys.executable, str(provisioner.CHECKOUT / "supervisor"), "provision", "stuck"]
    argv += ["--home", str(home.root), "--wheelhouse", str(wheels)]
    child = subprocess.Popen(
        argv, env={**os.environ, STAY_VARIABLE: "1"}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: stuck_pid(home) is not None, "the start of the import")
        pid = stuck_pid(home)
        assert pid is not None
        child.communicate(timeout=PATIENCE_S)  # closes its stdin
        wait_until(lambda: gone(pid), "the end of the child's child")
    finally:
        child.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A checkout for install.py, whose supervisor environment stands in `site.root / "home"`."""
    made_site = make_site(tmp_path_factory.mktemp("site"))
    done = made_site.run(home=made_site.root / "home")
    assert done.returncode == 0, done.stderr
    return made_site


async def test_three_loads_and_an_install_at_once_make_one_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioner, "CHECKOUT", site.checkout)
    home = find_home(str(site.root / "home"), {})
    heard: list[list[Progress]] = [[], [], []]
    install = site.start("--llm", "demo", home=home.root)
    try:
        loads = [
            provision_child(home, "base", on_progress=one.append, wheelhouse=site.wheels) for one in heard
        ]
        environments = await asyncio.gather(*loads)
        _, err = await asyncio.to_thread(install.communicate, timeout=PATIENCE_S)
    finally:
        install.kill()
    assert install.returncode == 0, err
    assert len({environment.directory for environment in environments}) == 1
    builders = [any(progress.phase is Phase.CREATE for progress in one) for one in heard]
    assert sum([*builders, "creating base" in err]) == 1
    markers = [json.loads(path.read_text(encoding="utf-8")) for path in home.envs.glob("*.json")]
    assert sorted(marker["name"] for marker in markers) == ["base", "supervisor"]
    assert len(list(home.envs.iterdir())) == 4
