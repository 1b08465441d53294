"""The contract of an engine, held by transformers, and what it has of its own.

    python install.py --llm transformers --variant cpu
    python install.py --test tests/heavy

The packages of the engine are in its own environment alone, so all of it is seen from outside. What can only
be seen from inside, faults that are made on purpose: inside.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from supervisor.environments import Environment
from tests.e2e.client import connect
from tests.e2e.engines.engine import Damage, Engine, Wrong
from tests.e2e.engines.rows import Rows
from tests.e2e.engines.stage import SAME_WORDS, Stage
from tests.e2e.module import Installation, Module
from tests.fakes.hub_server import COMMIT
from tests.heavy.damages import coded, config_with, cut
from tests.tiny_safetensors import make_tiny_mamba, make_tiny_safetensors
from tests.wheelhouse import CHECKOUT


class Transformers(Engine):
    """Its models are folders, their weights in two files."""

    provider = "transformers"
    options = {"device": "cpu"}
    wrong_options = {
        "device": Wrong({"device": "cuda:63"}, "finds no cuda:63 here", "UNSUPPORTED"),
        "quantization": Wrong(
            {"quantization": "4bit"}, "needs the packages bitsandbytes and accelerate", "UNSUPPORTED"
        ),
        "revision": Wrong({"revision": "../up"}, "options.revision must be a commit"),
    }
    damages = {
        "weights": Damage(cut, "is not whole"),
        "config": Damage(
            lambda folder: (folder / "config.json").write_bytes(b"{"), "config.json that is no JSON"
        ),
        "architecture": Damage(config_with(architectures=["Nothing"], model_type="nothing"), "cannot load"),
        "layers": Damage(config_with(num_hidden_layers=3), "of its weights are missing"),
        "code": Damage(coded, "trust_remote_code", "UNSUPPORTED"),
    }
    template_words = "load with options.transcript"
    told = ("reading other", "loading other")
    left_out = {
        "response_format": {"response_format": {"type": "json_object"}},
        "extra.beams": {"extra": {"beams": 4}},
    }
    pinned = {"revision": COMMIT}
    reuse_slack = 32
    load_s = 60.0  # the first load imports a gigabyte
    absent = {
        "a_response_format_shapes_the_reply": "the library has no grammars",
        "what_the_engine_cannot_take_is_an_invalid_prompt": "it warns of what it does not know",
    }

    def make(self, path: Path, **fields: Any) -> None:
        """As Engine wants it."""
        make_tiny_safetensors(path, files=2, **fields)


@pytest.mark.timeout(240)
class TestTransformers(Rows):
    engine = Transformers()

    async def test_a_model_that_no_batch_can_hold_is_served_one_by_one(
        self, stage: Stage, tmp_path: Path
    ) -> None:
        make_tiny_mamba(tmp_path / "mamba")
        async with stage.talk(str(tmp_path / "mamba")) as talk:
            texts = [await talk.works() for _ in range(2)]
            assert texts[0] == texts[1] != ""
            talking = await talk.begin()
            waiting = await talk.client.generate(params=SAME_WORDS)
            await talk.interrupted(talking)
            assert (await talk.end(waiting)).text == texts[0]

    async def test_a_load_without_the_environment_names_the_command(
        self, place: Installation, tmp_path: Path
    ) -> None:
        with Module(Installation(place.checkout, tmp_path / "empty hôme", place.wheels)) as running:
            async with connect(running) as client:
                done = await client.load("hf-local")
        assert done["error_name"] == "PROVISION_FAILED"
        assert "python install.py --llm transformers" in done["message"]

    @pytest.mark.parametrize("case", ["memory", "fault", "cycles", "kinds", "choices"])
    def test_from_inside(self, transformers: Environment, tmp_path: Path, case: str) -> None:
        make_tiny_safetensors(tmp_path / "tiny", files=2)
        make_tiny_mamba(tmp_path / "mamba")
        argv = [
            str(transformers.python),
            "-I",
            str(CHECKOUT / "tests" / "heavy" / "inside.py"),
            case,
            str(tmp_path),
        ]
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
