"""The contract of an engine, held by MLX on a processor, and what it has of its own.

    python install.py --llm mlx
    python install.py --test tests/heavy/test_mlx.py

The packages of the engine are in its own environment alone, so all of it is seen from outside. What can only
be seen from inside, faults that are made on purpose: inside_mlx.py.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.environments import Environment
from tests.e2e.engines.conftest import engine, models, row_applies, stage, talk
from tests.e2e.engines.engine import Damage, Engine, Wrong
from tests.e2e.engines.rows import Rows
from tests.e2e.engines.stage import SAME_WORDS, Stage
from tests.e2e.module import Installation
from tests.heavy.conftest import Lend
from tests.tiny_safetensors import make_tiny_mamba, make_tiny_safetensors
from tests.wheelhouse import CHECKOUT

__all__ = ["engine", "models", "row_applies", "stage", "talk"]  # fixtures are used by their names


@pytest.fixture(scope="session")
def mlx(lend: Lend) -> Environment:
    """The environment of the engine."""
    return lend("mlx")


@pytest.fixture(scope="session")
def place(mlx: Environment) -> Installation:
    """An installation in which it is the only one."""
    return Installation(CHECKOUT, mlx.directory.parent.parent, CHECKOUT)


def _cut(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])


def _config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")

    return damage


def _coded(folder: Path) -> None:
    (folder / "code.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    _config(model_file="code.py")(folder)


def _renamed(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    weights.rename(folder / "other.safetensors")


class Mlx(Engine):
    """Its models are folders."""

    provider = "mlx"
    wrong_options = {
        "revision": Wrong({"revision": "../up"}, "options.revision must be a commit"),
        "prefix_cache": Wrong({"prefix_cache": 1}, "options.prefix_cache must be true or false"),
    }
    damages = {
        "weights": Damage(_cut, "is not whole"),
        "weights of another name": Damage(_renamed, "No safetensors found"),
        "config": Damage(
            lambda folder: (folder / "config.json").write_bytes(b"{"), "config.json that is no JSON"
        ),
        "tokenizer": Damage(lambda folder: (folder / "tokenizer.json").write_bytes(b"{"), "it said:"),
        "architecture": Damage(_config(model_type="nothing"), "Model type nothing not supported"),
        "no kind": Damage(_config(model_type=None), "cannot load"),
        "numbers": Damage(_config(num_attention_heads=0), "cannot load"),
        "layers": Damage(_config(num_hidden_layers=3), "layers.2"),
        "code": Damage(_coded, "model_file", "UNSUPPORTED"),
    }
    template_words = "load with options.transcript"
    told = ("reading other", "loading other")
    left_out = {
        "response_format": {"response_format": {"type": "json_object"}},
        "extra.beams": {"extra": {"beams": 4}},
    }
    load_s = 60.0
    absent = {
        "a_response_format_shapes_the_reply": "the library has no grammars",
        "two_hundred_loads_and_unloads_leave_nothing": (
            "the library keeps two threads of each load that computed on a processor until the process ends"
        ),
        "what_the_engine_cannot_take_is_an_invalid_prompt": "it warns of what it does not know",
    }

    def make(self, path: Path, **fields: Any) -> None:
        """As Engine wants it."""
        make_tiny_safetensors(path, **fields)


@pytest.mark.timeout(240)
class TestMlx(Rows):
    engine = Mlx()

    async def test_threads_have_no_meaning_and_that_is_said(self, stage: Stage) -> None:
        async with stage.talk() as talk:
            warnings = json.dumps((await talk.loaded(threads=2))["warnings"])
        assert "threads" in warnings

    async def test_a_model_without_attention_is_served(self, stage: Stage, tmp_path: Path) -> None:
        make_tiny_mamba(tmp_path / "mamba")
        async with stage.talk(str(tmp_path / "mamba")) as talk:
            texts = [await talk.works() for _ in range(2)]
            assert texts[0] == texts[1] != ""
            talking = await talk.begin()
            waiting = await talk.client.generate(params=SAME_WORDS)
            assert (await talk.end(waiting)).text == texts[0]
            await talk.interrupted(talking)

    async def test_a_quantised_model_is_served_as_it_is(
        self, stage: Stage, mlx: Environment, tmp_path: Path
    ) -> None:
        _inside(mlx, "quantise", stage.models / "other", tmp_path / "small")
        config = json.loads((tmp_path / "small" / "config.json").read_text(encoding="utf-8"))
        assert config["quantization"]["bits"] == 4
        async with stage.talk(str(tmp_path / "small")) as talk:
            assert await talk.works() == await talk.works()

    async def test_no_place_for_what_is_kept_is_none(self, stage: Stage) -> None:
        async with stage.talk("tiny", prefix_cache=False) as talk:
            replies = [await talk.say(max_output_length=5) for _ in range(2)]
        assert [reply.end["usage"]["cached_input_tokens"] for reply in replies] == [0, 0]

    @pytest.mark.parametrize("case", ["memory", "fault", "kinds", "choices", "quiet"])
    def test_from_inside(self, mlx: Environment, tmp_path: Path, case: str) -> None:
        make_tiny_safetensors(tmp_path / "tiny", files=2)
        make_tiny_mamba(tmp_path / "mamba")
        _inside(mlx, case, tmp_path)


def _inside(mlx: Environment, case: str, *paths: Path) -> None:
    script = CHECKOUT / "tests" / "heavy" / "inside_mlx.py"
    argv = [str(mlx.python), "-I", str(script), case, *map(str, paths)]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
