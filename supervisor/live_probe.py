"""`supervisor probe --llm groq`: a live check that anyone with a key can run, and a row to report it with.

It starts a module of its own and is a client like any other: a row for each check as it is made, then one
Markdown row for each provider. The checks: live_checks.py. Everything that is printed goes through the
redactor that also cleans a report: no key, no prompt, nothing of whose machine it is.

Exit codes: 0 every check passed or was not asked for; 1 one failed, or the module went away; 2 bad arguments
or settings; 130 interrupted. A module that does not start lends its own code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import environments
from supervisor.catalog import load_catalog
from supervisor.config import Settings, load_settings
from supervisor.errors import ModuleError, SettingsError
from supervisor.flags import names_of
from supervisor.live_checks import TITLES, Check, Checks, Subject, Verdict
from supervisor.live_talk import Talk
from supervisor.own_module import EXIT_GONE, EXIT_SETTINGS, NoModuleError, connected, own_module
from supervisor.probes import Place
from supervisor.providers import Provider
from supervisor.redaction import Redactor
from supervisor.report import redactor_of
from supervisor.spawn import system_words
from supervisor.terminal import StatusLine
from supervisor.version import VERSION

__all__ = ["main"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
TITLE_CHARS: Final = max(map(len, TITLES))
CONTROL_CHARACTERS: Final = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
"""What a provider's words may not do to a terminal."""
HEAD: Final = (
    *("provider", "date", "model", "load ms", "first token ms", "interrupt ms"),
    *TITLES,
    *("module", "OS", "Python"),
)


