"""What install.py does after its hand-over, and what a person sees; its real runs: tests/test_install.py."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

import supervisor.trials  # noqa: F401  # before a test replaces what it imports: --check reads it in passing
from supervisor import bootstrap, cli, environments, launcher, wheelhouse
from supervisor.catalog import load_catalog
from supervisor.doctor import EXIT_BAD
from supervisor.environments import Environment
from supervisor.errors import ProvisionError, SettingsError
from supervisor.flags import DEFAULT_PORT, install_parser, names_of
from supervisor.home import Home
from supervisor.lockfile import read_pins
from supervisor.provision import Phase, Progress
from supervisor.terminal import ProgressLine, size_text
from supervisor.version import VERSION
from supervisor.wheelhouse import TARGETS, export_wheelhouse
from tests.wheelhouse import CHECKOUT

HASH: Final = "sha256:" + "0" * 64

# What is accepted.


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a,b"], ["a", "b"]),
        (["a,", "b", ",a"], ["a", "b"]),
        ([], []),
        (["", ","], []),
    ],
)
def test_names_are_read_in_each_usual_way_and_each_once(words: list[str], expected: list[str]) -> None:
    assert names_of(words) == expected


def test_a_flag_may_be_given_twice() -> None:
    assert install_parser().parse_args(["--llm", "a", "--llm", "b", "c"]).llm == ["a", "b", "c"]


def test_run_without_a_port_takes_the_usual_one() -> None:
    assert install_parser().parse_args(["--run"]).run == DEFAULT_PORT
    assert install_parser().parse_args(["--run", "0"]).run == 0


def test_what_follows_test_is_left_to_pytest() -> None:
    flags = install_parser().parse_args(["--test", "tests/x.py", "-x", "--home", "y"])
    assert (flags.test, flags.home) == (["tests/x.py", "-x", "--home", "y"], None)


@pytest.mark.parametrize(
    "argv",
    [["--run", "65536"], ["--run", "-1"], ["--run", "x"], ["--chat", "--run"], ["--lis"], ["demo"]],
    ids=" ".join,
)
def test_what_is_not_accepted_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        install_parser().parse_args(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_the_version_is_pyproject_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        install_parser().parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == VERSION
    assert f'\nversion = "{VERSION}"\n' in (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")


# What is shown.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(phase: Phase, message: str, done: int = 0, total: int = 0, *, at_s: float = 0) -> Progress:
    return Progress(phase, message, done, total, at_s)


def test_a_terminal_sees_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "31")
    stream = Terminal()
    line = ProgressLine(stream)
    line(progress(Phase.INSTALL, "a-package-with-a-long-name", 1, 2, at_s=1.25))
    line(progress(Phase.VERIFY, "x", at_s=2))
    line(progress(Phase.DONE, "ready", at_s=3))
    assert stream.getvalue().endswith("\n")
    shown = stream.getvalue().removesuffix("\n").split("\r")[1:]
    assert shown[0] == "[   1.2 s] install 1 of 2: a-p"
    assert [len(text) for text in shown] == [30, 30, 30]
    assert shown[1].rstrip() == "[   2.0 s] verify: x"


def test_the_line_is_closed_once_and_only_if_it_is_open() -> None:
    stream = Terminal()
    line = ProgressLine(stream)
    line.end()
    line(progress(Phase.CREATE, "x"))
    line.end()
    line.end()
    assert stream.getvalue().count("\n") == 1


def test_a_file_sees_each_step_once_and_a_sign_of_life_every_ten_seconds() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for second in range(25):
        line(progress(Phase.INSTALL, "with pip", 0, 2, at_s=second))
    line(progress(Phase.INSTALL, "a", 1, 2, at_s=25))
    line(progress(Phase.INSTALL, "b", 2, 2, at_s=26))
    shown = stream.getvalue().splitlines()
    assert [text[1:9].strip() for text in shown] == ["0.0 s", "10.0 s", "20.0 s", "25.0 s"]
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 kB"), (812_400, "812 kB"), (12_340_000, "12.3 MB"), (1_100_000_000, "1.1 GB")],
)
def test_a_size_is_written_for_a_person(size: int, text: str) -> None:
    assert size_text(size) == text


# The bundle for a machine without network.


class Downloads:
    """Stands for run_child: keeps each argv and the list that it names."""

    def __init__(self, code: int = 0, says: Sequence[str] = ()) -> None:
        self.argvs: list[list[str]] = []
        self.lists: list[str] = []
        self.environments: list[Mapping[str, str]] = []
        self._code = code
        self._says = says

    def __call__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        timeout_s: float,
        on_line: Callable[[str], None],
    ) -> int:
        self.argvs.append(list(argv))
        self.environments.append(environment)
        self.lists.append(Path(argv[argv.index("-r") + 1]).read_text(encoding="utf-8"))
        for line in self._says:
            on_line(line)
        return self._code


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    """Nothing is fetched."""
    made = Downloads()
    monkeypatch.setattr(wheelhouse, "run_child", made)
    return made


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock with one line for all, one for Windows and one for old Pythons."""
    path = tmp_path / "x.txt"
    lines = ["a==1", "b==2 ; sys_platform == 'win32'", "c==3 ; python_full_version < '3.11'"]
    path.write_text("".join(f"{line} --hash={HASH}\n" for line in lines), encoding="utf-8")
    return path


