"""Models of the Hugging Face hub in OpenVINO: on Intel's GPUs, and faster than torch on a processor.

A model is a folder of safetensors, which is converted once, or one that was exported already. How a request
becomes tokens, and tokens become a reply, stands in workers.token_adapter, how a model is converted in
workers.openvino_conversion, how it is loaded in workers.openvino_loading, how tokens are made in
workers.openvino_replies; here they are joined.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from workers.adapter import AdapterError, Binding, ProviderSpec, ReportProgress, Warn
from workers.codes import Code
from workers.engine_adapter import QUIRKS
from workers.engine_options import read_options
from workers.model_files import MAIN
from workers.openvino_conversion import EXPORTED
from workers.openvino_loading import Plan, Wanted, load_model, plan_of
from workers.openvino_options import Given, smaller
from workers.openvino_replies import runner_of
from workers.resident import Resident, Turn
from workers.token_adapter import Speaker, TokenAdapter
from workers.torch_faults import ERRORS, TRUST, not_loaded
from workers.torch_loading import clear, load_tokenizer

__all__ = ["ADAPTER", "OpenVino"]

CONVERTED_DIR: Final = "converted_dir"
"""The quirk that says where converted models are kept."""


class Engine:
    """A loaded model."""

    def __init__(self, wanted: Wanted, plan: Plan, model: Any, tokenizer: Any) -> None:
        self._wanted = wanted
        self._used = used = plan.used
        self._model = model
        self.speaker = Speaker(
            tokenizer, plan.found, context_length=used.context_length, as_transcript=used.transcript
        )
        self.runner = runner_of(model, used, self.speaker.first_words())

    @property
    def places(self) -> int:
        """How many requests it serves at once."""
        return self.runner.places

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is that model, loaded in a way that will do. One that has failed is loaded anew."""
        same = (wanted.path, wanted.trusted) == (self._wanted.path, self._wanted.trusted)
        return same and not self.runner.broken and self._used.will_do_for(wanted.options)

    async def close(self) -> None:
        """Gives the memory back; no request may be running."""
        await asyncio.to_thread(self._drop)

    def _drop(self) -> None:
        self.runner.stop()
        del self._model, self.runner
        clear()


class OpenVino(TokenAdapter[Wanted, Engine]):
    """One connection's use of the engine."""

    kind = "a folder with config.json and .safetensors files, or openvino_model.xml and .bin"
    quirks = (*QUIRKS, TRUST, CONVERTED_DIR)
    exported = EXPORTED

    def __init__(self, provider: ProviderSpec, binding: Binding) -> None:
        super().__init__(provider, binding)
        self.resident = _RESIDENT
        self._options = Given()
        self._converted_dir = _converted_dir(provider)

    def read_options(self, options: Mapping[str, Any]) -> tuple[Warn, ...]:
        """As EngineAdapter wants it."""
        self._options, warnings = read_options(options, Given)
        self.revision = self._options.revision or MAIN
        return warnings

    def wanted(self, name: str, path: Path) -> Wanted:
        """As EngineAdapter wants it."""
        trusted = self.provider.quirks.get(TRUST) is True
        return Wanted(name, path, self._options, trusted, self._converted_dir)


def _converted_dir(provider: ProviderSpec) -> Path:
    value = provider.quirks.get(CONVERTED_DIR)
    if isinstance(value, str) and value:
        return Path(value).expanduser()
    raise AdapterError(
        Code.UNEXPECTED, f"[provider.{provider.id}.quirks]: {CONVERTED_DIR} must be the path of a folder."
    )


# ---- loading, in a thread


async def _load_engine(turn: Turn[Wanted, Engine]) -> Engine:
    return await asyncio.to_thread(_opened, turn.wanted, turn.report, turn.given_up)


def _opened(wanted: Wanted, report: ReportProgress, given_up: threading.Event) -> Engine:
    """Loads the model and lets it say one token, so that the next one costs no loading.

    Raises:
        AdapterError: INVALID_MODEL, UNSUPPORTED or OUT_OF_MEMORY; INTERRUPT when it was given up.
    """
    plan = plan_of(wanted)
    remedy = smaller(plan.used, plan.found)
    try:
        tokenizer = load_tokenizer(wanted.path, trusted=wanted.trusted)
        return Engine(wanted, plan, load_model(wanted, plan, report, given_up), tokenizer)
    except (*ERRORS, AdapterError) as exc:
        error = not_loaded(exc, wanted.name, plan.found.architecture, remedy)
    clear()  # only now nothing holds any more what the exception held
    raise error


_RESIDENT: Final[Resident[Wanted, Engine]] = Resident(_load_engine)
"""The models of this process."""

ADAPTER: Final = OpenVino
