"""The second half of install.py, in the supervisor's environment: what a person can have done.

Exit codes: 0 done; 1 a bug of ours; 2 bad arguments, settings or an unknown name; 4 an environment cannot be
made or removed; 5 --check found something bad; 130 interrupted. --run, --chat and --test hand over, and end
with the code of what they started. What install.py accepts: flags.py. What is shown while it works:
terminal.py."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor import environments, variants
from supervisor.all_environments import ALL, Cost, cost_of, cost_table, large, light, made_each
from supervisor.bootstrap import CHECKOUT, EXIT_INTERRUPTED, fail, supervisor_recipe
from supervisor.catalog import load_catalog
from supervisor.environments import Environment
from supervisor.errors import ModuleError, ProvisionError, SettingsError
from supervisor.flags import MARKDOWN, install_parser, making_flags, names_of
from supervisor.home import Home, find_home
from supervisor.launcher import LAUNCHER_NAME, program_argv, write_launchers
from supervisor.providers import EnvSpec, Provider, Variant
from supervisor.provision import Recipe, provision
from supervisor.spawn import exclusive_lock, hand_over, running_under
from supervisor.terminal import ProgressLine, size_text

if TYPE_CHECKING:
    from supervisor.probes import Place

__all__ = ["main"]

DEVELOPMENT_IMPORTS: Final = (
    "pytest",
    "pytest_asyncio",
    "hypothesis",
    "aiohttp",
    "websockets",
    "msgspec",
    "uv",
)
"""What the tests cannot do without; the rest of the development environment shows when it is used."""


def main(argv: list[str]) -> int:
    """Does what the flags say; returns the exit code."""
    flags = install_parser().parse_args(argv)
    try:
        home = find_home(flags.home, os.environ)
        if flags.check or flags.report is not None:
            return _ask(home, flags)
        return _Commands(home, flags).run()
    except ModuleError as exc:
        return fail(exc, ProgressLine(sys.stderr))
    except BrokenPipeError:  # whoever read our output has enough; Python must not try to flush the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\ninstall.py: interrupted; nothing half made is left", file=sys.stderr)
        return EXIT_INTERRUPTED


def _ask(home: Home, flags: argparse.Namespace) -> int:
    """--check and --report: they work where no table and no setting can be read, and change nothing."""
    from supervisor.probes import Place  # rarely asked for, and it comes with the whole module

    others = making_flags(flags)
    if others:
        raise SettingsError(f"--check and --report change nothing, so they cannot go with {others[0]}")
    names = names_of(flags.llm)
    place = Place(home, CHECKOUT, os.environ, () if ALL in names else tuple(names))
    code = _check(place) if flags.check else 0
    if flags.report is not None:
        _report(place, flags.report)
    return code


def _check(place: Place) -> int:
    """Shows what the doctor finds, as it finds it."""
    from supervisor.doctor import EXIT_BAD, Grade, closing_line, examine, shown
    from supervisor.report import redactor_of
    from supervisor.trials import probes_for  # all three as above

    redactor = redactor_of(place, to_send=False)
    findings = []
    for finding in examine(probes_for(place)):
        print(redactor.clean(shown(finding)), flush=True)
        findings.append(finding)
    print(f"\n{closing_line(findings)}")
    return EXIT_BAD if any(finding.grade is Grade.BAD for finding in findings) else 0


def _report(place: Place, file: str) -> None:
    """Makes the archive and says what is in it."""
    from supervisor.report import default_name, write_report  # as above

    target = Path.cwd() / (file or default_name())
    print("looking at everything, which takes up to half a minute", file=sys.stderr)
    parts = write_report(place, target)
    print(f"made {target}, which holds:")
    for name, size_bytes in parts:
        print(f"  {name}  {size_text(size_bytes)}")
    print(
        "Keys, tokens and passwords are taken out, and so are your name, your home folder and the name of\n"
        "this machine. The module writes no prompts and no replies into its log; what a provider's own\n"
        "package may write there is not ours to know. Look through the files before you send them to anybody."
    )


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Commands:
    """The commands of one call, in the order in which they make sense together."""

    def __init__(self, home: Home, flags: argparse.Namespace) -> None:
        self.home = home
        self.flags = flags
        self.catalog = load_catalog(CHECKOUT / "venvs.toml", home.local_catalog)
        own = environments.find(home, supervisor_recipe().lock)
        if own is None:
            raise ProvisionError("the supervisor's environment has gone: run install.py again")
        self.own = own
        self.everything = ALL in names_of(flags.llm)
        self.wheelhouse: Path | None = None if flags.wheelhouse is None else flags.wheelhouse.resolve()

    def run(self) -> int:
        """Everything that the flags ask for."""
        failed: list[Cost] = []
        if self.flags.run is not None:
            sys.stdout = sys.stderr  # the ready line is to be the first thing on stdout
        wanted = self._resolve([name for name in names_of(self.flags.llm) if name != ALL])
        unwanted = self._resolve(names_of(self.flags.remove))
        self._check_builds(wanted)
        self._check_variant(wanted)
        if self.flags.test is not None:
            self._test()
        if self.flags.export_wheelhouse is not None:
            self._export(wanted)
            return 0
        for provider in unwanted:
            self._remove(provider)
        for provider in wanted:
            self._install(provider)
        if self.everything:
            failed = self._install_all()
        if self.flags.gc:
            self._collect_garbage()
        if self.flags.list:
            self._list()
        argv = write_launchers(self.own, CHECKOUT, self.home)
        if failed:
            names = ", ".join(cost.name for cost in failed)
            raise ProvisionError(f"cannot be made: {names}; the table says why, and all others stand")
        self._start(wanted)
        if not (self.flags.list or self.flags.gc or unwanted):
            self._tell(argv, wanted)
        return 0

    def _resolve(self, names: Sequence[str]) -> list[Provider]:
        """The providers of those names; all names are checked before anything is done."""
        return [self.catalog.named(name) for name in names]

    def _variant(self, spec: EnvSpec) -> Variant:
        """The variant that --variant names where there are several, else the one in use."""
        name = self.flags.variant
        return variants.named(spec, name) if name and spec.others else variants.in_use(self.home, spec)

    def _check_variant(self, wanted: Sequence[Provider]) -> None:
        """Before anything is done: --variant must mean something."""
        several = [spec for spec in map(self.catalog.env_of, wanted) if spec.others]
        if self.flags.variant and not several:
            raise SettingsError(
                "--variant goes with a --llm whose environment has variants; --list shows them"
            )
        for spec in several:
            variants.check_machine(spec, self._variant(spec))

    def _check_builds(self, wanted: Sequence[Provider]) -> None:
        """Before anything is done: --builds must mean one environment, whose engine comes in other builds."""
        if self.flags.builds is None:
            return
        specs = {spec.name: spec for spec in map(self.catalog.env_of, wanted) if spec.builds}
        if self.flags.variant or len(specs) != 1:
            several = ", ".join(spec.name for spec in self.catalog.envs.values() if spec.builds)
            raise SettingsError(
                f"--builds goes with one --llm whose environment is one of {several}, without --variant"
            )

    def _recipe(self, spec: EnvSpec) -> Recipe:
        variant = self._variant(spec)
        lock = CHECKOUT / "locks" / f"{variant.lock}.txt"
        if not self.flags.variant:
            lock = variants.lock_of(self.home, CHECKOUT, spec)
        return Recipe(variant.lock, lock, spec.imports, python=spec.python, where=variant.where)

    def _find(self, spec: EnvSpec) -> Environment | None:
        return environments.find(self.home, self._recipe(spec).lock)

    def _install(self, provider: Provider) -> None:
        spec = self.catalog.env_of(provider)
        theirs = self.flags.builds is not None and spec.builds
        known, environment = self._their_build(spec) if theirs else self._our_build(provider, spec)
        how = (
            "is installed"
            if known
            else f"installed in {environment.seconds:.1f} s with {environment.installer}"
        )
        print(f"{provider.id}: {how} ({self._variant(spec).lock}, {size_text(environment.size_bytes)})")

    def _our_build(self, provider: Provider, spec: EnvSpec) -> tuple[bool, Environment]:
        """Whether it was there, and the environment: that of --variant, else the one in use."""
        recipe = self._recipe(spec)
        own = not self.flags.variant and variants.own_build(self.home, spec.name) is not None
        known = environments.find(self.home, recipe.lock)
        if known is None and own:
            raise ProvisionError(
                f"{provider.id} was made of your own build, which has gone: run "
                f"{variants.made_by(self.home, spec.name, provider.id)}, "
                f"or --remove {provider.id} first, to have the usual one"
            )
        if known is None:
            self._announce(spec)
        environment = known or self._make(recipe)
        if not own:
            variants.choose(self.home, spec, self._variant(spec))
        return known is not None, environment

    def _their_build(self, spec: EnvSpec) -> tuple[bool, Environment]:
        """The same, with the engine's packages from where --builds says."""
        from supervisor.own_build import fetched, keep  # rarely asked for

        usual = CHECKOUT / "locks" / f"{spec.name}.txt"
        where = self.flags.builds
        with fetched(self.home, spec, usual, where, wheelhouse=self.wheelhouse, say=_note) as build:
            known = environments.find(self.home, build.lock)
            recipe = Recipe(spec.name, build.lock, spec.imports, python=spec.python)
            environment = known or self._make(recipe, build.files)
            keep(self.home, spec, build.lock)
        return known is not None, environment

    def _announce(self, spec: EnvSpec) -> None:
        """What is about to be downloaded, where that is much."""
        variant = self._variant(spec)
        size_bytes = variants.download_bytes(variant)
        if size_bytes:
            named = f", variant {variant.name} ({variant.about})" if spec.others else ""
            _note(f"{spec.name}{named}: {size_text(size_bytes)} to download")

    def _install_all(self) -> list[Cost]:
        """Makes every environment that is not large, and shows what they cost; returns those that failed."""
        wanted = light(self.catalog)
        making = made_each(
            [served for served in wanted if variants.suits(served.spec)],
            find=self._find,
            make=lambda spec: self._make(self._recipe(spec)),
            say=_note,
        )
        costs = [cost_of(self.own, 0, there=True), *making]
        print("\n".join(["", *cost_table(costs)]))
        for served in wanted:
            if not variants.suits(served.spec):
                print(f"{served} is not made for this machine and this Python: {served.spec.where}")
        for served in large(self.catalog):
            print(f"{served} is large, and made by name alone: python install.py --llm {served.providers[0]}")
        return [cost for cost in costs if cost.environment is None]

    def _make(self, recipe: Recipe, files: Path | None = None) -> Environment:
        """That environment, from those files where they are given."""
        progress = ProgressLine(sys.stderr)
        try:
            return provision(
                self.home,
                recipe,
                installer=self.flags.installer,
                wheelhouse=files or self.wheelhouse,
                on_progress=progress,
            )
        finally:
            progress.end()

    def _remove(self, provider: Provider) -> None:
        spec = self.catalog.env_of(provider)
        environment = self._find(spec)
        if environment is None:
            print(f"{provider.id}: is not installed")
            return
        self._refuse_if_used(environment)
        with exclusive_lock(self.home.locks / f"{environment.key}.lock", timeout_s=0):
            gone = environments.remove(self.home, environment.key)
        variants.forget(self.home, spec)
        if not gone:
            raise ProvisionError(
                f"{environment.directory} is in use: close what uses it, then --gc removes the rest"
            )
        shared = [p.id for p in self.catalog.providers.values() if p.env == spec.name and p.id != provider.id]
        also = f"; it was also that of {', '.join(shared)}" if shared else ""
        print(f"{provider.id}: removed {size_text(environment.size_bytes)}{also}")

    def _refuse_if_used(self, environment: Environment) -> None:
        pids = running_under(environment.directory)
        if pids:
            raise ProvisionError(
                f"the environment {environment.name!r} is in use by process {', '.join(map(str, pids))}: "
                "close the module first"
            )

    def _collect_garbage(self) -> None:
        from supervisor.own_build import sweep  # rarely asked for

        sweep(self.home)
        folders = (CHECKOUT / "locks", self.home.builds)
        locks = [path.read_bytes() for folder in folders for path in folder.glob("*.txt")]
        in_use = [path for path in self.home.envs.glob("*-*") if running_under(path)]
        removed = environments.collect_garbage(self.home, locks, in_use=in_use)
        for name, size_bytes in removed:
            print(f"removed {name}, {size_text(size_bytes)}")
        print(f"{len(removed)} removed, {size_text(sum(size for _, size in removed))}")

    def _list(self) -> None:
        from supervisor.listing import listed, page  # rarely asked for

        if self.flags.list == MARKDOWN:
            print("\n".join(page(self.catalog)))
            return
        found = {name: self._find(spec) for name, spec in self.catalog.envs.items()}
        sizes = {name: size_text(env.size_bytes) for name, env in found.items() if env is not None}
        print("\n".join(listed(self.catalog, sizes)))
        print(f"\nthe supervisor: {size_text(self.own.size_bytes)}; everything is in {self.home.root}")

    def _export(self, wanted: list[Provider]) -> None:
        from supervisor.wheelhouse import export_wheelhouse  # rarely asked for

        specs = [self.catalog.env_of(provider) for provider in wanted]
        if self.everything or not specs:
            specs += [spec for spec in self.catalog.envs.values() if not spec.heavy]
        locks = [supervisor_recipe().lock, *dict.fromkeys(self._recipe(spec).lock for spec in specs)]
        target: Path = self.flags.export_wheelhouse.resolve()
        count, size_bytes = export_wheelhouse(
            target, locks, self.flags.platform, self.flags.python_version, self.home.cache
        )
        print(f"{count} files, {size_text(size_bytes)} in {target}")
        print("there: python install.py --llm NAME --wheelhouse DIR")

    def _test(self) -> None:
        """Hands over to the tests, in the development environment."""
        environment = self._make(Recipe("dev", CHECKOUT / "locks" / "dev.txt", DEVELOPMENT_IMPORTS))
        start = [str(environment.python), str(CHECKOUT / "tests" / "run_all.py")]
        hand_over([*start, "--home", str(self.home.root), *self.flags.test], os.environ)

    def _start(self, wanted: list[Provider]) -> None:
        """Hands over to what --run or --chat ask for; returns if neither is there."""
        program = program_argv(self.own, CHECKOUT, self.home)
        home = ["--home", str(self.home.root)]
        if self.flags.run is not None:
            hand_over([*program, str(self.flags.run), *home], os.environ)
        if self.flags.chat:
            provider = ["--provider", wanted[0].id] if wanted else []
            hand_over([*program, "chat", *home, *provider], os.environ)

    def _tell(self, argv: list[str], wanted: list[Provider]) -> None:
        """What an application spawns, and what to do next."""
        print(f"\nto start the module, spawn: {json.dumps(argv, ensure_ascii=False)}")
        print(f"which {self.home.spawn_json} says too, and {self.home.bin / LAUNCHER_NAME} does")
        if not wanted:
            print("next: python install.py --llm demo --chat, or --list for all providers")
