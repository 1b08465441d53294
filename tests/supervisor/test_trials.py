"""What the doctor tries: real interpreters, a real worker, real sockets, the real module on a port."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from supervisor import trials
from supervisor.access import Access
from supervisor.config import Settings, Variables
from supervisor.doctor import Finding, Grade
from supervisor.environments import environment_key
from supervisor.home import Home
from supervisor.probes import Place
from supervisor.version import VERSION
from tests.e2e.module import Installation, Module
from tests.supervisor.places import mark
from tests.wheelhouse import BASE_PYTHON, CHECKOUT

BASE_LOCK = CHECKOUT / "locks" / "base.txt"
TOKEN = "token-of-the-test"


@pytest.fixture
def place(home: Home) -> Place:
    """An empty HOME, our own checkout, no variables."""
    return Place(home, CHECKOUT, {})


def on_port(place: Place, number: int, **environ: str) -> Place:
    return dataclasses.replace(place, environ={"WAIFU_LLM_PORT": str(number), **environ})


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    assert bool(finding.remedy) is (finding.grade is not Grade.OK), (
        "a remedy for what is not ok, and only then"
    )
    return finding


# What is looked at.


def test_environments_that_are_marked_are_looked_at_whatever_their_markers_say(place: Place) -> None:
    titles = [probe.title for probe in trials.probes_for(place)]
    assert not [title for title in titles if title.startswith("env")]
    mark(place.home, "base")
    (place.home.envs / f"{environment_key((CHECKOUT / 'locks' / 'http.txt').read_bytes())}.json").touch()
    assert {p.title for p in trials.probes_for(place)} - set(titles) == {"env base", "env http"}


def test_every_probe_finds_an_empty_home_well_but_for_the_port(place: Place) -> None:
    found = [finding for probe in trials.probes_for(on_port(place, 0)) for finding in probe.look()]
    assert {finding.grade for finding in found} == {Grade.OK}


# Environments.


def test_an_environment_that_works_is_well(place: Place) -> None:
    mark(place.home, "base")
    found = only(trials.environment(place, lock=BASE_LOCK))
    assert found.grade is Grade.OK
    assert "1.7 MB, everything imports" in found.text


def test_an_environment_whose_packages_do_not_import_is_made_anew(place: Place) -> None:
    mark(place.home, "base", python=Path(BASE_PYTHON))
    found = only(trials.environment(place, lock=BASE_LOCK))
    assert found.grade is Grade.BAD
    assert "No module named 'msgpack'" in found.text
    assert f'python install.py --remove demo --llm demo --home "{place.home.root}"' in found.remedy


@pytest.mark.parametrize("what", ["python", "site_packages", "base_python", "base_library"])
def test_an_environment_that_lost_something_says_what(place: Place, what: str, tmp_path: Path) -> None:
    mark(place.home, "base", **{what: tmp_path / "gone"})
    found = only(trials.environment(place, lock=BASE_LOCK))
    assert found.grade is Grade.BAD
    assert str(tmp_path / "gone") in found.text
    assert found.remedy.startswith("python install.py --llm demo")


def test_an_environment_of_another_python_is_bad(place: Place) -> None:
    mark(place.home, "base", version="3.9.1")
    found = only(trials.environment(place, lock=BASE_LOCK))
    assert (found.grade, "its Python was 3.9.1" in found.text) == (Grade.BAD, True)


def test_a_patch_release_does_no_harm(place: Place) -> None:
    marked = mark(place.home, "base")
    mark(place.home, "base", version=f"{marked.version.rpartition('.')[0]}.99")
    assert only(trials.environment(place, lock=BASE_LOCK)).grade is Grade.OK


def test_a_marker_that_cannot_be_read_is_bad(place: Place) -> None:
    marked = mark(place.home, "base")
    (place.home.envs / f"{marked.key}.json").write_text("{", encoding="utf-8")
    assert only(trials.environment(place, lock=BASE_LOCK)).grade is Grade.BAD


def test_packages_that_take_too_long_to_import_are_a_warning(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "CHILD_S", 0.0)
    mark(place.home, "base")
    found = only(trials.environment(place, lock=BASE_LOCK))
    assert (found.grade, "antivirus" in found.remedy) == (Grade.WARN, True)


def test_what_does_not_start_at_all_is_bad(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> int:
        raise PermissionError(13, "not allowed")

    monkeypatch.setattr(trials, "run_child", refused)
    mark(place.home, "base")
    assert "not allowed" in only(trials.environment(place, lock=BASE_LOCK)).text


def test_the_supervisors_own_environment_has_no_provider_to_make_it_by(place: Place) -> None:
    marked = mark(place.home, "supervisor", python=Path(BASE_PYTHON))
    found = only(trials.environment(place, lock=CHECKOUT / "locks" / "supervisor.txt"))
    assert f'delete the folder "{marked.directory}", then python install.py' in found.remedy


# How long a start takes.


def test_a_start_is_measured_with_a_real_worker(place: Place) -> None:
    mark(place.home, "base")
    found = only(trials.start_time(place))
    assert "a Python starts in" in found.text
    assert "a worker in" in found.text


def test_a_slow_start_names_the_usual_cause_and_the_folder(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SLOW_START_S", 0.0)
    mark(place.home, "base")
    found = only(trials.start_time(place))
    assert found.grade is Grade.WARN
    assert f"exclude the folder {place.home.root}" in found.remedy


def test_only_a_first_start_that_a_cold_disk_explains_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.2, 0.1, 0.2, 5.0])
    assert trials._faster_of_two(lambda: next(times)) == 0.1
    assert trials._faster_of_two(lambda: next(times)) == 0.2
    assert trials._faster_of_two(lambda: next(times)) == 5.0


def test_without_the_demos_environment_nothing_is_measured(place: Place) -> None:
    assert "not measured" in only(trials.start_time(place)).text


def test_a_worker_that_does_not_start_is_bad_and_says_why(place: Place, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    mark(place.home, "base", site_packages=empty)
    found = only(trials.start_time(place))
    assert found.grade is Grade.BAD
    assert "no usable msgpack" in found.text


def test_a_python_that_hangs_is_bad_and_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "START_S", 0.0)
    mark(place.home, "base")
    assert only(trials.start_time(place)).grade is Grade.BAD


# The port.


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A program that listens and never says a word: this one."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a program that never answers."""
    monkeypatch.setattr(trials, "ANSWER_S", 0.2)


