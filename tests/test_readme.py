"""The README, the other documents and the code say the same: providers, codes, messages, flags, settings."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import tomli

from benchmarks import run
from supervisor import chat, config, listing, live_probe, replies, status
from supervisor.catalog import load_catalog
from supervisor.flags import PLATFORMS, install_parser
from supervisor.jobs import DEFAULT_OUTPUT_TOKENS, DEFAULT_TEMPERATURE, Limits, unsupported
from supervisor.messages import (
    Generate,
    GetModels,
    GetProviders,
    Incoming,
    Interrupt,
    Kind,
    Load,
    Params,
    parse,
)
from supervisor.providers import Catalog, Provider
from supervisor.version import VERSION
from workers.codes import TABLE

CHECKOUT: Final = Path(__file__).resolve().parent.parent
README: Final = (CHECKOUT / "README.md").read_text(encoding="utf-8")
DOCUMENTS: Final = ("README.md", "CHANGELOG.md", "docs/decisions.md", "docs/script.md", "docs/wire.md")
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAG: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
VARIABLE: Final = re.compile(r"WAIFU_LLM_[A-Z_]+")
PARSERS: Final = {
    "install.py": install_parser(),
    "supervisor": config._parser(),
    "supervisor chat": chat._parser(),
    "supervisor status": status._parser(),
    "supervisor probe": live_probe._parser(),
    "benchmarks/run.py": run.parser(),
}


def blocks(language: str) -> list[str]:
    """The code blocks of that language."""
    return [text for found, text in BLOCK.findall(README) if found == language]


def table(*head: str) -> list[list[str]]:
    """The rows of the table with that head."""
    lines = iter(README.splitlines())
    wanted = "| " + " | ".join(head) + " |"
    for line in lines:
        if line == wanted:
            next(lines)
            return [[cell.strip() for cell in row.strip("|").split("|")] for row in _until_blank(lines)]
    raise AssertionError(f"there is no table with the head {wanted}")


def _until_blank(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def section(title: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    match = re.search(rf"^(#+) {re.escape(title)}$", README, re.MULTILINE)
    assert match is not None, f"there is no section {title!r}"
    rest = README[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end is not None else rest


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Our own tables, without anybody's local ones."""
    return load_catalog(CHECKOUT / "venvs.toml")


# ---------------------------------------------------------------- tables


def test_the_table_of_the_best_known_providers_is_as_in_venvs_toml(catalog: Catalog) -> None:
    rows = table(*listing.HEAD)
    ids = [row[0].strip("`") for row in rows]
    assert {"openai", "novelai", "groq", "deepseek", "huggingface", "ollama", "demo"} <= set(ids)
    assert rows == [listing.cells(catalog.providers[name]) for name in ids]


def test_the_page_of_all_providers_is_made_from_venvs_toml(catalog: Catalog) -> None:
    """Mended by: python install.py --list markdown > docs/providers.md"""
    made = (CHECKOUT / "docs" / "providers.md").read_text(encoding="utf-8")
    assert made.splitlines() == list(listing.page(catalog))


def test_the_table_of_codes_is_the_codes() -> None:
    rows = table("code", "name", "in `error`", "when", "what to do", "retryable")
    assert rows == [
        [str(int(code)), code.name, row.sdk_name, row.when, row.remedy, "yes" if row.retryable else "no"]
        for code, row in TABLE.items()
    ]


def test_the_table_of_numbers_is_the_settings() -> None:
    rows = table("setting", "default", "meaning")
    assert [row[:2] for row in rows] == [
        [f"`{section}.{field.name}`", str(field.default)]
        for section, kind in config._SECTIONS.items()
        for field in dataclasses.fields(kind)
    ]


def test_the_keys_of_a_providers_table_are_all_explained() -> None:
    explained = {row[0].strip("`") for row in table("key", "meaning")}
    assert explained == {field.name for field in dataclasses.fields(Provider)} - {"id"}


