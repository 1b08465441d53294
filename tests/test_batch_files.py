"""INSTALL.bat and RUN.bat: how they are written, and what they do in cmd.exe for each Python that a machine
may have. Wine's cmd.exe runs them where it is, with a stand-in for every program that they start; Windows
runs them with its own Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).resolve().parent.parent
FILES: Final = ("INSTALL.bat", "RUN.bat")
SHARED: Final = "rem ---- from here on INSTALL.bat and RUN.bat are the same"
PATIENCE_S: Final = 60.0
PREFIX_S: Final = 180.0
"""For wine to make a Windows, once."""

COMPILER: Final = shutil.which("x86_64-w64-mingw32-gcc")
WINE: Final = shutil.which("wine") or shutil.which("wine64")
needs_wine = pytest.mark.skipif(
    WINE is None or COMPILER is None, reason="wine and x86_64-w64-mingw32-gcc are not both on PATH"
)

every_file = pytest.mark.parametrize("name", FILES)


def code_of(name: str) -> list[str]:
    """The lines that are no comments, without indentation."""
    lines = (CHECKOUT / name).read_bytes().decode("ascii").split("\r\n")
    return [line.strip() for line in lines if line.strip() and not line.lower().startswith("rem ")]


# ---------------------------------------------------------------- how they are written


@every_file
def test_it_is_ascii_with_the_line_ends_that_labels_need(name: str) -> None:
    data = (CHECKOUT / name).read_bytes()
    assert data.isascii()
    assert data.endswith(b"\r\n")
    assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")
    assert "*.bat text eol=crlf" in (CHECKOUT / ".gitattributes").read_text(encoding="utf-8").splitlines()


@every_file
def test_every_label_is_reached_and_every_jump_has_its_label(name: str) -> None:
    text = "\n".join(code_of(name))
    labels = re.findall(r"^:(\w+)$", text, re.MULTILINE)
    jumps = re.findall(r"\b(?:goto |call :)(\w+)", text)
    assert len(labels) == len(set(labels))
    assert set(labels) == set(jumps)


def test_what_both_need_is_written_the_same_in_both() -> None:
    texts = [(CHECKOUT / name).read_bytes().decode("ascii") for name in FILES]
    first, second = (text.partition(SHARED)[2] for text in texts)
    assert first == second
    assert ":find_python" in first


@every_file
def test_a_path_is_always_in_quotes_and_never_read_twice(name: str) -> None:
    """`call` expands its arguments a second time, so it gets none with a path. Exclamation marks mean
    nothing while delayed expansion is off, so it stays off, and so a path may hold one."""
    for line in code_of(name):
        plain = re.sub(r"%(\w+):[^%]*%", r"%\1%", line)  # quotes in a replacement are gone when it is read
        for variable in ("here", "self", "python", "candidate", "folder", "folders", "PATH", "LOCALAPPDATA"):
            for found in re.finditer(f"%{variable}%", plain):
                assert plain[: found.start()].count('"') % 2 == 1, line
        for called in re.findall(r"\bcall (.*)", line):
            assert re.fullmatch(r":\w+( \w+\.exe)?", called), line
    text = "\n".join(code_of(name))
    assert "setlocal EnableExtensions DisableDelayedExpansion" in text
    assert "!" not in text


# ---------------------------------------------------------------- what they do

PLACES: Final = {"plain": "checkout", "odd": "a & b (c) ^ !wow! é漢 'd'"}
"""Folders of a checkout. A percent sign is not among them: wine takes it out of whatever it expands."""

OLD: Final = "sys.exit 3\n"
GOOD: Final = "sys.exit 0\n"
NONE_OF_3: Final = "sys.exit 103\n"
"""What the launcher says where there is no Python 3."""

STORE: Final = r"AppData\Microsoft\WindowsApps"
STORE_PYTHON: Final = STORE + r"\PythonSoftwareFoundation.Python.3.13_qbz5n2kfra8p0"


@dataclass
class Windows:
    """A Windows of wine's, with folders of this test on its drive C."""

    prefix: Path
    program: Path
    root: Path
    path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def drive(self) -> Path:
        """Where its drive C is."""
        return self.prefix / "drive_c"

    def name_of(self, path: Path) -> str:
        """What Windows calls it."""
        return "C:\\" + str(path.relative_to(self.drive)).replace("/", "\\")

    def add(self, program: str, answers: str = "") -> str:
        """Puts a stand-in at that place of the test's folder, and the place on PATH; returns its name."""
        place = self.root / program.replace("\\", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.program, place)
        Path(f"{place}.answers").write_text(answers, encoding="ascii")
        folder = self.name_of(place.parent)
        if folder not in self.path:
            self.path.append(folder)
        return self.name_of(place)

    def run(self, place: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a batch file of the checkout at that place, from another folder."""
        folder = self.root / PLACES[place]
        folder.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(CHECKOUT / name, folder)
        return self.start(self.name_of(folder / script), *arguments)

    def start(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs any of its programs."""
        return subprocess.run(
            [str(WINE), *words],
            cwd=self.prefix.parent,
            env={
                **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
                "WINEPREFIX": str(self.prefix),
                "WINEDEBUG": "-all",
                "WINEDLLOVERRIDES": "mscoree=;mshtml=",
                "LC_ALL": "C.UTF-8",
                "WINEPATH": ";".join(self.path),
                "STAND_IN_LOG": self.name_of(self.root / "log"),
                **self.variables,
            },
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=PREFIX_S,
            check=False,
        )

    def started(self) -> list[list[str]]:
        """What was started since the last question, each with its arguments."""
        log = self.root / "log"
        if not log.exists():
            return []
        lines = log.read_text(encoding="utf-8").splitlines()
        log.unlink()
        return [line.lstrip("\ufeff").rstrip("\t").split("\t") for line in lines]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Windows]:
    """A new Windows; what serves it ends with the tests."""
    folder = tmp_path_factory.mktemp("windows")
    program = folder / "stand_in.exe"
    source = CHECKOUT / "tests" / "stand_in.c"
    compile_it = [str(COMPILER), "-municode", "-O1", "-s", "-o", str(program), str(source)]
    subprocess.run(compile_it, timeout=PATIENCE_S, check=True)
    windows = Windows(folder / "prefix", program, folder / "prefix" / "drive_c")
    assert windows.start("wineboot", "-i").returncode == 0
    yield windows
    environment = {**os.environ, "WINEPREFIX": str(windows.prefix)}
    for word in ("-k", "-w"):
        subprocess.run(
            [str(shutil.which("wineserver")), word], env=environment, timeout=PATIENCE_S, check=False
        )


