"""The file for a bug report: what is in it, that no file is lost by it, and that nothing secret is in it."""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import string
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from supervisor import cli, report
from supervisor.errors import SettingsError
from supervisor.home import Home
from supervisor.probes import Place
from supervisor.redaction import GRAM
from supervisor.version import VERSION
from tests.e2e.module import Installation, Module
from tests.supervisor.places import mark
from tests.wheelhouse import CHECKOUT

SEED: Final = 20
LETTERS: Final = string.ascii_letters + string.digits
USER: Final = "canaryuser"
HOST: Final = "canaryhost"


@pytest.fixture
def place(home: Home) -> Place:
    """An empty HOME, our own checkout; no port, so that whatever runs on this machine does not matter."""
    return Place(home, CHECKOUT, {"WAIFU_LLM_PORT": "0"})


def read(target: Path) -> dict[str, str]:
    """What is in a report."""
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


# What is in it.


def test_a_report_holds_what_helps(place: Place, tmp_path: Path) -> None:
    mark(place.home, "base", packages={"msgpack": "1.1.0"})
    place.home.settings.write_text("log_level = 'DEBUG'\n[worker]\nrequests = 7\n", encoding="utf-8")
    place.home.local_catalog.write_text("[provider.groq]\ndefault_model = 'mine'\n", encoding="utf-8")
    place.home.spawn_json.write_text('{"argv": ["x"]}\n', encoding="utf-8")
    (place.home.logs / "supervisor.log").write_text("12:00:00 INFO module ready\r\n", encoding="utf-8")
    said = report.write_report(place, tmp_path / "r.zip")
    parts = read(tmp_path / "r.zip")
    assert [(name, len(text.encode())) for name, text in parts.items()] == said
    assert set(parts) == {
        *("report.txt", "status.json", "settings.toml", "venvs.local.toml", "spawn.json"),
        "logs/supervisor.log",
    }
    text = parts["report.txt"]
    assert f"module   {VERSION}" in text
    assert "everything imports" in text
    assert "worker.requests = 7" in text
    assert "no token is set" in text
    assert "msgpack 1.1.0" in text
    assert "provider.groq.default_model" in text
    assert parts["logs/supervisor.log"] == "12:00:00 INFO module ready\n"
    assert parts["settings.toml"] == 'log_level = "DEBUG"\nworker.requests = 7\n'


def test_of_an_empty_home_there_is_a_report_too(place: Place, tmp_path: Path) -> None:
    report.write_report(place, tmp_path / "r.zip")
    assert set(read(tmp_path / "r.zip")) == {"report.txt", "status.json"}


def test_a_running_module_is_asked_for_its_status(place: Place, tmp_path: Path) -> None:
    with Module(Installation(CHECKOUT, place.home.root, place.home.root)) as module:
        environ = {"WAIFU_LLM_PORT": str(module.port)}
        report.write_report(Place(place.home, CHECKOUT, environ), tmp_path / "r.zip")
    parts = read(tmp_path / "r.zip")
    assert json.loads(parts["status.json"])["version"] == VERSION
    assert "module ready" in parts["logs/supervisor.log"]


def test_the_newest_ends_of_the_logs_are_taken(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LOG_BYTES", 12)
    for age, name in enumerate(("supervisor.log", "supervisor.log.1", "supervisor.log.2")):
        path = place.home.logs / name
        path.write_text(f"older\nend {age}\n", encoding="utf-8")
        os.utime(path, (1000 - age, 1000 - age))
    logs = dict(report._logs(place.home.logs))
    assert logs == {"supervisor.log": "older\nend 0\n"}
    monkeypatch.setattr(report, "LOG_BYTES", 18)
    assert dict(report._logs(place.home.logs)) == {**logs, "supervisor.log.1": "end 1\n"}


# Where it goes.


def test_it_goes_into_the_current_folder_under_a_name_with_the_time(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAIFU_LLM_PORT", "0")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--report", "--home", str(place.home.root)]) == 0
    (made,) = tmp_path.glob("w-ai-fu-llm-report-????????-??????.zip")
    said = capsys.readouterr().out
    assert said.startswith(f"made {made}")
    assert "report.txt" in said
    assert "Look through the files before you send them" in said


