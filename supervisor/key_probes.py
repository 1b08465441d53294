"""What the doctor says of keys: which variable holds one, where that was found, and what is wrong with it.

A key, or a part of one, is in nothing that is said here; its variable's name is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from supervisor import environments
from supervisor.config import dotenv_lines
from supervisor.doctor import Finding, Grade
from supervisor.probes import Place, catalog_of, command, dotenv_text, missing
from supervisor.providers import Provider
from supervisor.variants import lock_of

__all__ = ["keys"]

QUOTES: Final = "'\"`\u2018\u2019\u201c\u201d"
"""Straight ones, and those that a word processor makes of them."""


def keys(place: Place) -> Iterator[Finding]:
    """Of each provider: is its environment there, which variable holds its key, is that key a clean one."""
    yield from _not_installed(place)
    sources = _sources(place)
    asked = _in_question(place)
    without = []
    for provider in asked if place.names else catalog_of(place).providers.values():
        found = _key(provider, sources)
        if found is not None:
            yield _judged(provider, *found)
        elif provider.key_required and provider in asked:
            without.append(provider)
    yield from _keyless(place, without)


def _in_question(place: Place) -> list[Provider]:
    """The named providers, or else all whose environment is there."""
    catalog = catalog_of(place)
    if place.names:
        return list(filter(None, map(catalog.find, place.names)))
    locks = {name: lock_of(place.home, place.checkout, spec) for name, spec in catalog.envs.items()}
    there = {
        name
        for name, lock in locks.items()
        if lock.exists() and environments.find(place.home, lock) is not None
    }
    return [provider for provider in catalog.providers.values() if provider.env in there]


def _not_installed(place: Place) -> Iterator[Finding]:
    for provider, spec in missing(place):
        remedy = command(place, "--llm", provider.id)
        if spec.heavy:
            text = f"its large environment {spec.name} is not there, and no load makes it"
            yield Finding(Grade.BAD, provider.id, text, remedy)
        else:
            text = f"its environment {spec.name} is not there; the first load makes it, which takes a while"
            yield Finding(Grade.WARN, provider.id, text, remedy)


def _sources(place: Place) -> list[tuple[str, Mapping[str, str]]]:
    """Where keys are looked for, in that order."""
    files = (place.home.dotenv, place.checkout / ".env")
    read = [(str(path), dict(dotenv_lines((dotenv_text(path) or "").splitlines()))) for path in files]
    return [("the environment", place.environ), *read]


def _key(provider: Provider, sources: Sequence[tuple[str, Mapping[str, str]]]) -> tuple[str, str, str] | None:
    """The variable that counts, where it stands, and its value."""
    for name in provider.key:
        for where, values in sources:
            if values.get(name, "").strip():
                return name, where, values[name]
    return None


def _judged(provider: Provider, name: str, where: str, value: str) -> Finding:
    """What is said of a key never holds a part of it."""
    flaws = list(_flaws(value))
    if flaws:
        text = f"{name} in {where} {' and '.join(flaws)}"
        return Finding(
            Grade.WARN, provider.id, text, f"copy the key once more, and paste it into {where} alone"
        )
    return Finding(Grade.OK, provider.id, f"{name} is set in {where}")


def _flaws(value: str) -> Iterable[str]:
    key = value.strip()
    if key != value:
        yield "has white space at an end, which is left out"
    if any(letter.isspace() for letter in key):
        yield "has white space in it"
    if any(not letter.isprintable() and not letter.isspace() for letter in key):
        yield "has a control character in it"
    if key.strip(QUOTES) != key:
        yield "has a quotation mark at an end"
    if not key.strip(QUOTES).isascii():
        yield "has letters that no key has"


def _keyless(place: Place, providers: Sequence[Provider]) -> Iterator[Finding]:
    if place.names:
        for provider in providers:
            text = f"no key is set (looked for: {', '.join(provider.key)})"
            remedy = (
                f"write {provider.key[0]}=… into {place.home.dotenv}, unless your application sends api_key"
            )
            yield Finding(Grade.WARN, provider.id, text, remedy)
    elif providers:
        names = ", ".join(provider.id for provider in providers)
        yield Finding(Grade.OK, "keys", f"none is set for {names}: fine if your application sends api_key")
