"""install.py as a person runs it: a copied checkout, wheels made on the spot, a Python with nothing else."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import psutil
import pytest

from supervisor import environments
from supervisor.bootstrap import SUPERVISOR_IMPORTS
from supervisor.doctor import EXIT_BAD
from supervisor.home import Home, find_home
from supervisor.installers import find_uv
from supervisor.launcher import LAUNCHER_NAME
from tests.wheelhouse import BASE_PYTHON, CHECKOUT, INSTALLERS, PATIENCE_S, Site, make_site, wait_until

pytestmark = pytest.mark.install

KILLS: Final = 20
LANES: Final = 2
"""Of kills at once: most of the time of each is waiting."""

SEED: Final = int(os.environ.get("WAIFU_TEST_SEED", "20"))

EARLIEST_KILL_S: Final = 0.05
"""Before that there is not even a Python."""

SHELL: Final = [os.environ.get("COMSPEC", "cmd.exe"), "/c"] if sys.platform == "win32" else []


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below a directory with the time and size of its last change.

    But for one: Python itself compiles the `__main__` of a directory that it is started with, before our
    first line, if it may."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file() and not path.match("__pycache__/__main__.*"):
            status = path.lstat()
            found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A checkout that may not be written to; after all tests nothing in it has changed."""
    made = make_site(tmp_path_factory.mktemp("install"))
    for path in [made.checkout, *made.checkout.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree(made.checkout)
    yield made
    for path in [made.checkout, *made.checkout.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    assert tree(made.checkout) == before


@pytest.fixture(scope="session")
def first(site: Site) -> subprocess.CompletedProcess[str]:
    """The first run of all, into the HOME that most tests share."""
    return site.run("--llm", "demo", home=site.root / "hôme of 漢字")


@pytest.fixture
def home(site: Site, first: subprocess.CompletedProcess[str]) -> Home:
    """A HOME in which the supervisor's environment stands."""
    assert first.returncode == 0, first.stderr
    return find_home(str(site.root / "hôme of 漢字"), {})


@pytest.fixture
def empty_home(tmp_path: Path) -> Home:
    """A HOME with nothing in it."""
    return find_home(str(tmp_path / "hôme"), {})


def own(site: Site, home: Home) -> environments.Environment | None:
    return environments.find(home, site.checkout / "locks" / "supervisor.txt")


def markers(home: Home) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in home.envs.glob("*.json")}


# What a first run makes and says.


def test_the_first_run_installs_says_so_and_ends_with_the_argv_to_spawn(
    site: Site, home: Home, first: subprocess.CompletedProcess[str]
) -> None:
    said = json.loads(home.spawn_json.read_text(encoding="utf-8"))
    environment = own(site, home)
    assert environment is not None
    assert said["argv"] == [
        str(environment.python),
        "-X",
        f"pycache_prefix={home.cache / 'pycache'}",
        str(site.checkout / "supervisor"),
        "--home",
        str(home.root),
    ]
    assert f"spawn: {json.dumps(said['argv'], ensure_ascii=False)}" in first.stdout
    assert "demo: installed in" in first.stdout
    assert "supervisor is ready" in first.stderr


def test_nothing_is_written_into_the_checkout(site: Site, home: Home) -> None:
    before = tree(site.checkout)
    done = site.run("--llm", "demo", "--list", home=home.root)
    assert done.returncode == 0, done.stderr
    assert tree(site.checkout) == before


def test_a_second_run_makes_nothing(site: Site, home: Home) -> None:
    site.run("--llm", "demo", home=home.root)
    before = markers(home)
    done = site.run("--llm", "demo", home=home.root)
    assert "demo: is installed" in done.stdout
    assert (done.returncode, done.stderr, markers(home)) == (0, "", before)


@pytest.mark.parametrize(
    "words", [["demo,groq"], ["demo", "groq"], ["demo, groq"]], ids=["A,B", "A B", "'A, B'"]
)
def test_several_names_may_be_given_in_each_usual_way(site: Site, home: Home, words: list[str]) -> None:
    done = site.run("--llm", *words, home=home.root)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:2]] == ["demo", "groq"]


def test_an_unknown_name_is_answered_with_the_nearest_ones_before_anything_is_made(
    site: Site, home: Home
) -> None:
    site.run("--remove", "giant", home=home.root)
    before = markers(home)
    done = site.run("--llm", "giant", "gorq", home=home.root)
    assert (done.returncode, done.stdout, markers(home)) == (2, "", before)
    assert done.stderr == "install.py: there is no provider 'gorq': did you mean groq?\n"


