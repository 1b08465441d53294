"""`python CHECKOUT/supervisor [PORT] ...`: from any Python to the supervisor's environment, and on.

The first word says what: `install` (cli.py), `chat` (chat.py), `status` (status.py), `probe` (live_probe.py),
`provision` (provisioner.py); anything else is the service (app.py). Started by path with any Python from 3.10
on; started as `python -m supervisor`, it stays in that Python. Without its environment it exits with 2 and
the command that makes it. It must be read by Pythons that are too old to run it, so annotations are quoted
here."""

import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036  # this line is for the Pythons that are too old
    found = "%d.%d" % sys.version_info[:2]  # noqa: UP031
    sys.stderr.write("The w-AI-fu LLM module needs Python 3.10 or newer, this is " + found + ".\n")
    sys.exit(2)  # as for every setting that cannot be used

CHECKOUT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  # pathlib comes later
if not __package__:
    sys.path[0] = CHECKOUT  # was CHECKOUT/supervisor: each module would have two names
    sys.dont_write_bytecode = sys.pycache_prefix is None  # until HOME is known: the checkout stays as it is

FOREIGN = "supervisor-"
"""How the metadata of an unrelated distribution of our package's name begins; ours is called w_ai_fu_llm."""


def main(argv: "list[str]") -> int:
    """Hands over where that is needed, then does what the first word says; returns the exit code."""
    from supervisor.errors import ModuleError  # these two after the path is set
    from supervisor.spawn import PYCACHE, STAY_VARIABLE

    if not __package__ and os.environ.pop(STAY_VARIABLE, None) is None:
        try:
            _enter_environment(argv)
        except ModuleError as exc:
            print("supervisor: " + exc.message, file=sys.stderr)
            return 2
    if sys.pycache_prefix is not None:
        os.environ[PYCACHE] = sys.pycache_prefix  # our children find what we compiled
    _warn_of_foreign_files()
    return _dispatch(argv)


def _enter_environment(argv: "list[str]") -> None:
    """Returns if this Python is the supervisor's environment; else goes on in that one.

    Raises:
        SettingsError: there is none.
    """
    from pathlib import Path

    from supervisor.environments import find_any
    from supervisor.errors import SettingsError
    from supervisor.home import find_home, home_flag
    from supervisor.spawn import PYCACHE, hand_over

    home = find_home(home_flag(argv), os.environ)
    if sys.pycache_prefix is None:
        sys.pycache_prefix = str(home.cache / "pycache")
        sys.dont_write_bytecode = False
    environment = find_any(home, Path(CHECKOUT, "locks", "supervisor.txt"))
    if environment is None:
        words = [Path(sys.executable).name, '"' + str(Path(CHECKOUT, "install.py")) + '"']
        if home_flag(argv) is not None:
            words += ["--home", '"' + str(home.root) + '"']
        raise SettingsError("the module is not installed in %s: run %s" % (home.root, " ".join(words)))  # noqa: UP031
    if not Path(sys.prefix).samefile(environment.directory):
        variables = {**os.environ, PYCACHE: str(home.cache / "pycache")}
        hand_over([str(environment.python), os.path.join(CHECKOUT, "supervisor"), *argv], variables)  # noqa: PTH118


def _dispatch(argv: "list[str]") -> int:
    """Only what is asked for is imported: the way to the ready line is short."""
    word = argv[0] if argv else ""
    if word == "install":
        from supervisor import cli

        return cli.main(argv[1:])
    if word == "chat":
        from supervisor import chat

        return chat.main(argv[1:])
    if word == "status":
        from supervisor import status

        return status.main(argv[1:])
    if word == "probe":
        from supervisor import live_probe

        return live_probe.main(argv[1:])
    if word == "provision":
        from supervisor import provisioner

        return provisioner.main(argv[1:])
    from supervisor import app

    os._exit(app.main(argv))  # the interpreter's own end waits for pipes that nobody reads


def _warn_of_foreign_files() -> None:
    """Tells of the unrelated distribution named `supervisor`, which somebody put beside our packages.

    Looking for its directory costs no import; importlib.metadata costs a start 15 ms.
    """
    for entry in sys.path:
        if entry.endswith("site-packages") and os.path.isdir(entry):  # noqa: PTH112
            for name in os.listdir(entry):  # noqa: PTH208
                if name.startswith(FOREIGN) and name.endswith(("-info", ".egg")):
                    print(
                        f"supervisor: warning: {name} in {entry} is an unrelated package of the same name: "
                        "remove it with pip uninstall supervisor",
                        file=sys.stderr,
                    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # while it starts: what runs has an answer of its own
        sys.stderr.write("supervisor: interrupted\n")
        sys.exit(130)
