from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.errors import SettingsError
from supervisor.home import Home, default_root, find_home, home_flag
from supervisor.spawn import user_data_directory
from tests.wheelhouse import CHECKOUT, PATIENCE_S


def test_the_flag_outranks_the_variable(tmp_path: Path) -> None:
    flagged = find_home(str(tmp_path / "flag"), {"WAIFU_LLM_HOME": str(tmp_path / "variable")})
    assert flagged.root == (tmp_path / "flag").resolve()
    assert (
        find_home(None, {"WAIFU_LLM_HOME": str(tmp_path / "variable")}).root
        == (tmp_path / "variable").resolve()
    )


def test_home_is_made_with_its_directories(home: Home) -> None:
    assert all(path.is_dir() for path in (home.envs, home.locks, home.logs, home.bin, home.cache))


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_home("here", {}).root == (tmp_path / "here").resolve()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert find_home(str(tmp_path / "link"), {}).root == (tmp_path / "real").resolve()


def test_a_home_that_cannot_be_made_is_an_error_that_names_it_and_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"file.*--home") as caught:
        find_home(str(tmp_path / "file" / "home"), {})
    assert "\n" not in caught.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"HOME": "/h", "XDG_DATA_HOME": "/x"}, "/x", id="XDG"),
        pytest.param(
            {"HOME": "/h", "XDG_DATA_HOME": "relative"}, "/h/.local/share", id="a relative XDG is ignored"
        ),
        pytest.param({"HOME": "/h"}, "/h/.local/share", id="HOME"),
    ],
)
def test_the_data_directory_follows_the_variables(environ: dict[str, str], expected: str) -> None:
    if sys.platform == "darwin":
        assert user_data_directory(environ) == Path("/h/Library/Application Support")
    else:
        assert user_data_directory(environ) == Path(expected)


def test_the_data_directory_is_found_in_an_emptied_environment() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.home import default_root; "
    code += "print(default_root({}))"
    system = {key: os.environ[key] for key in ("SYSTEMROOT",) if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code, str(CHECKOUT)],
        env=system,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=True,
    )
    assert Path(done.stdout.strip()) == default_root({})
    assert Path(done.stdout.strip()).is_absolute()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["7562", "--home", "a b"], "a b"),
        (["--home=c", "1"], "c"),
        (["--home"], None),
        (["--homer", "x"], None),
    ],
)
def test_the_flag_is_found_in_a_command_line_that_is_parsed_elsewhere(
    argv: list[str], expected: str | None
) -> None:
    assert home_flag(argv) == expected
