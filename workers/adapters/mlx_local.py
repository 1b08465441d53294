"""Apple's MLX inside the worker: models on the GPU of a Mac, quantised ones of mlx-community and others.

A model is a folder of safetensors, an operator's or one in the hub's cache. What all engines do alike stands
in workers.engine_adapter, how a request becomes tokens and tokens a reply in workers.token_adapter, how a
model is loaded in workers.mlx_loading, how replies are made in workers.mlx_replies. On Linux it computes with
the processor, by which all of this is tested.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from workers.adapter import AdapterError, Binding, ProviderSpec, ReportProgress, Warn
from workers.engine_faults import RAISED
from workers.engine_options import read_options
from workers.mlx_faults import not_loaded
from workers.mlx_library import clear
from workers.mlx_loading import Plan, Wanted, load_model, load_tokenizer, plan_of
from workers.mlx_options import Given, smaller
from workers.mlx_replies import Replies
from workers.model_files import MAIN
from workers.resident import Resident, Turn
from workers.token_adapter import Speaker, TokenAdapter

__all__ = ["ADAPTER", "Mlx"]


class Engine:
    """A loaded model."""

    def __init__(self, wanted: Wanted, plan: Plan, speaker: Speaker) -> None:
        self._wanted = wanted
        self._used = plan.used
        self.speaker = speaker
        self.runner = Replies(places=plan.used.slots, kept_bytes=plan.kept_bytes)

    @property
    def places(self) -> int:
        """How many requests it serves at once."""
        return self.runner.places

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is that model, loaded in a way that will do. One that has failed is loaded anew."""
        same = wanted.path == self._wanted.path and not self.runner.broken
        return same and self._used.will_do_for(wanted.options)

    async def close(self) -> None:
        """Gives the memory back; no request may be running."""
        await asyncio.to_thread(self.runner.stop)


class Mlx(TokenAdapter[Wanted, Engine]):
    """One connection's use of the engine."""

    kind = "a folder with config.json and .safetensors files"

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self.resident = _RESIDENT
        self._options = Given()

    def read_options(self, options: Mapping[str, Any]) -> tuple[Warn, ...]:
        """As EngineAdapter wants it."""
        self._options, warnings = read_options(options, Given)
        self.revision = self._options.revision or MAIN
        return warnings

    def wanted(self, name: str, path: Path) -> Wanted:
        """As EngineAdapter wants it."""
        return Wanted(name, path, self._options)


# ---- loading, in a thread


async def _load_engine(turn: Turn[Wanted, Engine]) -> Engine:
    return await asyncio.to_thread(_opened, turn.wanted, turn.report, turn.given_up)


def _opened(wanted: Wanted, report: ReportProgress, given_up: threading.Event) -> Engine:
    """Loads the model and lets it say one token, so that the next one costs no loading.

    Raises:
        AdapterError: INVALID_MODEL, UNSUPPORTED or OUT_OF_MEMORY; INTERRUPT when it was given up.
    """
    plan = plan_of(wanted)
    try:
        speaker = Speaker(
            load_tokenizer(wanted),
            plan.found,
            context_length=plan.used.context_length,
            as_transcript=plan.used.transcript,
        )
        engine = Engine(wanted, plan, speaker)
        engine.runner.start(lambda: load_model(wanted, plan, report, given_up), speaker.first_words())
        return engine
    except (*RAISED, AdapterError) as exc:
        error = not_loaded(exc, wanted.name, plan.found.architecture, smaller(plan.used))
    clear()  # only now nothing holds any more what the exception held
    raise error


_RESIDENT: Final[Resident[Wanted, Engine]] = Resident(_load_engine)
"""The models of this process."""

ADAPTER: Final = Mlx