@pytest.fixture
def windows(made: Windows, tmp_path: Path) -> Windows:
    """That Windows without any Python, and a folder of the test's own."""
    root = made.drive / tmp_path.name
    root.mkdir()
    local = made.name_of(root) + r"\AppData"
    return Windows(made.prefix, made.program, root, variables={"LOCALAPPDATA": local})


PROBE: Final = ["-c", "import sys; sys.exit(3 if sys.version_info < (3, 10) else 0)"]
wine_test = pytest.mark.timeout(PREFIX_S + PATIENCE_S)


@needs_wine
@wine_test
@every_file
@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        pytest.param({}, "and there is none", id="no Python"),
        pytest.param({"py.exe": NONE_OF_3}, "and there is none", id="a launcher without Python 3"),
        pytest.param({f"{STORE}\\python.exe": GOOD}, "only opens its Store", id="the Store's stub"),
        pytest.param({"python.exe": OLD}, "is older", id="an old one"),
        pytest.param(
            {"py.exe": OLD, "x\\python3.exe": "sys.exit 9\n"}, "is older", id="an old and a broken one"
        ),
        pytest.param({"python.exe": "sys.exit 9\n"}, "does not start", id="a broken one"),
    ],
)
def test_without_a_python_it_says_in_one_sentence_what_to_do(
    windows: Windows, name: str, programs: dict[str, str], reason: str
) -> None:
    for program, answers in programs.items():
        windows.add(program, answers)
    done = windows.run("odd", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{name} needs Python 3.10 or newer, {done.stderr.split(', ')[1].partition(':')[0]}: get one from "
        "https://www.python.org/downloads/, tick Add python.exe to PATH in its installer, and start "
        f"{name} again."
    ]
    assert reason in done.stderr
    assert not [words for words in windows.started() if "WindowsApps" in words[0]], "the stub was started"


@needs_wine
@wine_test
@pytest.mark.parametrize(
    ("programs", "chosen"),
    [
        pytest.param({"python.exe": GOOD, "py.exe": GOOD}, "py.exe", id="the launcher first"),
        pytest.param({"p & q (r)\\python.exe": GOOD}, "p & q (r)\\python.exe", id="python"),
        pytest.param({"python3.exe": GOOD}, "python3.exe", id="python3"),
        pytest.param({"py.exe": OLD, "python.exe": GOOD}, "python.exe", id="a new one after an old one"),
        pytest.param({"a\\python.exe": OLD, "b\\python.exe": GOOD}, "b\\python.exe", id="the second on PATH"),
        pytest.param(
            {f"{STORE}\\python.exe": GOOD, "python.exe": GOOD}, "python.exe", id="one after the Store's stub"
        ),
        pytest.param(
            {f"{STORE}\\python.exe": GOOD, f"{STORE_PYTHON}\\python.exe": GOOD},
            f"{STORE_PYTHON}\\python.exe",
            id="a Python from the Store",
        ),
    ],
)
def test_the_first_python_that_is_new_enough_gets_the_arguments(
    windows: Windows, programs: dict[str, str], chosen: str
) -> None:
    names = {
        program: windows.add(program, answers + "install.py 7\n") for program, answers in programs.items()
    }
    switch = ["-3"] if chosen == "py.exe" else []
    done = windows.run("odd", "INSTALL.bat", "--llm", "groq", "--home", r"C:\my (1) & home")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    script = windows.name_of(windows.root / PLACES["odd"] / "install.py")
    started = windows.started()
    given = ["--llm", "groq", "--home", r"C:\my (1) & home"]
    assert started[-2:] == [[names[chosen], *switch, *PROBE], [names[chosen], *switch, script, *given]]


