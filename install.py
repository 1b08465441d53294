"""Installs the w-AI-fu LLM module: `python install.py --llm demo --chat`, or `--help`.

It makes the supervisor's environment with the standard library, then hands every flag to supervisor/cli.py,
which runs in it. This file decides nothing else, and writes nothing into the checkout. It must be read by
Pythons that are too old to run it, so that they can say so: no annotations of a newer kind, no f-strings'
later forms."""

import os
import sys

OLDEST = (3, 10)

if sys.version_info < OLDEST:
    found = "%d.%d (%s)" % (sys.version_info[0], sys.version_info[1], sys.executable)  # noqa: UP031  # also for Python 2
    sys.stderr.write("install.py needs Python 3.10 or newer, this is %s: get one from python.org.\n" % found)  # noqa: UP031
    sys.exit(2)  # as for every setting that cannot be used

CHECKOUT = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120
sys.path[0] = CHECKOUT
sys.dont_write_bytecode = True

from supervisor.bootstrap import main  # noqa: E402  # only now it can be read

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
