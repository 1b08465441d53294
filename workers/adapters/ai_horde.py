"""The AI Horde, a queue that volunteers' machines take jobs from: ask, look how far it is, fetch the text.

A job lives on the horde, not in a connection: whoever leaves early takes it out of the queue, also while it
is just being put in. What a job is and what is said of it is workers/horde_job.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Any, Final
from urllib.parse import quote

from workers.adapter import AdapterError, Begun, Binding, Event, ProviderSpec, Request
from workers.afterwards import Afterwards
from workers.codes import Code
from workers.horde_job import LOOK_EVERY_S, HordeReply, build
from workers.http_chat import HttpChat
from workers.parameters import Body
from workers.quirks import Quirks
from workers.refusals import Who
from workers.upstream import Upstream

__all__ = ["ADAPTER", "ANONYMOUS", "CLIENT_AGENT", "USUAL", "AIHorde"]

ANONYMOUS: Final = "0000000000"
"""The key of everybody who has none: it works, and waits behind all others."""
CLIENT_AGENT: Final = "w-ai-fu-llm:1:unknown"
"""Name, version and contact, as the horde wants to know them."""
STATUS_PATH: Final = "/generate/text/status/"
USUAL: Final = Quirks(
    chat_path="/generate/text/async",
    models_path="/status/models?type=text",
    key_check_path="/find_user",
    key_header="apikey",
    key_prefix="",
    stop_max=64,
    temperature_max=5.0,
    top_p_min=0.001,
    repetition_penalty_field="rep_pen",
    unsupported=("presence_penalty", "frequency_penalty", "seed"),
    reasoning_models=("*r1*", "*qwq*", "*think*", "*reason*"),
)
LOOK_S: Final = 10.0
"""What one look may take."""
LOOKS_FAILED_MAX: Final = 3
"""Looks in a row that may fail: looking again costs nothing, and the job goes on meanwhile."""
IMPOSSIBLE_MAX: Final = 3
"""Looks in a row at which nobody could do the job; one volunteer may just be gone for a moment."""
LET_GO_S: Final = 0.5
"""What putting a job into the queue may still take when it is not wanted any more, and taking it out."""
_PASSING: Final = (
    *(Code.UNREACHABLE, Code.TIMEOUT, Code.UPSTREAM_ERROR, Code.RATE_LIMITED, Code.TRUNCATED),
    Code.UPSTREAM_PROTOCOL,
)
_GONE: Final = 404


class AIHorde(HttpChat):
    """The horde for one binding."""

    usual = USUAL
    accepted = (200, 202)
    words = {  # noqa: RUF012 - a ClassVar of the base class
        "usernotfound": Code.AUTHORIZATION,
        "kudosupfront": Code.QUOTA,
        "sharedkeyempty": Code.QUOTA,
        "sharedkeyinsufficientkudos": Code.QUOTA,
        "timeoutip": Code.RATE_LIMITED,
        "toomanyprompts": Code.RATE_LIMITED,
        "corruptprompt": Code.CONTENT_FILTERED,
        "unsupportedmodel": Code.INVALID_MODEL,
        "invalidpromptsize": Code.CONTEXT_TOO_LONG,
        "tokenoverflow": Code.CONTEXT_TOO_LONG,
        "maintenancemode": Code.UPSTREAM_ERROR,
        "novalidworkers": Code.UPSTREAM_ERROR,
        "requestnotfound": Code.UPSTREAM_ERROR,
    }

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self._afterwards = Afterwards()
        """Jobs that are being taken out of the queue."""

    def headers(self, key: str) -> Mapping[str, str]:
        return {**super().headers(key or ANONYMOUS), "Client-Agent": CLIENT_AGENT}

    def body(self, request: Request, quirks: Quirks, refused: Collection[str]) -> Body:
        return build(request, quirks, refused=refused)

    def reader(self, who: Who, request: Request) -> HordeReply:
        return HordeReply(who, request)

    async def close(self) -> None:
        await self._afterwards.close()
        await super().close()

    async def _answer(
        self, request: Request, body: Body, deadline: float, retries: int
    ) -> AsyncGenerator[Event, None]:
        """The events of one job, from its place in the queue to its text."""
        upstream = self.opened()
        answer = self.reader(upstream.who, request)
        queue = functools.partial(
            self._queued, upstream, self.path(request, body), body.encoded(), answer, deadline
        )
        job, more = await upstream.again(queue, deadline=deadline, retries=1 - retries)
        retries += more
        try:
            if body.warnings or retries:
                yield Begun(body.warnings, retries)
            while not answer.complete:
                for event in answer.looked(await self._look(upstream, job)):
                    yield event
                if answer.impossible >= IMPOSSIBLE_MAX:
                    raise self._nobody(request.model)
                if not answer.complete:
                    await upstream.pause(answer.pause_s)
        finally:
            if not answer.complete:
                await self._afterwards.do(self._take_out(upstream, job))
        yield answer.finish(retries=retries, warnings=body.warnings)

    async def _queued(
        self, upstream: Upstream, path: str, data: bytes, answer: HordeReply, deadline: float
    ) -> str:
        """Puts a job into the queue; the result is its id. Cancelling it takes the job out again."""
        left_s = max(deadline - asyncio.get_running_loop().time(), LET_GO_S)

        async def ask() -> str:
            return answer.queued(await upstream.ask("POST", path, data, timeout_s=left_s))

        take_out = functools.partial(self._take_out, upstream)
        return await self._afterwards.begun(ask(), take_out, grace_s=LET_GO_S)

    async def _look(self, upstream: Upstream, job: str) -> Any:
        """How far the job is."""
        for left in reversed(range(LOOKS_FAILED_MAX)):
            try:
                return await upstream.get_json(_path_of(job), timeout_s=LOOK_S)
            except AdapterError as exc:
                if not left or exc.code not in _PASSING or exc.provider_status == _GONE:
                    raise
                wait_s = min((exc.retry_after_ms or 0) / 1000, LOOK_S)
            await upstream.pause(max(wait_s, LOOK_EVERY_S))
        raise AssertionError("the last look returns or raises")

    async def _take_out(self, upstream: Upstream, job: str) -> None:
        """Ends a job that nobody wants any more."""
        with contextlib.suppress(AdapterError):  # it may have ended by itself
            await upstream.ask("DELETE", _path_of(job), timeout_s=LET_GO_S)

    def _nobody(self, model: str) -> AdapterError:
        name = self.provider.name
        if not model:
            return AdapterError(
                Code.UPSTREAM_ERROR, f"no volunteer of {name} can do this just now: ask for less, or later"
            )
        near = self._near(model) or "use a name from get_models"
        return AdapterError(
            Code.INVALID_MODEL, f"no volunteer of {name} offers model {model!r} for this just now; {near}"
        )


ADAPTER: Final = AIHorde


def _path_of(job: str) -> str:
    return STATUS_PATH + quote(job, safe="")