def test_the_list_says_what_is_installed_its_size_and_which_key_it_needs(site: Site, home: Home) -> None:
    site.run("--llm", "demo", home=home.root)
    site.run("--remove", "giant", home=home.root)
    done = site.run("--list", home=home.root)
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert rows["giant"] == ["large", "no", "none", "needed", "your", "own", "table", "nobody", "yet"]
    assert rows["groq"][0] == "base"
    assert "GROQ_API_KEY" in rows["groq"]
    assert rows["demo"][2] in ("kB", "MB")


def test_a_reader_that_has_enough_of_the_list_is_no_error(site: Site, home: Home) -> None:
    process = site.start("--list", home=home.root, PYTHONUNBUFFERED="1")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process:
        assert (process.stderr.read(), process.wait(PATIENCE_S)) == ("", 0)


def test_what_is_removed_is_gone_and_can_be_installed_again(site: Site, home: Home) -> None:
    assert site.run("--llm", "giant", home=home.root).returncode == 0
    lock = site.checkout / "locks" / "large.txt"
    assert environments.find(home, lock) is not None
    done = site.run("--remove", "giant", home=home.root)
    assert done.stdout.startswith("giant: removed ")
    assert environments.find(home, lock) is None
    assert site.run("--remove", "giant", home=home.root).stdout.startswith("giant: is not installed")
    assert site.run("--llm", "giant", home=home.root).returncode == 0
    assert environments.find(home, lock) is not None


# Everything at once.

SECOND: Final = """
[env.second]
requirements = ["msgpack>=1.1,<2"]
imports = ["msgpack"]

[provider.one-more]
adapter = "scripted"
env = "second"
"""
BROKEN: Final = """
[env.broken]
requirements = ["nothing"]
imports = ["nothing"]

[provider.hopeless]
adapter = "scripted"
env = "broken"
"""


def rows_of(text: str) -> dict[str, list[str]]:
    """The table of costs: environment → the rest of its row."""
    rows: dict[str, list[str]] = {}
    for line in text[text.index("environment  ") :].splitlines()[1:]:
        name, *cells = line.split(maxsplit=4)
        rows[name] = cells
        if name == "together":
            return rows
    raise AssertionError("the table has no end")


def du(*directories: Path) -> float:
    """Megabytes as the system's own program counts them: all of one call together, shared files once."""
    argv = ["du", "-s", "-k", "-c", *map(str, directories)]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=PATIENCE_S, check=True)
    return int(done.stdout.splitlines()[-1].split()[0]) * 1024 / 1e6


def test_all_makes_every_environment_that_is_not_large_once_and_says_what_each_costs(
    site: Site, empty_home: Home
) -> None:
    empty_home.local_catalog.write_text(SECOND, encoding="utf-8")
    done = site.run("--llm", "all", home=empty_home.root)
    assert done.returncode == 0, done.stderr
    said = [
        line.partition("] ")[2] for line in done.stderr.splitlines() if " of 2: " in line and ", for" in line
    ]
    assert said == ["1 of 2: base, for demo, groq", "2 of 2: second, for one-more"]
    rows = rows_of(done.stdout)
    assert list(rows) == ["supervisor", "base", "second", "together"]
    assert [row[0] for row in rows.values()] == ["-", "2", "1", "3"]
    assert [row[3:] for row in rows.values()] == [["was there"], [], [], []]
    assert "large, for giant is large, and made by name alone: python install.py --llm giant" in done.stdout
    assert environments.find(empty_home, site.checkout / "locks" / "large.txt") is None
    again = site.run("--llm", "all", home=empty_home.root)
    assert (again.returncode, "creating" in again.stderr) == (0, False)
    assert [row[3:] for row in rows_of(again.stdout).values()] == [["was there"]] * 3 + [[]]


