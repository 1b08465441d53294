"""What the doctor tries: each environment's Python, how long a start takes, and who is on the port.

All that is started ends with the trial. `probes_for` lists everything that the doctor looks at, in the order
in which one thing breaks the next. What needs only reading: probes.py.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from supervisor import key_probes, probes
from supervisor.bootstrap import SUPERVISOR_IMPORTS
from supervisor.config import DEFAULT_HOSTS, DEFAULT_PORT, Settings
from supervisor.doctor import Finding, Grade, Probe
from supervisor.environments import Environment, environment_key, find, read_marker
from supervisor.errors import OperatorError, WorkerError
from supervisor.installers import clean_environment
from supervisor.probes import Place, catalog_of, command, settings_of
from supervisor.providers import USUAL, Provider
from supervisor.spawn import listener_on, run_child, worker_environment
from supervisor.terminal import size_text
from supervisor.variants import own_build
from supervisor.version import VERSION
from supervisor.worker import Worker, WorkerLimits

__all__ = [
    "TokenRefusedError",
    "address_of",
    "ask_status",
    "environment",
    "port",
    "probes_for",
    "start_time",
]

CHILD_S: Final = 8.0
"""For one program that is tried; below the bound of a probe, so that slowness is told in its own words."""

SLOW_START_S: Final = 1.0
"""By measure an interpreter starts in 0.05 s and a worker in 0.2 s; at a second a character is late to speak,
and nothing but something that reads each file before Python may costs that much."""

START_S: Final = CHILD_S / 2
"""For one step of a start: an interpreter, a worker's hello, its imports; all fit in the bound of a probe."""

RETRY_S: Final = 1.5
"""A first start that took longer is no cold disk, and a second one would cost more than it tells."""

ANSWER_S: Final = 2.0
"""For whatever is on the port: on one machine it answers in milliseconds, or it speaks something else."""
GOODBYE_S: Final = 0.5
STATUS_BYTES: Final = 1 << 20
"""No answer about a few workers is larger."""
UNAUTHORIZED: Final = 401

EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound
"""Hosts that are bound and cannot be connected to."""

