"""Environments are whole or not there: kills, races, wrong files, and what users' machines add."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import psutil
import pytest

from supervisor import environments, installers
from supervisor import provision as provisioning
from supervisor.environments import Environment, environment_key, find, find_any
from supervisor.errors import ProvisionError
from supervisor.home import Home, find_home
from supervisor.installers import Pip, Uv, find_installers, find_pip, find_uv, reason_of, redacted
from supervisor.provision import Phase, Progress, Recipe, provision
from supervisor.spawn import exclusive_lock
from tests.wheelhouse import (
    INSTALLERS,
    PATIENCE_S,
    lock_text,
    make_bulky_wheels,
    make_wheel,
    python,
    result_of,
    wait_until,
)

pytestmark = pytest.mark.install

KILLS: Final = 20
LANES: Final = 2
"""Of kills at once: most of the time of each is waiting."""

PYTHON_START_S: Final = 0.15
"""Of a build, before it does anything."""

BULKY: Final = ("bulky0", "bulky1", "bulky2")
SEED: Final = int(os.environ.get("WAIFU_TEST_SEED", "20"))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A wheelhouse with one tiny package."""
    directory = tmp_path / "wheels of 漢字"
    directory.mkdir()
    make_wheel(directory, "tiny", "1.0", {"tiny.py": "VALUE = 1\n"})
    return directory


def recipe(wheels: Path, *names: str, lock: str | None = None, bootstrap: bool = True) -> Recipe:
    """What pins the wheels there."""
    path = wheels / "tiny.txt"
    path.write_text(lock or lock_text(*sorted(wheels.glob("*.whl"))), encoding="utf-8")
    return Recipe("tiny", path, names or ("tiny",), bootstrap=bootstrap)


def imports(environment: Environment, *names: str) -> bool:
    """Whether the environment's own Python imports them."""
    code = "".join(f"import {name}\n" for name in names)
    argv = [str(environment.python), "-I", "-c", code]
    return subprocess.run(argv, timeout=PATIENCE_S, check=False, capture_output=True).returncode == 0


def leftovers(home: Home) -> list[str]:
    """What is in envs/, the finished environments and their markers excepted."""
    markers = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in home.envs.glob("*.json")}
    known = {Path(values["directory"]).name for values in markers.values()} | {
        f"{key}.json" for key in markers
    }
    return sorted(path.name for path in home.envs.iterdir() if path.name not in known)


# What is made, and what is found again.


@pytest.mark.parametrize("bootstrap", [True, False], ids=["venv", "virtualenv"])
@pytest.mark.parametrize("installer", INSTALLERS)
def test_an_environment_is_made_once_and_found_afterwards(
    home: Home, wheels: Path, installer: str, bootstrap: bool
) -> None:
    wanted = recipe(wheels, bootstrap=bootstrap)
    heard: list[Progress] = []
    made = provision(home, wanted, installer=installer, wheelhouse=wheels, on_progress=heard.append)
    assert imports(made, "tiny")
    assert (made.installer, dict(made.packages)) == (installer, {"tiny": "1.0"})
    assert made.size_bytes > 0
    assert made.directory.parent == home.envs
    assert (made.site_packages / "tiny.py").is_file()
    assert find(home, wanted.lock) == made == provision(home, wanted, wheelhouse=wheels)
    assert list(dict.fromkeys(progress.phase for progress in heard)) == [
        Phase.CREATE,
        Phase.INSTALL,
        Phase.VERIFY,
        Phase.DONE,
    ]
    assert (heard[-1].done, heard[-1].total) == (1, 1)
    assert leftovers(home) == []


def test_a_changed_lock_makes_a_new_directory_and_leaves_the_old_one(home: Home, wheels: Path) -> None:
    old = provision(home, recipe(wheels), wheelhouse=wheels)
    make_wheel(wheels, "other", "2.0", {"other.py": ""})
    new = provision(home, recipe(wheels, "tiny", "other"), wheelhouse=wheels)
    assert new.directory != old.directory
    assert imports(old, "tiny")
    assert imports(new, "tiny", "other")


def test_line_ends_do_not_change_the_key() -> None:
    assert environment_key(b"a\r\nb\r\n") == environment_key(b"a\nb\n") != environment_key(b"a\nc\n")


