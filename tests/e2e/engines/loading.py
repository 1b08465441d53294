"""Rows about loads: what they say, what they refuse, and what they find or fetch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from tests.e2e.engines.engine import HUB_FILE, MODELS, VAST, Damage, Wrong
from tests.e2e.engines.stage import SAME_WORDS, Stage, Talk
from tests.fakes.hub_server import hub_server

__all__ = ["WRONG", "Loading"]

WRONG: Final = {
    "context": Wrong({"context_length": "long"}, "options.context_length must be a whole number"),
    "slots": Wrong({"slots": 0}, "options.slots must be a whole number from 1"),
    "transcript": Wrong({"transcript": "yes"}, "options.transcript must be true or false"),
}
"""Options that no engine can mean."""


class Loading:
    """What a load does."""

    async def test_a_load_says_what_is_there_and_what_it_took(self, stage: Stage) -> None:
        async with stage.talk(seed=True) as talk:
            done = await talk.loaded()
            assert done["models_count"] == len(MODELS)
            assert done["timings_ms"]["model"] is not None
            names = (await talk.client.ask({"type": "get_models"}, "get_models_done"))["models"]
        assert (names[0], sorted(names)) == ("tiny", sorted(MODELS))

    async def test_a_load_tells_how_far_it_is(self, stage: Stage) -> None:
        async with stage.talk() as talk:
            told = await talk.told("other")
        assert told, "the model was loaded, and nothing was said of it"
        assert all(message.startswith(stage.engine.told) for message in told), told

    async def test_what_is_loaded_is_loaded_once(self, stage: Stage, talk: Talk) -> None:
        async with stage.talk() as other:
            assert await other.told("tiny") == []
            assert await other.works() == await talk.works()
            await talk.client.leave()
            await other.works()

    async def test_a_load_of_what_is_loaded_does_not_wait_for_replies(self, stage: Stage) -> None:
        async with stage.talk("tiny", slots=1) as talk:
            talking = await talk.begin()
            async with stage.talk("tiny", slots=1):
                await talk.interrupted(talking)  # it goes on still

    async def test_other_options_load_the_model_anew(self, stage: Stage, talk: Talk) -> None:
        async with stage.talk() as other:
            assert await other.told("tiny", context_length=256)
            await other.works()
            await talk.works()

    async def test_a_load_without_any_model_says_where_to_put_one(self, stage: Stage, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        with stage.another(models_dir=str(tmp_path / "models")) as bare:
            async with bare.talk() as talk:
                warning = json.dumps((await talk.loaded(""))["warnings"])
                assert "NO_MODELS" in warning
                assert json.dumps(str(tmp_path / "models"))[1:-1] in warning
                assert (await talk.say()).code == "INVALID_MODEL"
            stage.engine.make(stage.engine.path(tmp_path / "models", "only"))
            async with bare.talk() as talk:
                done = await talk.loaded("")
                assert (done["models_count"], done["timings_ms"]["model"]) == (1, 0)
                reply = await talk.say(**SAME_WORDS)
        assert reply.end["model"] == "only", "the only one needs no name"

    async def test_an_option_that_cannot_be_had_is_refused(self, stage: Stage, wrong: Wrong) -> None:
        async with stage.talk() as talk:
            done = await talk.load(**wrong.options)
        assert (done["error_name"], wrong.words in done["message"]) == (wrong.name, True), done

    async def test_an_unknown_option_is_a_warning(self, stage: Stage) -> None:
        async with stage.talk() as talk:
            done = await talk.loaded(gpus=3, keep_alive=-1)
        assert [(name, "gpus" in sentence) for name, sentence in told(done)] == [("UNKNOWN_OPTION", True)]

    async def test_a_missing_model_is_an_invalid_model(self, stage: Stage, tmp_path: Path) -> None:
        async with stage.talk() as talk:
            done = await talk.load("tinny")
            assert (done["error_name"], "near ones: tiny" in done["message"]) == ("INVALID_MODEL", True), done
            done = await talk.load(str(stage.engine.path(tmp_path, "nothing")))
            assert (done["error_name"], "check the path" in done["message"]) == ("INVALID_MODEL", True), done
            reply = await talk.say(model_id="tinny")
            assert reply.code == "NOT_LOADED", "a failed load leaves nothing to talk to"

    async def test_a_model_that_is_none_says_so(self, stage: Stage, tmp_path: Path, damage: Damage) -> None:
        broken = stage.engine.path(tmp_path, "broken")
        whole = stage.engine.path(stage.models, "other")
        if whole.is_dir():
            shutil.copytree(whole, broken)
        else:
            shutil.copy(whole, broken)
        damage.do(broken)
        async with stage.talk() as talk:
            done = await talk.load(str(broken))
            assert (done["error_name"], damage.words in done["message"]) == (damage.name, True), done
            await talk.loaded()
            await talk.works()

    async def test_a_template_that_cannot_be_read_is_named(self, stage: Stage, tmp_path: Path) -> None:
        model = stage.engine.path(tmp_path, "torn")
        stage.engine.make(model, template="{% if %}")
        async with stage.talk() as talk:
            done = await talk.load(str(model))
            words = stage.engine.template_words
            assert (done["error_name"], words in done["message"]) == ("INVALID_MODEL", True), done
            await talk.loaded(str(model), transcript=True)
            await talk.works()

    async def test_a_model_that_cannot_fit_says_what_would(self, stage: Stage, tmp_path: Path) -> None:
        model = stage.engine.path(tmp_path, "vast")
        stage.engine.make(model, shape=VAST)
        async with stage.talk() as talk:
            done = await talk.load(str(model), context_length=VAST.context)
            assert done["error_name"] == "OUT_OF_MEMORY", done
            assert "try options.context_length of" in done["message"]
            await talk.loaded(str(model) if stage.engine.loads_vast else "tiny")
            await talk.works()

    async def test_a_model_comes_from_the_hub_where_the_operator_allows_it(
        self, stage: Stage, tmp_path: Path
    ) -> None:
        name = stage.engine.hub_name
        with hub_server({**files_of(stage), "code.py": b"raise SystemExit", "model.bin": b"x"}) as hub:
            with stage.another(tmp_path / "hub", hub=hub.endpoint) as forbidding:
                async with forbidding.talk() as talk:
                    done = await talk.load(name)
                    assert (done["error_name"], "downloads" in done["message"]) == ("INVALID_MODEL", True)
            assert hub.asked == []
            with stage.another(tmp_path / "hub", hub=hub.endpoint, download=True) as allowing:
                async with allowing.talk(name) as talk:
                    said = await talk.works()
        assert not [path for _, path, *_ in hub.asked if path.endswith((".py", ".bin"))], "they run"
        with stage.another(tmp_path / "hub") as offline:  # the hub has gone, and what it gave is here
            async with offline.talk(name, **stage.engine.pinned) as talk:
                assert await talk.works() == said


def told(done: dict[str, Any]) -> list[tuple[str, str]]:
    """The warnings of a message."""
    return [(warning["name"], warning["message"]) for warning in done.get("warnings", ())]


def files_of(stage: Stage) -> dict[str, bytes]:
    """What a repository with the model `other` holds."""
    path = stage.engine.path(stage.models, "other")
    if path.is_file():
        return {f"{HUB_FILE}{path.suffix}": path.read_bytes()}
    files = [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