@pytest.mark.parametrize(
    ("head", "names"),
    [
        pytest.param(("field", "meaning"), set(Load.__struct_fields__), id="load"),
        pytest.param(
            ("parameter", "meaning", "if it is missing or `null`"),
            set(Params.__struct_fields__),
            id="params",
        ),
    ],
)
def test_every_field_of_a_request_is_in_its_table(head: tuple[str, ...], names: set[str]) -> None:
    assert {name for row in table(*head) for name in re.findall(r"`(\w+)`", row[0])} == names


def test_every_field_of_generate_is_explained_or_named_as_not_there_yet() -> None:
    text = section("generate") + section("Not yet") + section("Tools")
    missing = [name for name in Generate.__struct_fields__ if f"`{name}`" not in text]
    assert not missing


@pytest.mark.parametrize(
    "field", [*Interrupt.__struct_fields__, *GetProviders.__struct_fields__, *GetModels.__struct_fields__]
)
def test_every_field_of_the_other_requests_is_named(field: str) -> None:
    assert f"`{field}`" in section("The protocol")


@pytest.mark.parametrize("field", ["sentences", "reasoning", "fallback"])
def test_what_is_named_as_not_there_yet_is_refused(field: str) -> None:
    assert f"`{field}`" in section("Not yet")
    value: Any = [{}] if field == "fallback" else True
    request = {"type": "generate", "messages": [{"role": "user", "content": "Hi"}], field: value}
    parsed = parse(json.dumps(request))
    assert isinstance(parsed, Incoming)
    assert unsupported(parsed.body) is not None


def test_the_defaults_of_generate_are_those_of_the_code() -> None:
    defaults = {row[0]: row[2] for row in table("parameter", "meaning", "if it is missing or `null`")}
    assert defaults["`temperature`"] == str(DEFAULT_TEMPERATURE)
    assert defaults["`max_output_length`"] == str(DEFAULT_OUTPUT_TOKENS)
    limits = Limits()
    wanted = f"missing: {limits.timeout_ms:,}; `null`: {limits.timeout_ceiling_ms:,}"
    assert defaults["`timeout_ms`"] == wanted


# ---------------------------------------------------------------- messages

REQUESTS: Final = {kind.value for kind in Kind}
REPLIES: Final[dict[str, frozenset[str]]] = {
    **{
        str(struct.__struct_config__.tag): frozenset(struct.__struct_fields__)
        for name, struct in vars(replies).items()
        if isinstance(struct, type) and issubclass(struct, replies._Reply) and not name.startswith("_")
    },
    "generate_stream_chunk": frozenset({"unique_request_id", "chunk"}),  # made without a struct
}


def messages() -> list[str]:
    """Every message in a block, of JSON or of a transcript."""
    found = [text.strip() for text in blocks("json")]
    for text in blocks("text"):
        found += [line[2:] for line in text.splitlines() if line.startswith(("> {", "< {"))]
    return [text for text in found if "type" in json.loads(text)]


def _named(texts: list[str]) -> list[Any]:
    """One case each, named by its type and its place."""
    return [pytest.param(text, id=f"{json.loads(text).get('type')}-{n}") for n, text in enumerate(texts)]


@pytest.mark.parametrize("text", blocks("json"), ids=lambda text: " ".join(text.split())[:40])
def test_every_block_of_json_is_json(text: str) -> None:
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("text", _named(messages()))
def test_every_message_is_one_of_the_protocol(text: str) -> None:
    message = json.loads(text)
    if message["type"] in REQUESTS:
        assert isinstance(parse(text), Incoming), parse(text)
        return
    assert set(message) - {"type"} <= REPLIES[message["type"]]
    if message.get("is_error"):
        assert {"error", "error_code", "error_name", "message", "retryable"} <= set(message)


def test_every_type_of_message_has_an_example() -> None:
    shown = {json.loads(text)["type"] for text in messages()}
    assert shown == REQUESTS | set(REPLIES)


def test_every_type_of_message_is_in_the_table_of_replies() -> None:
    rows = table("request", "replies")
    named = set(re.findall(r"`([a-z_]+)`", " ".join(cell for row in rows for cell in row))) - {"stream"}
    assert named == REQUESTS | set(REPLIES)


