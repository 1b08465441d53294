"""Who asks Google Cloud: what is taken for an identity, how a token is asked for, and where nothing goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from google.auth import jwt

from tests.fakes.google_tokens import ADDRESS, EMAIL, PERSON, PROJECT, form_of, service_account, tokens
from tests.fakes.http_server import Exchange, FakeServer
from tests.fakes.wire import CANARY, JSON, Behaviour
from tests.fakes.wires.openai_chat import OpenAIWire
from workers.adapter import AdapterError
from workers.codes import Code
from workers.google_login import (
    FILE_MAX_BYTES,
    TOKEN_URI,
    Identity,
    Login,
    Machine,
    Person,
    ServiceAccount,
    identity_for,
)

CAPTURED: Final = json.loads(
    (Path(__file__).parent / "adapters" / "captured" / "vertex.json").read_text(encoding="utf-8")
)
VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is logged in."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))


def known(key: str) -> Identity:
    """The identity of a key that has one."""
    identity = identity_for(key)
    assert identity is not None
    return identity


def refused(key: str) -> AdapterError:
    """Why a key is nobody."""
    with pytest.raises(AdapterError) as caught:
        identity_for(key)
    return caught.value


# ---- identities


def test_the_json_of_a_service_account_is_one() -> None:
    identity = known(json.dumps(service_account()))
    assert isinstance(identity, ServiceAccount)
    assert (identity.email, identity.project, identity.key_id) == (EMAIL, PROJECT, "key-1")
    assert "PRIVATE" not in repr(identity)


def test_what_gcloud_writes_is_a_person() -> None:
    identity = known(json.dumps(PERSON))
    assert isinstance(identity, Person)
    assert identity.payer == "payer"
    assert PERSON["refresh_token"] not in repr(identity)
    assert known(json.dumps({**PERSON, "quota_project_id": None})) == Person(
        PERSON["client_id"], PERSON["client_secret"], PERSON["refresh_token"]
    )


def test_an_api_key_is_nobody() -> None:
    assert identity_for("AIza-something") is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"type": 7}',
        '{"type": "service_account"}',
        '{"type": "authorized_user", "client_id": ""}',
        json.dumps({**PERSON, "client_secret": 7}),
        json.dumps({**PERSON, "quota_project_id": f"payer\r\nx-{CANARY}: y"}),
        json.dumps({**PERSON, "quota_project_id": "日本"}),
        json.dumps({"type": "service_account", "client_email": EMAIL, "private_key": CANARY}),
        json.dumps({"type": "service_account", "client_email": EMAIL, "private_key": 7, "token_uri": "x"}),
        '{"a": ' + "[" * 100_000,
        "{\xff}",
    ],
    ids=lambda text: text[:40],
)
def test_what_is_damaged_is_told_without_a_word_of_it(text: str) -> None:
    error = refused(text)
    assert error.code in (Code.AUTHORIZATION, Code.UNSUPPORTED)
    assert CANARY not in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("external_account", "external_account"), ("a key: " + CANARY, "an unknown kind")],
    ids=["known", "odd"],
)
def test_other_kinds_are_unsupported(kind: str, shown: str) -> None:
    error = refused(json.dumps({"type": kind}))
    assert error.code is Code.UNSUPPORTED
    assert shown in error.message
    assert CANARY not in error.message


# ---- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a service account."""
    path = tmp_path / "account.json"
    path.write_text(json.dumps(service_account()), encoding="utf-8")
    return path


@pytest.mark.parametrize("given", [True, False], ids=["as the key", "without a key"])
def test_a_file_is_read_where_the_operators_variable_names_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    monkeypatch.setenv(VARIABLE, str(file))
    assert isinstance(known(str(file) if given else ""), ServiceAccount)


