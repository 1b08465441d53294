"""The providers as text: what `install.py --list` shows, and docs/providers.md. Pure.

Never a bare "supported": each row says how well the provider's address is known, and who has seen it answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from supervisor.providers import CONFIDENCES, USUAL, Catalog, Provider

__all__ = ["cells", "claims", "counts", "listed", "page"]

HEAD = ("provider", "name", "adapter", "key", "default model", "data", "rests on", "tried live")


def listed(catalog: Catalog, installed: Mapping[str, str]) -> Iterator[str]:
    """The lines of `--list`; `installed` is the size of each environment that there is, by its name."""
    rows = [("provider", "environment", "installed", "key", "data", "tried live")]
    rows += [
        (
            provider.id,
            provider.env,
            installed.get(provider.env, "no"),
            provider.key[0] if provider.key else "none needed",
            provider.confidence or "your own table",
            provider.tried,
        )
        for provider in catalog.providers.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cut = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield "  ".join([*cut, row[-1]])
    yield ""
    yield from _variants(catalog)
    yield from counts(catalog)


def _variants(catalog: Catalog) -> Iterator[str]:
    """The environments that can be made in several ways, and how each is chosen."""
    for spec in catalog.envs.values():
        for variant in spec.variants if spec.others else ():
            flag = "without --variant" if variant.name == USUAL else f"--variant {variant.name}"
            sizes = ", ".join(f"{name} {size} MB" for name, size in variant.size_mb.items())
            yield f"{spec.name}, {flag}: {variant.about}; to download: {sizes or 'not known'}"


def counts(catalog: Catalog) -> Iterator[str]:
    """How many there are, by how well they are known, by adapter, and by what proves the adapter."""
    providers = catalog.providers.values()
    known = Counter(provider.confidence or "your own" for provider in providers)
    said = ", ".join(f"{known[word]} {word}" for word in (*CONFIDENCES, "your own") if known[word])
    yield f"{len(providers)} providers; their addresses and keys are {said}"
    if catalog.doubtful:
        yield f"not offered until you enable them: {', '.join(catalog.doubtful)}"
    for adapter, number in Counter(provider.adapter for provider in providers).most_common():
        wire = catalog.wires.get(adapter)
        proof = wire.proof if wire is not None and wire.proof else "nothing but its own tests"
        yield f"{adapter}: {number}; held against: {proof}"


def claims(catalog: Catalog, provider: Provider) -> dict[str, str]:
    """What the claim that a provider works rests on."""
    return {
        "confidence": provider.confidence,
        "source": provider.source,
        "proof": catalog.proof_of(provider),
        "tried": provider.tried,
    }


def cells(provider: Provider) -> list[str]:
    """One provider's row of a table in a document."""
    key = ", ".join(f"`{name}`" for name in provider.key) or "none needed"
    optional = " (optional)" if provider.key and not provider.key_required else ""
    model = f"`{provider.default_model}`" if provider.default_model else "the only one, or `model_id`"
    return [
        f"`{provider.id}`",
        provider.name,
        provider.adapter,
        key + optional,
        model,
        provider.confidence,
        provider.source,
        provider.tried,
    ]


def page(catalog: Catalog) -> Iterator[str]:
    """The lines of docs/providers.md."""
    providers = catalog.providers.values()
    yield "# The providers"
    yield ""
    yield "Made by `python install.py --list markdown` from venvs.toml; a test keeps the two alike."
    yield "docs/sources.md explains the columns *data* and *rests on*, and thanks those whose data this is."
    yield "*Tried live* says who has seen it answer: *nobody yet* was tested against a local server only."
    yield "`python supervisor probe --llm NAME` tries one with your key."
    yield ""
    for line in counts(catalog):
        yield f"- {line}"
    for title, kinds in (
        ("Over the network", ("api",)),
        ("On this machine, in another program", ("local-server",)),
        ("In the module itself", ("engine", "script")),
    ):
        yield from _section(title, [provider for provider in providers if provider.kind in kinds])
    yield from _section("Doubtful: enabled on demand", catalog.doubtful.values())
    yield from _settings(providers)


def _section(title: str, providers: Iterable[Provider]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield from _table(HEAD, map(cells, providers))


def _settings(providers: Iterable[Provider]) -> Iterator[str]:
    """What some must know besides a key."""
    yield from ("", "## Options that a provider needs or takes", "")
    yield "In `options` of a `load`, or in the operator's variables."
    yield ""
    rows = (
        [
            f"`{provider.id}`",
            f"`{setting.name}`",
            ", ".join(f"`{name}`" for name in setting.variables),
            f"`{setting.default}`" if setting.default else "needed" if setting.required else "",
        ]
        for provider in providers
        for setting in provider.settings
    )
    yield from _table(("provider", "option", "variables", "if it is missing"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