@pytest.mark.skipif(shutil.which("du") is None, reason="this system has no du")
@pytest.mark.parametrize("installer", INSTALLERS)
def test_the_sizes_are_those_that_the_system_s_own_program_counts(
    site: Site, empty_home: Home, tmp_path: Path, installer: str
) -> None:
    empty_home.local_catalog.write_text(SECOND, encoding="utf-8")
    path = os.pathsep.join((str(Path(find_uv() or "").parent), os.environ["PATH"]))
    variables = {"UV_CACHE_DIR": str(tmp_path / "uv"), "PATH": path}
    done = site.run("--llm", "all", "--installer", installer, home=empty_home.root, **variables)
    assert done.returncode == 0, done.stderr
    rows = rows_of(done.stdout)
    locks = [site.checkout / "locks" / f"{name}.txt" for name in list(rows)[:-1]]
    found = [environments.find(empty_home, lock) for lock in locks]
    directories = [environment.directory for environment in found if environment is not None]
    measured = [*map(du, directories), du(*directories)]
    assert [float(row[1]) for row in rows.values()] == pytest.approx(measured, abs=0.06)


def test_one_that_cannot_be_made_stops_no_other_and_is_exit_code_4(site: Site, empty_home: Home) -> None:
    empty_home.local_catalog.write_text(BROKEN + SECOND, encoding="utf-8")
    done = site.run("--llm", "all", "--run", "0", home=empty_home.root)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("install.py: cannot be made: broken; the table says why")
    rows = rows_of(done.stderr)  # stdout is the ready line's, and nothing serves
    assert done.stdout == ""
    assert rows["broken"][:2] == ["1", "-"]
    assert "broken.txt" in rows["broken"][3]
    assert environments.find(empty_home, site.checkout / "locks" / "second.txt") is not None
    assert "Traceback" not in done.stderr
    assert empty_home.spawn_json.is_file()


def test_all_and_a_large_one_by_name_go_together(site: Site, home: Home) -> None:
    site.run("--remove", "giant", home=home.root)
    done = site.run("--llm", "all,giant", home=home.root)
    assert done.returncode == 0, done.stderr
    assert "giant: installed in" in done.stdout
    assert list(rows_of(done.stdout)) == ["supervisor", "base", "together"]


def test_garbage_goes_and_what_is_needed_stays(site: Site, home: Home) -> None:
    site.run("--llm", "demo", home=home.root)
    (home.envs / "0123456789abcdef-dead").mkdir()
    before = markers(home)
    done = site.run("--gc", home=home.root)
    assert "removed unfinished 0123456789abcdef" in done.stdout
    assert not (home.envs / "0123456789abcdef-dead").exists()
    assert (done.returncode, markers(home)) == (0, before)


# The doctor and the report.

NO_PORT: Final = {"WAIFU_LLM_PORT": "0"}
"""Whatever else runs on this machine may have the usual one."""


def kept(home: Home) -> dict[str, tuple[int, int]]:
    """Every file of a HOME but those that may be deleted at any time."""
    cache = str(home.cache)
    return {name: status for name, status in tree(home.root).items() if not name.startswith(cache)}


def test_the_doctor_finds_a_fresh_installation_well_and_changes_nothing(site: Site, home: Home) -> None:
    site.run("--llm", "demo", home=home.root)
    site.run("--gc", home=home.root)
    before = kept(home)
    done = site.run("--check", "--llm", "demo", home=home.root, **NO_PORT)
    assert (done.returncode, done.stderr, kept(home)) == (0, "", before), done.stdout
    assert "0 to look at, 0 bad. Everything is fine." in done.stdout
    assert "a worker in" in done.stdout


def test_the_doctors_remedy_for_a_python_that_is_gone_is_one(site: Site, empty_home: Home) -> None:
    assert site.run("--llm", "demo", home=empty_home.root).returncode == 0
    demo = environments.find(empty_home, site.checkout / "locks" / "base.txt")
    assert demo is not None
    demo.python.unlink()
    done = site.run("--check", home=empty_home.root, **NO_PORT)
    assert done.returncode == EXIT_BAD
    assert f"{demo.python} is gone\n      -> python install.py --llm demo --home " in done.stdout
    assert site.run("--llm", "demo", home=empty_home.root).returncode == 0
    assert site.run("--check", home=empty_home.root, **NO_PORT).returncode == 0


def test_the_report_is_made_where_it_is_asked_for(site: Site, home: Home, tmp_path: Path) -> None:
    done = site.run("--report", str(tmp_path / "r.zip"), home=home.root, **NO_PORT)
    assert (done.returncode, f"made {tmp_path / 'r.zip'}" in done.stdout) == (0, True), done.stderr
    again = site.run("--report", str(tmp_path / "r.zip"), home=home.root, **NO_PORT)
    assert again.returncode == 2
    assert "is there already" in again.stderr


# What an application starts.