@pytest.mark.parametrize("named", [True, False], ids=["another is named", "none is named"])
def test_a_client_cannot_choose_a_file(file: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    if named:
        monkeypatch.setenv(VARIABLE, str(file.with_name("other.json")))
    error = refused(str(file))
    assert error.code is Code.AUTHORIZATION
    assert VARIABLE in error.message


@pytest.mark.parametrize("key", ["C:\\keys\\a.json", "a.json", "keys/a"])
def test_what_looks_like_a_path_is_no_api_key(key: str) -> None:
    assert refused(key).code is Code.AUTHORIZATION


def test_the_file_that_gcloud_keeps_is_found(tmp_path: Path) -> None:
    assert isinstance(known(""), Machine)
    place = tmp_path / "gcloud"
    place.mkdir()
    (place / "application_default_credentials.json").write_text(json.dumps(PERSON), encoding="utf-8")
    assert isinstance(known(""), Person)


@pytest.mark.parametrize(
    "content", [None, b"\xff", b"{" + b" " * FILE_MAX_BYTES], ids=["none", "odd", "long"]
)
def test_a_file_that_cannot_be_used_is_told_without_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "secret-name.json"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(VARIABLE, str(path))
    error = refused("")
    assert error.code is Code.AUTHORIZATION
    assert "secret-name" not in error.message


# ---- tokens


async def headers_of(identity: Identity) -> dict[str, str]:
    """What one request would carry."""
    login = Login(identity, ("FAKE_KEY",))
    await login.open()
    try:
        return dict(await login.headers())
    finally:
        await login.close()


@pytest.mark.foreign
async def test_a_service_account_asks_as_the_vendors_package_does() -> None:
    async with tokens(OpenAIWire()) as server:
        assert await headers_of(known(json.dumps(service_account()))) == {"Authorization": f"Bearer {CANARY}"}
    theirs = CAPTURED["tokens"][0]
    form = form_of(server.requests[0])
    assertion = form.pop("assertion")
    claims = jwt.decode(assertion, verify=False)
    claims["lives_s"] = claims.pop("exp") - claims.pop("iat")
    assert (form, jwt.decode_header(assertion)) == (theirs["form"], theirs["assertion"]["header"])
    assert claims == theirs["assertion"]["claims"]
    assert (theirs["url"], theirs["url"]) == (TOKEN_URI, ADDRESS)


@pytest.mark.foreign
async def test_a_person_asks_as_the_vendors_package_does() -> None:
    async with tokens(OpenAIWire()) as server:
        carried = await headers_of(known(json.dumps(PERSON)))
    assert carried == {"Authorization": f"Bearer {CANARY}", "x-goog-user-project": "payer"}
    assert form_of(server.requests[0]) == CAPTURED["tokens"][1]["form"]


async def test_a_host_that_a_file_names_is_never_called() -> None:
    async with tokens(OpenAIWire()) as server, FakeServer(OpenAIWire()) as other:
        address = f"{other.base_url}/token"
        await headers_of(known(json.dumps(service_account(token_uri=address, universe_domain=address))))
        await headers_of(known(json.dumps({**PERSON, "token_uri": address})))
        assert (len(server.requests), other.connections) == (2, 0)


@pytest.mark.parametrize(("expires_in", "asked"), [(3600, 1), (60, 2)], ids=["kept", "soon over"])
async def test_a_token_is_asked_for_anew_before_it_ends(expires_in: int, asked: int) -> None:
    async with tokens(OpenAIWire(), expires_in=expires_in) as server:
        login = Login(known(json.dumps(PERSON)), ())
        await login.open()
        await login.headers()
        await login.headers()
        await login.close()
        assert len(server.requests) == asked


async def test_requests_at_once_ask_for_one_token() -> None:
    async with tokens(OpenAIWire()) as server:
        login = Login(known(json.dumps(PERSON)), ())
        await login.open()
        await asyncio.gather(*(login.headers() for _ in range(8)))
        await login.close()
        assert len(server.requests) == 1


async def failure(change: Callable[[FakeServer], Any]) -> AdapterError:
    """How a login fails before a server that was changed."""
    async with tokens(OpenAIWire()) as server:
        change(server)
        with pytest.raises(AdapterError) as caught:
            await headers_of(known(json.dumps(PERSON)))
    assert PERSON["refresh_token"] not in str(caught.value)
    return caught.value


def answering(status: int, body: object) -> Callable[[FakeServer], None]:
    """A server of tokens that answers so."""

    def change(server: FakeServer) -> None:
        server.behaviour = Behaviour(status=status, body=json.dumps(body).encode())

    return change


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": "invalid_grant", "error_description": PERSON["refresh_token"]}, Code.AUTHORIZATION),
        (401, {"error": "invalid_client"}, Code.AUTHORIZATION),
        (503, {}, Code.UPSTREAM_ERROR),
        (200, {}, Code.UPSTREAM_PROTOCOL),
        (200, [], Code.UPSTREAM_PROTOCOL),
        (200, {"access_token": "a\nb"}, Code.UPSTREAM_PROTOCOL),
        (200, {"access_token": 7}, Code.UPSTREAM_PROTOCOL),
    ],
)
async def test_a_login_that_fails_says_why(status: int, body: object, code: Code) -> None:
    assert (await failure(answering(status, body))).code is code


