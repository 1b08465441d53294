"""An application in Python, as small as one can be: it spawns what its plan says, tells on its stdout what
becomes of it, one JSON object a line, and obeys the lines of its stdin. application.mjs is its twin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Final

PLAN: Final[dict[str, Any]] = json.loads(sys.argv[1])


def tell(**event: object) -> None:
    """One line, at once."""
    sys.stdout.buffer.write(json.dumps(event).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Spawns, and obeys until the child is gone."""
    child = subprocess.Popen(
        [word.replace("{pid}", str(os.getpid())) for word in PLAN["argv"]],
        cwd=PLAN["cwd"],
        env=PLAN["env"],
        stdin=subprocess.PIPE if PLAN["stdin"] == "pipe" else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=PLAN["detached"],
    )
    tell(event="spawned", pid=child.pid)
    threading.Thread(target=follow, args=(child,), daemon=True).start()
    for order in sys.stdin:
        obey(child, order.rstrip("\n"))


def follow(child: subprocess.Popen[bytes]) -> None:
    """Reads what the plan allows, and tells of the end."""
    assert child.stdout is not None
    assert child.stderr is not None
    stderr: list[bytes] = []
    if PLAN["reads"] == "everything":
        reader = threading.Thread(target=stderr.extend, args=(child.stderr,))
        reader.start()
        for line in child.stdout:
            tell(event="line", line=line.decode().rstrip("\n"))
        reader.join()
    elif PLAN["reads"] == "the ready line":
        tell(event="line", line=child.stdout.readline().decode().rstrip("\n"))
    code = child.wait()
    ended_by = signal.Signals(-code).name if code < 0 else None
    text = b"".join(stderr).decode()
    tell(event="exit", code=None if ended_by else code, signal=ended_by, stderr=text)
    os._exit(0)  # the main thread waits for orders


def obey(child: subprocess.Popen[bytes], order: str) -> None:
    """Ends a pipe, or sends the signal of that name."""
    if order == "end stdin":
        assert child.stdin is not None
        child.stdin.close()
    elif order == "close stdout":
        os.close(child.stdout.fileno())  # type: ignore[union-attr]  # a pipe, and nobody reads it any more
    else:
        child.send_signal(getattr(signal, order))


if __name__ == "__main__":
    main()
