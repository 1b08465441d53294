"""Who calls Google Cloud, and the tokens that prove it for an hour.

A service account can call, a person who logged in with gcloud, and a machine of Google's itself. Their
secrets and tokens stay in memory and leave it for the hosts below alone, whatever else a file names: a client
may bring that file.

The package google-auth reads a key and signs. It does not fetch: between its own tries it waits in a thread,
where nobody can interrupt it, and it asks hosts that a file may name.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias
from urllib.parse import urlencode

from google.auth._cloud_sdk import get_application_default_credentials_path
from google.auth.exceptions import GoogleAuthError

from workers.adapter import AdapterError
from workers.codes import Code
from workers.refusals import Who
from workers.upstream import Upstream

__all__ = ["Identity", "Login", "Machine", "Person", "ServiceAccount", "brings_itself", "identity_for"]

VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
LIFETIME_S: Final = 3600
"""What Google gives a token at most."""
EARLY_S: Final = 300.0
"""A token that ends so soon is not used for a request any more, which may take minutes to be answered."""
TOKEN_S: Final = 5.0
MACHINE_S: Final = 1.0
"""A machine of Google's answers itself within milliseconds; on any other there is nobody to ask."""
FLAVOR: Final = {"Metadata-Flavor": "Google"}
"""What a machine's requests carry, and the answers too: elsewhere the name of that host may lead anywhere."""
FILE_MAX_BYTES: Final = 64 << 10
FORM: Final = "application/x-www-form-urlencoded"
JWT_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_KIND: Final = re.compile(r"[a-z_]{1,40}", re.ASCII)
_PATH: Final = re.compile(r"[/\\]|\.json\Z", re.IGNORECASE)
"""What a path has, and no API key."""
_REMEDY: Final = (
    "send the JSON of a service account as api_key, name its file in "
    f"{VARIABLE}, or log in with `gcloud auth application-default login`"
)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """An account of a program, which signs for itself."""

    email: str
    project: str
    key_id: str
    signer: Any = field(repr=False)
    """google-auth's, with the private key in it."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who logged in with gcloud."""

    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)
    payer: str = ""
    """The project that is billed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of Google's, which is known there by itself."""


Identity: TypeAlias = "ServiceAccount | Person | Machine"


def identity_for(key: str) -> Identity | None:
    """Who a key is, or who there is where no key was given; None for an API key. It reads files.

    Raises:
        AdapterError: AUTHORIZATION or UNSUPPORTED, nobody can be made of it.
    """
    named = os.environ.get(VARIABLE, "")
    if brings_itself(key):
        return _parsed(key, "the key")
    if key and key != named:
        if _PATH.search(key):
            raise _refused(f"a file of credentials is only read if the environment's {VARIABLE} names it")
        return None
    path = Path(named or get_application_default_credentials_path())
    if not named and not path.is_file():
        return Machine()
    return _parsed(_read(path), "the file of credentials")


def brings_itself(key: str) -> bool:
    """Whether a key is an identity; else it is at most the way to somebody who is known here anyhow."""
    return key.startswith("{")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
        if len(data) > FILE_MAX_BYTES:
            raise _refused("the file of credentials is far too long to be one")
        return data.decode()
    except (OSError, ValueError) as exc:
        raise _refused("the file of credentials cannot be read") from exc


def _parsed(text: str, what: str) -> Identity:
    """The identity in the JSON of a file of credentials."""
    try:
        info = json.loads(text)
        kind = info["type"]
        if kind == "service_account":
            return _service_account(info)
        if kind == "authorized_user":
            return _person(info)
    except (ValueError, TypeError, KeyError, RecursionError, GoogleAuthError):
        raise _refused(f"{what} is damaged or is none of Google's") from None  # its words may show the key
    shown = kind if isinstance(kind, str) and _KIND.fullmatch(kind) else "an unknown kind"
    raise AdapterError(Code.UNSUPPORTED, f"{what} is of the type {shown}, which is not supported: {_REMEDY}")


def _service_account(info: Mapping[str, Any]) -> ServiceAccount:
    from google.auth import crypt  # here: it takes 0.1 s, and nobody else signs

    signer = crypt.RSASigner.from_service_account_info(info)
    key_id = str(info.get("private_key_id", ""))
    return ServiceAccount(_text(info, "client_email"), str(info.get("project_id", "")), key_id, signer)


def _person(info: Mapping[str, Any]) -> Person:
    payer = info.get("quota_project_id")
    payer = payer if isinstance(payer, str) else ""
    if not payer.isascii() or not payer.isprintable():
        raise ValueError("quota_project_id")  # it becomes a header
    return Person(
        client_id=_text(info, "client_id"),
        client_secret=_text(info, "client_secret"),
        refresh_token=_text(info, "refresh_token"),
        payer=payer,
    )


