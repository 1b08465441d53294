"""A bad table is an error that names it and its key; a good one can be trusted; our own registry is good."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from supervisor.catalog import CatalogError, load_catalog
from supervisor.providers import Catalog, Provider, Setting, UnknownProviderError, marks_in
from workers.quirks import Quirks

CHECKOUT: Final = Path(__file__).resolve().parents[2]
OWN_QUIRKS: Final = (
    *("llama_cpp", "mistralrs", "onnx_genai", "openvino_local", "scripted"),
    "transformers_local",
)
"""Adapters that are no HTTP: their own tests hold their quirks."""
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
OURS: Final = load_catalog(CHECKOUT / "venvs.toml")

BASE = '[env.base]\nrequirements = ["msgpack>=1"]\nimports = ["msgpack"]\n'
GOOD = BASE + '[provider.p]\nadapter = "scripted"\nenv = "base"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def catalog_of(folder: Path, text: str, local: str | None = None) -> Catalog:
    path, extra = folder / "venvs.toml", folder / "venvs.local.toml"
    path.write_text(text, encoding="utf-8")
    if local is not None:
        extra.write_text(local, encoding="utf-8")
    return load_catalog(path, extra)


def error_of(folder: Path, text: str, local: str | None = None) -> str:
    with pytest.raises(CatalogError) as caught:
        catalog_of(folder, text, local)
    assert "\n" not in caught.value.message.split("(at line")[0]
    return caught.value.message


def test_a_table_with_the_least_keys_gets_its_defaults(folder: Path) -> None:
    catalog = catalog_of(folder, GOOD)
    provider = catalog.providers["p"]
    assert provider == Provider("p", "p", "api", "scripted", "base")
    assert catalog.env_of(provider).requirements == ("msgpack>=1",)
    assert (catalog.env_of(provider).heavy, catalog.env_of(provider).python) == (False, ">=3.10")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("gorq", "there is no provider 'gorq': did you mean groq?", id="a slip"),
        pytest.param("x" * 99, "install.py --list shows all providers", id="nothing near"),
    ],
)
def test_a_name_of_nobody_is_an_error_with_the_nearest_names(name: str, hint: str) -> None:
    assert OURS.named("Lm-Studio") is OURS.providers["lmstudio"]
    with pytest.raises(UnknownProviderError) as caught:
        OURS.named(name)
    assert hint in caught.value.message


def test_an_empty_file_has_no_providers(folder: Path) -> None:
    catalog = catalog_of(folder, "")
    assert (catalog.providers, catalog.envs, catalog.nearest("x")) == ({}, {}, [])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("provider = 5", ["[provider]", "table of tables"], id="provider is a number"),
        pytest.param("env = []", ["[env]", "table of tables"], id="env is a list"),
        pytest.param("[provider]\np = 5", ["[provider.p]", "must be a table"], id="one provider is a number"),
        pytest.param('[provider."P!"]', ["[provider.P!]", "a name is"], id="a bad id"),
        pytest.param(f"[provider.{'p' * 33}]", ["a name is"], id="a long id"),
        pytest.param("[provider.-p]", ["[provider.-p]", "a name is"], id="a hyphen first"),
        pytest.param("[wire.a-b]", ["[wire.a-b]", "a name is"], id="a bad wire name"),
        pytest.param('[wire.w]\nenv = "x"', ["[wire.w]", "env 'x'"], id="a wire without its env"),
        pytest.param("[wire.w]\nx = 1", ["[wire.w]", "'x'"], id="a wire with an unknown key"),
        pytest.param(GOOD + 'confidence = "sure"', ["[provider.p]", "confidence"], id="a bad confidence"),
        pytest.param(
            GOOD + 'base_url = "https://{zone}.x"', ["[provider.p]", "{zone}"], id="a mark without a setting"
        ),
        pytest.param(GOOD + "settings.a = 1", ["settings.a", "table"], id="a setting that is no table"),
        pytest.param(GOOD + "settings.a.b = 1", ["settings.a", "'b'"], id="a setting with an unknown key"),
        pytest.param('[env.Base]\nrequirements = ["x"]', ["[env.Base]", "a name is"], id="a bad env name"),
        pytest.param("[env.base]\nheavy = 1", ["[env.base]", "heavy", "bool"], id="heavy"),
        pytest.param(
            '[env.base.variants.cpu]\nabout = "x"',
            ["[env.base]", "heavy = true"],
            id="a light one's variants",
        ),
        pytest.param(
            "[env.base]\nheavy = true\nvariants.cpu = {}", ["variants.cpu]", "about is missing"], id="about"
        ),
        pytest.param(
            '[env.base]\nvariants.cpu = { about = "x", y = 1 }',
            ["variants.cpu]", "'y'"],
            id="a variant's key",
        ),
        pytest.param('[env.base]\nsize_mb = { linux = "3" }', ["[env.base]", "size_mb"], id="a size"),
        pytest.param("[env.base]\npython = 3.10", ["[env.base]", "python", "str"], id="python"),
        pytest.param(
            '[env.base]\nrequirements = "x"', ["[env.base]", "requirements", "list"], id="requirements"
        ),
        pytest.param("[env.base]\nimports = [1]", ["[env.base]", "imports", "list"], id="imports"),
        pytest.param(
            "[env.base]\nextra = 1", ["[env.base]", "unknown key 'extra'"], id="an unknown key of env"
        ),
        pytest.param(
            BASE + '[provider.p]\nenv = "base"', ["[provider.p]", "adapter is missing"], id="no adapter"
        ),
        pytest.param(
            BASE + '[provider.p]\nenv = "base"\nadapter = ""',
            ["[provider.p]", "adapter is missing"],
            id="empty",
        ),
        pytest.param(
            BASE + '[provider.p]\nenv = "base"\nadapter = 5', ["[provider.p]", "adapter is missing"], id="5"
        ),
        pytest.param(
            BASE + '[provider.p]\nadapter = "scripted"', ["[provider.p]", "env is missing"], id="no env"
        ),
        pytest.param(
            '[provider.p]\nadapter = "scripted"\nenv = "none"',
            ["[provider.p]", "[env.none]"],
            id="an env without table",
        ),
        pytest.param(GOOD + "name = 5", ["[provider.p]", "name", "str"], id="name"),
        pytest.param(GOOD + 'kind = "toy"', ["[provider.p]", "kind 'toy'"], id="kind"),
        pytest.param(GOOD.replace('"scripted"', '"../x"'), ["[provider.p]", "adapter '../x'"], id="a path"),
        pytest.param(
            GOOD.replace('"scripted"', '"a.b"'), ["[provider.p]", "adapter 'a.b'"], id="a dotted name"
        ),
        pytest.param(
            GOOD + "base_url = 5", ["[provider.p]", "base_url", "str"], id="a base_url that is none"
        ),
        *(
            pytest.param(GOOD + f'base_url = "{url}"', ["[provider.p]", "base_url"], id=url or "no URL")
            for url in (
                "",
                "x",
                "ftp://x/",
                "https://",
                "https://x?a=b",
                "https://x/#y",
                "https://u@x/",
                "//x",
                "https://x y",
            )
        ),
        pytest.param(GOOD + 'key = "KEY"', ["[provider.p]", "key must be", "list"], id="one key"),
        pytest.param(
            GOOD + "key_required = true", ["[provider.p]", "key_required"], id="a required key without name"
        ),
        pytest.param(
            GOOD + 'key_required = "yes"', ["[provider.p]", "key_required", "bool"], id="key_required"
        ),
        pytest.param(
            GOOD + "default_model = 5", ["[provider.p]", "default_model", "str"], id="default_model"
        ),
        pytest.param(GOOD + "aliases = [5]", ["[provider.p]", "aliases", "list"], id="aliases"),
        pytest.param(GOOD + 'quirks = ["x"]', ["[provider.p]", "quirks", "dict"], id="quirks"),
        pytest.param(GOOD + "source = 5", ["[provider.p]", "source", "str"], id="source"),
        pytest.param(GOOD + "tried = true", ["[provider.p]", "tried", "str"], id="tried"),
        pytest.param(GOOD + 'id = "q"', ["[provider.p]", "unknown key 'id'"], id="an id in the table"),
        pytest.param(GOOD + "colour = 1", ["[provider.p]", "unknown key 'colour'"], id="an unknown key"),
        pytest.param(
            GOOD + 'aliases = ["q"]\n[provider.q]\nadapter = "scripted"\nenv = "base"',
            ["[provider.p]", "alias 'q'", "'q'"],
            id="an alias that is an id",
        ),
        pytest.param(
            GOOD + 'aliases = ["x"]\n[provider.q]\nadapter = "scripted"\nenv = "base"\naliases = ["x"]',
            ["[provider.q]", "alias 'x'", "'p'"],
            id="an alias twice",
        ),
        pytest.param("[env.base", ["venvs.toml", "not valid TOML"], id="no TOML"),
        pytest.param(GOOD + GOOD, ["venvs.toml", "not valid TOML"], id="a table twice"),
    ],
)
def test_a_bad_table_is_an_error_that_names_it_and_the_key(folder: Path, text: str, named: list[str]) -> None:
    message = error_of(folder, text)
    assert [part for part in named if part not in message] == []


def test_a_wire_says_what_holds_for_its_providers_until_their_tables_do(folder: Path) -> None:
    wire = '[wire.scripted]\nenv = "base"\nproof = "its tests"\n[wire.scripted.quirks]\na = 1\nb = 2\n'
    text = BASE + wire + '[provider.p]\nadapter = "scripted"\nproof = "more"\n[provider.p.quirks]\nb = 3\n'
    catalog = catalog_of(folder, text)
    provider = catalog.providers["p"]
    assert (provider.env, provider.quirks) == ("base", {"a": 1, "b": 3})
    assert catalog.proof_of(provider) == "more; its tests"


def test_a_setting_is_read_with_its_defaults(folder: Path) -> None:
    text = GOOD + 'base_url = "https://{zone}.example"\n[provider.p.settings]\n'
    text += 'zone = { variables = ["P_ZONE"] }\nsecret_word = { secret = true, default = "x" }\n'
    provider = catalog_of(folder, text).providers["p"]
    assert provider.settings == (
        Setting("zone", ("P_ZONE",)),
        Setting("secret_word", default="x", required=False, secret=True),
    )
    assert provider.variables == ("P_ZONE", "P_BASE_URL")
    assert provider.secret_variables == ()


def test_whoever_can_fetch_a_model_may_if_the_operator_says_so(folder: Path) -> None:
    text = GOOD + "[provider.p.quirks]\ndownload = false\n" + GOOD.replace("[provider.p]", "[provider.q]")
    catalog = catalog_of(folder, text.replace(BASE, "") + BASE)
    assert catalog.fetching().providers["p"].quirks == {"download": True}
    assert catalog.fetching().providers["q"] == catalog.providers["q"]
    assert catalog.providers["p"].quirks == {"download": False}
    ours = OURS.fetching().providers
    assert (ours["llama-cpp"].quirks["download"], ours["ollama"].quirks["pull"]) == (True, True)


def test_enabling_what_there_is_not_is_told(folder: Path) -> None:
    assert "[doubtful.q]" in error_of(folder, GOOD, 'enabled = ["q"]')


def test_enabling_what_is_offered_by_now_changes_nothing(folder: Path) -> None:
    assert catalog_of(folder, GOOD, 'enabled = ["p"]').providers == catalog_of(folder, GOOD).providers


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(CatalogError, match=r"absent\.toml cannot be read"):
        load_catalog(folder / "absent.toml")


def test_a_file_that_is_not_utf8_is_named(folder: Path) -> None:
    (folder / "bad.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(CatalogError, match=r"bad\.toml cannot be read"):
        load_catalog(folder / "bad.toml")


def test_a_required_key_is_the_default_where_a_variable_is_named(folder: Path) -> None:
    assert catalog_of(folder, GOOD + 'key = ["A_KEY", "B_KEY"]').providers["p"].key_required
    optional = catalog_of(folder, GOOD + 'key = ["A_KEY"]\nkey_required = false').providers["p"]
    assert (optional.key, optional.key_required) == (("A_KEY",), False)


def test_the_local_file_adds_tables_and_replaces_single_keys(folder: Path) -> None:
    ours = GOOD + 'name = "Ours"\nsource = "here"\n[provider.p.quirks]\na = 1\nb = 2\n'
    local = (
        '[provider.p]\nname = "Theirs"\n[provider.p.quirks]\nb = 3\n'
        '[provider.q]\nadapter = "scripted"\nenv = "mine"\n[env.mine]\nimports = ["x"]\n'
    )
    catalog = catalog_of(folder, ours, local)
    assert (catalog.providers["p"].name, catalog.providers["p"].source) == ("Theirs", "here")
    assert catalog.providers["p"].quirks == {"a": 1, "b": 3}
    assert catalog.env_of(catalog.providers["q"]).imports == ("x",)


def test_home_in_a_quirk_is_the_folder_of_the_local_file(folder: Path) -> None:
    quirks = '[provider.p.quirks]\nplace = "{home}/models"\nplaces = ["{home}", "/x"]\ncount = 3\n'
    expected = {"place": f"{folder}/models", "places": [str(folder), "/x"], "count": 3}
    assert catalog_of(folder, GOOD + quirks).providers["p"].quirks == expected
    local = '[provider.p.quirks]\nplace = "{home}/other"\n'
    theirs = catalog_of(folder, GOOD + quirks, local).providers["p"].quirks
    assert theirs == {**expected, "place": f"{folder}/other"}


def test_a_bad_local_file_is_named(folder: Path) -> None:
    assert "venvs.local.toml is not valid TOML" in error_of(folder, GOOD, "[")
    assert "[provider.p]: unknown key 'x'" in error_of(folder, GOOD, "[provider.p]\nx = 1")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("groq", "groq"),
        ("GROQ", "groq"),
        (" groq\n", "groq"),
        ("together_ai", "together"),
        ("llama.cpp", "llama-server"),
        ("", None),
        ("gro", None),
        ("x" * 100_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_provider_is_found_by_id_or_alias_in_any_case(name: str, found: str | None) -> None:
    provider = OURS.find(name)
    assert (provider.id if provider else None) == found


def test_an_alias_is_found_as_it_is_written(folder: Path) -> None:
    assert catalog_of(folder, GOOD + 'aliases = ["MyThing"]').find("MyThing") is not None


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        pytest.param("grok", "groq", id="a letter"),
        pytest.param("open-ai", "openai", id="a hyphen"),
        pytest.param("OPENAI ", "openai", id="case"),
        pytest.param("togeter_ai", "together", id="an alias"),
    ],
)
def test_the_nearest_names_are_ids_best_first(name: str, nearest: str) -> None:
    near = OURS.nearest(name)
    assert near[0] == nearest
    assert len(near) == len(set(near)) <= 3
    assert set(near) <= set(OURS.providers)


@pytest.mark.parametrize("name", ["", "qqqqqqq", "語", "q" * 100_000], ids=["empty", "far", "CJK", "long"])
def test_nothing_is_near_to_what_is_like_nothing(name: str) -> None:
    assert OURS.nearest(name) == []


def test_the_variable_of_the_base_url_is_made_from_the_id() -> None:
    assert OURS.providers["openai-compatible"].base_url_variable == "OPENAI_COMPATIBLE_BASE_URL"


# ---- our own registry


def every_provider(rule: Callable[[Provider], None]) -> Callable[[], None]:
    """A test of all providers of ours, which says of which one a rule does not hold."""

    def test() -> None:
        for provider in OURS.providers.values():
            try:
                rule(provider)
            except AssertionError as exc:
                raise AssertionError(f"[provider.{provider.id}]: {exc}") from exc

    test.__name__ = rule.__name__
    return test


@every_provider
def test_a_provider_of_ours_has_an_adapter_and_a_lock(provider: Provider) -> None:
    assert (CHECKOUT / "workers" / "adapters" / f"{provider.adapter}.py").is_file()
    assert (CHECKOUT / "locks" / f"{provider.env}.txt").is_file()


@every_provider
def test_a_key_of_ours_travels_over_https_or_stays_on_this_machine(provider: Provider) -> None:
    if provider.base_url is not None:
        parts = urlsplit(provider.base_url)
        assert parts.scheme == "https" or parts.hostname in LOOPBACK
        assert not provider.base_url.endswith("/")


@every_provider
def test_a_table_of_ours_says_from_where_it_is_known_and_who_tried_it(provider: Provider) -> None:
    assert provider.source
    assert provider.tried
    assert provider.name
    assert provider.confidence in ("certain", "likely")
    assert OURS.proof_of(provider)
    assert all(re.fullmatch(r"[A-Z0-9][A-Z0-9_]*", variable) for variable in provider.variables)


@every_provider
def test_a_cell_of_ours_breaks_no_table(provider: Provider) -> None:
    assert not any("|" in text or "\n" in text for text in (provider.name, provider.source, provider.tried))


@every_provider
def test_the_quirks_of_ours_are_quirks(provider: Provider) -> None:
    if provider.adapter not in OWN_QUIRKS:
        usual = importlib.import_module(f"workers.adapters.{provider.adapter}").ADAPTER.usual
        quirks = Quirks.parse(provider.id, provider.quirks, over=usual)
        options = {setting.name for setting in provider.settings} | {"model"}
        paths = (quirks.chat_path, quirks.models_path, quirks.key_check_path)
        assert {mark for path in paths for mark in marks_in(path)} <= options
        assert all(not path or path.startswith("/") for path in paths)


def test_a_doubtful_provider_of_ours_is_not_offered_until_it_is_enabled(folder: Path) -> None:
    assert OURS.doubtful
    assert not set(OURS.doubtful) & set(OURS.providers)
    for provider in OURS.doubtful.values():
        assert OURS.find(provider.id) is None
        assert provider.confidence == "doubtful"
        assert provider.source
    local = folder / "venvs.local.toml"
    local.write_text('enabled = ["lambda"]', encoding="utf-8")
    enabled = load_catalog(CHECKOUT / "venvs.toml", local)
    assert enabled.find("lambda") == OURS.doubtful["lambda"]
    assert "lambda" not in enabled.doubtful


@every_provider
def test_a_name_of_ours_is_found_and_means_itself(provider: Provider) -> None:
    assert all(OURS.find(name) is provider for name in (provider.id, *provider.aliases))


def test_every_env_of_ours_is_used_and_says_what_it_imports() -> None:
    assert set(OURS.envs) == {provider.env for provider in OURS.providers.values()}
    assert all(env.requirements and env.imports for env in OURS.envs.values())