async def test_a_token_without_an_end_is_used_once() -> None:
    async with tokens(OpenAIWire()) as server:
        answering(200, {"access_token": CANARY})(server)
        assert await headers_of(known(json.dumps(PERSON))) != {}


# ---- machines


class Told:
    """What a machine of Google's is told of itself; only Google says so in a header."""

    def __init__(self, **headers: str) -> None:
        self.headers = {"Content-Type": JSON, **{name.replace("_", "-"): headers[name] for name in headers}}

    async def __call__(self, exchange: Exchange) -> None:
        assert exchange.request.headers["metadata-flavor"] == "Google"
        body = PROJECT.encode()
        if "token" in exchange.request.path:
            body = json.dumps({"access_token": CANARY, "expires_in": 3600}).encode()
        await exchange.head(200, self.headers, length=len(body))
        await exchange.send(body)


@pytest.mark.parametrize("headers", [{}, {"Metadata_Flavor": "Another"}], ids=["no header", "another's"])
async def test_whoever_else_answers_as_a_machine_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    async with FakeServer(OpenAIWire()) as server:
        server.models = Told(**headers)
        monkeypatch.setattr(Login, "machine_uri", f"http://127.0.0.1:{server.port}/computeMetadata/v1")
        login = Login(Machine(), ())
        await login.open()
        for ask in (login.project, login.headers):
            with pytest.raises(AdapterError) as caught:
                await ask()
            assert caught.value.code is Code.AUTHORIZATION
        await login.close()


async def test_a_machine_of_googles_is_known_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeServer(OpenAIWire()) as server:
        server.models = Told(Metadata_Flavor="Google")
        monkeypatch.setattr(Login, "machine_uri", f"http://127.0.0.1:{server.port}/computeMetadata/v1")
        login = Login(Machine(), ())
        await login.open()
        assert await login.project() == PROJECT
        assert await login.headers() == {"Authorization": f"Bearer {CANARY}"}
        await login.close()
    assert [received.path for received in server.lists] == [
        "/computeMetadata/v1/project/project-id",
        "/computeMetadata/v1/instance/service-accounts/default/token",
    ]


async def test_any_other_machine_says_how_to_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeServer(OpenAIWire()) as gone:
        monkeypatch.setattr(Login, "machine_uri", gone.base_url)
    login = Login(Machine(), ())
    await login.open()
    for ask in (login.project, login.headers):
        with pytest.raises(AdapterError) as caught:
            await ask()
        assert caught.value.code is Code.AUTHORIZATION
        assert "gcloud auth" in caught.value.message
    await login.close()


async def test_a_project_is_that_of_who_asks() -> None:
    for identity, project in (
        (known(json.dumps(service_account())), PROJECT),
        (known(json.dumps(PERSON)), "payer"),
    ):
        login = Login(identity, ())
        assert await login.project() == project
        await login.close()