def test_the_requests_of_the_examples_have_no_field_that_is_unknown() -> None:
    bodies = {kind.value: body for kind, body in _bodies().items()}
    for text in messages():
        message = json.loads(text)
        if message["type"] in REQUESTS:
            known = {"type", "unique_request_id", *bodies[message["type"]].__struct_fields__}
            assert set(message) <= known, message
            assert set(message.get("params") or {}) <= set(Params.__struct_fields__), message


def _bodies() -> dict[Kind, type[msgspec.Struct]]:
    from supervisor import messages as module  # the table is the module's own

    return module._BODIES


def test_every_table_of_toml_is_one() -> None:
    for text in blocks("toml"):
        assert tomli.loads(text)


def test_the_example_of_a_provider_is_a_table_that_can_be_loaded(tmp_path: Path) -> None:
    example = next(text for text in blocks("toml") if "[provider." in text)
    local = tmp_path / "venvs.local.toml"
    local.write_text(example, encoding="utf-8")
    provider = load_catalog(CHECKOUT / "venvs.toml", local).providers["my-cloud"]
    assert provider.key_required
    assert provider.adapter == "openai_chat"


# ---------------------------------------------------------------- flags and variables


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its long flags."""
    return {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}


@pytest.mark.parametrize(
    ("program", "title"),
    [
        pytest.param("install.py", "Install", id="install.py"),
        pytest.param("supervisor", "Settings", id="supervisor"),
        pytest.param("supervisor chat", "The terminal chat", id="chat"),
        pytest.param("supervisor status", "Watch it", id="status"),
        pytest.param("supervisor probe", "Probe a provider", id="probe"),
    ],
)
def test_every_flag_is_in_its_table(program: str, title: str) -> None:
    rows = [line for line in section(title).splitlines() if line.startswith("| `--")]
    explained = {FLAG.findall(row)[0] for row in rows}
    missing = flags_of(PARSERS[program]) - explained - ({"--help"} if " " in program else set())
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_document_names_a_flag_that_does_not_exist(document: str) -> None:
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    known = set().union(*map(flags_of, PARSERS.values()))
    assert set(FLAG.findall(text)) <= known


def test_every_variable_is_one_that_is_read() -> None:
    sections = {
        f"{name}_{field.name}"
        for name, kind in config._SECTIONS.items()
        for field in dataclasses.fields(kind)
    }
    texts = set(re.findall(r"look\.texts?\(\"(\w+)\"\)", Path(config.__file__).read_text(encoding="utf-8")))
    known = {f"{config.PREFIX}{name}".upper() for name in (*sections, *texts, "home", "section_name")}
    named = set(VARIABLE.findall(README))
    assert named <= known
    assert {f"{config.PREFIX}{name}".upper() for name in texts} <= named, "a variable is not explained"


def test_the_platforms_of_a_wheelhouse_are_all_named() -> None:
    for platform in PLATFORMS:
        assert f"`{platform}`" in section("Install")


# ---------------------------------------------------------------- the rest


def test_the_version_is_the_same_everywhere() -> None:
    project = tomli.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
    assert f"## {VERSION}\n" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_supervisors_packages_are_all_explained() -> None:
    project = tomli.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [re.split(r"[<>=\[; ]", requirement)[0] for requirement in project["dependencies"]]
    assert [row[0].strip("`") for row in table("package", "why")] == wanted


def test_the_example_of_a_dotenv_file_names_every_key_and_holds_none(catalog: Catalog) -> None:
    lines = (CHECKOUT / ".env.example").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    assert not [value for _, _, value in pairs if value]
    names = {name for name, _, _ in pairs}
    best_known = [catalog.providers[row[0].strip("`")] for row in table(*listing.HEAD)]
    assert {name for provider in best_known for name in provider.key} <= names
    assert names <= {name for provider in catalog.providers.values() for name in provider.variables}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    path = CHECKOUT / document
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        assert other.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, titles), target


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "docs/decisions.md"])
def test_prose_has_one_sentence_a_line(document: str) -> None:
    text = BLOCK.sub("", (CHECKOUT / document).read_text(encoding="utf-8"))
    prose = [line for line in text.splitlines() if not line.startswith(("|", "    "))]
    assert not [line for line in prose if re.search(r"[a-z)`][.?!] [A-Z]", line)]


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