@needs_wine
@wine_test
@pytest.mark.parametrize("place", PLACES)
def test_a_double_click_installs_the_demo_and_says_what_is_next(windows: Windows, place: str) -> None:
    python = windows.add("py.exe", GOOD)
    done = windows.run(place, "INSTALL.bat")
    script = windows.name_of(windows.root / PLACES[place] / "install.py")
    assert windows.started()[1:] == [[python, "-3", script, "--llm", "demo"]]
    assert (done.returncode, done.stderr) == (0, "")
    assert "double-click RUN.bat" in done.stdout


@needs_wine
@wine_test
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", [0, 1, 3, 130])
def test_run_passes_its_arguments_and_the_exit_code_on(windows: Windows, place: str, code: int) -> None:
    python = windows.add("py.exe", f"{GOOD}--help 0\nsupervisor {code}\n")
    done = windows.run(place, "RUN.bat", "0", "--home", r"C:\my (1) & home", "--log-level=DEBUG")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    script = windows.name_of(windows.root / PLACES[place] / "supervisor")
    home = ["--home", r"C:\my (1) & home"]
    assert windows.started()[1:] == [
        [python, "-3", script, *home, "--help"],
        [python, "-3", script, "0", *home, "--log-level=DEBUG"],
    ]


@needs_wine
@wine_test
@pytest.mark.parametrize(("installed", "code"), [(0, 0), (4, 4)], ids=["it can", "it cannot"])
def test_run_installs_first_where_nothing_is_installed(windows: Windows, installed: int, code: int) -> None:
    python = windows.add("py.exe", f"{GOOD}install.py {installed}\n--help 2\n")
    done = windows.run("plain", "RUN.bat")
    folder = windows.name_of(windows.root / PLACES["plain"])
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    serves = [] if code else [[python, "-3", folder + "\\supervisor"]]
    assert windows.started()[1:] == [
        [python, "-3", folder + "\\supervisor", "--help"],
        [python, "-3", folder + "\\install.py"],
        *serves,
    ]


@needs_wine
@wine_test
@pytest.mark.parametrize(
    ("terminal", "ci", "clicked", "pauses"),
    [
        pytest.param(True, "", True, True, id="a double-click"),
        pytest.param(False, "", True, False, id="stdin is no terminal"),
        pytest.param(True, "true", True, False, id="a CI"),
        pytest.param(True, "", False, False, id="a terminal or another script"),
    ],
)
def test_the_window_of_a_double_click_stays_open_on_an_error(
    windows: Windows, terminal: bool, ci: str, clicked: bool, pauses: bool
) -> None:
    """Wine has neither `timeout`, which knows a terminal, nor the variable of cmd.exe's own command line."""
    timeout = windows.drive / "windows" / "system32" / "timeout.exe"
    shutil.copy(windows.program, timeout)
    Path(f"{timeout}.answers").write_text(f"/t {int(not terminal)}\n", encoding="ascii")
    script = windows.name_of(windows.root / PLACES["odd"] / "RUN.bat")
    shell = r"C:\windows\system32\cmd.exe"
    windows.variables["CMDCMDLINE"] = f'{shell.upper()} /c ""{script}" "' if clicked else shell
    if ci:
        windows.variables["CI"] = ci
    done = windows.run("odd", "RUN.bat")
    assert done.returncode == 2
    assert bool(done.stdout.strip()) is pauses, done.stdout


@pytest.mark.skipif(sys.platform != "win32", reason="only Windows has a Python that cmd.exe can start")
@pytest.mark.parametrize(("name", "word"), [("INSTALL.bat", "--version"), ("RUN.bat", "--nonsense")])
def test_the_python_of_this_windows_is_found(name: str, word: str) -> None:  # pragma: no cover
    done = subprocess.run(
        [os.environ["COMSPEC"], "/c", str(CHECKOUT / name), word],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PREFIX_S,
        check=False,
    )
    assert done.returncode == (0 if name == "INSTALL.bat" else 2), done.stderr
    assert "there is none" not in done.stderr
