from __future__ import annotations

import platform

import pytest

from supervisor.lockfile import applies, local_build, marker_environment, python_fits, read_pins

VALUES = {
    **marker_environment(),
    "python_version": "3.9",
    "python_full_version": "3.9.2",
    "sys_platform": "linux",
}
HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("", True),
        ("python_full_version < '3.10'", True),
        ("python_full_version >= '3.9.3'", False),
        ("python_full_version > '3.9.1' and python_full_version <= '3.9.2'", True),
        ("python_full_version == '3.9.*'", True),
        ("python_full_version != '3.9.*'", False),
        ("python_version == '3.9'", True),
        ("sys_platform == 'win32' or sys_platform == 'linux'", True),
        ("(sys_platform == 'win32' or sys_platform == 'linux') and python_version != '3.9'", False),
        ("sys_platform in 'linux darwin'", True),
        ("sys_platform not in 'linux darwin'", False),
    ],
)
def test_a_marker_is_judged_for_the_environment_given(marker: str, expected: bool) -> None:
    assert applies(marker, VALUES) is expected


@pytest.mark.parametrize(
    "marker",
    [
        "extra == 'x'",
        "import os",
        "sys_platform",
        "sys_platform is 'x'",
        "'a' == 'a'",
        "f(x) == 'y'",
        "1 < sys_platform < 2",
    ],
)
def test_a_marker_of_another_kind_is_refused_not_guessed(marker: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        applies(marker, VALUES)


def test_pins_are_read_with_their_hashes_and_markers() -> None:
    text = f"a==1.0 \\\n    --hash={HASH} \\\n    --hash={HASH}\n# a comment\n\n"
    text += f"b-c==2 ; os_name == 'nt' \\\n    --hash={HASH}\n"
    one, other = read_pins(text)
    assert (one.name, one.version, one.marker, len(one.hashes)) == ("a", "1.0", "", 2)
    assert (other.name, other.marker) == ("b-c", "os_name == 'nt'")


@pytest.mark.parametrize("line", ["a==1.0", f"a>=1.0 --hash={HASH}", f"-e . --hash={HASH}", "--index-url x"])
def test_a_line_that_is_not_an_exact_pin_with_hashes_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a pin"):
        read_pins(line)


def test_a_local_build_is_that_of_the_pins_that_apply() -> None:
    pins = read_pins(
        f"torch==2.13.0+cpu ; sys_platform == 'linux' --hash={HASH}\n"
        f"torch==2.13.0 ; sys_platform != 'linux' --hash={HASH}\nnumpy==2.0 --hash={HASH}\n"
    )
    assert local_build(pins, {**VALUES, "sys_platform": "linux"}) == "cpu"
    assert local_build(pins, {**VALUES, "sys_platform": "win32"}) == ""


def test_bounds_of_a_python_are_judged() -> None:
    assert python_fits(">=3.10", platform.python_version())
    assert python_fits(">=3.10,<3.13", "3.12.9")
    assert not python_fits(">=3.10,<3.13", "3.13.0")
