"""One client between its connection and the pool: what is sent, what is carried out, what is let go."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from supervisor.bindings import Binding
from supervisor.client import CREDIT_STEP_CHARS, Client
from supervisor.commands import CallPart, LoadResult, Outcome
from supervisor.config import Settings
from supervisor.errors import Failure, ProvisionError
from supervisor.inflight import Sink
from supervisor.jobs import Job
from supervisor.logs import scrub
from supervisor.pool import LoadOptions, Pool, ReportProgress
from supervisor.providers import Catalog, EnvSpec, Provider
from supervisor.session import Session
from tests.supervisor.fakes import PROVIDER, make_settings, soon
from workers.codes import Code

KEYED = Provider("keyed", "Keyed", "script", "scripted", "base", key=("KEYED_API_KEY",), key_required=True)


class FakePool:
    """Records what a client asks for; a load ends when the test says so."""

    def __init__(self) -> None:
        self.loads: list[tuple[str, Binding, LoadOptions]] = []
        self.answers: list[asyncio.Future[LoadResult]] = []
        self.reports: list[ReportProgress] = []
        self.started: dict[int, tuple[str, int, Job, Sink]] = {}
        self.ended: list[tuple[str, int, Code]] = []
        self.credits: list[tuple[str, int, int]] = []
        self.unloaded: list[tuple[str, int]] = []
        self.cancelled = 0

    async def load(
        self, provider: Provider, binding: Binding, options: LoadOptions, report: ReportProgress
    ) -> LoadResult:
        self.loads.append((provider.id, binding, options))
        self.reports.append(report)
        self.answers.append(asyncio.get_running_loop().create_future())
        try:
            return await self.answers[-1]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def unload(self, provider: str, binding: int) -> None:
        self.unloaded.append((provider, binding))

    def generate(self, provider: str, binding: int, number: int, job: Job, sink: Sink) -> None:
        self.started[number] = (provider, binding, job, sink)

    def end(self, provider: str, number: int, failure: Failure) -> None:
        self.ended.append((provider, number, failure.code))

    def credit(self, provider: str, number: int, chars: int) -> None:
        self.credits.append((provider, number, chars))


class FakeModule:
    """What a client may ask of the module."""

    def __init__(self) -> None:
        self.closes = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.ends: list[tuple[str, Outcome]] = []

    def close(self) -> None:
        self.closes += 1

    async def status(self) -> Mapping[str, Any]:
        await self.may_answer.wait()
        return {"version": "1", "uptime_s": 2.0, "workers": []}

    def provider_details(self) -> Mapping[str, Mapping[str, Any]]:
        return {"demo": {"name": "Demo"}, "keyed": {"name": "Keyed"}}

    def ended(self, provider: str, outcome: Outcome) -> None:
        self.ends.append((provider, outcome))


class Desk:
    """A client with fakes on every side."""

    def __init__(self, settings: Settings) -> None:
        self.sent: list[dict[str, Any]] = []
        self.something_sent = asyncio.Event()
        self.pool = FakePool()
        self.module = FakeModule()
        self.gone: list[Client] = []
        catalog = Catalog({p.id: p for p in (PROVIDER, KEYED)}, {"base": EnvSpec("base", (), ())})
        numbers = itertools.count(1)
        pool: Any = self.pool
        typed: Pool = pool
        self.client = Client(
            self,
            Session(catalog, settings.requests, numbers),
            typed,
            settings,
            self.module,
            numbers,
            self.gone.append,
        )

    def send(self, message: bytes) -> None:
        self.sent.append(json.loads(message))
        self.something_sent.set()

    def say(self, **message: Any) -> None:
        """The client's application sends a message."""
        self.client.message(json.dumps(message).encode())

    def take(self) -> list[dict[str, Any]]:
        """What was sent since the last look."""
        taken, self.sent = self.sent, []
        return taken

    def types(self) -> list[str]:
        """The same, by type."""
        return [str(message["type"]) for message in self.take()]

    async def load(self, llm: str = "demo", **fields: Any) -> None:
        """A load that succeeds."""
        self.say(type="load", llm=llm, **fields)
        await turns()
        self.pool.answers[-1].set_result(LoadResult(("m1",)))
        await turns()
        assert self.types() == ["load_ack", "load_done"]

    def generate(self, name: str = "a", *, stream: bool = True, **fields: Any) -> int:
        """Starts a generation; returns its number."""
        self.say(
            type="generate",
            unique_request_id=name,
            messages=[{"role": "user", "content": "hello"}],
            params={"model_id": "m1"},
            stream=stream,
            **fields,
        )
        assert self.types() == ["generate_ack"]
        return max(self.pool.started)