@dataclass(frozen=True, slots=True)
class _Probed:
    """One provider and what became of its checks."""

    subject: Subject
    checks: Checks
    rows: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether one did."""
        return any(row.verdict is Verdict.FAILED for row in self.rows)


def main(argv: Sequence[str]) -> int:
    """Probes, and prints what it finds; returns the exit code."""
    flags = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that it cannot hold must not end the probe
        sys.stdout.reconfigure(errors="replace")
    try:
        settings = load_settings(["--home", flags.home] if flags.home else [], os.environ, CHECKOUT)
        subjects = _subjects(flags, settings)
        probe = _Probe(settings, _redactor(settings, subjects))
        return probe.run(subjects)
    except ModuleError as exc:
        return _complain(exc.message, EXIT_SETTINGS)
    except NoModuleError as exc:
        return _complain(str(exc), exc.exit_code)
    except BrokenPipeError:  # whoever read our output left; Python must not try to flush what remains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_GONE
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="supervisor probe",
        description="Tries a provider for real, with a few tokens, and prints a row to report it with.",
        allow_abbrev=False,
    )
    names = {"nargs": "+", "action": "extend", "metavar": "NAME", "required": True}
    parser.add_argument("--llm", **names, help="whom to probe; A B or A,B")  # type: ignore[arg-type]  # shared form
    parser.add_argument("--model", metavar="ID", help="one of its models (default: the provider's own)")
    parser.add_argument(
        "--key-from", metavar="VARIABLE", help="the variable that holds the key, if it is not the usual one"
    )
    parser.add_argument("--home", metavar="DIR", help="where environments, logs and settings live")
    return parser


def _subjects(flags: argparse.Namespace, settings: Settings) -> list[Subject]:
    """Who is probed, and with what; all of it is checked before anything starts.

    Raises:
        SettingsError: a name, or a combination of flags, that means nothing.
    """
    catalog = load_catalog(CHECKOUT / "venvs.toml", settings.home.local_catalog)
    providers = [catalog.named(name) for name in names_of(flags.llm)]
    if not providers:
        raise SettingsError("--llm names nobody")
    if len(providers) > 1 and (flags.model or flags.key_from):
        raise SettingsError("--model and --key-from belong to one provider: probe one at a time with them")
    key = _key(settings, flags.key_from)
    return [
        Subject(provider, flags.model, key, installed=_is_installed(settings, provider))
        for provider in providers
    ]


def _key(settings: Settings, variable: str | None) -> str | None:
    if variable is None:
        return None
    key = settings.variables.get(variable)
    if key is None:
        raise SettingsError(f"--key-from {variable}: there is no such variable, or it is empty")
    return key


def _is_installed(settings: Settings, provider: Provider) -> bool:
    return environments.find(settings.home, CHECKOUT / "locks" / f"{provider.env}.txt") is not None


def _redactor(settings: Settings, subjects: Sequence[Subject]) -> Redactor:
    """Knows the key of --key-from too, whatever its variable is called."""
    keys = {f"KEY_{number}": s.key for number, s in enumerate(subjects) if s.key is not None}
    return redactor_of(Place(settings.home, CHECKOUT, {**os.environ, **keys}))


class _Probe:
    """One run of the command."""

    def __init__(self, settings: Settings, redactor: Redactor) -> None:
        self._settings = settings
        self._redactor = redactor

    def run(self, subjects: Sequence[Subject]) -> int:
        """Probes one after the other with one module; returns the exit code.

        Raises:
            NoModuleError: the module does not start.
        """
        with own_module(self._settings.home.root) as url:
            probed = [self._probed(url, subject) for subject in subjects]
        self._print("")
        for line in _table(probed):
            self._print(line)
        for one in probed:
            self._print(f"\n{_how_to_report(one)}")
        return EXIT_FAILED if any(one.failed for one in probed) else 0

    def _probed(self, url: str, subject: Subject) -> _Probed:
        status = StatusLine(sys.stderr)
        checks = Checks(subject, lambda: self._talk(url), status.show)
        self._print(f"{subject.provider.name} ({subject.provider.id})")
        rows = []
        for row in checks.run():
            status.end()
            self._print(f"{row.verdict.value:<7}  {row.title:<{TITLE_CHARS}}  {_on_one_line(row.text)}")
            rows.append(row)
        self._print(_cost(checks, subject.provider))
        return _Probed(subject, checks, tuple(rows))

    @contextlib.contextmanager
    def _talk(self, url: str) -> Iterator[Talk]:
        with connected(url, self._settings.access.token) as connection:
            yield Talk(connection)

    def _print(self, text: str) -> None:
        sys.stdout.write(self._redactor.clean(text) + "\n")
        sys.stdout.flush()


def _on_one_line(text: str) -> str:
    return " ".join(text.translate(CONTROL_CHARACTERS).split())


def _cost(checks: Checks, provider: Provider) -> str:
    """What was asked for at most, and what the provider counted."""
    if not checks.requests:
        return "nothing was generated"
    requests = f"{checks.requests} request{'' if checks.requests == 1 else 's'}"
    text = f"asked for {checks.asked_tokens} tokens of reply at most, in {requests}"
    headroom = provider.quirks.get("reasoning_headroom")
    text += (
        f", and {headroom} more in each if the model thinks" if headroom else ", and more if the model thinks"
    )
    used = checks.used
    if used:
        text += f"; it counted {used.get('input_tokens', 0)} in and {used.get('output_tokens', 0)} out"
    return text


def _table(probed: Sequence[_Probed]) -> list[str]:
    """The rows to report, as a table in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *(_cells(one) for one in probed)]
    return ["| " + " | ".join(_on_one_line(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]


def _cells(one: _Probed) -> tuple[str, ...]:
    figures = {row.title: row.ms for row in one.rows}
    return (
        one.subject.provider.id,
        _today(),
        one.checks.model or "none",
        *(_figure(figures[title]) for title in ("load", "stream", "interrupt")),
        *(row.verdict.value for row in one.rows),
        *(VERSION, system_words(), platform.python_version()),
    )


def _figure(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.0f}"


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _how_to_report(one: _Probed) -> str:
    table = f"[provider.{one.subject.provider.id}]"
    if one.failed:
        return (
            "Something failed. If it is not your key or your network, report this row and the lines above: "
            f'README.md, "Reporting a probe"; {table} in venvs.toml stays as it is.'
        )
    return (
        f'To report it: README.md, "Reporting a probe". {table} in venvs.toml then says\n'
        f'    tried = "YOUR NAME, {_today()}, probe of {VERSION}"'
    )


def _complain(text: str, exit_code: int) -> int:
    sys.stderr.write(f"probe: {text}\n")
    sys.stderr.flush()
    return exit_code
