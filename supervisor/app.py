"""The composition root: builds the parts from Settings, joins them, turns signals and errors into an exit.

Exit codes (protocol, section 5): 0 closed, 1 unexpected, 2 bad arguments or settings, 3 port taken,
130 interrupted.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from supervisor import spawn
from supervisor.catalog import load_catalog
from supervisor.client import Client
from supervisor.commands import Outcome
from supervisor.config import Settings, load_settings
from supervisor.environments import Environment, find
from supervisor.errors import ProvisionError, SettingsError
from supervisor.health import HealthLines, ModuleHealth, Report, measured
from supervisor.listing import claims
from supervisor.logs import LogFiles, start_logging
from supervisor.metrics import CONTENT_TYPE, Metrics
from supervisor.pages import Answer, Page, Question, ready_answer
from supervisor.pool import Pool, ReportProgress
from supervisor.providers import Catalog, EnvSpec, Provider
from supervisor.server import Connection, Server
from supervisor.session import Session
from supervisor.variants import lock_of, made_by
from supervisor.version import VERSION
from supervisor.worker import Death, Worker

__all__ = [
    "CHECKOUT",
    "EXIT_INTERRUPTED",
    "EXIT_PORT_TAKEN",
    "EXIT_SETTINGS",
    "EXIT_UNEXPECTED",
    "App",
    "main",
]

log = logging.getLogger(__name__)

CHECKOUT: Final = Path(__file__).resolve().parent.parent
EXIT_UNEXPECTED: Final = 1
EXIT_SETTINGS: Final = 2
EXIT_PORT_TAKEN: Final = 3
EXIT_INTERRUPTED: Final = 130
SETTLE_S: Final = 1.0
"""At the end, for open requests to get their terminal messages (a worker lets go within half of it)."""
SETTLE_POLL_S: Final = 0.01
PARENT_POLL_S: Final = 0.5
"""Only where a parent was named: everything is to be gone two seconds after it."""


class App:
    """The running module."""

    def __init__(self, settings: Settings, catalog: Catalog, logs: LogFiles) -> None:
        self._settings = settings
        self._catalog = catalog
        self._logs = logs
        self._numbers = itertools.count(1)
        self._clients: set[Client] = set()
        self._started = time.monotonic()
        self._ending = asyncio.Event()
        self._hurried = asyncio.Event()
        """Somebody asked twice: what is not over yet ends with the process, and with it its workers."""
        self._exit_code = 0
        logins = {name: settings.variables.get(name) for name in spawn.LOGIN_VARIABLES}
        self._environment = spawn.worker_environment(os.environ, logins)
        self._pool = Pool(self._make_worker, settings.pool)
        self._server = Server(settings.access, settings.server, self._new_client, self.answer)
        self._metrics = Metrics()
        self._health = HealthLines(settings.health, self._pool.snapshot, self._look)

    # ---- life

    async def run(self, on_ready: Callable[[str, int], None]) -> int:
        """Serves until something ends the module; returns the exit code.

        Raises:
            OSError: the port cannot be bound.
        """
        loop = asyncio.get_running_loop()
        port = await self._server.listen(self._settings.hosts, self._settings.port)
        spawn.on_end_signals(loop, self._signalled)
        watchers = self._watchers(loop)
        on_ready(self._settings.hosts[0], port)
        spawn.hide_environment()
        log.info("module ready port=%d pid=%d version=%s", port, os.getpid(), VERSION)
        try:
            await self._ending.wait()
        finally:
            for watcher in watchers:
                watcher.cancel()
            await self._shut_down_unless_hurried()
        return self._exit_code

    def close(self) -> None:
        """Ends the module; `run` does the work."""
        self._ending.set()

    def _signalled(self, name: str) -> None:
        if name == "SIGINT":
            self._exit_code = EXIT_INTERRUPTED
        if self._ending.is_set():
            log.warning("module ending at once reason=%s", name)
            self._hurried.set()
            return
        log.info("module ending reason=%s", name)
        self._ending.set()

    def _watchers(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[None]]:
        """The health lines, and what else can end the module, where the parent asked for it."""
        if self._settings.exit_on_stdin_eof:
            threading.Thread(target=_until_stdin_ends, args=(loop, self.close), daemon=True).start()
        watchers = [asyncio.create_task(self._health.run())]
        if self._settings.parent_pid is not None:
            watchers.append(asyncio.create_task(self._until_parent_ends(self._settings.parent_pid)))
        return watchers

    async def _until_parent_ends(self, pid: int) -> None:
        alive = spawn.watch_process(pid)
        while alive():  # noqa: ASYNC110  # no system tells of the end of a process that is not our child
            await asyncio.sleep(PARENT_POLL_S)
        log.info("module ending reason=parent_gone parent=%d", pid)
        self._ending.set()

    async def _shut_down_unless_hurried(self) -> None:
        steps = [asyncio.create_task(self._shut_down()), asyncio.create_task(self._hurried.wait())]
        await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
        for step in steps:
            step.cancel()
        if steps[0].done() and not steps[0].cancelled():
            steps[0].result()  # a bug in it is one of the module's

    async def _shut_down(self) -> None:
        """Requests end with INTERRUPT, clients get told, workers stop; every step is bounded."""
        self._server.stop_listening()
        for client in list(self._clients):
            client.close()
        waited = time.monotonic() + SETTLE_S
        while time.monotonic() < waited and not all(c.settled for c in self._clients):  # noqa: ASYNC110
            await asyncio.sleep(
                SETTLE_POLL_S
            )  # an event would have to be told by every client, for this one use
        await asyncio.gather(self._server.close(), self._pool.close())
        log.info("module closed uptime_s=%.1f", time.monotonic() - self._started)

    # ---- parts

    def _new_client(self, connection: Connection) -> Client:
        may_close = connection.from_loopback or not self._settings.refuse_remote_close
        session = Session(self._catalog, self._settings.requests, self._numbers, may_close=may_close)
        client = Client(
            connection, session, self._pool, self._settings, self, self._numbers, self._clients.discard
        )
        self._clients.add(client)
        return client

    async def _make_worker(
        self, provider: Provider, report: ReportProgress, on_death: Callable[[Worker, Death], None]
    ) -> Worker:
        environment = await self._environment_of(provider, report)
        return Worker(
            provider,
            python=environment.python,
            site_packages=environment.site_packages,
            checkout=CHECKOUT,
            environment=self._environment,
            limits=self._settings.worker,
            on_death=on_death,
        )

    def _installed(self, spec: EnvSpec) -> Environment | None:
        """The environment in use, if it is made. Blocks: it reads some small files."""
        return find(self._settings.home, lock_of(self._settings.home, CHECKOUT, spec))

    async def _environment_of(self, provider: Provider, report: ReportProgress) -> Environment:
        spec = self._catalog.env_of(provider)
        known = await asyncio.to_thread(self._installed, spec)
        if known is not None:
            return known
        if spec.heavy:
            raise ProvisionError(
                f"{provider.name} needs a large environment that is not made by a load; "
                f"run: {made_by(self._settings.home, spec.name, provider.id)}"
            )
        # Here and not at the top: most starts never make an environment, and "ready" must not pay for it.
        from supervisor.provisioner import provision_child

        log.info("worker provisioning provider=%s env=%s", provider.id, spec.name)
        begun = time.monotonic()
        made = await provision_child(
            self._settings.home,
            spec.name,
            on_progress=lambda p: report("provision", p.message, p.done / p.total if p.total else None),
            installer=self._settings.installer,
            wheelhouse=self._settings.wheelhouse,
        )
        spent_ms = round((time.monotonic() - begun) * 1000)
        log.info(
            "worker provisioned provider=%s env=%s installer=%s ms=%d",
            *(provider.id, spec.name, made.installer, spent_ms),
        )
        return made

    # ---- questions

    async def status(self) -> Mapping[str, Any]:
        """The fields of `status_done`."""
        module, workers = await self._look()
        return {
            "version": VERSION,
            "uptime_s": round(module.uptime_s, 3),
            "clients": module.clients,
            "memory_bytes": module.memory_bytes,
            "cpu_s": round(module.cpu_s, 3),
            "workers": [worker.fields() for worker in workers],
        }

    async def answer(self, question: Question) -> Answer:
        """The page that a plain GET asks for."""
        match question.page:
            case Page.LIVE:
                return Answer("alive\n")
            case Page.READY:
                workers = self._pool.snapshot() if question.verbose else ()
                return ready_answer(workers, ready=self._server.listening)
            case Page.METRICS:
                text = self._metrics.text(*await self._look(), self._server.dropped)
                return Answer(text, content_type=CONTENT_TYPE)

    async def _look(self) -> Report:
        """How the supervisor and its workers are now."""
        module = ModuleHealth(
            uptime_s=time.monotonic() - self._started,
            clients=len(self._clients),
            lag_s=self._health.lag_s,
            lost_lines=self._logs.lost(),
        )
        return await measured(module), self._pool.snapshot()

    def ended(self, provider: str, outcome: Outcome) -> None:
        """A generation is over."""
        self._metrics.ended(provider, outcome)

    def provider_details(self) -> Mapping[str, Mapping[str, Any]]:
        """Name, kind, key variables, what each rests on, and whether the environment is there."""
        installed = {name: self._installed(spec) is not None for name, spec in self._catalog.envs.items()}
        return {
            provider.id: {
                "name": provider.name,
                "kind": provider.kind,
                "installed": installed[provider.env],
                "key_variables": list(provider.key),
                **claims(self._catalog, provider),
            }
            for provider in self._catalog.providers.values()
        }


def _until_stdin_ends(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    """In a thread of its own: what stdin says is nobody's business, that it ends is."""
    while True:
        try:
            if not os.read(0, 4096):
                break
        except OSError:
            break
    loop.call_soon_threadsafe(then)


