"""What install.py accepts; parsed before anything is installed, so with the standard library alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from supervisor.installers import CHOICES
from supervisor.version import VERSION

__all__ = ["DEFAULT_PORT", "MARKDOWN", "PLATFORMS", "install_parser", "making_flags", "names_of"]

DEFAULT_PORT: Final = 7562

TABLE: Final = "table"
MARKDOWN: Final = "markdown"
"""What --list prints."""
PLATFORMS: Final = ("windows", "macos", "macos-x64", "linux", "linux-arm64")

EPILOG: Final = """\
examples:
  python install.py --llm demo --chat        talk to the demo: no key, no network
  python install.py --llm groq,openai        what an application needs that uses these two
  python install.py --llm all                what every provider needs, but for the large ones
  python install.py --llm transformers --variant cpu
                                             a large environment, in the build for a machine without a GPU
  python install.py --llm groq --run 7562    and serve on that port
  python install.py --check                  what is wrong here, and what helps

exit codes:
  0 done   1 a bug of ours   2 bad arguments, settings or an unknown name   4 an environment cannot be made
  5 --check found something bad   130 interrupted
  --run, --chat and --test end with the code of what they start
"""


def install_parser() -> argparse.ArgumentParser:
    """The parser of install.py."""
    parser = argparse.ArgumentParser(
        prog="install.py",
        description="Makes the module's environments and tells what to start.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--home", metavar="DIR", help="where environments and logs live")
    what = parser.add_argument_group("what to do")
    names = {"nargs": "+", "action": "extend", "metavar": "NAME", "default": []}
    what.add_argument("--llm", **names, help="provision these providers, or all")  # type: ignore[arg-type]  # shared keywords
    what.add_argument("--remove", **names, help="remove these providers' environments")  # type: ignore[arg-type]
    what.add_argument(
        "--list",
        nargs="?",
        const=TABLE,
        choices=(TABLE, MARKDOWN),
        metavar="FORMAT",
        help="the providers, and what each rests on; `markdown`: as docs/providers.md",
    )
    what.add_argument("--gc", action="store_true", help="remove environments that no lock needs any more")
    _add_asking(parser.add_argument_group("when something is wrong (nothing is changed)"))
    _add_installing(parser.add_argument_group("how to install"))
    _add_offline(parser.add_argument_group("for a machine without network"))
    _add_starting(parser.add_argument_group("what to start then"))
    return parser


def _add_asking(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--check", action="store_true", help="look at everything (or at the --llm) and say what helps"
    )
    group.add_argument(
        "--report", nargs="?", const="", metavar="FILE", help="make a zip for a bug report, without keys"
    )


def _add_installing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--installer", choices=CHOICES, default="auto", help="auto: uv where it is found, else pip"
    )
    group.add_argument(
        "--variant", metavar="NAME", help="of an environment that has several; --list shows them"
    )
    group.add_argument(
        "--builds",
        metavar="WHERE",
        help="take the engine's own packages from that index, folder or wheel: another build, as for a GPU",
    )
    group.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="install from these files alone, offline"
    )


def _add_offline(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--export-wheelhouse", type=Path, metavar="DIR", help="fetch what --wheelhouse needs into DIR"
    )
    group.add_argument("--platform", choices=PLATFORMS, help="of that machine (default: this one's)")
    group.add_argument(
        "--python-version", nargs="+", metavar="3.X", help="of that machine (default: this one's)"
    )


def _add_starting(group: argparse._ArgumentGroup) -> None:
    start = group.add_mutually_exclusive_group()
    start.add_argument("--run", type=_port, nargs="?", const=DEFAULT_PORT, metavar="PORT", help="serve")
    start.add_argument("--chat", action="store_true", help="talk to the first --llm in this terminal")
    start.add_argument(
        "--test",
        nargs=argparse.REMAINDER,
        metavar="ARG",
        help="all checks and tests, or pytest with these arguments",
    )


def making_flags(flags: argparse.Namespace) -> list[str]:
    """The given flags that make, remove or start something, besides installing what --llm names."""
    makes = {
        "--remove": flags.remove,
        "--list": flags.list is not None,
        "--gc": flags.gc,
        "--export-wheelhouse": flags.export_wheelhouse is not None,
        "--run": flags.run is not None,
        "--chat": flags.chat,
        "--test": flags.test is not None,
    }
    return [flag for flag, given in makes.items() if given]


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535, 0 for any free one")
    return int(text)


def names_of(words: list[str]) -> list[str]:
    """`A B` and `A,B` alike, each once, in order."""
    return list(dict.fromkeys(name.strip() for word in words for name in word.split(",") if name.strip()))