IMPORT: Final = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(".".join(map(str, sys.version_info[:3])))
"""


class TokenRefusedError(OperatorError):
    """What listens there asks for a token that we do not have."""


def probes_for(place: Place) -> list[Probe]:
    """Everything that is looked at."""
    looks: list[tuple[str, Callable[[Place], Iterable[Finding]]]] = [
        ("Python", probes.python),
        ("HOME", probes.home_folder),
        ("disk", probes.disk),
        ("log", probes.logs_folder),
        ("settings", probes.settings_files),
        ("providers", probes.local_tables),
        *((_title(place, lock), functools.partial(environment, lock=lock)) for lock in _installed(place)),
        ("leftovers", probes.leftovers),
        ("packages", probes.foreign),
        ("keys", key_probes.keys),
        ("start", start_time),
        ("port", port),
        ("network", probes.network),
        ("clock", probes.clock),
    ]
    return [Probe(title, functools.partial(look, place)) for title, look in looks]


def _installed(place: Place) -> list[Path]:
    """The locks whose environment has a marker, good or not."""
    return [
        lock
        for lock in place.locks
        if (place.home.envs / f"{environment_key(lock.read_bytes())}.json").exists()
    ]


# ---------------------------------------------------------------- environments


def environment(place: Place, *, lock: Path) -> Iterator[Finding]:
    """One environment: is all there that its marker names, does its Python run, do its packages import."""
    title = _title(place, lock)
    marked = read_marker(place.home, environment_key(lock.read_bytes()))
    if marked is None:
        yield Finding(Grade.BAD, title, "its marker cannot be read", _make(place, lock.stem))
        return
    gone = next((path for path in marked.landmarks if not path.exists()), None)
    if gone is not None:
        yield Finding(Grade.BAD, title, f"{gone} is gone", _make(place, lock.stem))
        return
    yield _tried(place, marked, title)


def _title(place: Place, lock: Path) -> str:
    own = " (your own build)" if lock.parent == place.home.builds else ""
    return f"env {lock.stem}{own}"


def _tried(place: Place, marked: Environment, title: str) -> Finding:
    said: list[str] = []
    try:
        code = run_child(
            [str(marked.python), "-I", "-B", "-c", IMPORT, *_imports(place, marked.name)],
            environment=clean_environment(place.environ),
            cwd=place.home.root,
            timeout_s=CHILD_S,
            on_line=said.append,
        )
    except TimeoutError:
        text = f"its packages take longer than {CHILD_S:.0f} s to import"
        return Finding(Grade.WARN, title, text, _exclude(place))
    except OSError as exc:
        text = f"its Python does not start ({exc.strerror})"
        return Finding(Grade.BAD, title, text, _make_anew(place, marked))
    last = said[-1] if said else "it said nothing"
    if code != 0:
        return Finding(Grade.BAD, title, f"it does not work ({last})", _make_anew(place, marked))
    if last.split(".")[:2] != marked.version.split(".")[:2]:
        text = f"its Python was {marked.version} and is {last} now"
        return Finding(Grade.BAD, title, text, _make_anew(place, marked))
    return Finding(Grade.OK, title, f"Python {last}, {size_text(marked.size_bytes)}, everything imports")


def _imports(place: Place, name: str) -> tuple[str, ...]:
    if name == "supervisor":
        return SUPERVISOR_IMPORTS
    spec = catalog_of(place).env_of_lock(name)
    return () if spec is None else spec.imports


def _provider_in(place: Place, name: str) -> Provider | None:
    """A provider by which the environment of that lock can be made."""
    catalog = catalog_of(place)
    spec = catalog.env_of_lock(name)
    providers = catalog.providers.values()
    return next((provider for provider in providers if spec and provider.env == spec.name), None)


def _variant_flags(place: Place, name: str) -> tuple[str, ...]:
    """What tells install.py to make that lock, and no other of the same environment."""
    spec = catalog_of(place).env_of_lock(name)
    build = own_build(place.home, spec.name) if spec is not None else None
    if build is not None:
        return ("--builds", f'"{build}"')
    variant = next((item for item in spec.variants if item.lock == name), None) if spec is not None else None
    return ("--variant", variant.name) if variant is not None and variant.name != USUAL else ()


def _make(place: Place, name: str) -> str:
    """The command that makes what does not count as made."""
    provider = _provider_in(place, name)
    if provider is not None:
        return command(place, "--llm", provider.id, *_variant_flags(place, name))
    return command(place, "--test") if name == "dev" else command(place)


def _make_anew(place: Place, marked: Environment) -> str:
    """The command for what counts as made, and is broken all the same."""
    provider = _provider_in(place, marked.name)
    if provider is not None:
        flags = _variant_flags(place, marked.name)
        return command(place, "--remove", provider.id, "--llm", provider.id, *flags)
    return f'delete the folder "{marked.directory}", then {_make(place, marked.name)}'


# ---------------------------------------------------------------- how long a start takes


def start_time(place: Place) -> Iterator[Finding]:
    """A bare interpreter of the demo's environment, and the demo's worker, both really started."""
    lock = place.checkout / "locks" / "base.txt"
    found = find(place.home, lock)
    demo = _provider_in(place, "base")
    if found is None or demo is None:
        remedy = f"{command(place, '--llm', 'demo')} makes one that is small"
        yield Finding(Grade.OK, "start", f"not measured: the demo's environment is not there; {remedy}")
        return
    began = time.monotonic()
    try:
        bare_s = _faster_of_two(functools.partial(_bare_s, found.python))
        worker_s = _faster_of_two(functools.partial(_worker_s, place, found, demo))
    except subprocess.TimeoutExpired:
        text = f"Python does not start within {START_S:g} s"
        yield Finding(Grade.BAD, "start", text, _exclude(place))
    except (OSError, WorkerError) as exc:
        text = f"the demo's worker does not start: {exc}"
        waited = time.monotonic() - began >= START_S
        yield Finding(Grade.BAD, "start", text, _exclude(place) if waited else _make_anew(place, found))
    else:
        text = f"a Python starts in {bare_s:.2f} s, a worker in {worker_s:.2f} s"
        slow = max(bare_s, worker_s) > SLOW_START_S
        grade, remedy = (Grade.WARN, _exclude(place)) if slow else (Grade.OK, "")
        yield Finding(grade, "start", text, remedy)


def _exclude(place: Place) -> str:
    return f"usually an antivirus reads every file first: exclude the folder {place.home.root} from its scans"


def _faster_of_two(measure: Callable[[], float]) -> float:
    """A first start may pay for a cold disk once; what every start pays shows in the second too."""
    first_s = measure()
    return min(first_s, measure()) if SLOW_START_S < first_s <= RETRY_S else first_s


def _bare_s(python: Path) -> float:
    began = time.monotonic()
    nothing = subprocess.DEVNULL
    argv = [str(python), "-I", "-S", "-c", "pass"]
    with subprocess.Popen(argv, stdin=nothing, stdout=nothing, stderr=nothing) as process:
        try:
            process.wait(timeout=START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return time.monotonic() - began


def _worker_s(place: Place, found: Environment, demo: Provider) -> float:
    """From nothing to a worker that is ready, as the pool starts it.

    Raises:
        WorkerError: it does not become ready.
    """
    logging.getLogger("supervisor").addHandler(logging.NullHandler())  # its failure is a finding, not a log
    return asyncio.run(_worker_started_s(place, found, demo))


async def _worker_started_s(place: Place, found: Environment, demo: Provider) -> float:
    began = time.monotonic()
    worker = Worker(
        demo,
        python=found.python,
        site_packages=found.site_packages,
        checkout=place.checkout,
        environment=worker_environment(place.environ),
        limits=WorkerLimits(hello_s=START_S, ready_s=START_S),
        on_death=lambda worker, death: None,
    )
    await worker.start()
    spent_s = time.monotonic() - began
    await worker.stop()
    return spent_s


# ---------------------------------------------------------------- the port


def port(place: Place) -> Iterator[Finding]:
    """Whether the module's port is free, and if not, who has it."""
    host, number, token = address_of(settings_of(place))
    title = f"port {number}"
    if number == 0:
        yield Finding(Grade.OK, "port", "0: the module takes any free one, and its ready line says which")
    elif _answers(host, number):
        yield _taken(title, host, number, token)
    else:
        yield _bound(title, host, number)


