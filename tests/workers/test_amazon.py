"""Signatures, frames and hosts of Amazon's, beside what the vendor's own client sends."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.wires.bedrock import frame, told
from workers.amazon import Frames, Identity, control_plane, region_of
from workers.sse import MAX_EVENT_BYTES, Event, EventTooLong

CAPTURED: Final = json.loads(
    (Path(__file__).parent / "adapters" / "captured" / "bedrock.json").read_text(encoding="utf-8")
)
SENT: Final = CAPTURED["sent"]
NOON: Final = datetime(2026, 11, 25, 12)
SIGNED: Final = ("authorization", "x-amz-date", "x-amz-security-token")


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the capture."""
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: NOON)


@pytest.mark.foreign
@pytest.mark.parametrize("sent", SENT, ids=[f"{sent['method']} {sent['path'][:24]}" for sent in SENT])
def test_a_signature_is_that_of_the_vendors_client(noon: None, sent: dict[str, Any]) -> None:
    who = Identity(**CAPTURED["credentials"])
    url = f"http://{sent['headers']['host']}{sent['path']}"
    ours = who.signature(sent["method"], url, sent["raw"].encode(), service="bedrock", region="us-east-1")
    theirs = {name: sent["headers"][name] for name in SIGNED}
    assert {name.lower(): value for name, value in ours.items()} == theirs


def test_an_identity_shows_no_secret() -> None:
    shown = repr(Identity(**CAPTURED["credentials"]))
    assert CAPTURED["credentials"]["secret_access_key"] not in shown
    assert CAPTURED["credentials"]["session_token"] not in shown


@pytest.mark.parametrize(
    ("base_url", "region", "control"),
    [
        (
            "https://bedrock-runtime.eu-west-1.amazonaws.com",
            "eu-west-1",
            "https://bedrock.eu-west-1.amazonaws.com",
        ),
        (
            "https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com/",
            "us-gov-west-1",
            "https://bedrock-fips.us-gov-west-1.amazonaws.com/",
        ),
        ("https://bedrock-runtime.us-east-2.api.aws", "us-east-2", "https://bedrock.us-east-2.api.aws"),
        (
            "https://vpce-0a-b.bedrock-runtime.us-east-1.vpce.amazonaws.com",
            "us-east-1",
            "https://vpce-0a-b.bedrock-runtime.us-east-1.vpce.amazonaws.com",
        ),
        ("http://127.0.0.1:8080/aws", "", "http://127.0.0.1:8080/aws"),
        (
            "https://bedrock-runtime.us-east-1.amazonaws.com.example",
            "",
            "https://bedrock-runtime.us-east-1.amazonaws.com.example",
        ),
    ],
)
def test_an_address_of_amazons_own_says_its_region_and_where_models_are_listed(
    base_url: str, region: str, control: str
) -> None:
    assert (region_of(base_url), control_plane(base_url)) == (region, control)


def test_frames_are_read_at_every_split() -> None:
    stream = told("messageStart", role="assistant") + told("contentBlockStop") + told("messageStop")
    whole = Frames().feed(stream)
    assert [list(json.loads(event.data)) for event in whole] == [
        ["messageStart"],
        ["contentBlockStop"],
        ["messageStop"],
    ]
    for cut in range(len(stream)):
        frames = Frames()
        assert frames.feed(stream[:cut]) + frames.feed(stream[cut:]) == whole
        assert frames.close() is None


def test_a_frame_that_is_cut_is_a_part_and_no_event() -> None:
    frames = Frames()
    assert frames.feed(told("messageStop")[:-1]) == []
    assert frames.close() is not None


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {} and more\n\n",
        b"\0" * 16,
        told("messageStop")[:-1] + b"\0",
        frame(b"{}")[:8] + b"\0\0\0\0",
    ],
)
def test_a_broken_frame_is_an_event_of_nothing_and_the_last(broken: bytes) -> None:
    first = told("messageStart")
    frames = Frames()
    events = frames.feed(first + broken + first)
    assert (len(events), events[1]) == (2, Event("broken", b""))
    assert frames.close() is None


def test_a_frame_that_is_far_too_long_is_refused_before_it_is_kept() -> None:
    giant = frame(b"x" * MAX_EVENT_BYTES)
    frames = Frames()
    assert len(frames.feed(told("messageStart") + giant[:100])) == 1
    with pytest.raises(EventTooLong):
        frames.feed(giant[100:200])


def test_a_frame_of_an_unknown_kind_and_without_a_payload_is_an_event_all_the_same() -> None:
    assert Frames().feed(frame(b"", message_type="event")) == [Event("frame", b'{"None":{}}')]
