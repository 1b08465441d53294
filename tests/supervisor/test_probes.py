"""What the doctor reads: each probe alone, against a HOME, files and variables that the test has made so."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from supervisor import probes
from supervisor.doctor import Finding, Grade
from supervisor.home import Home, default_root, find_home
from supervisor.probes import Place
from tests.supervisor.places import mark
from tests.wheelhouse import CHECKOUT, make_wheel


@pytest.fixture
def place(home: Home) -> Place:
    """An empty HOME, our own checkout, no variables."""
    return Place(home, CHECKOUT, {})


def named(place: Place, *names: str) -> Place:
    return dataclasses.replace(place, names=names)


def grades(findings: Iterable[Finding]) -> list[Grade]:
    return [finding.grade for finding in findings]


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    assert bool(finding.remedy) is (finding.grade is not Grade.OK), (
        "a remedy for what is not ok, and only then"
    )
    return finding


# Python and HOME.


def test_the_python_below_is_named_with_its_version_and_its_bits(place: Place) -> None:
    text = only(probes.python(place)).text
    assert text.startswith(f"{'.'.join(map(str, sys.version_info[:3]))}, 64-bit, ")


@pytest.mark.parametrize(
    ("base", "maxsize", "newest", "words"),
    [
        ("/Program Files/WindowsApps/Python.3.11/python.exe", 2**63 - 1, (3, 14), "Microsoft Store"),
        ("/usr/bin/python3", 2**31 - 1, (3, 14), "not made for 32 bits"),
        ("/usr/bin/python3", 2**63 - 1, (3, 9), "is newer than 3.9"),
    ],
    ids=["store", "32 bits", "too new"],
)
def test_a_python_that_makes_trouble_is_a_warning(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    maxsize: int,
    newest: tuple[int, int],
    words: str,
) -> None:
    monkeypatch.setattr(os.path, "realpath", lambda path: base)
    monkeypatch.setattr(sys, "maxsize", maxsize)
    monkeypatch.setattr(probes, "NEWEST_PYTHON", newest)
    found = only(probes.python(place))
    monkeypatch.undo()
    assert found.grade is Grade.WARN
    assert words in found.text


def test_a_home_that_is_well_is_named_and_stays_as_it_is(place: Place) -> None:
    before = sorted(place.home.root.rglob("*"))
    found = only(probes.home_folder(place))
    assert (found.grade, found.text) == (Grade.OK, str(place.home.root))
    assert sorted(place.home.root.rglob("*")) == before


@pytest.mark.parametrize("folder", ["OneDrive - School", "Dropbox", "Mobile Documents", "iCloudDrive"])
def test_a_home_that_another_program_synchronises_is_a_warning(tmp_path: Path, folder: str) -> None:
    home = find_home(str(tmp_path / folder / "x"), {})
    found = only(probes.home_folder(Place(home, CHECKOUT, {})))
    assert found.grade is Grade.WARN
    assert folder in found.text


def test_a_home_that_the_store_redirects_is_a_warning(tmp_path: Path) -> None:
    home = find_home(str(tmp_path / "PythonSoftwareFoundation.Python.3.11_x" / "y"), {})
    assert "redirects it" in only(probes.home_folder(Place(home, CHECKOUT, {}))).text


def test_a_home_too_deep_for_the_system_is_a_warning(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        probes, "path_limit", lambda: len(str(place.home.root)) + probes.DEEPEST_FILE_CHARS - 1
    )
    assert "characters long" in only(probes.home_folder(place)).text
    monkeypatch.setattr(probes, "path_limit", lambda: len(str(place.home.root)) + probes.DEEPEST_FILE_CHARS)
    assert only(probes.home_folder(place)).grade is Grade.OK


def test_a_folder_that_cannot_be_written_to_is_bad(place: Place) -> None:
    shutil.rmtree(place.home.logs)
    place.home.logs.touch()  # no folder: also for root, whom no permission stops
    found = only(probes.logs_folder(place))
    assert found.grade is Grade.BAD
    assert str(place.home.logs) in found.remedy


def test_a_log_that_can_be_written_is_named(place: Place) -> None:
    assert only(probes.logs_folder(place)).text == str(place.home.logs / "supervisor.log")


def usage(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**50, 0, free))


@pytest.mark.parametrize(
    ("free", "names", "grade"),
    [
        (probes.SPARE_BYTES, (), Grade.OK),
        (probes.SPARE_BYTES - 1, (), Grade.WARN),
        (probes.LIGHT_BYTES - 1, ("groq",), Grade.BAD),
        (probes.LIGHT_BYTES * 2, ("groq",), Grade.WARN),
        (probes.LIGHT_BYTES + probes.SPARE_BYTES, ("groq", "openai"), Grade.OK),
        (0, ("nobody",), Grade.WARN),
    ],
)
def test_free_space_is_held_against_what_is_still_to_be_made(
    place: Place, monkeypatch: pytest.MonkeyPatch, free: int, names: tuple[str, ...], grade: Grade
) -> None:
    usage(monkeypatch, free)
    assert only(probes.disk(named(place, *names))).grade is grade


def test_an_environment_that_is_there_needs_no_space(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mark(place.home, "http")
    usage(monkeypatch, 0)
    assert only(probes.disk(named(place, "groq"))).grade is Grade.WARN


def test_a_clock_that_is_behind_our_own_files_is_a_warning(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(probes.clock(place)).grade is Grade.OK
    newest = max(path.stat().st_mtime for path in place.locks)
    monkeypatch.setattr(time, "time", lambda: newest - 2 * probes.DAY_S)
    assert only(probes.clock(place)).grade is Grade.WARN


# Files of the operator.


def test_without_any_file_the_settings_are_well(place: Place) -> None:
    assert only(probes.settings_files(place)).grade is Grade.OK


def test_settings_that_are_well_are_named(place: Place) -> None:
    place.home.settings.write_text("port = 7600\n[worker]\nrequests = 4\n", encoding="utf-8")
    place.home.dotenv.write_text("# keys\n\nGROQ_API_KEY=x\n", encoding="utf-8")
    assert only(probes.settings_files(place)).text == "settings.toml and .env"


@pytest.mark.parametrize(
    ("text", "grade", "words"),
    [
        ("[worker\n", Grade.BAD, "settings.toml cannot be read"),
        ("port = 70000\n", Grade.BAD, "port"),
        ("[worker]\nrequests = 'many'\n", Grade.BAD, "worker.requests"),
        ("prot = 7562\n", Grade.WARN, "nothing reads prot"),
        ("[worker]\nrequest = 4\n", Grade.WARN, "nothing reads worker.request"),
        ("[wroker]\nrequests = 4\n", Grade.WARN, "nothing reads wroker"),
    ],
)
def test_settings_that_cannot_be_meant_so_are_named(
    place: Place, text: str, grade: Grade, words: str
) -> None:
    place.home.settings.write_text(text, encoding="utf-8")
    found = only(probes.settings_files(place))
    assert (found.grade, words in found.text) == (grade, True)


def test_a_variable_of_ours_that_nothing_reads_is_named(place: Place) -> None:
    environ = {"WAIFU_LLM_PROT": "1", "WAIFU_LLM_PORT": "1", "WAIFU_LLM_STAY": "1", "WAIFU_LLM_HOME": "x"}
    environ["WAIFU_LLM_WORKER_REQUESTS"] = "4"
    found = only(probes.settings_files(dataclasses.replace(place, environ=environ)))
    assert found.text == "nothing reads WAIFU_LLM_PROT, which stands in the environment"


def test_a_line_of_a_dotenv_that_is_none_is_named_without_its_text(place: Place) -> None:
    place.home.dotenv.write_text('GROQ_API_KEY="first\nsecond half"\n', encoding="utf-8")
    found = only(probes.settings_files(place))
    assert f"line 2 of {place.home.dotenv}" in found.text
    assert "second" not in found.text + found.remedy


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_dotenv_is_read_whatever_editor_wrote_it(place: Place, encoding: str) -> None:
    place.home.dotenv.write_text("GROQ_API_KEY=ä\n", encoding=encoding)
    assert probes.dotenv_text(place.home.dotenv) == "GROQ_API_KEY=ä\n"
    assert probes.dotenv_text(place.home.root / "none") is None


def test_the_catalogue_is_counted_and_names_are_known(place: Place) -> None:
    found = only(probes.local_tables(named(place, "groq", "lm-studio")))
    assert found.grade is Grade.OK


def test_a_table_that_cannot_be_used_is_bad_and_ours_still_count(place: Place) -> None:
    place.home.local_catalog.write_text("[provider.x]\nadapter = 1\n", encoding="utf-8")
    first, second = probes.local_tables(named(place, "groqq"))
    assert (first.grade, "adapter" in first.text) == (Grade.BAD, True)
    assert str(place.home.local_catalog) in first.remedy
    assert (second.text, second.remedy) == ("there is no provider 'groqq'", "did you mean groq?")


def test_a_name_like_none_of_ours_is_sent_to_the_list(place: Place) -> None:
    *_, found = probes.local_tables(named(place, "zzzzzzz"))
    assert f'python install.py --list --home "{place.home.root}"' in found.remedy


def test_without_our_own_tables_there_is_an_empty_catalogue(place: Place, tmp_path: Path) -> None:
    assert probes.catalog_of(dataclasses.replace(place, checkout=tmp_path)).providers == {}


def test_the_usual_home_is_not_in_a_command(place: Place, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    root = default_root(environ)
    usual = dataclasses.replace(place, home=find_home(str(root), {}), environ=environ)
    assert probes.command(usual, "--gc") == "python install.py --gc"


# Environments on disk.


def test_what_gc_would_remove_is_counted_and_measured(place: Place) -> None:
    mark(place.home, "base")
    assert only(probes.leftovers(place)).grade is Grade.OK
    unfinished = place.home.envs / "0123456789abcdef-dead"
    unfinished.mkdir()
    (unfinished / "file").write_bytes(b"x" * 20_000)
    older = mark(place.home, "base", key="00000000000000aa", lock_digest="another")
    (older.directory / "file").write_bytes(b"x" * 10_000)
    found = only(probes.leftovers(place))
    assert (found.grade, found.text) == (Grade.WARN, "older or unfinished environments (2) take 30 kB")
    assert "--gc" in found.remedy
    assert unfinished.exists()


def test_an_unrelated_package_of_our_name_is_a_warning(place: Place, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    mark(place.home, "supervisor", site_packages=packages)
    packages.mkdir()
    assert only(probes.foreign(place)).grade is Grade.OK
    shutil.unpack_archive(make_wheel(tmp_path, "supervisor", "4.2.5", {}), packages, "zip")
    assert "pip --python" in only(probes.foreign(place)).remedy


# The way to the network.


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, [Grade.OK]),
        ({"SSL_CERT_FILE": "/no/such/file"}, [Grade.BAD]),
        ({"SSL_CERT_FILE": __file__, "SSL_CERT_DIR": os.path.dirname(__file__)}, [Grade.OK]),  # noqa: PTH120
        ({"HTTPS_PROXY": "http://me:pass@proxy"}, [Grade.WARN]),
        ({"https_proxy": "http://me:pass@proxy", "NO_PROXY": "localhost,127.0.0.1"}, [Grade.OK]),
        ({"https_proxy": "http://me:pass@proxy", "no_proxy": "*"}, [Grade.OK]),
        ({"https_proxy": "http://me:pass@proxy", "no_proxy": "example.org"}, [Grade.WARN]),
        ({"NO_PROXY": "example.org"}, [Grade.OK]),
    ],
)
def test_proxies_and_certificates_are_told_by_name(
    place: Place, environ: dict[str, str], expected: list[Grade]
) -> None:
    found = list(probes.network(dataclasses.replace(place, environ=environ)))
    assert grades(found) == expected
    assert "pass" not in repr(found)