def main(argv: Sequence[str]) -> int:
    """Serves; returns the exit code."""
    try:
        settings = load_settings(argv, os.environ, CHECKOUT)
        catalog = load_catalog(CHECKOUT / "venvs.toml", settings.home.local_catalog)
        catalog = catalog.fetching() if settings.allow_download else catalog
    except SettingsError as exc:
        _say(str(exc))
        return EXIT_SETTINGS
    logs = start_logging(settings.home.logs, level=settings.log_level, json_lines=settings.log_json)
    try:
        code = asyncio.run(_serve(settings, catalog, logs))
        if code == EXIT_INTERRUPTED and not log.isEnabledFor(logging.INFO):
            logs.tell("module interrupted")  # every exit but 0 says why; else the line of its end did
        return code
    except OSError as exc:
        return _not_bound(exc, settings)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception:  # the outermost boundary: one line for the parent, the traceback for the log
        log.exception("module failed")
        _say("something went wrong inside the module; its log has the traceback")
        return EXIT_UNEXPECTED
    finally:
        logs.stop()


async def _serve(settings: Settings, catalog: Catalog, logs: LogFiles) -> int:
    return await App(settings, catalog, logs).run(lambda host, port: _announce(host, port, logs))


def _announce(host: str, port: int, logs: LogFiles) -> None:
    """The ready line: the one thing that is ever written to stdout."""
    ready = {
        "event": "ready",
        "host": host,
        "port": port,
        "pid": os.getpid(),
        "version": VERSION,
        "log": None if logs.path is None else str(logs.path),
    }
    try:
        sys.stdout.write(json.dumps(ready, ensure_ascii=True) + "\n")
        sys.stdout.flush()
    except (OSError, AttributeError):  # the parent closed it, or gave none: it reads the port elsewhere
        log.info("nobody reads the ready line")


def _not_bound(exc: OSError, settings: Settings) -> int:
    if exc.errno == errno.EADDRINUSE or getattr(exc, "winerror", None) == 10048:
        _say(f"port {settings.port} is taken, maybe by another copy of this module: choose another one")
        return EXIT_PORT_TAKEN
    if exc.errno in (errno.EADDRNOTAVAIL, errno.EACCES, None):  # None: asyncio's own words, in newer Pythons
        _say(f"{settings.hosts[0]} port {settings.port} cannot be bound: {exc.strerror or exc}")
        return EXIT_PORT_TAKEN
    log.error("module failed", exc_info=exc)
    _say(f"something went wrong: {exc.strerror or type(exc).__name__}")
    return EXIT_UNEXPECTED


def _say(sentence: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"supervisor: {sentence}\n")
        sys.stderr.flush()