async def turns() -> None:
    """Lets everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(make_settings(tmp_path, variables={"KEYED_API_KEY": "of-the-operator"}))
    yield desk
    if not desk.gone:
        desk.client.gone()
    await turns()


# ---- loading


async def test_a_load_is_acknowledged_at_once_and_done_when_the_pool_says_so(desk: Desk) -> None:
    desk.say(type="load", llm="demo", verify=False, preload_model_id="m1", options={"a": 1})
    assert desk.types() == ["load_ack"]
    await turns()
    ((provider, binding, options),) = desk.pool.loads
    assert (provider, binding.options) == ("demo", {"a": 1})
    assert options == LoadOptions(verify=False, preload_model="m1")
    assert desk.types() == []
    desk.pool.answers[0].set_result(LoadResult(("m1", "m2"), {"start": 5}))
    await turns()
    (done,) = desk.take()
    assert (done["type"], done["is_error"], done["error"]) == ("load_done", False, 0)
    assert (done["models_count"], done["timings_ms"]["start"]) == (2, 5)


async def test_loads_take_effect_in_order(desk: Desk) -> None:
    desk.say(type="load", llm="demo")
    desk.say(type="load", llm="keyed")
    await turns()
    assert [provider for provider, _, _ in desk.pool.loads] == ["demo"]
    desk.pool.answers[0].set_result(LoadResult())
    await turns()
    assert [provider for provider, _, _ in desk.pool.loads] == ["demo", "keyed"]


async def test_loading_again_keeps_the_binding_and_changes_the_key(desk: Desk) -> None:
    await desk.load("keyed")
    await desk.load("keyed", api_key="a-new-key-of-the-client")
    await desk.load("keyed")
    keys = [(binding.id, binding.key) for _, binding, _ in desk.pool.loads]
    number = keys[0][0]
    assert keys == [
        (number, "of-the-operator"),
        (number, "a-new-key-of-the-client"),
        (number, "a-new-key-of-the-client"),
    ]


async def test_a_key_is_masked_in_every_log_from_its_load_on(desk: Desk) -> None:
    await desk.load("keyed", api_key="zebra-crossing-0815")
    assert scrub("it said zebra-crossing-0815") == "it said ***"


async def test_a_failed_load_says_why(desk: Desk) -> None:
    desk.say(type="load", llm="demo")
    await turns()
    desk.pool.answers[0].set_exception(ProvisionError("No room on the disk."))
    await turns()
    done = desk.take()[-1]
    assert (done["type"], done["is_error"], done["error_name"]) == ("load_done", True, "PROVISION_FAILED")
    assert done["message"] == "No room on the disk."


async def test_a_bug_in_a_load_is_answered_and_its_text_is_not_shown(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.say(type="load", llm="demo")
    await turns()
    desk.pool.answers[0].set_exception(KeyError("a bug that quotes a secret"))
    await turns()
    done = desk.take()[-1]
    assert (done["error_name"], "secret" in done["message"]) == ("UNEXPECTED", False)
    assert "Traceback" in caplog.text


async def test_a_base_url_that_is_not_allowed_never_reaches_the_pool(desk: Desk) -> None:
    desk.say(type="load", llm="demo", base_url="http://evil.example")
    await turns()
    assert desk.take()[-1]["error_name"] == "INVALID_REQUEST"
    assert desk.pool.loads == []


async def test_progress_is_sent_to_who_asked_at_most_ten_times_a_second(desk: Desk) -> None:
    desk.say(type="load", llm="demo", progress=True)
    await turns()
    for step in range(50):
        desk.pool.reports[0]("provision", f"step {step}", step / 50)
    types = desk.types()
    assert types[:2] == ["load_ack", "load_progress"]
    assert len(types) <= 3


async def test_of_progress_that_came_too_fast_the_newest_is_sent_in_the_end(desk: Desk) -> None:
    desk.say(type="load", llm="demo", progress=True)
    await turns()
    for message in ("first", "second", "third"):
        desk.pool.reports[0]("provision", message, None)
    desk.something_sent.clear()
    sent = desk.take()
    if len(sent) == 2:  # the acknowledgement and the first; on a slow machine more came through
        await asyncio.wait_for(desk.something_sent.wait(), 5)
        sent += desk.take()
    assert sent[-1]["message"] == "third"


async def test_progress_is_not_sent_to_who_did_not_ask(desk: Desk) -> None:
    desk.say(type="load", llm="demo")
    await turns()
    desk.pool.reports[0]("provision", "step", 0.5)
    assert desk.types() == ["load_ack"]


# ---- generating


async def test_chunks_and_the_end_are_sent_as_they_come(desk: Desk) -> None:
    await desk.load()
    number = desk.generate()
    desk.client.chunk(number, "Hel")
    desk.client.chunk(number, "lo")
    desk.client.ended(number, Outcome(model="m1"))
    first, second, done = desk.take()
    assert (first["chunk"], second["chunk"]) == ("Hel", "lo")
    assert (done["type"], done["is_error"]) == ("generate_stream_done", False)


async def test_the_module_hears_once_of_each_end_also_after_the_client_left(desk: Desk) -> None:
    await desk.load()
    first, second = desk.generate("a"), desk.generate("b")
    well, broken = Outcome(model="m1"), Outcome(Failure(Code.TIMEOUT, "Too late."))
    desk.client.ended(first, well)
    desk.client.ended(first, well)
    desk.client.gone()
    desk.client.ended(second, broken)
    assert desk.module.ends == [("demo", well), ("demo", broken)]


async def test_an_interrupt_ends_the_generation_in_the_pool(desk: Desk) -> None:
    await desk.load()
    number = desk.generate()
    desk.say(type="interrupt")
    assert desk.pool.ended == [("demo", number, Code.INTERRUPT)]
    desk.client.chunk(number, "late")
    assert desk.types() == ["interrupt_ack"]
    desk.client.ended(number, Outcome(Failure(Code.INTERRUPT, "The request was interrupted.")))
    (done,) = desk.take()
    assert (done["type"], done["error_name"]) == ("generate_stream_done", "INTERRUPT")


async def test_pieces_of_a_call_are_sent_as_they_come_and_the_call_at_the_end(desk: Desk) -> None:
    await desk.load()
    number = desk.generate(tool_deltas=True)
    for arguments in ("", "{}"):
        desk.client.call_part(number, CallPart(0, "a1", "look", arguments))
    desk.client.ended(number, Outcome(finish_reason="tool_calls"))
    first, second, done = desk.take()
    assert [piece["arguments"] for piece in (first, second)] == ["", "{}"]
    assert [call["id"] for call in done["tool_calls"]] == ["a1"]


# ---- credit


async def test_pieces_of_calls_are_credited_when_they_are_taken_or_at_once_where_nobody_is_to_take_them(
    desk: Desk,
) -> None:
    await desk.load()
    asked, unasked = desk.generate("a", tool_deltas=True), desk.generate("b")
    long = CallPart(0, "a1", "look", "x" * CREDIT_STEP_CHARS)
    desk.client.call_part(unasked, long)
    assert desk.pool.credits == [("demo", unasked, CREDIT_STEP_CHARS)]
    desk.client.call_part(asked, long)
    assert len(desk.pool.credits) == 1
    desk.client.drained()
    assert desk.pool.credits[1:] == [("demo", asked, CREDIT_STEP_CHARS)]


async def test_credit_goes_back_in_steps_and_only_when_the_socket_took_everything(desk: Desk) -> None:
    await desk.load()
    number = desk.generate()
    desk.client.chunk(number, "x" * (CREDIT_STEP_CHARS - 1))
    desk.client.drained()
    assert desk.pool.credits == []
    desk.client.chunk(number, "xy")
    assert desk.pool.credits == []
    desk.client.drained()
    desk.client.drained()
    assert desk.pool.credits == [("demo", number, CREDIT_STEP_CHARS + 1)]


async def test_a_generation_that_is_over_gets_no_credit(desk: Desk) -> None:
    await desk.load()
    number = desk.generate()
    desk.client.chunk(number, "x" * CREDIT_STEP_CHARS)
    desk.client.ended(number, Outcome())
    desk.client.drained()
    assert desk.pool.credits == []


async def test_two_streams_get_their_own_credit(desk: Desk) -> None:
    await desk.load()
    first, second = desk.generate("a"), desk.generate("b")
    desk.client.chunk(first, "x" * CREDIT_STEP_CHARS)
    desk.client.chunk(second, "y" * (CREDIT_STEP_CHARS + 5))
    desk.client.drained()
    assert sorted(desk.pool.credits) == [
        ("demo", first, CREDIT_STEP_CHARS),
        ("demo", second, CREDIT_STEP_CHARS + 5),
    ]


# ---- leaving


async def test_a_client_that_is_gone_ends_everything_and_its_keys_are_forgotten(desk: Desk) -> None:
    await desk.load()
    await desk.load("keyed")
    number = desk.generate()
    desk.client.gone()
    assert desk.pool.ended == [("keyed", number, Code.INTERRUPT)]
    assert sorted(provider for provider, _ in desk.pool.unloaded) == ["demo", "keyed"]
    assert desk.gone == [desk.client]
    desk.client.chunk(number, "late")
    desk.client.ended(number, Outcome())
    assert desk.types() == []


async def test_a_client_that_leaves_cancels_its_load(desk: Desk) -> None:
    desk.say(type="load", llm="demo")
    await turns()
    desk.client.gone()
    await turns()
    assert desk.pool.cancelled == 1
    assert desk.types() == ["load_ack"]


async def test_a_client_that_leaves_does_not_wait_for_its_status(desk: Desk) -> None:
    desk.module.may_answer.clear()
    desk.say(type="status")
    await turns()
    desk.client.gone()
    desk.module.may_answer.set()
    await turns()
    assert desk.types() == []


async def test_when_the_module_closes_a_client_is_settled_once_its_generations_ended(desk: Desk) -> None:
    await desk.load()
    number = desk.generate()
    desk.client.close()
    assert not desk.client.settled
    assert desk.pool.ended == [("demo", number, Code.INTERRUPT)]
    desk.client.ended(number, Outcome(Failure(Code.INTERRUPT, "x")))
    assert desk.types() == ["generate_stream_done"]
    assert desk.client.settled


# ---- questions


async def test_status_and_providers_are_answered_by_the_module(desk: Desk) -> None:
    desk.say(type="status")
    await turns()
    (status,) = desk.take()
    assert (status["type"], status["version"], status["workers"]) == ("status_done", "1", [])
    desk.say(type="get_providers", detail=True)
    (providers,) = desk.take()
    assert providers["type"] == "get_providers_done"
    assert sorted(providers["providers"]) == ["demo", "keyed"]
    assert providers["details"]["demo"]["name"] == "Demo"


async def test_close_is_acknowledged_and_ends_the_module(desk: Desk) -> None:
    desk.say(type="close")
    assert desk.types() == ["close_ack"]
    assert desk.module.closes == 1


async def test_what_cannot_be_read_is_answered_and_nothing_ends(desk: Desk) -> None:
    desk.client.message(b"not json")
    assert desk.types() == ["error"]
    await soon(desk.load())