def values_of(argv: list[str], flag: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == flag]


@pytest.mark.parametrize(
    ("platform", "python", "names", "tag"),
    [
        ("windows", "3.10", ["a", "b", "c"], "win_amd64"),
        ("windows", "3.14", ["a", "b"], "win_amd64"),
        ("macos", "3.10", ["a", "c"], "macosx_11_0_arm64"),
        ("macos-x64", "3.12", ["a"], "macosx_13_0_x86_64"),
        ("linux", "3.12", ["a"], "manylinux_2_17_x86_64"),
        ("linux-arm64", "3.12", ["a"], "manylinux2014_aarch64"),
    ],
)
def test_what_is_fetched_is_what_that_machine_needs(
    downloads: Downloads, tmp_path: Path, lock: Path, platform: str, python: str, names: list[str], tag: str
) -> None:
    export_wheelhouse(tmp_path / "out", [lock], platform, [python], tmp_path)
    (argv,) = downloads.argvs
    assert [pin.name for pin in read_pins(downloads.lists[0])] == names
    assert ";" not in downloads.lists[0]
    assert tag in values_of(argv, "--platform")
    assert values_of(argv, "--python-version") == [python]
    assert values_of(argv, "--dest") == [str(tmp_path / "out")]
    assert {"--require-hashes", "--no-deps"} <= set(argv)
    assert values_of(argv, "--only-binary") == [":all:"]


def test_for_this_machine_pip_is_told_no_platform(downloads: Downloads, tmp_path: Path, lock: Path) -> None:
    export_wheelhouse(tmp_path / "out", [lock, lock], None, None, tmp_path)
    assert len(downloads.argvs) == 2
    assert values_of(downloads.argvs[0], "--platform") == []
    assert values_of(downloads.argvs[0], "--python-version") == [".".join(map(str, sys.version_info[:2]))]


def test_a_download_sees_no_key(
    downloads: Downloads, tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "canary")
    export_wheelhouse(tmp_path / "out", [lock], None, None, tmp_path)
    assert "canary" not in downloads.environments[0].values()


def test_the_files_and_their_bytes_are_counted(downloads: Downloads, tmp_path: Path, lock: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a-1-py3-none-any.whl").write_bytes(b"12345")
    (tmp_path / "out" / "notes.txt").write_bytes(b"1")
    assert export_wheelhouse(tmp_path / "out", [lock], None, None, tmp_path) == (1, 5)


def test_a_download_that_fails_is_an_error_that_says_for_what_and_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lock: Path
) -> None:
    monkeypatch.setattr(wheelhouse, "run_child", Downloads(1, ["ERROR: No matching distribution for a"]))
    with pytest.raises(ProvisionError, match=r"x\.txt for linux, Python 3\.12 .*No matching distribution"):
        export_wheelhouse(tmp_path / "out", [lock], "linux", ["3.12"], tmp_path)