def address_of(settings: Settings | None) -> tuple[str, int, str | None]:
    """Where a module with these settings, or without any, can be talked to: host, port, token."""
    if settings is None:
        return DEFAULT_HOSTS[0], DEFAULT_PORT, None
    host = settings.hosts[0]
    reachable = DEFAULT_HOSTS[0] if host in EVERYWHERE else host
    return reachable, settings.port, settings.access.token


def _answers(host: str, number: int) -> bool:
    try:
        with socket.create_connection((host, number), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def _bound(title: str, host: str, number: int) -> Finding:
    """Nobody listens, and yet the system may refuse: some ports of Windows are reserved."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, number), family=family).close()
    except OSError as exc:
        text = f"cannot be used ({exc.strerror or exc})"
        return Finding(Grade.BAD, title, text, _ANOTHER_PORT)
    return Finding(Grade.OK, title, "is free")


_ANOTHER_PORT: Final = (
    "choose another one: WAIFU_LLM_PORT=7563, or 0 for any free one, which the ready line then names"
)


def _taken(title: str, host: str, number: int, token: str | None) -> Finding:
    try:
        status = ask_status(host, number, token)
    except TokenRefusedError as exc:
        return Finding(Grade.OK, title, exc.message)
    if status is None:
        who = listener_on(number)
        name = "by another program" if who is None else f"by {who[1]} (process {who[0]})"
        return Finding(Grade.BAD, title, f"is taken {name}", f"end that program, or {_ANOTHER_PORT}")
    version = str(status.get("version"))
    if version != VERSION:
        text = f"a module of version {version} is running there, and this checkout is {VERSION}"
        return Finding(Grade.WARN, title, text, "end it and start this one")
    return Finding(Grade.OK, title, f"our module is running there, version {version}")


def ask_status(host: str, number: int, token: str | None) -> Mapping[str, Any] | None:
    """What a module that runs there says of itself; None if what is there is no module.

    Raises:
        TokenRefusedError: it does not talk to us.
    """
    try:
        reply = json.loads(_asked(host, number, token))
    except InvalidStatus as exc:
        if exc.response.status_code != UNAUTHORIZED:
            return None
        raise TokenRefusedError("something is there that asks for another token than ours") from exc
    except (OSError, ValueError, EOFError, WebSocketException):  # a TimeoutError is an OSError
        return None
    return reply if isinstance(reply, dict) and reply.get("type") == "status_done" else None


def _asked(host: str, number: int, token: str | None) -> str | bytes:
    """The first message that comes back."""
    url = f"ws://[{host}]:{number}" if ":" in host else f"ws://{host}:{number}"
    with connect(
        url,
        additional_headers={} if token is None else {"Authorization": f"Bearer {token}"},
        compression=None,
        max_size=STATUS_BYTES,
        open_timeout=ANSWER_S,
        close_timeout=GOODBYE_S,
        proxy=None,  # it is on this machine, whatever the proxy variables say
    ) as connection:
        connection.send(json.dumps({"type": "status"}))
        return connection.recv(timeout=ANSWER_S)
