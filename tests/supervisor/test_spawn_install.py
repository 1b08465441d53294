"""The part of spawn.py that installing needs; its workers' part is tested in test_spawn.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from supervisor.spawn import environment_python, exclusive_lock, only_if_asked_for, run_child, running_under
from tests.wheelhouse import CHECKOUT, PATIENCE_S, python, wait_until

HOLD = """
from pathlib import Path
from supervisor.spawn import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), timeout_s=5):
    print("held", flush=True)
    sys.stdin.readline()
"""


def _hold(path: Path) -> subprocess.Popen[str]:
    start = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
    process = subprocess.Popen(
        [sys.executable, "-c", start + HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _close(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE_S)


def test_a_lock_that_another_process_holds_times_out(tmp_path: Path) -> None:
    holder = _hold(tmp_path / "a.lock")
    waits: list[float] = []
    try:
        with (
            pytest.raises(TimeoutError),
            exclusive_lock(tmp_path / "a.lock", timeout_s=0.3, on_wait=waits.append),
        ):
            pytest.fail("two hold the lock")
        assert waits
    finally:
        _close(holder)


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    _close(_hold(tmp_path / "a.lock"))
    with exclusive_lock(tmp_path / "a.lock", timeout_s=PATIENCE_S):
        assert (tmp_path / "a.lock").exists()


def test_a_lock_excludes_another_thread_of_the_same_process(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "a.lock", timeout_s=0), pytest.raises(TimeoutError):  # noqa: SIM117
        with exclusive_lock(tmp_path / "a.lock", timeout_s=0):
            pass


def test_a_lock_is_handed_to_who_waits(tmp_path: Path) -> None:
    taken = threading.Event()
    waiting = threading.Event()

    def wait() -> None:
        with exclusive_lock(tmp_path / "a.lock", timeout_s=PATIENCE_S, on_wait=lambda _: waiting.set()):
            taken.set()

    with exclusive_lock(tmp_path / "a.lock", timeout_s=0):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(PATIENCE_S)
        assert not taken.is_set()
    assert taken.wait(PATIENCE_S)
    thread.join(PATIENCE_S)


HAND_OVER = """
import os
from supervisor.spawn import hand_over
print("before")
target = [sys.executable, "-c", sys.argv[1], *sys.argv[2:]]
hand_over(target, os.environ)
"""


@pytest.mark.parametrize("code", [0, 3, 77])
def test_a_hand_over_passes_streams_arguments_and_the_exit_code(code: int) -> None:
    target = f"import sys; print('after', sys.argv[1:]); sys.exit({code})"
    process = python(HAND_OVER, target, "a b", "ü\"'")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (out.splitlines(), err) == (["before", f"after {['a b', 'ü' + chr(34) + chr(39)]}"], "")
    assert process.returncode == code


def test_a_hand_over_drops_what_would_mislead_the_next_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    monkeypatch.setenv("KEPT", "yes")
    process = python(HAND_OVER, "import json, os; print(json.dumps(dict(os.environ)))")
    out, _ = process.communicate(timeout=PATIENCE_S)
    environ = json.loads(out.splitlines()[1])
    assert environ["KEPT"] == "yes"
    assert "PYTHONPATH" not in environ
    assert "VIRTUAL_ENV" not in environ


def _run(code: str, tmp_path: Path, *, timeout_s: float = PATIENCE_S) -> tuple[int, list[str]]:
    lines: list[str] = []
    argv = [sys.executable, "-c", code]
    status = run_child(
        argv, environment=dict(os.environ), cwd=tmp_path, timeout_s=timeout_s, on_line=lines.append
    )
    return status, lines


def test_a_child_s_lines_and_exit_code_come_back(tmp_path: Path) -> None:
    code = "import sys; print('one'); print('two ü', file=sys.stderr); sys.exit(7)"
    status, lines = _run("import sys; sys.stderr.reconfigure(encoding='utf-8'); " + code, tmp_path)
    assert status == 7
    assert sorted(lines) == ["one", "two ü"]


def test_a_child_has_an_empty_stdin(tmp_path: Path) -> None:
    assert _run("import sys; print(repr(sys.stdin.read()))", tmp_path) == (0, ["''"])


def test_a_program_that_is_not_there_is_a_failure_with_its_name(tmp_path: Path) -> None:
    lines: list[str] = []
    missing = [str(tmp_path / "no such program")]
    try:
        status = run_child(missing, environment={}, cwd=tmp_path, timeout_s=PATIENCE_S, on_line=lines.append)
    except OSError:
        return  # Windows says so at once
    assert status == 127
    assert "no such program" in lines[0]


def test_a_child_that_takes_too_long_is_ended_with_its_own_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(TimeoutError, match="did not end within"):
        _run(code, tmp_path, timeout_s=2)
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    wait_until(lambda: _gone(pid), "the grandchild's end")


def test_a_child_that_leaves_its_pipe_to_another_is_over_when_it_ends(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert _run(code, tmp_path)[0] == 0


def test_a_silent_child_makes_ticks(tmp_path: Path) -> None:
    ticked = threading.Event()
    release = tmp_path / "release"
    code = f"import os, time\nwhile not os.path.exists({str(release)!r}): time.sleep(0.01)"

    def tick() -> None:
        ticked.set()
        release.touch()

    argv = [sys.executable, "-c", code]
    status = run_child(
        argv, environment=dict(os.environ), cwd=tmp_path, timeout_s=PATIENCE_S, on_line=print, on_tick=tick
    )
    assert status == 0
    assert ticked.is_set()


PARENT = """
import os
from pathlib import Path
from supervisor.spawn import run_child
code = "import os, time; open(os.environ['PID_FILE'], 'w').write(str(os.getpid())); time.sleep(60)"
argv = [sys.executable, "-c", code]
run_child(argv, environment=dict(os.environ), cwd=Path.cwd(), timeout_s=60, on_line=print)
"""


def test_a_child_dies_with_its_parent_even_if_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pid"
    monkeypatch.setenv("PID_FILE", str(file))
    parent = python(PARENT)
    wait_until(lambda: file.exists() and file.read_text(encoding="utf-8") != "", "the child's start")
    _close(parent)
    wait_until(lambda: _gone(int(file.read_text(encoding="utf-8"))), "the child's end")


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_only_named_variables_reach_a_child() -> None:
    environ = {"PATH": "p", "https_proxy": "h", "UV_INDEX_X_PASSWORD": "w", "PIP_TARGET": "t", "SECRET": "s"}
    kept = only_if_asked_for(environ, frozenset({"HTTPS_PROXY"}), ("UV_INDEX_",))
    assert kept == {"PATH": "p", "https_proxy": "h", "UV_INDEX_X_PASSWORD": "w"}


def test_who_runs_in_a_directory_is_found(tmp_path: Path) -> None:
    assert running_under(tmp_path) == []
    mine = Path(sys.executable).parent
    child = python("print('there', flush=True); sys.stdin.read(); import time; time.sleep(30)")
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in running_under(mine)
        assert os.getpid() not in running_under(mine)
    finally:
        _close(child)


def test_the_python_of_an_environment_is_where_this_one_is() -> None:
    assert environment_python(Path(sys.prefix)).exists()