@pytest.mark.parametrize("python", ["3", "2.7", "3.x", "3.12.1", "312"])
def test_a_version_that_is_none_is_refused(
    downloads: Downloads, tmp_path: Path, lock: Path, python: str
) -> None:
    with pytest.raises(SettingsError, match="write it as 3"):
        export_wheelhouse(tmp_path / "out", [lock], None, [python], tmp_path)
    assert downloads.argvs == []


def test_a_target_that_cannot_be_made_is_refused(downloads: Downloads, tmp_path: Path, lock: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be made"):
        export_wheelhouse(tmp_path / "file" / "out", [lock], None, None, tmp_path)


def test_every_platform_that_the_flag_accepts_has_a_meaning() -> None:
    for name in TARGETS:
        assert install_parser().parse_args(["--platform", name]).platform == name


# The commands, without any environment made.


@pytest.fixture
def environment(home: Home) -> Environment:
    """An environment as its marker would describe it."""
    directory = home.envs / "0123456789abcdef-0000"
    scripts = directory / "bin"
    return Environment(
        key="0123456789abcdef",
        name="x",
        lock_digest="",
        directory=directory,
        python=scripts / "python",
        site_packages=directory / "lib",
        base_python=Path(sys.executable),
        base_library=Path(sys.prefix),
        version="3.12.1",
        installer="pip",
        size_bytes=5_000_000,
        seconds=1.0,
    )


@pytest.fixture
def installed(home: Home, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A HOME that seems to hold every environment."""
    monkeypatch.setattr(environments, "find", lambda home, lock: environment)
    return home


def test_the_list_names_every_provider_of_the_catalogue(
    installed: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--list", "--home", str(installed.root)]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    catalog = load_catalog(CHECKOUT / "venvs.toml", installed.local_catalog)
    assert [name for name in shown if name in catalog.providers] == list(catalog.providers)


def test_an_environment_in_use_is_not_removed(
    installed: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "running_under", lambda directory: [41, 42])
    assert cli.main(["--remove", "demo", "--home", str(installed.root)]) == bootstrap.EXIT_PROVISION
    assert "in use by process 41, 42: close the module first" in capsys.readouterr().err


def test_an_alias_and_a_wrong_name_are_answered(installed: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--llm", "lm-studio", "--home", str(installed.root)]) == 0
    assert capsys.readouterr().out.startswith("lmstudio: is installed (http, 5.0 MB)")
    assert cli.main(["--llm", "groqq", "--home", str(installed.root)]) == bootstrap.EXIT_SETTINGS
    assert "did you mean groq" in capsys.readouterr().err


def test_the_doctor_asked_for_all_looks_at_whatever_there_is(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAIFU_LLM_PORT", "0")
    assert cli.main(["--check", "--llm", "all", "--home", str(home.root)]) == 0
    assert "'all'" not in capsys.readouterr().out


def test_a_wheelhouse_for_all_is_one_for_every_light_environment(
    installed: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def export(target: Path, locks: Sequence[Path], *_: object) -> tuple[int, int]:
        asked.append([lock.stem for lock in locks])
        return 0, 0

    monkeypatch.setattr(wheelhouse, "export_wheelhouse", export)
    for names in (["--llm", "all", "demo"], []):
        cli.main(["--home", str(installed.root), "--export-wheelhouse", str(tmp_path), *names])
    envs = load_catalog(CHECKOUT / "venvs.toml").envs.values()
    light = {spec.name for spec in envs if not spec.heavy}
    assert [set(stems) for stems in asked] == [{"supervisor", *light}] * 2
    assert [len(stems) for stems in asked] == [len(light) + 1] * 2


def test_a_supervisor_environment_that_went_away_is_exit_code_4(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environments, "find", lambda home, lock: None)
    assert cli.main(["--list", "--home", str(home.root)]) == bootstrap.EXIT_PROVISION
    assert "run install.py again" in capsys.readouterr().err


def test_an_interrupt_is_exit_code_130(installed: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli._Commands, "run", interrupt)
    assert cli.main(["--home", str(installed.root)]) == bootstrap.EXIT_INTERRUPTED


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--run", "0"], ["0", "--home", "HOME"]),
        (["--llm", "groq", "--run"], [str(DEFAULT_PORT), "--home", "HOME"]),
        (["--chat"], ["chat", "--home", "HOME"]),
        (["--llm", "groq", "openai", "--chat"], ["chat", "--home", "HOME", "--provider", "groq"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_what_is_started_gets_home_and_the_first_provider(
    installed: Home,
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    words: list[str],
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(cli, "hand_over", lambda argv, environ: started.append(argv))
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # --run changes it, and may: it never returns
    cli.main([*flags, "--home", str(installed.root)])
    program = launcher.program_argv(environment, CHECKOUT, installed)
    expected = [str(installed.root) if word == "HOME" else word for word in words]
    assert started == [[*program, *expected]]


# The doctor and the report.


def test_the_doctor_shows_each_finding_and_a_last_line_and_writes_nothing(
    installed: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAIFU_LLM_PORT", "0")
    before = sorted(installed.root.rglob("*"))
    assert cli.main(["--check", "--llm", "demo", "nobody", "--home", str(installed.root)]) == EXIT_BAD
    said = capsys.readouterr().out.splitlines()
    assert said[1] == f"ok    HOME           {installed.root}"
    assert said[-1].endswith("1 bad. Begin with what is bad; each arrow says how.")
    assert sorted(installed.root.rglob("*")) == before


def test_a_home_without_faults_is_exit_code_0(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIFU_LLM_PORT", "0")
    assert cli.main(["--check", "--home", str(home.root)]) == 0


def test_the_doctor_works_where_nothing_can_be_read(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (home.settings, home.local_catalog, home.dotenv):
        path.write_bytes(b"\xff\xfe[")
    assert cli.main(["--check", "--home", str(home.root)]) == EXIT_BAD
    assert "settings.toml cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("asking", [["--check"], ["--report"], ["--report", "x.zip"]], ids=" ".join)
@pytest.mark.parametrize(
    "flags",
    [
        *(["--remove", "demo"], ["--list"], ["--gc"], ["--export-wheelhouse", "x"]),
        *(["--run", "0"], ["--chat"], ["--test"]),
    ],
    ids=" ".join,
)
def test_what_changes_nothing_does_not_go_with_what_does(
    home: Home, capsys: pytest.CaptureFixture[str], asking: list[str], flags: list[str]
) -> None:
    assert cli.main([*asking, "--home", str(home.root), *flags]) == bootstrap.EXIT_SETTINGS
    assert f"cannot go with {flags[0]}" in capsys.readouterr().err


# The launchers.


def test_the_shell_launcher_quotes_every_word() -> None:
    (text,) = launcher.shell_launcher(["/a b/python", "-X", "pycache_prefix=/c'd", "/é/supervisor"]).values()
    words = "exec '/a b/python' '-X' 'pycache_prefix=/c'\"'\"'d' '/é/supervisor' \"$@\"\n"
    assert text == f"#!/bin/sh\n{words}"


def test_the_batch_launcher_is_ascii_and_its_script_holds_the_other_paths() -> None:
    python = "C:\\Üser\\home\\envs\\0123456789abcdef-0000\\Scripts\\python.exe"
    argv = [python, "-X", "pycache_prefix=C:\\Ü\\cache", "C:\\Ü 漢\\supervisor", "--home", "D:\\x y"]
    files = launcher.batch_launcher(argv)
    batch, script = files["w-ai-fu-llm.cmd"], files["w-ai-fu-llm.py"]
    assert batch.isascii()
    assert "..\\envs\\0123456789abcdef-0000\\Scripts\\python.exe" in batch
    assert "sys.pycache_prefix = 'C:\\\\Ü\\\\cache'" in script
    assert f"sys.argv[:] = {argv[3:]!r} + sys.argv[1:]" in script
    compile(script, "launcher", "exec")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    launcher.write_whole(file, "old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        launcher.write_whole(file, "new")
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]
