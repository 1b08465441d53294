"""The locks hold what the tables ask for, name no host, and have a file for every platform and Python."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from supervisor.catalog import load_catalog
from supervisor.lockfile import applies, read_pins
from supervisor.wheelhouse import TARGETS
from tests.wheelhouse import CHECKOUT, PATIENCE_S

LOCKS: Final = CHECKOUT / "locks"
NAMES: Final = sorted(path.stem for path in LOCKS.glob("*.txt"))
PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13", "3.14")
HASH: Final = " --hash=sha256:" + "0" * 64

RUNS_EVERYWHERE: Final = sorted(set(NAMES) - {"dev"})
"""The development environment's packages are asked of fewer machines."""


def _refresh() -> ModuleType:
    """locks/refresh.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("refresh", LOCKS / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Path]:
    """refresh.py, looking at a checkout with one provider environment and locks that agree with it."""
    module = _refresh()
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    monkeypatch.setattr(module, "LOCKS", locks)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["websockets>=15,<18"]\n[dependency-groups]\ndev = ["pytest"]\n',
        encoding="utf-8",
    )
    (tmp_path / "venvs.toml").write_text(
        '[env.http]\nrequirements = ["aio-http[x]>=3.13,<4"]\n', encoding="utf-8"
    )
    (locks / "supervisor.txt").write_text(f"websockets==16.1{HASH}\n", encoding="utf-8")
    (locks / "http.txt").write_text(f"aio_http==3.13.0{HASH}\n", encoding="utf-8")
    every = f"websockets==16.1{HASH}\naio_http==3.13.0{HASH}\npytest==9{HASH}\n"
    (locks / "dev.txt").write_text(every, encoding="utf-8")
    assert module.disagreements() == []
    return module, locks


def test_the_locks_hold_what_pyproject_and_the_catalogue_ask_for() -> None:
    assert _refresh().disagreements() == []


def test_the_check_runs_offline_and_ends_with_0() -> None:
    argv = [sys.executable, str(LOCKS / "refresh.py"), "--check"]
    environment = {"PATH": "", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        argv, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 found\n", "")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        pytest.param("http", f"other==1{HASH}", "does not hold aio-http", id="a package is missing"),
        pytest.param("http", f"aio-http==4.0{HASH}", "does not hold aio-http", id="a version is too new"),
        pytest.param("http", f"aio-http==3.12.9{HASH}", "does not hold aio-http", id="a version is too old"),
        pytest.param(
            "http",
            f"aio-http==3.13{HASH}\naio-http==4 ; os_name == 'nt'{HASH}",
            "does not hold aio-http",
            id="one of two pins does not fit",
        ),
        pytest.param("http", "aio-http==3.13", "not a pin with hashes", id="a hash is missing"),
        pytest.param("http", "--index-url https://index.example/", "names a host", id="a host is named"),
        pytest.param("supervisor", f"websockets==18{HASH}", "does not hold websockets", id="our own lock"),
        pytest.param(
            "dev", f"websockets==16{HASH}\naio-http==3.13{HASH}", "hold pytest", id="the tools' lock"
        ),
        pytest.param("left", f"over==1{HASH}", "belongs to no table", id="a lock is left over"),
    ],
)
def test_what_disagrees_is_told(
    checkout: tuple[ModuleType, Path], name: str, text: str, complaint: str
) -> None:
    module, locks = checkout
    (locks / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")
    assert any(complaint in sentence for sentence in module.disagreements())


def test_a_variant_has_a_lock_of_its_own_unless_it_shares_one(checkout: tuple[ModuleType, Path]) -> None:
    module, locks = checkout
    with (locks.parent / "venvs.toml").open("a", encoding="utf-8") as tables:
        tables.write('variants.cpu = { requirements = ["torch==2.13.0+cpu"], where = "os_name == \'x\'" }\n')
        tables.write('variants.cuda = { lock = "http" }\n')
    assert module.disagreements() == ["http-cpu.txt is missing"]
    (locks / "http-cpu.txt").write_text(f"torch==2.13.0+cpu{HASH}\n", encoding="utf-8")
    assert module.disagreements() == []
    assert module._head("http-cpu") == "# Its files of torch are only those for: os_name == 'x'\n"
    assert module._torch_words(["torch==2.13.0+cpu"], None) == ["--torch-backend", "cpu"]
    assert module._torch_words(["torch==2.13.0+cpu"], "folder") == ["--find-links", "folder"]


def test_a_lock_that_is_missing_is_told(checkout: tuple[ModuleType, Path]) -> None:
    module, locks = checkout
    (locks / "http.txt").unlink()
    assert module.disagreements() == ["http.txt is missing"]


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_names_no_host_and_hashes_every_file(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("    --hash=", ""), re.MULTILINE)
    assert all(pin.hashes for pin in read_pins(text))


def _where(name: str) -> str:
    """The marker of the machines that a variant's lock is for; of any other lock there is none."""
    envs = load_catalog(CHECKOUT / "venvs.toml").envs.values()
    return next((v.where for spec in envs for v in spec.others if v.lock == name), "")


def _machine(platform: str, python: str) -> dict[str, str]:
    """The values of markers there."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        **TARGETS[platform][1],
    }


CELLS: Final = [
    pytest.param(name, platform, python, id=f"{name}-{platform}-{python}")
    for name in RUNS_EVERYWHERE
    for platform in TARGETS
    for python in PYTHONS
    if applies(_where(name), _machine(platform, python))
]
"""Without those for which install.py refuses a variant."""


@pytest.mark.parametrize(("name", "platform", "python"), CELLS)
def test_a_lock_pins_each_requirement_once_for_every_platform_and_python(
    name: str, platform: str, python: str
) -> None:
    module = _refresh()
    values = _machine(platform, python)
    pins = read_pins((LOCKS / f"{name}.txt").read_text(encoding="utf-8"))
    chosen = [module._canonical(pin.name) for pin in pins if applies(pin.marker, values)]
    assert len(chosen) == len(set(chosen))
    required = {re.match(r"[\w.-]+", line)[0] for line in module.wanted()[name]}  # type: ignore[index]  # a name begins each
    assert {module._canonical(package) for package in required} <= set(chosen)
