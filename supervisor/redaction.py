"""The one place that takes secrets, and who somebody is, out of text that is to be shown to others.

What is known is removed for certain: every value that may be a key, in every form in which it may stand
there, and every piece of it of GRAM letters. What is not known is removed by its looks: URLs' passwords and
queries, values beside a word like `token`, long words of letters and digits. The log's own `scrub` is last.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from supervisor.logs import MASK, SECRET_MIN_CHARS, scrub

__all__ = ["Redactor", "secret_name", "secrets_in"]

GRAM: Final = 8
"""Letters of a secret in a row that are never shown: fewer say nothing, and would blacken plain words."""

BASE64_OFFSETS: Final = ((0, 0), (1, 2), (2, 3))
"""Where a secret may begin in a group of three bytes, and how many letters belong to what is before it."""

_SECRET_NAME: Final = re.compile(r"(?i)key|token|secret|pass|credential|auth")
_IN_URL: Final = re.compile(r"(?i)\b[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>]+")
_QUERY: Final = re.compile(r"([?&;#][^=&;#\s]*=)[^&;#\s]+|([?#])[^=&;#\s]+(?=$|[&;#])")
_ASSIGNED: Final = re.compile(
    r"(?i)((?:api[-_]?key|token|secret|passwor[dt]|passwd|authorization|credentials?)[\"']?\s*[:=]\s*[\"']?)"
    r"(?:(?:bearer|basic)\s+)?[^\s\"',;}\]]{4,}"
)
_MIXED: Final = re.compile(
    r"(?<![\w+=])(?=[\w+=]*\d)(?=[\w+=]*[A-Za-z])[\w+=]{24,}|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
    re.ASCII,
)
"""Letters and digits, longer than any word is, or a UUID: a key, most likely."""
_LOOKS: Final = ((_ASSIGNED, rf"\1{MASK}"), (_MIXED, MASK))
_COMMON: Final = frozenset(("root", "user", "admin", "localhost", "home", "me"))
"""Names that say nothing of anybody, and stand in every second line."""


def secret_name(name: str) -> bool:
    """Whether a variable of that name may hold a secret."""
    return _SECRET_NAME.search(name) is not None


def secrets_in(value: str) -> Iterator[str]:
    """The secrets of a value: of a URL its user, password and query, of anything else all of it."""
    if "://" not in value:
        yield value
        return
    try:
        parts = urlsplit(value)
        pieces = [parts.username, parts.password, parts.fragment]
        pieces += [text for _, text in parse_qsl(parts.query)] or [parts.query]
    except ValueError:  # no URL after all
        pieces = [value]
    user_at = re.match(r".*?://(.*)@", value)  # a password with a slash in it ends urlsplit's host early
    pieces += re.split(r"[:/@]", user_at[1]) if user_at is not None else []
    yield from filter(None, pieces)


class Redactor:
    """Made once with what is secret; `clean` is then safe for any text."""

    def __init__(
        self,
        secrets: Iterable[str],
        *,
        folders: Iterable[Path] = (),
        names: Mapping[str, str] | None = None,
        by_looks: bool = True,
    ) -> None:
        """`folders` become `~`; `names`, a user's or a machine's, become what they are mapped to.

        Without `by_looks` a path stays one that can be typed again, whatever its folders are called.
        """
        self._by_looks = by_looks
        forms = {form for secret in secrets for form in _forms(secret)}
        self._grams = frozenset(form[i : i + GRAM] for form in forms for i in range(len(form) - GRAM + 1))
        self._short = sorted((f for f in forms if SECRET_MIN_CHARS <= len(f) < GRAM), key=len, reverse=True)
        self._folders = _folder_forms(folders)
        self._names = {
            re.compile(rf"(?i)(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"): shown
            for name, shown in (names or {}).items()
            if len(name) > 1 and name.lower() not in _COMMON
        }

    def clean(self, text: str) -> str:
        """The text without any of it, line by line as it was."""
        text = self._without_grams(text)
        for secret in self._short:
            text = text.replace(secret, MASK)
        for folder in self._folders:
            text = text.replace(folder, "~")
        text = _IN_URL.sub(lambda found: _clean_url(found[0]), text)
        for pattern, shown in _LOOKS if self._by_looks else ():
            text = pattern.sub(shown, text)
        for pattern, shown in self._names.items():
            text = pattern.sub(shown, text)
        return "\n".join(map(scrub, text.split("\n")))

    def _without_grams(self, text: str) -> str:
        """Every letter that belongs to a piece of a secret is masked, so overlapping pieces leave no rest."""
        pieces: list[str] = []
        end = 0
        hits = (i for i in range(len(text) - GRAM + 1) if text[i : i + GRAM] in self._grams)
        for start in hits if self._grams else ():
            if start > end or not pieces:
                pieces += [text[end:start], MASK]
            end = start + GRAM
        return "".join([*pieces, text[end:]])


def _forms(secret: str) -> Iterator[str]:
    """How a secret may stand somewhere: as it is, escaped, in a URL, in hexadecimal, in base64."""
    for word in {secret, secret.strip(), secret.strip("'\"` \t\r\n"), *secret.split(), unquote(secret)}:
        if len(word) < SECRET_MIN_CHARS:
            continue
        data = word.encode("utf-8", "surrogateescape")
        yield from (word, json.dumps(word)[1:-1], repr(word)[1:-1], quote(word, safe=""), data.hex())
        yield data.hex().upper()
        for padding, skipped in BASE64_OFFSETS:
            text = base64.b64encode(b"\0" * padding + data).decode("ascii")[skipped:]
            yield from (text, text.replace("+", "-").replace("/", "_"))


def _folder_forms(folders: Iterable[Path]) -> list[str]:
    """Each folder as it is, with slashes of either kind, and as JSON writes it; the longest first."""
    texts = {str(folder) for folder in folders if len(folder.parts) > 1}
    forms = {form for t in texts for form in (t, t.replace("\\", "/"), t.replace("\\", "\\\\"))}
    return sorted(forms, key=len, reverse=True)


def _clean_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    _, at, rest = rest.rpartition("@")
    bare = f"{scheme}://{MASK}@{rest}" if at else f"{scheme}://{rest}"
    return _QUERY.sub(lambda found: f"{found[1] or found[2]}{MASK}", bare)