def test_another_python_s_environment_is_found_when_there_is_none_of_ours(
    home: Home, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(wheels)
    made = provision(home, wanted, wheelhouse=wheels)
    monkeypatch.setattr(environments, "abi", lambda: "another Python")
    assert find(home, wanted.lock) is None
    assert find_any(home, wanted.lock) == made


# What does not count.


@pytest.mark.parametrize("damage", ["python", "site_packages", "base_python", "base_library"])
def test_an_environment_that_lost_what_it_stands_on_is_made_again(
    home: Home, wheels: Path, damage: str
) -> None:
    wanted = recipe(wheels)
    made = provision(home, wanted, wheelhouse=wheels)
    marker = home.envs / f"{made.key}.json"
    values = json.loads(marker.read_text(encoding="utf-8"))
    values[damage] = str(home.envs / "gone")
    marker.write_text(json.dumps(values), encoding="utf-8")
    assert find(home, wanted.lock) is None
    again = provision(home, wanted, wheelhouse=wheels)
    assert again.directory != made.directory
    assert not made.directory.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 0}', "null"])
def test_a_marker_that_is_none_does_not_count(home: Home, wheels: Path, text: str) -> None:
    wanted = recipe(wheels)
    (home.envs / f"{environment_key(wanted.lock.read_bytes())}.json").write_text(text, encoding="utf-8")
    assert find(home, wanted.lock) is None
    assert imports(provision(home, wanted, wheelhouse=wheels), "tiny")


def test_leftovers_are_wiped_and_never_resumed(home: Home, wheels: Path) -> None:
    wanted = recipe(wheels)
    key = environment_key(wanted.lock.read_bytes())
    half_made = home.envs / f"{key}-dead"
    half_made.mkdir()
    (half_made / "pyvenv.cfg").write_text("home = /", encoding="utf-8")
    provision(home, wanted, wheelhouse=wheels)
    assert not half_made.exists()
    assert leftovers(home) == []


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_file_that_is_not_the_pinned_one_is_refused_and_nothing_counts(
    home: Home, wheels: Path, installer: str
) -> None:
    wanted = recipe(wheels)
    with zipfile.ZipFile(next(wheels.glob("*.whl")), "a") as archive:
        archive.writestr("evil.py", "raise SystemExit")
    with pytest.raises(ProvisionError, match="its hash differs"):
        provision(home, wanted, installer=installer, wheelhouse=wheels)
    assert list(home.envs.iterdir()) == []


@pytest.mark.skipif(find_uv() is None, reason="uv is not on this machine")
def test_after_a_wrong_file_the_other_installer_is_not_tried(home: Home, wheels: Path) -> None:
    wanted = recipe(wheels)
    with zipfile.ZipFile(next(wheels.glob("*.whl")), "a") as archive:
        archive.writestr("evil.py", "raise SystemExit")
    heard: list[Progress] = []
    with pytest.raises(ProvisionError, match="its hash differs"):
        provision(home, wanted, wheelhouse=wheels, on_progress=heard.append)
    assert not any("trying" in progress.message for progress in heard)