def test_a_file_that_is_there_stays_as_it_is(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "r.zip"
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="is there already"):
        report.write_report(place, target)
    assert target.read_text(encoding="utf-8") == "mine"


def test_a_file_that_comes_meanwhile_stays_too(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "r.zip"

    def members(place: Place) -> dict[str, str]:
        target.write_text("mine", encoding="utf-8")
        return {}

    monkeypatch.setattr(report, "members", members)
    with pytest.raises(SettingsError, match="is there already"):
        report.write_report(place, target)
    assert target.read_text(encoding="utf-8") == "mine"


def test_what_cannot_be_written_is_one_sentence(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "members", lambda place: {"report.txt": "x"})
    with pytest.raises(SettingsError, match="name another file, --report FILE"):
        report.write_report(place, tmp_path / "no folder" / "r.zip")


def test_a_disk_that_fills_leaves_no_half_file(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "members", lambda place: {"report.txt": "x"})
    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(SettingsError, match="No space left"):
        report.write_report(place, tmp_path / "r.zip")
    assert list(tmp_path.glob("*.zip")) == []


# What is not in it.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("port = 7562\ntoken = 'x'\n", "port = 7562\ntoken = ***\n"),
        ("groq_api_key = 'x'\n", "groq_api_key = ***\n"),
        (
            "allow_origin = ['http://a', 'http://b']\n",
            'allow_origin = "http://a"\nallow_origin = "http://b"\n',
        ),
        ("[worker]\nrequests = 4\nkey = 'x'\n", "worker.requests = 4\nworker.key = ***\n"),
        ("'a b' = 'x'\n", "*** = ***\n"),
        ("# x\n[wor\nkey = 'x'\nx\n[worker]\n", None),
    ],
)
def test_of_settings_only_what_is_known_keeps_its_value(text: str, shown: str | None) -> None:
    broken = "# a line that is neither a table nor a value\n"
    expected = shown or f"# not valid TOML; its names are\n{broken}key = ***\n{broken}[worker]\n"
    assert report._shown_tables(text, report._may_show_setting) == expected


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('adapter = "openai_chat"', '"openai_chat"'),
        ('adapter = "Mine1"', "***"),
        ('base_url = "http://h/v1"', '"http://h/v1"'),
        ('base_url = "gsk_1"', "***"),
        ('key = ["GROQ_API_KEY"]', '"GROQ_API_KEY"'),
        ('key = ["gsk_1"]', "***"),
        ('quirks = {name_field = "native"}', '"native"'),
        ('quirks = {header = "Bearer 1"}', "***"),
        ('api_key = "word"', "***"),
        ("key_required = true", "true"),
    ],
)
def test_of_tables_only_plain_words_and_what_is_known_are_shown(line: str, shown: str) -> None:
    text = report._shown_tables(f"[provider.x]\n{line}\n", report._may_show_table)
    assert text.partition(" = ")[2] == f"{shown}\n"


@dataclass
class Canaries:
    """Secrets that must not be seen, each of its own shape, and all that was made of them."""

    chance: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311  # no secrets
    made: list[str] = field(default_factory=list)

    def new(self, prefix: str = "", letters: str = LETTERS, count: int = 32) -> str:
        canary = prefix + "".join(self.chance.choices(letters, k=count))
        self.made.append(canary)
        return canary

    def pieces(self) -> Iterator[str]:
        """Everything of GRAM letters that must not be seen; prefixes such as `sk-proj-` are no secrets."""
        for canary in self.made:
            body = canary.removeprefix("sk-proj-").removeprefix("gsk_")
            encoded = base64.b64encode(canary.encode()).decode()
            urlsafe = base64.urlsafe_b64encode(canary.encode()).decode()
            for form in (body, quote(body, safe=""), encoded, urlsafe):
                yield from (form[i : i + GRAM] for i in range(len(form) - GRAM + 1))

    def check(self, where: str, text: str) -> None:
        for piece in self.pieces():
            assert piece not in text, f"a piece of a secret is in {where}"


