"""The plan of the house, held by reading every file: who may import whom, where what may stand, how long.

Each rule is a function over parsed files, so that a breach names the file and the line.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).resolve().parent.parent
STDLIB: Final = sys.stdlib_module_names
FUNCTION_MAX_LINES: Final = 40

PURE: Final = (
    *("messages", "replies", "session", "commands", "jobs", "calls", "old_calls", "providers", "catalog"),
    "errors",
)
"""Modules of the supervisor that know no socket, process or clock."""
PURE_STDLIB: Final = {
    *("__future__", "collections", "collections.abc", "dataclasses", "difflib", "enum", "pathlib", "re"),
    "typing",
}
"""pathlib is for catalog.py, which reads venvs.toml."""
SHARED: Final = ("workers.wire", "workers.codes")
"""All that the supervisor may know of the workers' package."""

SUPERVISOR_PACKAGES: Final = {"websockets", "msgspec", "psutil", "tomli"}
OWNERS: Final = {
    "msgpack": {"workers/wire.py"},
    "aiohttp": {"workers/upstream.py", "workers/attempts.py", "workers/http_reply.py"},
    "google": {"workers/google_login.py"},
    "yarl": {"workers/upstream.py"},
    "jinja2": {"workers/chat_template.py"},
    "numpy": {"workers/array_choice.py", "workers/openvino_replies.py"},
    "psutil": {
        *("supervisor/spawn.py", "workers/torch_loading.py"),
        *("workers/openvino_loading.py", "workers/openvino_conversion.py"),
    },
    "torch": {"workers/hf_library.py"},
    "transformers": {"workers/hf_library.py"},
    "safetensors": {"workers/torch_faults.py"},
    **{name: {"workers/openvino_library.py"} for name in ("openvino", "optimum", "nncf")},
    "truststore": {"workers/trust.py"},
    "botocore": {"workers/amazon.py"},
    "websockets": {
        *("supervisor/access.py", "supervisor/server.py"),
        *("supervisor/own_module.py", "supervisor/live_talk.py", "supervisor/chat.py"),
        *("supervisor/status.py", "supervisor/trials.py"),
    },
}
"""A package of others → the only files that may import it."""

UNRELATED: Final = {
    *("childutils", "compat", "confecho", "datatypes", "dispatchers", "events", "http", "loggers", "medusa"),
    *("options", "pidproxy", "poller", "process", "rpcinterface", "scripts", "skel", "socket_manager"),
    *("states", "supervisorctl", "supervisord", "templating", "tests", "ui", "web", "xmlrpc"),
}
"""Modules of the other distribution named supervisor: whoever has both must not get one for the other."""

PLATFORM_BRANCHES: Final = {
    "supervisor/spawn.py": "the operating system, for the supervisor",
    "supervisor/lockfile.py": "no branch: it names this machine to the markers of a lock",
    "workers/stdio.py": "the operating system, for a worker",
}
"""The files that may ask which system this is, and why."""

PLATFORM_QUESTIONS: Final = ("sys.platform", "os.name", "platform.system", "platform.platform")

BEFORE_HAND_OVER: Final = (
    *("install", "supervisor.__main__", "supervisor.bootstrap", "supervisor.environments"),
    *("supervisor.errors", "supervisor.home", "supervisor.spawn"),
)
"""What any Python runs before there is an environment; what these import when they are read counts too."""

BOUNDARIES: Final = {
    "supervisor/app.py": "the outermost of the supervisor",
    "supervisor/client.py": "one client's load",
    "supervisor/doctor.py": "one probe",
    "workers/__main__.py": "the outermost of a worker",
    "workers/endings.py": "one request in a worker",
}
"""The only files that catch whatever is raised, and around what."""

BOOT: Final = ("supervisor/__main__.py", "workers/__main__.py")
"""Files whose very point is what is imported when: their docstrings give the reason for all."""


@dataclass(frozen=True)
class Import:
    """One module that a file imports, and where."""

    module: str
    line: int
    local: bool
    typing_only: bool

    @property
    def early(self) -> bool:
        """Whether it happens when the file is read."""
        return not (self.local or self.typing_only)

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


