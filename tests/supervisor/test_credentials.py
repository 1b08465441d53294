"""Which key and which base URL a load uses, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from supervisor.bindings import Binding, Said
from supervisor.config import Settings, load_settings
from supervisor.credentials import binding_for
from supervisor.errors import ClientError
from supervisor.messages import Load
from supervisor.providers import Provider, Setting
from tests.supervisor.fakes import make_settings
from workers.codes import Code

GROQ = Provider(
    "groq",
    "Groq",
    "api",
    "openai_chat",
    "http",
    base_url="https://api.groq.example/v1",
    key=("GROQ_API_KEY", "GROQ_KEY"),
    key_required=True,
)
LOCAL = Provider("llama-server", "llama-server", "local-server", "openai_chat", "http")


def bind(
    settings: Settings, provider: Provider = GROQ, before: Binding | None = None, **load: Any
) -> Binding:
    """The binding of a load with those fields."""
    return binding_for(provider, Load(**load), settings, number=9, before=before)


def earlier(**said: Any) -> Binding:
    """What this connection loaded the provider with before."""
    return Binding(3, said=Said(**said))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, variables={"GROQ_API_KEY": "of-the-operator"})


# ---- keys


def test_the_messages_key_wins(settings: Settings) -> None:
    binding = bind(settings, before=earlier(api_key="earlier"), api_key="of-the-message")
    assert (binding.id, binding.key) == (3, "of-the-message")


def test_a_pasted_key_loses_its_white_space(settings: Settings) -> None:
    assert bind(settings, api_key=" of-the-message\r\n").key == "of-the-message"


def test_what_this_connection_brought_earlier_wins_over_the_operators(settings: Settings) -> None:
    assert bind(settings, before=earlier(api_key="earlier")).key == "earlier"


def test_without_either_the_operators_key_is_used(settings: Settings) -> None:
    binding = bind(settings)
    assert (binding.id, binding.key) == (9, "of-the-operator")


@pytest.mark.parametrize("api_key", [None, ""], ids=["null", "empty"])
def test_a_key_of_nothing_is_no_key(settings: Settings, api_key: str | None) -> None:
    assert bind(settings, api_key=api_key).key == "of-the-operator"


def test_the_operators_sources_are_asked_in_order(tmp_path: Path) -> None:
    home, checkout = tmp_path / "home", tmp_path / "checkout"
    home.mkdir()
    checkout.mkdir()
    environ = {"WAIFU_LLM_HOME": str(home)}

    def key(**more: str) -> str | None:
        return bind(load_settings([], {**environ, **more}, checkout)).key

    (checkout / ".env").write_text("GROQ_API_KEY=of-the-checkout\n", encoding="utf-8")
    assert key() == "of-the-checkout"
    (home / ".env").write_text("GROQ_API_KEY=of-home\n", encoding="utf-8")
    assert key() == "of-home"
    assert key(GROQ_API_KEY="of-the-environment") == "of-the-environment"


def test_of_two_variables_the_better_one_wins_wherever_it_stands(tmp_path: Path) -> None:
    both = make_settings(tmp_path, variables={"GROQ_KEY": "second", "GROQ_API_KEY": "first"})
    assert bind(both).key == "first"
    assert bind(make_settings(tmp_path, variables={"GROQ_KEY": "second"})).key == "second"


def test_a_missing_key_names_the_variables_and_the_files_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        bind(make_settings(tmp_path))
    assert caught.value.code is Code.AUTHORIZATION
    for words in (
        "Groq",
        "GROQ_API_KEY or GROQ_KEY",
        str(Path("home", ".env")),
        str(Path("checkout", ".env")),
    ):
        assert words in caught.value.message


def test_a_provider_that_needs_no_key_gets_none(tmp_path: Path) -> None:
    binding = bind(make_settings(tmp_path), LOCAL, base_url="http://127.0.0.1:8080")
    assert binding.key is None


# ---- options


def test_options_stay_until_new_ones_are_given(settings: Settings) -> None:
    before = earlier(api_key="k", options={"region": "eu"})
    assert bind(settings, before=before).options == {"region": "eu"}
    assert bind(settings, before=before, options={}).options == {}
    assert bind(settings).options == {}


# ---- base URLs

ALLOWED = [
    "http://127.0.0.1:8080/v1",
    "https://localhost/v1",
    "http://LOCALHOST:1",
    "http://[::1]:8080/v1/",
    "https://box.lan:8443/v1",
]


@pytest.mark.parametrize("url", ALLOWED)
def test_loopback_and_listed_hosts_are_allowed(tmp_path: Path, url: str) -> None:
    settings = make_settings(tmp_path, base_url_hosts=("box.lan",))
    assert bind(settings, LOCAL, base_url=url).base_url == url


FOREIGN = [
    "http://169.254.169.254/latest",
    "http://evil.example/v1",
    "http://127.0.0.1.evil.example/",
    "http://localhost.evil.example/",
    "http://box.lan.evil.example",
    "http://notbox.lan",
    "http://[::ffff:127.0.0.1]/",
    "http://2130706433/",
    "http://127.1/",
    "http://0.0.0.0/",
]


@pytest.mark.parametrize("url", FOREIGN)
def test_another_host_is_refused_and_the_flag_named(tmp_path: Path, url: str) -> None:
    settings = make_settings(tmp_path, base_url_hosts=("box.lan",))
    with pytest.raises(ClientError, match="--allow-base-url"):
        bind(settings, LOCAL, base_url=url)


SHAPES = {
    "a user": "http://user@127.0.0.1/",
    "a user and a password": "http://u:p@127.0.0.1/",
    "an empty user": "http://@127.0.0.1/",
    "a query": "http://127.0.0.1/?key=x",
    "a file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1/",
    "a socket": "ws://127.0.0.1/",
    "no scheme": "127.0.0.1:8080",
    "no host": "http:///v1",
    "a port of words": "http://127.0.0.1:http/",
    "a port too high": "http://127.0.0.1:99999/",
    "a broken bracket": "http://[::1",
}


@pytest.mark.parametrize("url", SHAPES.values(), ids=SHAPES.keys())
def test_what_is_no_plain_http_url_is_refused(settings: Settings, url: str) -> None:
    with pytest.raises(ClientError, match="http or https URL") as caught:
        bind(settings, LOCAL, base_url=url)
    assert caught.value.code is Code.INVALID_REQUEST


CONFUSING = {
    "a backslash": "http://127.0.0.1\\@evil.example/",
    "a line break": "http://127.0.0.1/\r\nX: y",
    "a space": "http://127.0.0.1 .evil.example/",
}


@pytest.mark.parametrize("url", CONFUSING.values(), ids=CONFUSING.keys())
def test_what_two_programs_could_read_in_two_ways_is_refused(settings: Settings, url: str) -> None:
    with pytest.raises(ClientError):
        bind(settings, LOCAL, base_url=url)


def test_what_was_checked_is_what_is_used(settings: Settings) -> None:
    long = "http://127.0.0.1/" + "x" * 2_000 + "?and=a#fragment"
    with pytest.raises(ClientError):
        bind(settings, LOCAL, base_url=long)


def test_the_clients_url_wins_then_its_earlier_one_then_the_operators(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, variables={"GROQ_API_KEY": "k"}, base_urls={"groq": "https://op.example"}
    )
    before = earlier(api_key="k", base_url="http://127.0.0.1:1")
    assert bind(settings, before=before, base_url="http://127.0.0.1:2").base_url == "http://127.0.0.1:2"
    assert bind(settings, before=before).base_url == "http://127.0.0.1:1"
    assert bind(settings).base_url == "https://op.example"


def test_the_operators_flag_wins_over_the_variable_over_the_catalogue(tmp_path: Path) -> None:
    variables = {"GROQ_API_KEY": "k", "GROQ_BASE_URL": "https://variable.example"}
    flag = {"groq": "https://flag.example"}
    assert bind(make_settings(tmp_path, variables=variables, base_urls=flag)).base_url == flag["groq"]
    assert bind(make_settings(tmp_path, variables=variables)).base_url == "https://variable.example"
    plain = make_settings(tmp_path, variables={"GROQ_API_KEY": "k"})
    assert bind(plain).base_url == "https://api.groq.example/v1"


def test_a_name_with_a_dash_has_a_variable_with_an_underscore(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, variables={"LLAMA_SERVER_BASE_URL": "http://127.0.0.1:3"})
    assert bind(settings, LOCAL).base_url == "http://127.0.0.1:3"


def test_a_provider_without_any_url_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="LLAMA_SERVER_BASE_URL"):
        bind(make_settings(tmp_path), LOCAL)


def test_a_script_needs_no_url(tmp_path: Path) -> None:
    demo = Provider("demo", "Demo", "script", "scripted", "base")
    assert bind(make_settings(tmp_path), demo).base_url is None


# ---- settings

CLOUD = Provider(
    "cloud",
    "Cloud",
    "api",
    "openai_chat",
    "http",
    base_url="https://{region}.cloud.example/accounts/{account}/v1",
    key=("CLOUD_KEY",),
    key_required=True,
    settings=(
        Setting("region", ("CLOUD_REGION",), default="eu-1", required=False),
        Setting("account", ("CLOUD_ACCOUNT", "CLOUD_ACCOUNT_ID")),
    ),
)
SIGNED = Provider(
    "signed",
    "Signed",
    "api",
    "signed",
    "http",
    base_url="https://signed.example",
    settings=(
        Setting("access_key_id", ("SIGNED_ID",), required=False, secret=True),
        Setting("secret_access_key", ("SIGNED_SECRET",), required=False, secret=True),
        Setting("region", ("SIGNED_REGION",), default="us-1", required=False),
    ),
)


def cloud(tmp_path: Path, **variables: str) -> Settings:
    """Settings of an operator who has a key for the cloud, and those variables."""
    return make_settings(tmp_path, variables={"CLOUD_KEY": "of-the-operator", **variables})


def test_a_setting_is_in_the_address_and_in_the_options(tmp_path: Path) -> None:
    binding = bind(cloud(tmp_path, CLOUD_ACCOUNT_ID="acc-7"), CLOUD)
    assert binding.base_url == "https://eu-1.cloud.example/accounts/acc-7/v1"
    assert binding.options == {"region": "eu-1", "account": "acc-7"}


def test_the_loads_option_wins_over_the_operators_variable(tmp_path: Path) -> None:
    settings = cloud(tmp_path, CLOUD_ACCOUNT="acc-7", CLOUD_REGION="us-2")
    binding = bind(settings, CLOUD, options={"account": "acc-8"})
    assert binding.base_url == "https://us-2.cloud.example/accounts/acc-8/v1"


def test_a_missing_setting_names_the_option_and_the_variables(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        bind(cloud(tmp_path), CLOUD)
    assert caught.value.code is Code.INVALID_REQUEST
    assert "account" in caught.value.message
    assert "CLOUD_ACCOUNT or CLOUD_ACCOUNT_ID" in caught.value.message


def test_what_only_stands_in_the_address_is_not_needed_with_another_one(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    assert bind(cloud(tmp_path), CLOUD, base_url=url, api_key="own").base_url == url


def test_who_chooses_the_host_brings_the_key(tmp_path: Path) -> None:
    settings = cloud(tmp_path, CLOUD_ACCOUNT="acc-7")
    with pytest.raises(ClientError) as caught:
        bind(settings, CLOUD, options={"region": "elsewhere"})
    assert caught.value.code is Code.AUTHORIZATION
    own = bind(settings, CLOUD, options={"region": "elsewhere"}, api_key="own")
    assert own.base_url == "https://elsewhere.cloud.example/accounts/acc-7/v1"


def test_what_was_said_earlier_chooses_the_host_only_with_the_key_said_earlier(tmp_path: Path) -> None:
    settings = cloud(tmp_path, CLOUD_ACCOUNT="acc-7")
    own = bind(settings, CLOUD, options={"region": "elsewhere"}, api_key="own")
    assert bind(settings, CLOUD, before=own).base_url == own.base_url
    moved = bind(settings, CLOUD, before=own, options={"region": "third"})
    assert (moved.base_url, moved.key) == ("https://third.cloud.example/accounts/acc-7/v1", "own")
    with pytest.raises(ClientError):
        bind(settings, CLOUD, before=bind(settings, CLOUD), options={"region": "elsewhere"})


@pytest.mark.parametrize(
    "value", ["evil.example/", "a.b", "a@b", "a:1", "-a", "a-", "", "\u00e9", "a b", "a?b", "x" * 64]
)
def test_a_part_of_a_host_is_one_plain_word(tmp_path: Path, value: str) -> None:
    with pytest.raises(ClientError):
        bind(cloud(tmp_path), CLOUD, options={"region": value, "account": "a"}, api_key="own")


@pytest.mark.parametrize("value", ["..", ".", "a/b", "a?b", "a#b", "%2e", "a b", [], {"a": 1}, "x" * 200])
def test_a_part_of_a_path_stays_one_part(tmp_path: Path, value: object) -> None:
    with pytest.raises(ClientError):
        bind(cloud(tmp_path), CLOUD, options={"account": value})


def test_secrets_of_two_people_are_never_mixed(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, variables={"SIGNED_ID": "AKID", "SIGNED_SECRET": "s3cret"})
    assert bind(settings, SIGNED).options["secret_access_key"] == "s3cret"
    half = bind(settings, SIGNED, options={"access_key_id": "MINE"})
    assert half.options == {"access_key_id": "MINE", "region": "us-1"}
    bearer = bind(settings, SIGNED, api_key="bearer")
    assert (bearer.key, bearer.options) == ("bearer", {"region": "us-1"})


def test_an_operators_key_is_not_used_beside_a_clients_own_secrets(tmp_path: Path) -> None:
    variables = {"SIGNED_BEARER": "of-the-operator", "SIGNED_SECRET": "s3cret"}
    settings = make_settings(tmp_path, variables=variables)
    both = dataclasses.replace(SIGNED, key=("SIGNED_BEARER",))
    assert bind(settings, both).key == "of-the-operator"
    own = bind(settings, both, options={"access_key_id": "MINE", "secret_access_key": "mine"})
    assert own.key is None
    assert own.options["secret_access_key"] == "mine"


@pytest.mark.parametrize("url", ["http://127.0.0.1:6666", "http://localhost:1/v1", "http://[::1]:1"])
def test_an_operators_key_does_not_go_where_a_client_says(tmp_path: Path, url: str) -> None:
    settings = make_settings(
        tmp_path, variables={"GROQ_API_KEY": "of-the-operator", "SIGNED_SECRET": "s3cret"}
    )
    with pytest.raises(ClientError) as caught:
        bind(settings, base_url=url)
    assert caught.value.code is Code.AUTHORIZATION
    assert "GROQ_BASE_URL" in caught.value.message
    assert bind(settings, base_url=url, api_key="own").key == "own"
    assert bind(settings, SIGNED, base_url=url).options == {"region": "us-1"}
    optional = dataclasses.replace(GROQ, key_required=False)
    assert bind(settings, optional, base_url=url).key is None


def test_an_operators_key_goes_to_his_own_address_and_to_hosts_that_he_listed(tmp_path: Path) -> None:
    variables = {"GROQ_API_KEY": "of-the-operator", "GROQ_BASE_URL": "http://127.0.0.1:7/v1"}
    settings = make_settings(tmp_path, variables=variables, base_url_hosts=("box.lan",))
    assert bind(settings, base_url="http://127.0.0.1:7/v1/").key == "of-the-operator"
    assert bind(settings, base_url="http://box.lan:1/v1").key == "of-the-operator"


def test_no_secret_is_in_what_a_binding_shows(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, variables={"SIGNED_ID": "AKID", "SIGNED_SECRET": "s3cret"})
    binding = bind(settings, SIGNED, options={"region": "r"}, api_key="own-key")
    assert not any(word in repr(binding) for word in ("s3cret", "AKID", "own-key"))


# ---- keep_alive

ENGINE = Provider("engine", "Engine", "engine", "llama_cpp", "llama-cpp")


@pytest.mark.parametrize(("given", "kept"), [(None, None), (0, 1.0), (30, 30.0), (1.5, 1.5), (-1, math.inf)])
def test_an_engine_is_kept_for_as_long_as_the_load_says(
    settings: Settings, given: float | None, kept: float | None
) -> None:
    assert bind(settings, ENGINE, options={"keep_alive": given}).keep_alive_s == kept


@pytest.mark.parametrize("given", ["5m", True, [], {}])
def test_a_keep_alive_that_is_no_number_is_told(settings: Settings, given: object) -> None:
    with pytest.raises(ClientError, match="keep_alive"):
        bind(settings, ENGINE, options={"keep_alive": given})


def test_a_keep_alive_of_another_program_is_not_ours_to_read(settings: Settings) -> None:
    binding = bind(settings, LOCAL, options={"keep_alive": "5m"}, base_url="http://127.0.0.1:1")
    assert (binding.keep_alive_s, binding.options) == (None, {"keep_alive": "5m"})