def plant_files(home: Home, canaries: Canaries) -> None:
    """Keys where users put them, and where they should not."""
    new = canaries.new
    lines = [
        f"GROQ_API_KEY={new('gsk_')}",
        f'OPENAI_API_KEY="{new("sk-proj-", count=64)}"',
        f"export XAI_API_KEY='{new(letters=LETTERS + '+/=-_')}'  # mine",
        f"DEEPSEEK_API_KEY={new(letters=string.ascii_lowercase)}",
        f'TOGETHER_API_KEY="{new(count=20)}',
        f'{new(count=20)}"',
        f"SOMETHING={new(letters=string.digits)}",
        f"VLLM_BASE_URL=http://{new()}:{new()}@127.0.0.1:8000/v1?key={new()}",
    ]
    home.dotenv.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = f"""
        token = "{new()}"
        groq_api_key = "{new("gsk_")}"
        [base_url]
        groq = "https://{new()}:{new()}@host.example/v1?api={new()}"
        [worker]
        secret = "{new(letters=string.ascii_lowercase)}"
    """
    home.settings.write_text(settings, encoding="utf-8")
    tables = f"""
        [provider.mine]
        adapter = "openai_chat"
        env = "http"
        base_url = "https://{new()}:{new()}@host.example/v1"
        key = ["{new("sk-proj-")}"]
        [provider.mine.quirks]
        header = "Bearer {new()}"
    """
    home.local_catalog.write_text(tables, encoding="utf-8")


def plant_log(home: Home, canaries: Canaries) -> None:
    """Each of them in the log, whole, encoded, cut and beside a word, as no log of ours would write it."""
    lines = []
    for canary in canaries.made:
        encoded = base64.b64encode(canary.encode()).decode()
        lines += [
            f"12:00:00.000 INFO    worker says provider=x text='it was {canary}'",
            f"{json.dumps({'headers': {'x-api-key': canary}})} {canary[:14]}… …{canary[-12:]}",
            f"basic {encoded} {base64.urlsafe_b64encode(b'me:' + canary.encode()).decode()}",
            f"GET http://127.0.0.1/v1?k={quote(canary, safe='')} {canary}{canary}",
        ]
    lines.append(f"known nowhere else: {canaries.new('sk-proj-')} token={canaries.new()} {canaries.new()}")
    lines.append(f"{Path.home()}/x by {USER} at {HOST}.example")
    (home.logs / "supervisor.log").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def planted(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canaries:
    """A HOME and an environment full of secrets, of somebody with a name."""
    canaries = Canaries()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "folder of canaryuser"))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.example")
    monkeypatch.setenv("WAIFU_LLM_PORT", "0")
    monkeypatch.setenv("MISTRAL_API_KEY", canaries.new())
    monkeypatch.setenv("SOME_SECRET", canaries.new(letters=string.ascii_lowercase))
    monkeypatch.setenv("HTTPS_PROXY", f"http://{canaries.new()}:{canaries.new()}@proxy.example:3128")
    plant_files(place.home, canaries)
    plant_log(place.home, canaries)
    return canaries


def run(place: Place, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """All that is printed."""
    cli.main([*flags, "--home", str(place.home.root)])
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize("broken", ["", "settings", "local_catalog"])
def test_no_piece_of_a_secret_is_in_a_report_nor_on_the_screen(
    place: Place, planted: Canaries, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    if broken:
        path: Path = getattr(place.home, broken)
        path.write_text(path.read_text(encoding="utf-8") + "\n[not toml\n", encoding="utf-8")
    target = tmp_path / "r.zip"
    said = run(place, capsys, "--check", "--report", str(target))
    assert "GROQ_API_KEY is set in" in said
    planted.check("what was printed", said)
    parts = read(target)
    assert len(parts) == 5
    for name, text in parts.items():
        planted.check(name, name + text)
        assert USER not in text
        assert HOST not in text
        assert str(Path.home()) not in text
    assert len(parts["logs/supervisor.log"].splitlines()) == 4 * (len(planted.made) - 3) + 2


def test_secrets_of_the_checkouts_dotenv_are_known_too(home: Home, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANY=hidden-in-the-checkout\n", encoding="utf-8")
    redactor = report.redactor_of(Place(home, tmp_path, {}))
    assert redactor.clean("hidden-in-the-checkout") == "***"


def test_a_variable_that_names_a_file_is_no_secret(home: Home) -> None:
    folder = tempfile.gettempdir()
    redactor = report.redactor_of(Place(home, CHECKOUT, {"SSH_AUTH_SOCK": folder}), to_send=False)
    assert redactor.clean(folder) == folder