def ready_line(argv: list[str], cwd: Path) -> dict[str, object]:
    """The ready line of what `argv` starts, with the system's own variables alone; it ends by its stdin."""
    system = {key: os.environ[key] for key in ("SYSTEMROOT", "COMSPEC") if key in os.environ}
    process = subprocess.Popen(
        [*argv, "0", "--exit-on-stdin-eof"],
        cwd=cwd,
        env=system,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, err
    ready = json.loads(line)
    assert isinstance(ready, dict)
    return ready


def test_the_argv_of_spawn_json_starts_the_module_from_anywhere(home: Home, tmp_path: Path) -> None:
    argv = json.loads(home.spawn_json.read_text(encoding="utf-8"))["argv"]
    ready = ready_line(argv, tmp_path)
    assert (ready["event"], ready["host"]) == ("ready", "127.0.0.1")
    assert str(ready["log"]).startswith(str(home.root))


def test_the_launcher_starts_the_module_from_anywhere(home: Home, tmp_path: Path) -> None:
    name = f"{LAUNCHER_NAME}.cmd" if sys.platform == "win32" else LAUNCHER_NAME
    assert ready_line([*SHELL, str(home.bin / name)], tmp_path)["event"] == "ready"


def test_any_python_starts_the_module_by_path(site: Site, home: Home, tmp_path: Path) -> None:
    argv = [BASE_PYTHON, str(site.checkout / "supervisor"), "--home", str(home.root)]
    assert ready_line(argv, tmp_path)["event"] == "ready"


def test_without_its_environment_the_module_says_the_one_command_to_run(site: Site, empty_home: Home) -> None:
    done = site.run("0", home=empty_home.root, program=[BASE_PYTHON, str(site.checkout / "supervisor")])
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f'"{site.checkout / "install.py"}" --home "{empty_home.root}"' in done.stderr


def test_run_serves_and_the_ready_line_is_the_first_on_stdout(site: Site, home: Home) -> None:
    process = site.start("--llm", "demo", "--run", "0", home=home.root)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    if sys.platform != "win32":
        assert process.returncode == 0


# Races and kills.


def test_twice_at_once_makes_one_environment(site: Site, empty_home: Home) -> None:
    both = [site.start(home=empty_home.root) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE_S * 2)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("creating supervisor" in text for text in said) == 1
    assert len(list(empty_home.envs.iterdir())) == 2


def processes_in(home: Home) -> bool:
    """Whether anything still runs with a path of that HOME in its command line."""
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(
            str(home.root) in word for word in process.info["cmdline"] or []
        ):
            return True
    return False


def kill_after(process: subprocess.Popen[str], delay_s: float) -> bool:
    """Kills the process after that long; says whether it still ran."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=delay_s)
    ran = process.poll() is None
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    return ran


@pytest.mark.timeout(300)
def test_killed_at_20_random_moments_the_next_run_repairs_it(site: Site, empty_home: Home) -> None:
    def lane(number: int) -> None:
        """Its share of the kills, in a HOME of its own; a run that ends before its kill counts for none."""
        chance = random.Random(SEED + number)  # noqa: S311  # moments, no secrets
        own_home = find_home(str(empty_home.root / f"lane {number}"), {})
        assert site.run(home=own_home.root).returncode == 0
        whole = own(site, own_home)
        assert whole is not None
        latest_s = whole.seconds + EARLIEST_KILL_S
        landed = 0
        while landed < KILLS // LANES:
            environments.remove(own_home, whole.key)
            delay_s = chance.uniform(EARLIEST_KILL_S, latest_s)
            if not kill_after(site.start(home=own_home.root), delay_s):
                latest_s = delay_s
                continue
            landed += 1
            wait_until(lambda: not processes_in(own_home), "the end of the killed run's installers")
            check_repaired(site, own_home, f"killed after {delay_s:.3f} s (seed {SEED + number})")

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(lane, range(LANES)))


def check_repaired(site: Site, home: Home, where: str) -> None:
    """The next run makes it whole, and leaves nothing else."""
    done = site.run(home=home.root)
    assert done.returncode == 0, f"{where}: {done.stderr}"
    made = own(site, home)
    assert made is not None, where
    argv = [str(made.python), "-I", "-c", "import " + ", ".join(SUPERVISOR_IMPORTS)]
    assert subprocess.run(argv, timeout=PATIENCE_S, check=False).returncode == 0, where
    assert len(list(home.envs.iterdir())) == 2, where


# What users' machines lack, and what they set.


def old_python() -> str | None:
    """A Python that is too old, if this machine has one."""
    beside = sorted(Path(sys.base_prefix).parent.glob("3.[6789]*/bin/python3"))
    for candidate in [*map(str, beside), shutil.which("python3.9"), shutil.which("python3.8")]:
        if candidate:
            code = "import sys; sys.exit(sys.version_info >= (3, 10))"
            if subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode == 0:
                return candidate
    return None


@pytest.mark.skipif(old_python() is None, reason="this machine has no Python older than 3.10")
@pytest.mark.parametrize("program", ["install.py", "supervisor"])
def test_an_old_python_is_told_so_in_one_sentence(program: str) -> None:
    argv = [str(old_python()), "-B", str(CHECKOUT / program)]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "3.10 or newer" in done.stderr


@pytest.mark.parametrize("program", ["install.py", "supervisor/__main__.py"])
def test_what_an_old_python_reads_first_has_no_newer_syntax(program: str) -> None:
    ast.parse((CHECKOUT / program).read_text(encoding="utf-8"), feature_version=(3, 6))


WITHOUT: Final = """
import runpy, sys, sysconfig
sysconfig.get_config_vars()["WHEEL_PKG_DIR"] = sys.argv[1]
for name in sys.argv[1].split(","):
    sys.modules[name] = None
sys.argv[:] = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def python_without(site: Site, *modules: str) -> list[str]:
    """A Python that lacks those modules, on its way into install.py."""
    return [BASE_PYTHON, "-c", WITHOUT, ",".join(modules), str(site.checkout / "install.py")]


@pytest.mark.skipif(find_uv() is None, reason="uv is not on this machine")
def test_without_ensurepip_and_pip_uv_is_a_way_on(site: Site, empty_home: Home) -> None:
    uv = Path(str(find_uv())).parent
    done = site.run(home=empty_home.root, program=python_without(site, "ensurepip", "pip"), PATH=str(uv))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("modules", [("ensurepip", "pip"), ("venv",)], ids=["no pip", "no venv"])
def test_without_what_makes_environments_the_one_command_is_named(
    site: Site, empty_home: Home, modules: tuple[str, ...]
) -> None:
    done = site.run(
        "--installer", "pip", home=empty_home.root, program=python_without(site, *modules), PATH=""
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "sudo apt install python3-venv" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(empty_home.envs.iterdir()) == []


@pytest.mark.parametrize("installer", ["pip", "auto"])
def test_variables_meant_for_other_environments_do_no_harm(
    site: Site, empty_home: Home, tmp_path: Path, installer: str
) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in ("websockets", "msgspec", "supervisor", "uv"):
        (poison / f"{name}.py").write_text("raise SystemExit('poisoned')\n", encoding="utf-8")
    before = tree(poison)
    names = ("PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_PYTHON", "UV_TARGET", "UV_PYTHON", "VIRTUAL_ENV")
    variables = {**dict.fromkeys(names, str(poison)), "PIP_USER": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = site.run("--llm", "demo", "--installer", installer, home=empty_home.root, **variables)
    assert done.returncode == 0, done.stderr
    assert tree(poison) == before


# What cannot be done.


def test_the_flag_outranks_the_variable(site: Site, home: Home, tmp_path: Path) -> None:
    done = site.run("--list", home=home.root, WAIFU_LLM_HOME=str(tmp_path / "other"))
    assert str(home.root) in done.stdout
    assert not (tmp_path / "other").exists()


def test_a_home_that_cannot_be_used_is_one_sentence_and_exit_code_2(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = site.run(home=tmp_path / "file")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "--home DIR" in done.stderr


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--run", "70000"], ["--installer", "conda"]])
def test_bad_arguments_are_exit_code_2_before_anything_is_made(
    site: Site, empty_home: Home, arguments: list[str]
) -> None:
    done = site.run(*arguments, home=empty_home.root)
    assert (done.returncode, done.stdout, list(empty_home.envs.iterdir())) == (2, "", [])
    assert "Traceback" not in done.stderr


def test_a_wheelhouse_that_lacks_a_file_is_exit_code_4(site: Site, empty_home: Home, tmp_path: Path) -> None:
    done = site.run("--wheelhouse", str(tmp_path), home=empty_home.root)
    assert (done.returncode, done.stdout, list(empty_home.envs.iterdir())) == (4, "", [])
    assert done.stderr.splitlines()[-1].startswith("install.py: the environment 'supervisor' cannot be made")
    assert "Traceback" not in done.stderr