def free_port() -> int:
    with listener() as number:
        return number


def test_any_free_port_is_well(place: Place) -> None:
    assert only(trials.port(on_port(place, 0))).grade is Grade.OK


def test_a_port_that_is_free_is_well_and_stays_free(place: Place) -> None:
    number = free_port()
    for _ in range(2):
        found = only(trials.port(on_port(place, number)))
        assert (found.title, found.text) == (f"port {number}", "is free")


def test_another_program_on_the_port_is_named(place: Place, quick: None) -> None:
    with listener() as number:
        found = only(trials.port(on_port(place, number)))
    assert found.grade is Grade.BAD
    assert f"process {os.getpid()}" in found.text
    assert "WAIFU_LLM_PORT" in found.remedy


def test_a_program_that_the_system_does_not_name_is_another_one(
    place: Place, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "listener_on", lambda port: None)
    with listener() as number:
        assert only(trials.port(on_port(place, number))).text == "is taken by another program"


def test_a_port_that_the_system_keeps_is_bad(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(*_: object, **__: object) -> socket.socket:
        raise PermissionError(13, "reserved by the system")

    monkeypatch.setattr(socket, "create_server", kept)
    number = 9  # discard: nobody listens there
    found = only(trials.port(on_port(place, number)))
    assert (found.grade, "reserved by the system" in found.text) == (Grade.BAD, True)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """The real module with a token."""
    home = tmp_path_factory.mktemp("module")
    with Module(Installation(CHECKOUT, home, home), variables={"WAIFU_LLM_TOKEN": TOKEN}) as running:
        yield running


def test_our_own_module_on_the_port_is_well(place: Place, module: Module) -> None:
    found = only(trials.port(on_port(place, module.port, WAIFU_LLM_TOKEN=TOKEN)))
    assert (found.grade, found.text) == (Grade.OK, f"our module is running there, version {VERSION}")


def test_a_module_of_another_version_is_a_warning(
    place: Place, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "VERSION", "99")
    assert only(trials.port(on_port(place, module.port, WAIFU_LLM_TOKEN=TOKEN))).grade is Grade.WARN


def test_a_module_with_another_token_is_left_alone(place: Place, module: Module) -> None:
    assert "another token" in only(trials.port(on_port(place, module.port))).text


def test_what_a_running_module_says_of_itself(module: Module) -> None:
    status = trials.ask_status("127.0.0.1", module.port, TOKEN)
    assert status is not None
    assert (status["type"], status["version"]) == ("status_done", VERSION)


def test_where_nobody_listens_nobody_answers() -> None:
    assert trials.ask_status("127.0.0.1", free_port(), None) is None


@pytest.mark.parametrize(
    ("hosts", "host"),
    [(("127.0.0.1", "::1"), "127.0.0.1"), (("0.0.0.0",), "127.0.0.1"), (("10.0.0.1",), "10.0.0.1")],  # noqa: S104
)
def test_a_module_is_asked_where_it_can_be_reached(home: Home, hosts: tuple[str, ...], host: str) -> None:
    settings = Settings(home, CHECKOUT, Variables(), hosts=hosts, port=7, access=Access(token=TOKEN))
    assert trials.address_of(settings) == (host, 7, TOKEN)
    assert trials.address_of(None) == ("127.0.0.1", 7562, None)
