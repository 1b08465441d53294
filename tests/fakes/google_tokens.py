"""Google's server of tokens on 127.0.0.1: it checks who asks, as the documentation of its OAuth 2.0 says.

async with tokens(wire) as server:
    ...                        # workers/google_login.py asks here as long as this runs
    server.requests            # and what it asked
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from tests.fakes.http_server import Exchange, FakeServer
from tests.fakes.wire import CANARY, JSON, Received, Wire
from workers.google_login import Login

__all__ = ["EMAIL", "PERSON", "PROJECT", "form_of", "service_account", "tokens"]

EMAIL: Final = "voice@my-project.iam.gserviceaccount.com"
PROJECT: Final = "my-project"
ADDRESS: Final = "https://oauth2.googleapis.com/token"
"""Whom the word of a service account is for."""
PERSON: Final = {
    "type": "authorized_user",
    "client_id": "1-app.apps.googleusercontent.com",
    "client_secret": "secret-of-the-app",
    "refresh_token": "1//refresh-of-a-person",
    "quota_project_id": "payer",
}
"""What gcloud writes for somebody who logged in."""
KEY_BITS: Final = 1024
"""As few as there may be: reading a key checks it, which takes long, and this one guards nothing."""


@functools.cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)


def service_account(**fields: Any) -> dict[str, Any]:
    """The file of a service account; its key is made anew in every run."""
    key = _key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "key-1",
        "private_key": key.decode(),
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": ADDRESS,
        **fields,
    }


def form_of(received: Received) -> dict[str, str]:
    """The fields of a form."""
    assert received.headers["content-type"] == "application/x-www-form-urlencoded"
    return dict(parse_qsl(received.raw.decode()))


@contextlib.asynccontextmanager
async def tokens(wire: Wire, token: str = CANARY, *, expires_in: int = 3600) -> AsyncIterator[FakeServer]:
    """The server; it gives that token to whoever is known to it, and speaks nothing of the wire."""

    async def answer(exchange: Exchange) -> None:
        granted = {"access_token": token, "expires_in": expires_in, "token_type": "Bearer"}
        refused = {"error": "invalid_grant", "error_description": "Invalid grant: who are you?"}
        known = _is_known(form_of(exchange.request))
        body = json.dumps(granted if known else refused).encode()
        await exchange.head(200 if known else 400, {"Content-Type": JSON}, length=len(body))
        await exchange.send(body)

    before = Login.token_uri
    async with FakeServer(wire) as server:
        server.behaviour = answer
        Login.token_uri = f"http://127.0.0.1:{server.port}/token"
        try:
            yield server
        finally:
            Login.token_uri = before


def _is_known(form: Mapping[str, str]) -> bool:
    match form["grant_type"]:
        case "urn:ietf:params:oauth:grant-type:jwt-bearer":
            public = (
                _key()
                .public_key()
                .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            )
            claims = jwt.decode(form["assertion"], certs=public, audience=ADDRESS)
            return bool(claims["iss"] == EMAIL)
        case "refresh_token":
            return form["refresh_token"] == PERSON["refresh_token"]
    return False
