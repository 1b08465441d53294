"""The contract of an engine, held by OpenVINO on the processor, and what it has of its own.

    python install.py --llm openvino --variant cpu
    python install.py --test tests/heavy/test_openvino.py

What can only be seen from inside, faults that are made on purpose: inside_openvino.py.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from supervisor.environments import Environment
from tests.e2e.client import connect
from tests.e2e.engines.engine import Damage, Engine, Wrong
from tests.e2e.engines.rows import Rows
from tests.e2e.engines.stage import OPTIONS, Stage
from tests.e2e.module import Installation, Module
from tests.fakes.hub_server import COMMIT, hub_server
from tests.heavy.conftest import Lend
from tests.heavy.damages import coded, config_with, cut
from tests.tiny_safetensors import make_tiny_mamba, make_tiny_safetensors
from tests.wheelhouse import CHECKOUT, wait_until


class OpenVino(Engine):
    """Its models are folders."""

    provider = "openvino"
    options = {"device": "cpu"}
    wrong_options = {
        "device": Wrong({"device": "gpu:63"}, "finds no gpu:63 here", "UNSUPPORTED"),
        "another's device": Wrong({"device": "cuda"}, "finds no cuda here", "UNSUPPORTED"),
        "quantization": Wrong({"quantization": "5bit"}, "options.quantization must be one of 8bit, 4bit"),
        "revision": Wrong({"revision": "../up"}, "options.revision must be a commit"),
    }
    damages = {
        "weights": Damage(cut, "is cut off"),
        "config": Damage(
            lambda folder: (folder / "config.json").write_bytes(b"{"), "config.json that is no JSON"
        ),
        "architecture": Damage(config_with(architectures=["Nothing"], model_type="nothing"), "cannot load"),
        "layers": Damage(config_with(num_hidden_layers=3), "of its weights are missing"),
        "code": Damage(coded, "trust_remote_code", "UNSUPPORTED"),
        "no kind for it": Damage(make_tiny_mamba, "cannot load"),
    }
    template_words = "load with options.transcript"
    told = ("converting other", "reading other", "loading other")
    left_out = {
        "response_format": {"response_format": {"type": "json_object"}},
        "extra.beams": {"extra": {"beams": 4}},
    }
    pinned = {"revision": COMMIT}
    at_once = 1
    no_options = ("slots",)
    load_s = 60.0  # the first load imports a gigabyte
    absent = {
        "a_response_format_shapes_the_reply": "the library has no grammars",
        "what_the_engine_cannot_take_is_an_invalid_prompt": "it warns of what it does not know",
        "two_clients_are_served_at_once": "it makes one reply after the other",
        "a_neighbour_does_not_change_what_a_seed_says": "it makes one reply after the other",
        "two_hundred_loads_and_unloads_leave_nothing": (
            "the library keeps a thread and a megabyte of each model that it compiled until the process ends"
        ),
    }

    def make(self, path: Path, **fields: Any) -> None:
        """As Engine wants it."""
        make_tiny_safetensors(path, **fields)


@pytest.mark.timeout(240)
class TestOpenVino(Rows):
    engine = OpenVino()

    async def test_a_model_is_converted_once(self, stage: Stage, tmp_path: Path) -> None:
        make_tiny_safetensors(tmp_path / "new", seed=9)
        with stage.another() as first:
            async with first.talk() as talk:
                assert (await talk.told(str(tmp_path / "new")))[0].startswith("converting")
                said = await talk.works()
        with stage.another() as second:
            async with second.talk() as talk:
                told = await talk.told(str(tmp_path / "new"))
                assert not any(message.startswith("converting") for message in told), told
                assert await talk.works() == said
                make_tiny_safetensors(tmp_path / "new", seed=10)
                told = await talk.told(str(tmp_path / "new"), context_length=512)
                assert told[0].startswith("converting"), "its files are others"
                assert await talk.works() != said

    @pytest.mark.parametrize("quantization", ["8bit", "4bit"])
    async def test_weights_are_quantised_while_they_are_converted(
        self, stage: Stage, tmp_path: Path, quantization: str
    ) -> None:
        whole = stage.models / "tiny" / "model.safetensors"
        with stage.another(converted_dir=str(tmp_path)) as another:
            async with another.talk("tiny", quantization=quantization) as talk:
                said = await talk.works()
        (weights,) = _below(tmp_path, "*/*.bin")
        assert weights.stat().st_size < whole.stat().st_size / 3, "a number had 32 bits"
        async with stage.talk("tiny") as talk:
            assert await talk.works() != said

    async def test_a_killed_conversion_leaves_nothing_that_counts(self, stage: Stage, tmp_path: Path) -> None:
        make_tiny_safetensors(tmp_path / "killed", seed=11)
        cache = stage.place.home / "cache" / "openvino"
        async with stage.talk("tiny") as talk:
            before = _folders(cache)
            request = {"preload_model_id": str(tmp_path / "killed"), "options": {**OPTIONS, "device": "cpu"}}
            load = {"type": "load", "provider": "openvino", "unique_request_id": "killed", **request}
            await talk.client.send(load)
            await asyncio.to_thread(wait_until, lambda: _folders(cache) != before, "a conversion")
            (worker,) = stage.module.workers()
            worker.kill()
            done = await talk.client.wait(
                lambda m: m["type"] == "load_done" and m["unique_request_id"] == "killed",
                timeout_s=self.engine.load_s,
            )
            assert done["error_name"] in ("WORKER_CRASHED", "OUT_OF_MEMORY")
            (part,) = _folders(cache) - before
            assert part.endswith(".part")
            await talk.loaded(str(tmp_path / "killed"))
            await talk.works()
        (whole,) = _folders(cache) - before
        assert not whole.endswith(".part"), "what was left has gone, and what was made is whole"

    async def test_an_exported_folder_is_loaded_as_it_is(self, stage: Stage, tmp_path: Path) -> None:
        exported, said = await _exported(stage, tmp_path)
        async with stage.talk() as talk:
            told = await talk.told(str(exported))
            assert not any(message.startswith("converting") for message in told), told
            assert await talk.works() == said
            done = await talk.load(str(exported), quantization="8bit")
            assert (done["error_name"], "was exported already" in done["message"]) == ("UNSUPPORTED", True)
            (exported / "openvino_model.bin").write_bytes(b"")
            done = await talk.load(str(exported), context_length=256)
            assert (done["error_name"], "cannot load" in done["message"]) == ("INVALID_MODEL", True), done
            (exported / "openvino_model.bin").unlink()
            done = await talk.load(str(exported), context_length=256)
            assert (done["error_name"], "is no model" in done["message"]) == ("INVALID_MODEL", True), done

    async def test_of_a_repository_that_has_exported_weights_those_are_fetched(
        self, stage: Stage, tmp_path: Path
    ) -> None:
        exported, said = await _exported(stage, tmp_path)
        files = {path.name: path.read_bytes() for path in exported.iterdir()}
        offered = {**files, "model.safetensors": b"x", "openvino_tokenizer.bin": b"y"}
        with (
            hub_server(offered) as hub,
            stage.another(tmp_path / "hub", hub=hub.endpoint, download=True) as allowing,
        ):
            async with allowing.talk("org/repo") as talk:
                assert await talk.works() == said
        asked = {path.rpartition("/")[2] for method, path, *_ in hub.asked if method == "HEAD"}
        assert asked == set(files)

    async def test_its_packages_tell_nobody_that_they_are_used(self, stage: Stage, tmp_path: Path) -> None:
        person = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
        options = {**OPTIONS, **self.engine.options, "quantization": "8bit", "context_length": 300}
        with Module(stage.place, variables=person) as module:
            async with connect(module) as client:
                done = await client.load(
                    "openvino", preload_model_id="other", options=options, timeout_s=self.engine.load_s
                )
        assert done["is_error"] is False, done
        assert _below(tmp_path, "*") == [], "here they note whom they speak of"

    async def test_a_load_without_the_environment_names_the_command(
        self, place: Installation, tmp_path: Path
    ) -> None:
        with Module(Installation(place.checkout, tmp_path / "empty hôme", place.wheels)) as running:
            async with connect(running) as client:
                done = await client.load("intel")
        assert done["error_name"] == "PROVISION_FAILED"
        assert "python install.py --llm openvino" in done["message"]

    @pytest.mark.parametrize("case", ["memory", "fault", "reuse", "kinds"])
    def test_from_inside(self, lend: Lend, tmp_path: Path, case: str) -> None:
        made: Environment = lend("openvino")
        make_tiny_safetensors(tmp_path / "tiny")
        inside = CHECKOUT / "tests" / "heavy" / "inside_openvino.py"
        argv = [str(made.python), "-I", str(inside), case, str(tmp_path)]
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


async def _exported(stage: Stage, folder: Path) -> tuple[Path, str]:
    """The model `other` as an exported folder, which is what was converted, and what it says."""
    with stage.another(converted_dir=str(folder / "converted")) as another:
        async with another.talk("other") as talk:
            said = await talk.works()
    (made,) = (folder / "converted").iterdir()
    return made.rename(folder / "exported"), said


def _below(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))
