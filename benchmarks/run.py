"""Measures this module beside its peers, on this machine, in one run: `python benchmarks/run.py`.

Any Python from 3.10 on runs it. It makes the environments that it needs below HOME/cache/benchmarks (the
module's own, one with the clients, one with the LiteLLM proxy), then goes on in that of the clients, where
program.py does the work. Nothing leaves the machine but the downloads of packages; no provider is asked.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
if not __package__:  # started by its path; a test that only wants the parser keeps its own path
    sys.path[0] = str(CHECKOUT)  # was CHECKOUT/benchmarks: each module would have two names
    sys.dont_write_bytecode = sys.pycache_prefix is None  # the checkout stays as it is

from benchmarks import places  # noqa: E402  # as the rest: the checkout is on the path only now
from supervisor.errors import ModuleError  # noqa: E402
from supervisor.spawn import PYCACHE, STAY_VARIABLE, hand_over  # noqa: E402
from supervisor.terminal import ProgressLine  # noqa: E402

OPTIONAL: Final = ("openai", "litellm")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        description="Measures this module beside its peers, and writes a table and a picture.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--without", action="append", default=[], choices=OPTIONAL, help="leave a peer out (litellm: 700 MB)")
    add("--quick", action="store_true", help="tiny counts: shows that everything runs, not how fast")
    add("--out", type=Path, default=CHECKOUT / "benchmarks" / "results.md", help="the Markdown to write")
    add("--home", help="where the environments are made (default: the module's HOME)")
    add("--installer", default="auto", help="auto (default), uv or pip")
    return made


def main() -> int:  # noqa: RET503  # hand_over does not return
    """Makes the environments, goes on in the clients' one, measures; returns the exit code."""
    flags = parser().parse_args()
    if os.environ.pop(STAY_VARIABLE, None) is not None:
        from benchmarks import program  # only here: it needs the packages of that environment

        return program.main(flags)
    progress = ProgressLine(sys.stderr)
    try:
        made = places.make(flags.home, flags.installer, progress, litellm="litellm" not in flags.without)
    except ModuleError as exc:
        progress.end()
        sys.stderr.write(f"benchmarks: {exc.message}\n")
        return 2
    progress.end()
    argv = [str(made.client.python), "-X", "utf8", str(Path(__file__).resolve()), *sys.argv[1:]]
    hand_over(argv, {**os.environ, PYCACHE: str(made.home.cache / "pycache")})


if __name__ == "__main__":
    sys.exit(main())
