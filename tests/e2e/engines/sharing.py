"""Rows about several requests at once: places, turns, interrupts, and clients that go."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import psutil

from tests.e2e.engines.replies import drawn_or_not
from tests.e2e.engines.stage import SAME_WORDS, Stage, Talk
from tests.wheelhouse import wait_until

__all__ = ["Sharing"]

MANY: Final = 6
"""Requests at once, more than there are places."""


class Sharing:
    """What clients leave to one another."""

    @drawn_or_not
    async def test_an_interrupt_ends_a_reply_and_frees_its_place(
        self, stage: Stage, sampling: dict[str, Any]
    ) -> None:
        async with stage.talk("tiny", slots=1) as talk:
            reply = await talk.interrupted(await talk.begin(**sampling))
            assert "upstream_closed_ms" in reply.end
            await talk.works()

    async def test_an_interrupt_in_a_long_prompt_ends_it(self, talk: Talk) -> None:
        request = await talk.client.generate("x" * 8000, params={"max_output_length": 1})
        await talk.interrupted(request)
        await talk.works()

    async def test_an_interrupt_of_one_that_waits_lets_the_next_one_go(self, stage: Stage) -> None:
        async with stage.talk("tiny", slots=1) as talk:
            talking = await talk.begin()
            waiting = [await talk.client.generate(params=SAME_WORDS) for _ in range(2)]
            assert (await talk.interrupted(waiting[0])).chunks == []
            await talk.interrupted(talking)
            assert (await talk.end(waiting[1])).code == "SUCCESS"

    async def test_two_clients_are_served_at_once(self, stage: Stage, talk: Talk) -> None:
        async with stage.talk("tiny") as other:
            first, second = await talk.begin(), await other.begin()
            await talk.interrupted(first)
            before = len(other.client.received)
            await other.client.chunk(second, before + 1)
            await other.interrupted(second)

    async def test_more_requests_than_places_are_all_served(self, stage: Stage) -> None:
        async with stage.talk("tiny", slots=2) as talk:
            params = {"max_output_length": 30, "extra": {"ignore_eos": True}}
            requests = [await talk.client.generate(f"Hello {i}", params=params) for i in range(MANY)]
            replies = [await talk.end(request) for request in requests]
        assert [reply.end["usage"]["output_tokens"] for reply in replies] == [30] * MANY

    async def test_a_neighbour_does_not_change_what_a_seed_says(self, stage: Stage, talk: Talk) -> None:
        alone = await talk.works()
        async with stage.talk("tiny") as other:
            talking = await other.begin()
            assert await talk.works() == alone
            await other.interrupted(talking)

    async def test_a_request_for_another_model_waits_for_its_turn(self, talk: Talk) -> None:
        names = ("tiny", "other", "tiny")
        requests = [await talk.client.generate(params={**SAME_WORDS, "model_id": name}) for name in names]
        replies = [await talk.end(request) for request in requests]
        assert [reply.end["model"] for reply in replies] == list(names)
        assert replies[0].text == replies[2].text != replies[1].text

    async def test_as_many_models_stay_in_memory_as_the_operator_allows(self, stage: Stage) -> None:
        with stage.another(models_in_memory=2) as roomy:
            async with roomy.talk("tiny") as talk, roomy.talk("other") as other:
                talking = await talk.begin()
                await other.works()  # it would wait for the end of the first one's reply
                await talk.interrupted(talking)
                assert await other.told("tiny") == [], "it was there still"

    async def test_a_client_that_goes_frees_its_place(self, stage: Stage) -> None:
        async with contextlib.AsyncExitStack() as stack:
            talk = await stack.enter_async_context(stage.talk("tiny", slots=1))
            await talk.begin()
            async with stage.talk("tiny", slots=1) as other:
                waiting = await other.client.generate(params=SAME_WORDS)
                await talk.client.vanish()
                assert (await other.end(waiting)).code == "SUCCESS"

    async def test_the_last_client_takes_its_reply_and_the_model_along(self, stage: Stage) -> None:
        async with stage.talk("tiny") as talk:
            await talk.begin()
            (worker,) = stage.module.workers()
            with_model = worker.num_threads()
            await talk.client.vanish()
        await asyncio.to_thread(wait_until, lambda: worker.num_threads() < with_model, "the engine's end")

    async def test_a_killed_worker_ends_each_reply_once_and_comes_back(
        self, stage: Stage, talk: Talk
    ) -> None:
        open_ones = [await talk.begin() for _ in range(stage.engine.at_once)]
        (worker,) = stage.module.workers()
        worker.kill()
        codes = {(await talk.end(request)).code for request in open_ones}
        assert codes <= {"WORKER_CRASHED", "OUT_OF_MEMORY"}, "which of both, only the system knows"
        await talk.works()
        (successor,) = stage.module.workers()
        assert successor.pid != worker.pid
        assert psutil.pid_exists(successor.pid)