def test_when_uv_fails_pip_is_tried(home: Home, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = wheels / ("uv.bat" if sys.platform == "win32" else "uv")
    broken.write_text("@exit 3" if sys.platform == "win32" else "#!/bin/sh\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(installers, "find_uv", lambda: str(broken))
    heard: list[Progress] = []
    made = provision(home, recipe(wheels), wheelhouse=wheels, on_progress=heard.append)
    assert made.installer == "pip"
    assert "uv failed, trying pip" in [progress.message for progress in heard]


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_package_that_does_not_import_is_an_error_that_says_so(
    home: Home, wheels: Path, installer: str
) -> None:
    make_wheel(wheels, "broken", "1.0", {"broken.py": "raise ImportError('no such DLL')\n"})
    with pytest.raises(ProvisionError, match="no such DLL"):
        provision(home, recipe(wheels, "tiny", "broken"), installer=installer, wheelhouse=wheels)
    assert list(home.envs.iterdir()) == []


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_wheel_that_is_missing_is_an_error_that_names_it(home: Home, wheels: Path, installer: str) -> None:
    lock = lock_text(*wheels.glob("*.whl")) + "absent==1.0 --hash=sha256:" + "0" * 64 + "\n"
    with pytest.raises(ProvisionError, match="absent"):
        provision(home, recipe(wheels, lock=lock), installer=installer, wheelhouse=wheels)
    assert list(home.envs.iterdir()) == []


def test_a_build_from_torch_s_own_index_is_asked_for_where_uv_knows_it(tmp_path: Path) -> None:
    paths = tmp_path / "python", tmp_path / "lock.txt"
    assert Uv("uv").argv(*paths, None, "cpu")[-2:] == ["--torch-backend", "cpu"]
    assert "--torch-backend" not in Uv("uv").argv(*paths, None)
    assert "--torch-backend" not in Uv("uv").argv(*paths, tmp_path, "cpu"), "the wheelhouse has it"
    assert "cpu" not in Pip(tmp_path / "pip").argv(*paths, None, "cpu")


def test_where_such_a_build_cannot_be_had_the_remedy_is_named(home: Home, wheels: Path) -> None:
    lock = lock_text(*wheels.glob("*.whl")) + "absent==1.0+cpu --hash=sha256:" + "0" * 64 + "\n"
    with pytest.raises(ProvisionError, match="torch's own index: install uv"):
        provision(home, recipe(wheels, lock=lock), installer="pip", wheelhouse=wheels)
    assert list(home.envs.iterdir()) == []


@pytest.mark.parametrize("lock", ["tiny\n", "tiny==1.0\n", "--index-url x\n"])
def test_a_damaged_lock_is_refused(home: Home, wheels: Path, lock: str) -> None:
    with pytest.raises(ProvisionError, match="damaged"):
        provision(home, recipe(wheels, lock=lock), wheelhouse=wheels)


def test_a_lock_that_is_missing_is_an_error_that_names_it(home: Home, wheels: Path) -> None:
    with pytest.raises(ProvisionError, match=r"gone\.txt"):
        provision(home, Recipe("gone", wheels / "gone.txt", ()), wheelhouse=wheels)


def test_a_python_out_of_bounds_is_an_error_that_names_both(home: Home, wheels: Path) -> None:
    wanted = recipe(wheels)
    with pytest.raises(ProvisionError, match=r"needs Python >=3\.99, this is 3\."):
        provision(home, Recipe("new", wanted.lock, ("tiny",), python=">=3.99"), wheelhouse=wheels)


def test_a_machine_without_files_is_an_error_that_says_what_it_takes(home: Home, wheels: Path) -> None:
    wanted = recipe(wheels)
    with pytest.raises(ProvisionError, match=r"no files for this machine .* sys_platform == 'amiga'"):
        provision(
            home, Recipe("far", wanted.lock, ("tiny",), where="sys_platform == 'amiga'"), wheelhouse=wheels
        )


def test_an_interrupt_leaves_nothing(home: Home, wheels: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase is Phase.VERIFY:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provision(home, recipe(wheels), wheelhouse=wheels, on_progress=interrupt)
    assert list(home.envs.iterdir()) == []


def test_an_index_that_cannot_be_reached_is_said(
    home: Home, wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://somebody:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://somebody:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ProvisionError, match="cannot be reached") as caught:
        provision(home, recipe(wheels))
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message


# What the user's settings may and may not do.

POISON: Final = {
    "PYTHONPATH": "poison",
    "PYTHONHOME": "poison",
    "PYTHONSTARTUP": "poison",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_TARGET": "poison",
    "PIP_PREFIX": "poison",
    "PIP_USER": "1",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_DRY_RUN": "1",
    "PIP_PYTHON": "poison",
    "UV_PROJECT_ENVIRONMENT": "poison",
    "UV_PYTHON": "poison",
    "UV_SYSTEM_PYTHON": "1",
    "UV_TARGET": "poison",
    "VIRTUAL_ENV": "poison",
    "CONDA_PREFIX": "poison",
    "VIRTUALENV_COPIES": "1",
    "VIRTUALENV_CONFIG_FILE": "poison",
}


@pytest.mark.parametrize("installer", INSTALLERS)
def test_variables_meant_for_other_environments_do_not_reach_ours(
    home: Home, wheels: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = wheels / "poison"
    poison.mkdir()
    (poison / "tiny.py").write_text("raise SystemExit", encoding="utf-8")
    for name, value in POISON.items():
        monkeypatch.setenv(name, str(poison) if value == "poison" else value)
    made = provision(home, recipe(wheels, bootstrap=False), installer=installer, wheelhouse=wheels)
    assert (made.site_packages / "tiny.py").is_file()
    assert sorted(path.name for path in poison.iterdir()) == ["tiny.py"]


def test_the_user_s_index_proxy_and_certificates_reach_the_installers() -> None:
    environ = {
        "PIP_INDEX_URL": "i",
        "PIP_CERT": "c",
        "HTTPS_PROXY": "p",
        "UV_INDEX_URL": "u",
        "PIP_RETRIES": "9",
    }
    pip = Pip(Path("pip")).environment(environ)
    assert {key: pip[key] for key in environ if key != "UV_INDEX_URL"} == {
        key: value for key, value in environ.items() if key != "UV_INDEX_URL"
    }
    uv = installers.Uv("uv").environment(environ)
    assert (uv["UV_INDEX_URL"], uv["HTTPS_PROXY"]) == ("u", "p")
    assert "PIP_INDEX_URL" not in uv


def test_passwords_in_urls_are_not_shown() -> None:
    said = reason_of(["error: Failed to fetch: https://me:secret@host/simple/x/", "  cause: 500"])
    assert said == "Failed to fetch: https://host/simple/x/, 500"
    assert redacted("http://token@h/a http://h/b@c") == "http://h/a http://h/b@c"


# Where pip comes from.


def test_without_ensurepip_an_installed_pip_or_the_system_s_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installers, "_beside", lambda package, *parts: None)
    monkeypatch.setattr(installers, "_newest_pip", lambda directory: Path("system") if directory else None)
    assert find_pip() == Path("system")


def test_without_any_installer_the_one_command_to_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installers, "find_pip", lambda: None)
    monkeypatch.setattr(installers, "find_uv", lambda: None)
    with pytest.raises(ProvisionError, match="sudo apt install python3-venv"):
        find_installers("auto")
    with pytest.raises(ProvisionError, match="leave --installer"):
        find_installers("uv")


def test_without_the_module_venv_the_one_command_to_run_is_named(
    home: Home, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(provisioning, "find_installers", lambda choice: [])
    with pytest.raises(ProvisionError, match="sudo apt install python3-venv"):
        provision(home, recipe(wheels), wheelhouse=wheels)


def test_the_newest_of_several_pips_is_taken(tmp_path: Path) -> None:
    for version in ("9.0", "26.0.1", "26.3"):
        (tmp_path / f"pip-{version}-py3-none-any.whl").touch()
    assert installers._newest_pip(tmp_path) == tmp_path / "pip-26.3-py3-none-any.whl" / "pip"


# Kills and races.

BUILD: Final = """
import json
from pathlib import Path
from supervisor.home import find_home
from supervisor.provision import Recipe, provision
home, wheels, installer, bootstrap = sys.argv[1:]
names = ("bulky0", "bulky1", "bulky2")
recipe = Recipe("bulky", Path(wheels) / "bulky.txt", names, bootstrap=bool(bootstrap))
phases = []
environment = provision(find_home(home, {}), recipe, installer=installer, wheelhouse=Path(wheels),
    on_progress=lambda progress: phases.append(progress.phase.value))
print(json.dumps({"directory": str(environment.directory), "phases": phases}))
"""


@pytest.fixture(scope="module")
def bulky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse whose installation takes long enough to be killed in."""
    directory = tmp_path_factory.mktemp("bulky wheels")
    made = make_bulky_wheels(directory, count=len(BULKY), files=40)
    (directory / "bulky.txt").write_text(lock_text(*made.values()), encoding="utf-8")
    return directory


def build(home: Home, bulky: Path, installer: str, bootstrap: bool) -> subprocess.Popen[str]:
    return python(BUILD, str(home.root), str(bulky), installer, "yes" if bootstrap else "")


def processes_in(home: Home) -> list[int]:
    """Whatever still runs with a path of that HOME in its command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if any(str(home.envs) in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def kill_after(process: subprocess.Popen[str], delay_s: float) -> bool:
    """Kills the process after that long; says whether it still ran."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=delay_s)
    ran = process.poll() is None
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    return ran


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("installer", "bootstrap"),
    [
        pytest.param("pip", True, id="the supervisor's own, pip"),
        pytest.param(
            "uv",
            False,
            id="a provider's, uv",
            marks=pytest.mark.skipif(find_uv() is None, reason="uv is not on this machine"),
        ),
    ],
)
def test_killed_at_20_random_moments_the_next_run_repairs_it(
    home: Home, bulky: Path, installer: str, bootstrap: bool
) -> None:
    wanted = Recipe("bulky", bulky / "bulky.txt", BULKY, bootstrap=bootstrap)

    def lane(number: int) -> None:
        """Its share of the kills, in a HOME of its own; a build that ends before its kill counts for none."""
        chance = random.Random(SEED + number)  # noqa: S311  # moments, no secrets
        own_home = find_home(str(home.root / f"lane {number}"), {})
        made = provision(own_home, wanted, installer=installer, wheelhouse=bulky)
        latest_s = made.seconds + PYTHON_START_S
        landed = 0
        while landed < KILLS // LANES:
            environments.remove(own_home, made.key)
            delay_s = chance.uniform(PYTHON_START_S / 2, latest_s)
            if not kill_after(build(own_home, bulky, installer, bootstrap), delay_s):
                latest_s = delay_s
                continue
            landed += 1
            wait_until(lambda: processes_in(own_home) == [], "the end of the killed build's installers")
            made = provision(own_home, wanted, wheelhouse=bulky)
            assert imports(made, *BULKY), f"killed after {delay_s:.3f} s (seed {SEED + number})"
            assert leftovers(own_home) == []

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(lane, range(LANES)))


@pytest.mark.parametrize("installer", INSTALLERS)
def test_four_at_once_make_one_environment(home: Home, bulky: Path, installer: str) -> None:
    results = [result_of(process) for process in [build(home, bulky, installer, True) for _ in range(4)]]
    directories = set()
    builders = 0
    for result in results:
        assert isinstance(result, dict)
        directories.add(result["directory"])
        builders += "venv" in result["phases"]
    assert (len(directories), builders) == (1, 1)
    assert leftovers(home) == []


def test_a_waiter_says_that_it_waits(home: Home, wheels: Path) -> None:
    wanted = recipe(wheels)
    key = environment_key(wanted.lock.read_bytes())
    heard: list[Progress] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provisioning, "WAIT_S", 0.2)
        with (
            exclusive_lock(home.locks / f"{key}.lock", timeout_s=0),
            pytest.raises(ProvisionError, match="another process"),
        ):
            provision(home, wanted, wheelhouse=wheels, on_progress=heard.append)
    assert heard[0].phase is Phase.WAIT


# Clearing away.


def test_what_is_removed_is_made_again(home: Home, wheels: Path) -> None:
    wanted = recipe(wheels)
    made = provision(home, wanted, wheelhouse=wheels)
    assert environments.remove(home, made.key)
    assert find(home, wanted.lock) is None
    assert list(home.envs.iterdir()) == []


def test_garbage_is_what_no_lock_needs_and_what_was_never_finished(home: Home, wheels: Path) -> None:
    old = provision(home, recipe(wheels), wheelhouse=wheels)
    make_wheel(wheels, "other", "1.0", {"other.py": ""})
    wanted = recipe(wheels)
    new = provision(home, wanted, wheelhouse=wheels)
    (home.envs / "0123456789abcdef-dead").mkdir()
    (home.envs / f"{new.key}-dead").mkdir()
    removed = environments.collect_garbage(home, [wanted.lock.read_bytes()])
    assert sorted(path.name for path in home.envs.iterdir()) == sorted(
        [new.directory.name, f"{new.key}.json"]
    )
    assert (f"tiny {old.key}", old.size_bytes) in removed
    assert len(removed) == 3


def test_garbage_in_use_and_garbage_being_built_stay(home: Home, wheels: Path) -> None:
    made = provision(home, recipe(wheels), wheelhouse=wheels)
    assert environments.collect_garbage(home, [], in_use=[made.directory]) == []
    with exclusive_lock(home.locks / f"{made.key}.lock", timeout_s=0):
        assert environments.collect_garbage(home, []) == []
    assert made.directory.exists()
