"""uv and pip behind one small interface: how each is found, called, listened to, and what its failure means.

Both install a hash-pinned lock of wheels into an environment from outside, so neither is installed into it.
Nothing but index, proxy and certificate settings of the user's reaches them: a PIP_TARGET or PYTHONPATH must
not send packages elsewhere. What they print may hold an index URL with a password, so it leaves this file
only through `redacted`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from supervisor.errors import ProvisionError
from supervisor.spawn import only_if_asked_for

__all__ = [
    "CHOICES",
    "Installer",
    "Pip",
    "Uv",
    "builder_environment",
    "clean_environment",
    "find_installers",
    "find_pip",
    "find_uv",
    "reason_of",
    "redacted",
]

CHOICES: Final = ("auto", "uv", "pip")

UV_READ_TIMEOUT_S: Final = "5"
UV_CONNECT_TIMEOUT_S: Final = "4"
UV_RETRIES: Final = "0"
PIP_TIMEOUT_S: Final = "4"
PIP_RETRIES: Final = "1"
"""An index that cannot be reached is reported within 15 s: uv's one try of 5 s, then pip's two of 4 s. These
are defaults: who set the tool's own variable knows a slower line."""

REASON_LETTERS: Final = 400
"""Of an installer's output in our message: enough for its own sentence and the causes below it."""

NO_INSTALLER: Final = (
    "neither uv nor pip can be found, and this Python brings none: "
    "run `sudo apt install python3-venv` (Debian, Ubuntu) or install Python from python.org, "
    "then the same command again"
)

_NETWORK: Final = frozenset(
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR SSL_CLIENT_CERT "  # noqa: SIM905  # a table
    "REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NETRC".split()
)
_UV: Final = _NETWORK | frozenset(
    "UV_INDEX UV_DEFAULT_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_NO_INDEX "  # noqa: SIM905  # a table
    "UV_INDEX_STRATEGY UV_CONFIG_FILE UV_CACHE_DIR UV_HTTP_TIMEOUT UV_HTTP_CONNECT_TIMEOUT "
    "UV_HTTP_RETRIES UV_INSECURE_HOST UV_KEYRING_PROVIDER UV_OFFLINE UV_LINK_MODE UV_SYSTEM_CERTS "
    "UV_NATIVE_TLS".split()
)
_UV_PREFIXES: Final = ("UV_INDEX_",)
"""UV_INDEX_NAME_USERNAME and UV_INDEX_NAME_PASSWORD."""

_PIP: Final = _NETWORK | frozenset(
    "PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX PIP_CERT PIP_CLIENT_CERT "  # noqa: SIM905  # a table
    "PIP_TRUSTED_HOST PIP_PROXY PIP_CONFIG_FILE PIP_CACHE_DIR PIP_NO_CACHE_DIR PIP_TIMEOUT "
    "PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_KEYRING_PROVIDER".split()
)


class Installer(ABC):
    """One way to put a lock's wheels into an environment."""

    name: str

    @abstractmethod
    def argv(self, python: Path, lock: Path, wheelhouse: Path | None, build: str = "") -> list[str]:
        """The command that installs `lock` into the environment of `python`; `build` is the local version of
        pins that stand on torch's own index, whose address we never know."""

    @abstractmethod
    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What the command may see of `environ`, and our defaults."""

    @abstractmethod
    def package_in(self, line: str) -> str | None:
        """The package that a line of output reports as dealt with, or None."""

    def refused_a_hash(self, output: Sequence[str]) -> bool:
        """Whether a file is not the one that the lock pins: nothing else may be tried then."""
        return any(_HASH_REFUSED.search(line) for line in output)


_HASH_REFUSED: Final = re.compile(
    r"Hash mismatch|DO NOT MATCH THE HASHES|no trusted hash was provided", re.IGNORECASE
)


class Uv(Installer):
    """uv: several times faster, and environments share files with its cache."""

    name = "uv"

    def __init__(self, program: str) -> None:
        self.program = program

    def argv(self, python: Path, lock: Path, wheelhouse: Path | None, build: str = "") -> list[str]:
        """As the interface says. The path of `python` is absolute, or uv would try every Python there is.

        uv itself knows where each build of torch lies."""
        words = [self.program, "pip", "install", "--python", str(python), "--require-hashes"]
        words += ["--only-binary", ":all:", "--no-python-downloads", "--color", "never", "-r", str(lock)]
        if build and wheelhouse is None:
            words += ["--torch-backend", build]
        return words + _offline(wheelhouse)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The system's certificates are asked for by both variables that uv's releases have known."""
        ours = {
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_HTTP_TIMEOUT": UV_READ_TIMEOUT_S,
            "UV_HTTP_CONNECT_TIMEOUT": UV_CONNECT_TIMEOUT_S,
            "UV_HTTP_RETRIES": UV_RETRIES,
        }
        if "UV_NATIVE_TLS" not in environ:
            ours["UV_SYSTEM_CERTS"] = "1"
        return {**ours, **only_if_asked_for(environ, _UV, _UV_PREFIXES)}

    def package_in(self, line: str) -> str | None:
        """uv names packages only at its end: ` + name==version`."""
        match = re.match(r"\s[+~] ([\w.-]+)==", line)
        return match[1] if match else None