class Source:
    """One file of ours, read and parsed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.relative_to(CHECKOUT).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)

    @property
    def module(self) -> str:
        return self.name.removesuffix(".py").replace("/", ".")

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, local=False, typing_only=False))

    @cached_property
    def exported(self) -> list[str]:
        """Its `__all__`."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return list(ast.literal_eval(node.value))
        return []

    @cached_property
    def defined(self) -> set[str]:
        """The names that the file binds, or reads, at its top level or in branches of it."""
        names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        return names | {node.name for node in ast.walk(self.tree) if isinstance(node, kinds)}


def _imports(node: ast.AST, *, local: bool, typing_only: bool) -> Iterator[Import]:
    """Every import below `node`; `from package import name` may name a module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, local, typing_only)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are not used here"
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                is_module = (CHECKOUT / f"{whole.replace('.', '/')}.py").is_file()
                yield Import(whole if is_module else child.module or "", child.lineno, local, typing_only)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, local=local or inside, typing_only=typing_only or checking)


def sources(pattern: str) -> list[Source]:
    return [Source(path) for path in sorted(CHECKOUT.glob(pattern))]


SUPERVISOR: Final = sources("supervisor/*.py")
WORKERS: Final = sources("workers/*.py")
ADAPTERS: Final = sources("workers/adapters/*.py")
INSTALL: Final = sources("install.py")
CODE: Final = [*SUPERVISOR, *WORKERS, *ADAPTERS, *INSTALL]
BY_MODULE: Final = {source.module: source for source in CODE}


def breaches(source: Source, allowed: set[str], own: tuple[str, ...]) -> list[str]:
    """Imports of a file that are neither the standard library's, nor allowed, nor of `own` modules."""
    return [
        f"{source.name}:{found.line} imports {found.module}"
        for found in source.imports
        if not (
            found.package in STDLIB
            or found.package in allowed
            or any(found.module == name or found.module.startswith(f"{name}.") for name in own)
        )
    ]


def test_there_is_something_to_read() -> None:
    assert len(SUPERVISOR) > 20
    assert len(WORKERS) > 15
    assert len(ADAPTERS) > 2
    assert len(INSTALL) == 1


def test_a_workers_file_imports_the_standard_library_and_its_own_package() -> None:
    for source in WORKERS:
        mine = {package for package, owners in OWNERS.items() if source.name in owners}
        assert breaches(source, mine, ("workers",)) == []
        assert [found for found in source.imports if found.module.startswith("workers.adapters")] == []


def test_an_adapter_knows_no_other_adapter_and_nothing_of_the_supervisor() -> None:
    for source in ADAPTERS:
        for found in source.imports:
            where = f"{source.name}:{found.line}"
            assert not f"{found.module}.".startswith("workers.adapters."), where
            assert found.package not in ("supervisor", "tests"), where


def test_a_supervisor_file_imports_its_packages_and_of_the_workers_only_what_is_shared() -> None:
    for source in SUPERVISOR:
        assert breaches(source, SUPERVISOR_PACKAGES, ("supervisor", *SHARED)) == []


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_imports_nothing_that_could_do_anything(name: str) -> None:
    source = BY_MODULE[f"supervisor.{name}"]
    own = tuple(f"supervisor.{other}" for other in PURE)
    assert breaches(source, {"msgspec", "tomli"}, (*own, "workers.codes")) == []
    used = {found.module for found in source.imports if found.package in STDLIB}
    assert used <= PURE_STDLIB
    assert "pathlib" not in used or name == "catalog"


def test_a_package_of_others_is_imported_only_by_its_owner() -> None:
    for source in CODE:
        for found in source.imports:
            owners = OWNERS.get(found.package, {source.name})
            assert source.name in owners, f"{source.name}:{found.line} imports {found.module}"


def reached_before_hand_over() -> list[Source]:
    """The files that any Python reads first, by following what each imports when it is read."""
    waiting = [BY_MODULE[module] for module in BEFORE_HAND_OVER]
    found: dict[str, Source] = {}
    while waiting:
        source = waiting.pop()
        found[source.name] = source
        modules = [imported.module for imported in source.imports if imported.early]
        waiting += [BY_MODULE[m] for m in modules if m in BY_MODULE and BY_MODULE[m].name not in found]
    return list(found.values())


def test_what_runs_before_the_hand_over_needs_only_the_standard_library() -> None:
    reached = reached_before_hand_over()
    expected = {f"supervisor/{name}.py" for name in ("bootstrap", "home", "spawn", "errors", "provision")}
    assert expected <= {source.name for source in reached}
    strangers = [
        f"{source.name}:{found.line} imports {found.module}"
        for source in reached
        for found in source.imports
        if found.early and found.package not in STDLIB and found.package not in ("supervisor", "workers")
    ]
    assert strangers == []


