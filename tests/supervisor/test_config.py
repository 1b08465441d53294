"""What the operator decided: which source wins, what each bad value is told, and that nothing is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from supervisor import config
from supervisor.config import DEFAULT_HOSTS, DEFAULT_PORT, Settings, Variables, load_settings
from supervisor.errors import SettingsError

CANARY = "sk-canary-0123456789"


class Desk:
    """A HOME and a checkout to put files into."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.checkout = folder / "checkout"
        self.home.mkdir()
        self.checkout.mkdir()

    def load(self, *argv: str, **environ: str) -> Settings:
        """Settings of those flags and variables."""
        return load_settings(argv, {"WAIFU_LLM_HOME": str(self.home), **environ}, self.checkout)

    def settings_file(self, text: str) -> None:
        (self.home / "settings.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_without_a_word_everything_has_its_default(desk: Desk) -> None:
    settings = desk.load()
    assert (settings.port, settings.hosts) == (DEFAULT_PORT, DEFAULT_HOSTS) == (7562, ("127.0.0.1", "::1"))
    assert (settings.log_level, settings.log_json, settings.installer) == ("INFO", False, "auto")
    assert (settings.worker.requests, settings.server.message_bytes) == (128, 1 << 20)
    assert (settings.access.token, settings.access.origins, settings.wheelhouse) == (None, (), None)
    assert settings.home.root == desk.home.resolve()


# ---- which source wins

SOURCES: dict[str, tuple[list[str], dict[str, str], str, int]] = {
    "flag": (["1001"], {"WAIFU_LLM_PORT": "1002"}, "port = 1003", 1001),
    "variable": ([], {"WAIFU_LLM_PORT": "1002"}, "port = 1003", 1002),
    "file": ([], {}, "port = 1003", 1003),
    "default": ([], {}, "", 7562),
    "zero as a flag": (["0"], {"WAIFU_LLM_PORT": "1002"}, "port = 1003", 0),
    "zero in the file": ([], {}, "port = 0", 0),
    "an empty variable": ([], {"WAIFU_LLM_PORT": ""}, "port = 1003", 1003),
}


@pytest.mark.parametrize(("argv", "environ", "file", "port"), SOURCES.values(), ids=SOURCES.keys())
def test_a_flag_wins_over_a_variable_over_the_file(
    desk: Desk, argv: list[str], environ: dict[str, str], file: str, port: int
) -> None:
    desk.settings_file(file)
    assert desk.load(*argv, **environ).port == port


NUMBERS: dict[str, tuple[list[str], dict[str, str], int]] = {
    "--set": (["--set", "worker.requests=3"], {"WAIFU_LLM_WORKER_REQUESTS": "4"}, 3),
    "variable": ([], {"WAIFU_LLM_WORKER_REQUESTS": "4"}, 4),
    "file": ([], {}, 5),
}


@pytest.mark.parametrize(("argv", "environ", "requests"), NUMBERS.values(), ids=NUMBERS.keys())
def test_every_number_has_the_same_three_sources(
    desk: Desk, argv: list[str], environ: dict[str, str], requests: int
) -> None:
    desk.settings_file("[worker]\nrequests = 5\nhello_s = 2.5\n")
    settings = desk.load(*argv, **environ)
    assert (settings.worker.requests, settings.worker.hello_s) == (requests, 2.5)


def test_set_reaches_every_section_and_can_be_given_often(desk: Desk) -> None:
    flags = ["requests.timeout_ms=7", "server.connections=8", "worker.hello_s=0.5", "pool.restarts = 9"]
    settings = desk.load(*(word for flag in flags for word in ("--set", flag)))
    assert settings.requests.timeout_ms == 7
    assert settings.server.connections == 8
    assert settings.worker.hello_s == 0.5
    assert settings.pool.restarts == 9


def test_lists_come_from_repeated_flags_from_one_variable_or_from_the_file(desk: Desk) -> None:
    desk.settings_file('allow_origin = ["https://c.example"]\nallow_host = ["lan"]\n')
    flags = desk.load("--allow-origin", "https://a.example", "--allow-origin", "https://b.example")
    assert flags.access.origins == ("https://a.example", "https://b.example")
    variable = desk.load(WAIFU_LLM_ALLOW_ORIGIN="https://a.example, https://b.example")
    assert variable.access.origins == ("https://a.example", "https://b.example")
    assert desk.load().access.origins == ("https://c.example",)
    assert desk.load().access.hosts == ("lan",)
    assert desk.load("--allow-base-url", "box.lan").base_url_hosts == ("box.lan",)


def test_base_urls_come_from_flags_over_the_file(desk: Desk) -> None:
    desk.settings_file('[base_url]\ngroq = "http://127.0.0.1:1"\nopenai = "http://127.0.0.1:2"\n')
    settings = desk.load("--base-url", "groq=https://box.lan/v1?a=b")
    assert settings.base_urls == {"groq": "https://box.lan/v1?a=b", "openai": "http://127.0.0.1:2"}


def test_the_other_flags_arrive(desk: Desk) -> None:
    settings = desk.load(
        *("--log-level", "debug", "--log-format", "json", "--installer", "uv", "--wheelhouse", "wheels"),
        *("--exit-on-stdin-eof", "--parent-pid", "41", "--refuse-remote-close"),
        "--allow-download",
    )
    assert settings.allow_download
    assert not desk.load().allow_download
    assert settings.refuse_remote_close
    assert not desk.load().refuse_remote_close
    assert (settings.log_level, settings.log_json, settings.installer) == ("DEBUG", True, "uv")
    assert (settings.wheelhouse, settings.exit_on_stdin_eof, settings.parent_pid) == (
        Path("wheels"),
        True,
        41,
    )


# ---- what is refused

BAD: dict[str, tuple[list[str], dict[str, str], str, str]] = {
    "port too high": (["65536"], {}, "", "the port must be from 0 to 65535, not 65536"),
    "port below zero": ([], {"WAIFU_LLM_PORT": "-1"}, "", "the port must be from 0 to 65535, not '-1'"),
    "port of words": ([], {"WAIFU_LLM_PORT": "http"}, "", "the port must be from 0 to 65535, not 'http'"),
    "number of words": (["--set", "worker.requests=many"], {}, "", "worker.requests must be a whole number"),
    "half a request": (["--set", "worker.requests=1.5"], {}, "", "worker.requests must be a whole number"),
    "zero": (["--set", "worker.hello_s=0"], {}, "", "worker.hello_s must be above zero, not '0'"),
    "below zero": ([], {"WAIFU_LLM_POOL_RESTARTS": "-2"}, "", "pool.restarts must be above zero"),
    "infinite": (["--set", "worker.hello_s=inf"], {}, "", "worker.hello_s must be above zero"),
    "not a number": (["--set", "worker.hello_s=nan"], {}, "", "worker.hello_s must be above zero"),
    "zero in the file": ([], {}, "[worker]\nrequests = 0", "worker.requests must be above zero"),
    "no such section": (["--set", "legs.count=2"], {}, "", "--set legs.count: there is no such setting"),
    "no such name": (["--set", "worker.legs=2"], {}, "", "--set worker.legs: there is no such setting"),
    "no equals sign": (["--set", "worker.requests"], {}, "", "--set needs NAME=VALUE"),
    "base URL without a name": (["--base-url", "http://x"], {}, "", "--base-url needs NAME=VALUE"),
    "base URL of a file": (
        ["--base-url", "groq=file:///etc/passwd"],
        {},
        "",
        "the base URL of groq must begin with http:// or https://",
    ),
    "level": (["--log-level", "loud"], {}, "", "log_level must be one of DEBUG, INFO, WARNING, ERROR"),
    "format": ([], {"WAIFU_LLM_LOG_FORMAT": "xml"}, "", "log_format must be one of console, json"),
    "installer": ([], {}, 'installer = "conda"', "installer must be one of auto, uv, pip"),
    "not TOML": ([], {}, "port =", "settings.toml cannot be read"),
}


@pytest.mark.parametrize(("argv", "environ", "file", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_value_is_refused_by_name(
    desk: Desk, argv: list[str], environ: dict[str, str], file: str, words: str
) -> None:
    desk.settings_file(file)
    with pytest.raises(SettingsError) as caught:
        desk.load(*argv, **environ)
    assert words in caught.value.message


def test_a_settings_file_that_is_not_utf_8_is_refused_by_name(desk: Desk) -> None:
    (desk.home / "settings.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"settings\.toml cannot be read"):
        desk.load()


@pytest.mark.parametrize("argv", [["--colour"], ["http"], ["--parent-pid", "x"]], ids=" ".join)
def test_a_flag_that_there_is_not_ends_with_2(
    desk: Desk, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        desk.load(*argv)
    assert caught.value.code == 2
    assert argv[-1] in capsys.readouterr().err


# ---- who may connect


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.lan"])  # noqa: S104  # it is refused
def test_a_bind_that_others_can_reach_needs_a_token(desk: Desk, host: str) -> None:
    with pytest.raises(SettingsError, match=f"binding {host} needs a token: set WAIFU_LLM_TOKEN"):
        desk.load("--host", host)
    settings = desk.load("--host", host, WAIFU_LLM_TOKEN="t0ken")
    assert (settings.hosts, settings.access.token) == ((host,), "t0ken")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_loopback_bind_needs_none(desk: Desk, host: str) -> None:
    assert desk.load("--host", host).hosts == (host,)


def test_the_token_is_no_flag_but_may_stand_in_the_file(desk: Desk) -> None:
    with pytest.raises(SystemExit):
        desk.load("--token", "x")
    desk.settings_file('token = "t0ken"')
    assert desk.load("--host", "192.0.2.1").access.token == "t0ken"


# ---- .env

DOTENV = """\ufeff# a comment
PLAIN=one
  SPACED  =  two words\t
export EXPORTED=three
SINGLE='four # not a comment'
DOUBLE="five 'quoted' $HOME \\n"
COMMENTED=six # a comment
HASH=se#ven
EMPTY=
URL=http://127.0.0.1:1/?a=b
ACCENT=é漢
not a line
=nothing
1BAD=x
LATER=first
LATER=second
"""
EXPECTED = {
    "PLAIN": "one",
    "SPACED": "two words",
    "EXPORTED": "three",
    "SINGLE": "four # not a comment",
    "DOUBLE": "five 'quoted' $HOME \\n",
    "COMMENTED": "six",
    "HASH": "se#ven",
    "EMPTY": None,
    "URL": "http://127.0.0.1:1/?a=b",
    "ACCENT": "é漢",
    "1BAD": None,
    "LATER": "second",
}


@pytest.mark.parametrize(("name", "value"), EXPECTED.items(), ids=EXPECTED.keys())
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_dotenv_line_is_read_as_people_write_them(
    desk: Desk, name: str, value: str | None, ending: str
) -> None:
    (desk.home / ".env").write_bytes(DOTENV.replace("\n", ending).encode())
    assert desk.load().variables.get(name) == value


QUOTED = {
    'K="a b" # a comment': "a b",
    "K='a b'   # a comment": "a b",
    'K=""': None,
    'K="': '"',
    "K=# a comment": None,
}


@pytest.mark.parametrize(("line", "value"), QUOTED.items(), ids=QUOTED.keys())
def test_quotes_and_comments_go_together(desk: Desk, line: str, value: str | None) -> None:
    (desk.home / ".env").write_text(line, encoding="utf-8")
    assert desk.load().variables.get("K") == value


def test_the_environment_wins_over_homes_dotenv_over_the_checkouts(desk: Desk) -> None:
    (desk.home / ".env").write_text("A=home\nB=home\n", encoding="utf-8")
    (desk.checkout / ".env").write_text("A=checkout\nB=checkout\nC=checkout\n", encoding="utf-8")
    variables = desk.load(A="environment").variables
    assert [variables.get(name) for name in "ABCD"] == ["environment", "home", "checkout", None]


def test_an_empty_value_does_not_hide_a_later_one(desk: Desk) -> None:
    (desk.home / ".env").write_text("A=home\n", encoding="utf-8")
    assert desk.load(A="  ").variables.get("A") == "home"


def test_a_dotenv_that_cannot_be_read_is_named_without_its_text(desk: Desk) -> None:
    (desk.home / ".env").write_bytes(CANARY.encode() + b"\xff")
    with pytest.raises(SettingsError) as caught:
        desk.load()
    assert ".env cannot be read" in caught.value.message
    assert CANARY not in caught.value.message


def test_no_repr_shows_a_secret(desk: Desk) -> None:
    (desk.home / ".env").write_text(f"GROQ_API_KEY={CANARY}\n", encoding="utf-8")
    settings = desk.load(OPENAI_API_KEY=CANARY, WAIFU_LLM_TOKEN=CANARY)
    assert settings.variables.get("GROQ_API_KEY") == settings.access.token == CANARY
    assert CANARY not in repr(settings)
    assert CANARY not in str(settings)
    assert repr(Variables({"A": CANARY})) == "Variables(***)"


def test_settings_cannot_be_changed_afterwards(desk: Desk) -> None:
    settings: Any = desk.load()
    with pytest.raises(AttributeError):
        settings.port = 1


def test_every_word_that_is_looked_up_is_a_known_setting() -> None:
    source = Path(config.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"look\.texts?\(\"(\w+)\"\)", source)) == set(config.WORDS)