class Pip(Installer):
    """Somebody's pip, run by the environment's own Python, which is what pip's `--python` does in one process
    more.

    Run so, it dies with its parent and sees no package but the environment's.
    """

    name = "pip"

    def __init__(self, program: Path) -> None:
        self.program = program

    def argv(self, python: Path, lock: Path, wheelhouse: Path | None, build: str = "") -> list[str]:
        """As the interface says. Nothing is compiled: the first import does that, for what is used.

        Where pip looks besides the usual index is its user's to say, by its configuration or variables."""
        words = [
            str(python),
            "-I",
            str(self.program),
            "install",
            "--require-hashes",
            "--no-deps",
            "--no-user",
        ]
        words += ["--only-binary", ":all:", "--no-compile", "--no-input", "--disable-pip-version-check"]
        words += ["--no-warn-script-location", "--progress-bar", "off", "-r", str(lock)]
        return words + _offline(wheelhouse)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """As the interface says; timeouts by variable, since a flag would outrank the user's own."""
        ours = {"PIP_RETRIES": PIP_RETRIES, "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
        if "PIP_TIMEOUT" not in environ:
            ours["PIP_DEFAULT_TIMEOUT"] = PIP_TIMEOUT_S
        return {**ours, **only_if_asked_for(environ, _PIP, ())}

    def package_in(self, line: str) -> str | None:
        """pip names each package when it looks for it."""
        match = re.match(r"Collecting ([\w.-]+)==", line)
        return match[1] if match else None


def _offline(wheelhouse: Path | None) -> list[str]:
    return [] if wheelhouse is None else ["--no-index", "--find-links", str(wheelhouse)]


def find_installers(choice: str) -> list[Installer]:
    """The installers to try, in order.

    Raises:
        ProvisionError: there is none of that kind.
    """
    found: list[Installer] = []
    uv = find_uv() if choice in ("auto", "uv") else None
    pip = find_pip() if choice in ("auto", "pip") else None
    if uv is not None:
        found.append(Uv(uv))
    if pip is not None:
        found.append(Pip(pip))
    if found:
        return found
    if choice == "uv":
        raise ProvisionError("uv cannot be found: put it on PATH, or leave --installer to pip")
    raise ProvisionError(NO_INSTALLER)


def find_uv() -> str | None:
    """uv's program: of this environment, of this user's own packages, or on PATH. No module is imported for
    it: one of that name may lie anywhere."""
    user = sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))
    for directories in (sysconfig.get_path("scripts"), user, None):  # None: PATH
        program = shutil.which("uv", path=directories)
        if program is not None:
            return str(Path(program).absolute())  # not resolved: a version manager's shim goes by its name
    return None


def find_pip() -> Path | None:
    """A pip that can be run as it lies: virtualenv's wheel, ensurepip's, an installed one, the system's."""
    bundled = (
        _beside("virtualenv", "seed", "wheels", "embed"),
        _beside("ensurepip", "_bundled"),
        Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/usr/share/python-wheels"),
    )
    for directory in bundled[:2]:
        if (wheel := _newest_pip(directory)) is not None:
            return wheel
    runner = _beside("pip", "__pip-runner__.py")
    if runner is not None and runner.is_file():
        return runner
    return _newest_pip(bundled[2])


def _beside(package: str, *parts: str) -> Path | None:
    """A path in a package that this Python would import; it is not imported."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent.joinpath(*parts) if spec is not None and spec.origin else None


def _newest_pip(directory: Path | None) -> Path | None:
    if directory is None or not directory.is_dir():
        return None
    wheels = [path for path in directory.glob("pip-*.whl") if path.is_file()]
    newest = max(wheels, key=_wheel_version, default=None)
    return None if newest is None else newest / "pip"


def _wheel_version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name.split("-")[1])]


def reason_of(output: Sequence[str]) -> str:
    """One sentence that says why an installer failed, from what it printed."""
    text = "\n".join(output)
    if _HASH_REFUSED.search(text):
        return "a file is not the one that the lock pins (its hash differs)"
    if re.search(r"No space left|not enough space", text, re.IGNORECASE):
        return "the disk is full"
    said = _said(output)
    if _UNREACHABLE.search(text):
        return f"the package index cannot be reached ({said}); look at the network, proxy and index settings"
    return said


_UNREACHABLE: Final = re.compile(
    r"error sending request|dns error|connection refused|connection reset|NewConnectionError|Max retries|"
    r"name resolution|Failed to establish|ConnectTimeoutError|ReadTimeoutError|timed out|unreachable|"
    r"UnknownIssuer|CERTIFICATE_VERIFY_FAILED|ProxyError|Network connectivity is disabled",
    re.IGNORECASE,
)
_SAYS: Final = re.compile(
    r"\s*(?:error|cause|caused by|hint)?:?\s*[\u00d7\u2570\u2500\u25b6\u251c]*\s*", re.IGNORECASE
)


def _said(output: Sequence[str]) -> str:
    """The installer's own words: from its first line that says error on, else its last line."""
    start = next(
        (i for i, line in enumerate(output) if re.match(r"\s*(error|\u00d7)", line, re.IGNORECASE)), -1
    )
    lines = [_SAYS.sub("", line, count=1).strip() for line in output[start:]]
    text = redacted(", ".join(line for line in lines if line)) or "it said nothing"
    return text if len(text) <= REASON_LETTERS else text[: REASON_LETTERS - 1] + "…"


def redacted(text: str) -> str:
    """The text without the user and password of any URL in it."""
    return re.sub(r"(?<=://)[^\s/@]+@", "", text)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a Python of ours may see while an environment is made and tested."""
    return only_if_asked_for(environ, frozenset(), ())


def builder_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a process that calls the installers may see: what all of them may, and never a provider's key."""
    return only_if_asked_for(environ, _UV | _PIP, _UV_PREFIXES)