def test_only_the_files_for_the_system_ask_which_one_it_is() -> None:
    asking = {source.name: list(_platform_questions(source)) for source in CODE}
    assert {name: lines for name, lines in asking.items() if lines and name not in PLATFORM_BRANCHES} == {}
    assert [name for name in PLATFORM_BRANCHES if not asking[name]] == [], "exceptions that are none any more"


def _platform_questions(source: Source) -> Iterator[int]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in PLATFORM_QUESTIONS:
            yield node.lineno


def test_no_file_is_named_after_what_it_or_others_might_import() -> None:
    stems = {source.name: source.path.stem for source in (*SUPERVISOR, *WORKERS)}
    assert [name for name, stem in stems.items() if stem in STDLIB - {"__init__", "__main__"}] == []
    assert [source.name for source in SUPERVISOR if source.path.stem in UNRELATED] == []


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{source.name}:{function.lineno} {function.name}": _length(function)
        for source in CODE
        for function in ast.walk(source.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_MAX_LINES} == {}


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """In lines, without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    skipped = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring is not None else 0
    return (function.end_lineno or 0) - function.lineno + 1 - skipped


def test_whatever_is_raised_is_caught_only_at_a_boundary_and_with_its_reason() -> None:
    used = set()
    for source in CODE:
        for handler in _handlers(source, {"Exception", "BaseException", ""}):
            where = f"{source.name}:{handler.lineno}"
            if isinstance(handler.body[-1], ast.Raise):
                continue  # it gives something back, and goes on
            assert source.name in BOUNDARIES, where
            used.add(source.name)
            comment = re.sub(r"noqa: \w+", "", source.lines[handler.lineno - 1].partition("#")[2])
            assert len(comment.split()) >= 3, f"{where} gives no reason"
    assert used == set(BOUNDARIES), "boundaries that are none any more"


def _handlers(source: Source, kinds: set[str]) -> Iterator[ast.ExceptHandler]:
    """The `except` clauses that catch one of these; the empty name is a bare one."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            words = re.findall(r"[\w.]+", ast.unparse(node.type)) if node.type is not None else [""]
            if kinds & {word.rpartition(".")[2] for word in words}:
                yield node


def test_a_file_says_what_it_owns() -> None:
    silent = [source.name for source in CODE if source.text.strip() and not ast.get_docstring(source.tree)]
    assert silent == []


def test_what_others_import_from_a_file_is_in_its_list() -> None:
    missing = []
    for source in CODE:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.module in BY_MODULE:
                offered = BY_MODULE[node.module].exported
                names = [alias.name for alias in node.names if alias.name not in offered]
                missing += [f"{source.name}:{node.lineno} {node.module}.{name}" for name in names]
    assert missing == []


def test_a_list_of_exports_names_each_thing_once_and_only_what_is_there() -> None:
    for source in CODE:
        assert [name for name in source.exported if name not in source.defined] == [], source.name
        assert len(source.exported) == len(set(source.exported)), source.name


def test_an_import_inside_a_function_gives_its_reason() -> None:
    """On its line, or beside another one of the lines of imports that it stands in."""
    without = [
        f"{source.name}:{found.line}"
        for source in CODE
        for found in source.imports
        if found.local and source.name not in BOOT and "#" not in _block(source, found.line)
    ]
    assert without == []


def _block(source: Source, line: int) -> str:
    """The neighbouring lines of imports around one, and the line above them."""
    first = line
    while re.match(r"\s*(from|import) ", source.lines[first - 2]):
        first -= 1
    last = line
    while re.match(r"\s*(from|import) ", source.lines[last]):
        last += 1
    return "\n".join(source.lines[first - 2 : last])


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("locks/*.txt")), ids=lambda path: path.name)
def test_a_lock_names_no_host_and_pins_everything_with_a_hash(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    pinned = re.sub(r"(?m)^#.*\n", "", text)
    entries = re.split(r"\n(?=[^\s#])", pinned.strip())
    assert entries
    assert [
        e for e in entries if not re.match(r"[\w.-]+(\[.*\])?==\S+", e) or "--hash=sha256:" not in e
    ] == []