def _text(info: Mapping[str, Any], name: str) -> str:
    value = info[name]
    if not isinstance(value, str) or not value:
        raise ValueError(name)
    return value


def _refused(why: str) -> AdapterError:
    return AdapterError(Code.AUTHORIZATION, f"{why}: {_REMEDY}")


class Login:
    """The tokens of one identity: fetched when one is needed, kept while it is good. Opened, used, closed."""

    token_uri: ClassVar[str] = TOKEN_URI
    """Where tokens are asked for; a seam for tests."""
    machine_uri: ClassVar[str] = "http://metadata.google.internal/computeMetadata/v1"
    """The same for what a machine is told of itself."""

    def __init__(self, identity: Identity, key_variables: tuple[str, ...]) -> None:
        self.identity = identity
        self._lock = asyncio.Lock()
        self._token = ""
        self._good_until = 0.0
        host, _, name = self.token_uri.rpartition("/")
        self._path = f"/{name}"
        secrets = (identity.refresh_token, identity.client_secret) if isinstance(identity, Person) else ()
        who = Who("Google's login", key_variables, secrets, {400: Code.AUTHORIZATION})
        if isinstance(identity, Machine):
            self._upstream = Upstream(self.machine_uri, who, FLAVOR)
        else:
            self._upstream = Upstream(host, who, {})

    async def open(self) -> None:
        """Prepares the connection; nothing is sent.

        Raises:
            AdapterError: UNREACHABLE, when the system names a proxy that cannot be used.
        """
        await self._upstream.open()

    async def close(self) -> None:
        """Closes the connection; may be called twice."""
        await self._upstream.close()

    async def headers(self) -> Mapping[str, str]:
        """What a request proves its sender with. Cancelling it is safe: the next one fetches.

        Raises:
            AdapterError: AUTHORIZATION, or what the network did.
        """
        async with self._lock:
            if time.monotonic() >= self._good_until:
                await self._renew()
            token = self._token
        payer = self.identity.payer if isinstance(self.identity, Person) else ""
        return {"Authorization": f"Bearer {token}", **({"x-goog-user-project": payer} if payer else {})}

    async def project(self) -> str:
        """The project of the identity; empty where it has none.

        Raises:
            AdapterError: AUTHORIZATION, there is no identity.
        """
        match self.identity:
            case ServiceAccount(project=project):
                return project
            case Person(payer=payer):
                return payer
        return (await self._told("/project/project-id")).decode("ascii", "replace").strip()

    async def _told(self, path: str) -> bytes:
        """What this machine is told of itself, if it is one of Google's."""
        deadline = asyncio.get_running_loop().time() + MACHINE_S

        async def ask() -> bytes | None:
            async with self._upstream.get(path, deadline=deadline, retries=0) as reply:
                ours = all(reply.header(name) == value for name, value in FLAVOR.items())
                return await reply.read() if ours else None

        try:
            told = await asyncio.wait_for(ask(), MACHINE_S)
        except (AdapterError, asyncio.TimeoutError):
            told = None
        if told is None:
            raise _refused("nobody is logged in to Google Cloud here")
        return told

    async def _renew(self) -> None:
        answer = await self._granted()
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not token or not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise AdapterError(Code.UPSTREAM_PROTOCOL, "Google's login answered without a token")
        lives_s = answer.get("expires_in")
        self._token = token
        lives_s = lives_s if isinstance(lives_s, (int, float)) else 0.0
        self._good_until = time.monotonic() + lives_s - EARLY_S

    async def _granted(self) -> Any:
        """The answer to a request for a token."""
        match self.identity:
            case ServiceAccount() as account:
                assertion = await asyncio.to_thread(self._assertion, account)
                return await self._posted(grant_type=JWT_GRANT, assertion=assertion)
            case Person() as person:
                return await self._posted(
                    grant_type="refresh_token",
                    client_id=person.client_id,
                    client_secret=person.client_secret,
                    refresh_token=person.refresh_token,
                )
        told = await self._told("/instance/service-accounts/default/token")
        try:
            return json.loads(told)
        except ValueError:
            return None

    @staticmethod
    def _assertion(account: ServiceAccount) -> str:
        """The signed word of a service account that it is itself."""
        from google.auth import jwt  # here: as crypt

        now = int(time.time())
        claims = {
            "iat": now,
            "exp": now + LIFETIME_S,
            "iss": account.email,
            "aud": TOKEN_URI,
            "scope": SCOPE,
        }
        signed: bytes = jwt.encode(account.signer, claims, key_id=account.key_id or None)
        return signed.decode()

    async def _posted(self, **form: str) -> Any:
        body = urlencode(form).encode()
        headers = {"Content-Type": FORM}
        return await self._upstream.ask("POST", self._path, body, timeout_s=TOKEN_S, headers=headers)
