"""The main job on transformers inside a worker, through the real module: provider `transformers`.

    python install.py --llm transformers --variant cpu
    python install.py --test tests/heavy

The packages of the engine are in its own environment alone, so all of it is seen from outside. What can only
be seen from inside, faults that are made on purpose: inside.py.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from supervisor.environments import Environment
from tests.e2e.client import Client, Reply, connect
from tests.e2e.module import Installation, Module
from tests.fakes.hub_server import COMMIT, hub_server
from tests.tiny_model import Shape
from tests.tiny_safetensors import make_speaker, make_tiny_mamba, make_tiny_safetensors
from tests.wheelhouse import CHECKOUT, wait_until

pytestmark = [pytest.mark.foreign, pytest.mark.timeout(240)]

SAME_WORDS: Final[dict[str, Any]] = {"max_output_length": 40, "seed": 3}
LONG: Final[dict[str, Any]] = {"max_output_length": 4000, "extra": {"ignore_eos": True}}
"""Some seconds of talk, so that whatever happens to it happens in its middle."""
OPTIONS: Final = {"threads": 1, "context_length": 2048, "device": "cpu"}
TALK_S: Final = 60.0
"""The first load imports a gigabyte."""
SPOKEN: Final = "é€😀"
THINKING: Final = (
    "{%- for message in messages -%}{{ message.role }}: {{ message.content }}{%- endfor -%}assistant: "
    "{%- if enable_thinking is defined and not enable_thinking -%}<think>\n\n</think>\n\n{%- endif -%}"
)
STRICT: Final = "{%- if messages | length > 1 -%}{{ raise_exception('one message at most') }}{%- endif -%}Hi"


@pytest.fixture(scope="module")
def models(place: Installation) -> Path:
    """HOME/models, with one of each kind."""
    folder = place.home / "models"
    make_tiny_safetensors(folder / "tiny", files=2)
    make_tiny_safetensors(folder / "other", seed=8)
    make_tiny_safetensors(folder / "base", template=None)
    make_tiny_safetensors(folder / "strict", template=STRICT)
    make_tiny_safetensors(folder / "thinker", template=THINKING)
    make_speaker(folder / "speaker", SPOKEN)
    make_tiny_mamba(folder / "mamba")
    return folder


@pytest.fixture(scope="module")
def module(place: Installation, models: Path) -> Iterator[Module]:
    with Module(place, variables={"HF_HUB_CACHE": str(place.home / "no hub")}) as running:
        yield running


@pytest.fixture
async def local(module: Module) -> AsyncIterator[Client]:
    """A connection that has the model."""
    async with connect(module) as client:
        await loaded(client)
        yield client


async def load(client: Client, model: str = "tiny", **options: Any) -> dict[str, Any]:
    return await client.load(
        "transformers", preload_model_id=model, options={**OPTIONS, **options}, timeout_s=TALK_S
    )


async def loaded(client: Client, model: str = "tiny", **options: Any) -> dict[str, Any]:
    done = await load(client, model, **options)
    assert done["is_error"] is False, done
    return done


async def say(client: Client, text: str = "Hello", **params: Any) -> Reply:
    return await client.say(text, params=params, timeout_s=TALK_S)


async def said_by(module: Module, model: str, options: dict[str, Any] | None = None, **params: Any) -> Reply:
    """One reply of another model."""
    async with connect(module) as client:
        await loaded(client, model, **(options or {}))
        return await say(client, **params)


# ---- loading


async def test_a_load_says_what_is_there_and_what_it_took(module: Module) -> None:
    async with connect(module, seed=True) as client:
        done = await loaded(client)
        assert done["models_count"] == 7
        assert done["timings_ms"]["model"] is not None
        names = (await client.ask({"type": "get_models"}, "get_models_done"))["models"]
        assert names[0] == "tiny"
        assert {"base", "mamba", "other"} < set(names)


async def test_a_load_tells_how_far_it_is(module: Module) -> None:
    async with connect(module) as client:
        done = await client.load(
            "transformers", preload_model_id="other", options=OPTIONS, progress=True, timeout_s=TALK_S
        )
        assert done["is_error"] is False, done
        told = [m["message"] for m in client.received if m["type"] == "load_progress"]
    assert told
    assert all(message.startswith(("reading other", "loading other")) for message in told), told


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"context_length": "long"}, "INVALID_REQUEST", "options.context_length must be a whole number"),
        ({"device": "cuda:63"}, "UNSUPPORTED", "finds no cuda:63 here"),
        ({"quantization": "4bit"}, "UNSUPPORTED", "needs the packages bitsandbytes and accelerate"),
        ({"revision": "../up"}, "INVALID_REQUEST", "options.revision must be a commit"),
    ],
    ids=["context", "device", "quantization", "revision"],
)
async def test_an_option_that_cannot_be_had_is_refused(
    module: Module, options: dict[str, Any], name: str, words: str
) -> None:
    async with connect(module) as client:
        done = await load(client, **options)
    assert done["error_name"] == name
    assert words in done["message"]


async def test_an_unknown_option_is_a_warning(module: Module) -> None:
    async with connect(module) as client:
        done = await loaded(client, gpu_layers=3)
    assert "gpu_layers" in json.dumps(done["warnings"])


async def test_a_missing_model_is_an_invalid_model(module: Module) -> None:
    async with connect(module) as client:
        done = await load(client, "tinny")
        assert (done["error_name"], "near ones: tiny" in done["message"]) == ("INVALID_MODEL", True)
        done = await load(client, "zz/zzzz")
        assert (done["error_name"], "quirk download" in done["message"]) == ("INVALID_MODEL", True)


@pytest.mark.parametrize(
    ("damage", "name", "words"),
    [
        ("weights", "INVALID_MODEL", "is not whole"),
        ("config", "INVALID_MODEL", "config.json that is no JSON"),
        ("architecture", "INVALID_MODEL", "cannot load"),
        ("layers", "INVALID_MODEL", "of its weights are missing"),
        ("template", "INVALID_MODEL", "load with options.transcript"),
        ("code", "UNSUPPORTED", "trust_remote_code"),
    ],
)
async def test_a_folder_that_is_no_model_says_so(
    module: Module, models: Path, tmp_path: Path, damage: str, name: str, words: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models / "other", broken)
    _damage(broken, damage)
    async with connect(module) as client:
        done = await load(client, str(broken))
        assert (done["error_name"], words in done["message"]) == (name, True), done["message"]
        await loaded(client)
        assert (await say(client, **SAME_WORDS)).code == "SUCCESS"


def _damage(folder: Path, what: str) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if what == "weights":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
        return
    if what == "template":
        make_tiny_safetensors(folder, template="{% if %}")
        return
    if what == "architecture":
        config |= {"architectures": ["Nothing"], "model_type": "nothing"}
    if what == "layers":
        config |= {"num_hidden_layers": 3}
    if what == "code":
        config |= {
            "model_type": "nothing",
            "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
        }
        (folder / "code.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    text = "{" if what == "config" else json.dumps(config)
    (folder / "config.json").write_text(text, encoding="utf-8")


async def test_a_model_that_cannot_fit_says_what_would(module: Module, tmp_path: Path) -> None:
    make_tiny_safetensors(tmp_path / "vast", shape=Shape(context=1 << 30))
    async with connect(module) as client:
        done = await load(client, str(tmp_path / "vast"), context_length=1 << 30)
        assert done["error_name"] == "OUT_OF_MEMORY"
        assert "try options.context_length of" in done["message"]
        await loaded(client, str(tmp_path / "vast"))


async def test_a_model_comes_from_the_hub_where_the_operator_allows_it(
    place: Installation, models: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in (models / "other").iterdir()}
    local = place.home / "venvs.local.toml"
    with hub_server({**files, "code.py": b"raise SystemExit"}) as hub:
        quirks = f'download = true\nhub = "{hub.endpoint}"\n'
        local.write_text(f"[provider.transformers.quirks]\n{quirks}", encoding="utf-8")
        with Module(place, variables={"HF_HUB_CACHE": str(tmp_path / "hub")}) as running:
            async with connect(running) as client:
                await loaded(client, "org/repo")
                assert (await say(client, **SAME_WORDS)).code == "SUCCESS"
    with Module(place, variables={"HF_HUB_CACHE": str(tmp_path / "hub")}) as running:
        async with connect(running) as client:  # the hub has gone, and what it gave is here
            await loaded(client, "org/repo", revision=COMMIT)
            assert (await say(client, **SAME_WORDS)).code == "SUCCESS"
    local.unlink()
    assert not [asked for asked in hub.asked if "code.py" in asked[1]], "nothing that runs was fetched"


# ---- replies


async def test_a_reply_is_streamed_and_one_seed_says_the_same(local: Client) -> None:
    reply = await say(local, **SAME_WORDS)
    assert len(reply.chunks) > 1
    assert all(reply.chunks), "the first text is text, and none is empty"
    assert (reply.end["finish_reason"], reply.end["model"]) == ("length", "tiny")
    assert reply.end["usage"]["output_tokens"] == 40
    whole = await local.say(params=SAME_WORDS, stream=False, timeout_s=TALK_S)
    assert whole.end["response"] == reply.text
    assert (await say(local, **{**SAME_WORDS, "seed": 4})).text != reply.text


async def test_a_neighbour_does_not_change_what_a_seed_says(local: Client, module: Module) -> None:
    alone = (await say(local, **SAME_WORDS)).text
    async with connect(module) as other:
        await loaded(other)
        talking = await other.generate(params=LONG)
        await other.chunk(talking)
        assert (await say(local, **SAME_WORDS)).text == alone
        await other.interrupt()
        await other.end(talking)


async def test_parameters_of_sampling_are_heeded(local: Client) -> None:
    cold = (await say(local, max_output_length=30, temperature=0.0)).text
    greedy = [(await say(local, max_output_length=30, top_k=1, seed=seed)).text for seed in (1, 2)]
    narrow = (await say(local, max_output_length=30, min_p=1.0)).text
    first = (await say(local, max_output_length=30, top_p=0.0)).text
    assert greedy == [cold, cold]
    assert narrow == first == cold
    penalised = (await say(local, max_output_length=30, temperature=0.0, frequency_penalty=2.0)).text
    assert len(set(penalised)) > len(set(cold))
    repeated = (await say(local, max_output_length=30, temperature=0.0, repetition_penalty=2.0)).text
    assert repeated != cold


async def test_what_has_no_place_here_is_a_warning(local: Client) -> None:
    reply = await say(local, max_output_length=5, response_format={"type": "json_object"}, extra={"beams": 4})
    names = json.dumps(reply.end["warnings"])
    assert "response_format" in names
    assert "extra.beams" in names


async def test_a_stop_string_is_not_in_the_reply(local: Client) -> None:
    whole = (await say(local, **SAME_WORDS)).text
    reply = await say(local, **SAME_WORDS, stop_tokens=[whole[20:22]])
    assert (reply.text, reply.end["finish_reason"]) == (whole[: whole.index(whole[20:22])], "stop")


async def test_a_token_id_ends_the_reply(local: Client) -> None:
    whole = (await say(local, **SAME_WORDS)).text
    letter = next(one for one in whole[5:] if one.isascii() and one not in whole[:5])
    stop_id = 3 + ord(letter)  # a byte's token; before them come three signs
    reply = await say(local, **SAME_WORDS, stop_tokens=[stop_id])
    assert (reply.text, reply.end["finish_reason"]) == (whole[: whole.index(letter)], "stop")


async def test_letters_of_several_tokens_come_whole(module: Module) -> None:
    reply = await said_by(module, "speaker", max_output_length=31, temperature=0.0)
    assert reply.chunks == [*(SPOKEN * 3), "é"], (
        "31 tokens: nine to a round, and of the last letter one of three"
    )


async def test_a_model_without_a_template_continues_a_transcript(module: Module) -> None:
    reply = await said_by(module, "base", max_output_length=10, seed=2)
    assert reply.end["usage"]["input_tokens"] == len("User: Hello\nAssistant:")
    assert not reply.text[:1].isspace()


async def test_a_model_that_may_think_is_told_not_to_unless_it_is_asked(module: Module) -> None:
    async with connect(module) as client:
        await loaded(client, "thinker")
        quick = await say(client, max_output_length=3)
        asked = await say(client, max_output_length=3, reasoning_effort="low")
    assert quick.end["usage"]["input_tokens"] > asked.end["usage"]["input_tokens"], (
        "an empty block of thinking"
    )
    assert asked.end["usage"]["output_tokens"] > 3, "thinking does not count as text"


async def test_a_template_that_refuses_the_messages_says_why(module: Module) -> None:
    messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user")]
    async with connect(module) as client:
        await loaded(client, "strict")
        reply = await client.say(messages=messages, timeout_s=TALK_S)
        assert (reply.code, "one message at most" in reply.end["message"]) == ("INVALID_PROMPT", True)
        await loaded(client, "strict", transcript=True)
        assert (await client.say(messages=messages, params=SAME_WORDS, timeout_s=TALK_S)).code == "SUCCESS"


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(local: Client) -> None:
    reply = await say(local, "word " * 600)
    assert reply.code == "CONTEXT_TOO_LONG"
    assert "3019 tokens" in reply.end["message"]
    assert "2048" in reply.end["message"]


async def test_a_reply_ends_where_the_context_does(module: Module) -> None:
    reply = await said_by(module, "tiny", {"context_length": 256}, **LONG)
    assert reply.end["finish_reason"] == "length"
    usage = reply.end["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == 256


async def test_a_second_turn_reuses_the_first(local: Client) -> None:
    history = [{"role": "user", "content": "Tell me a story about a lighthouse, please. " * 4}]
    first = await local.say(messages=history, params={"max_output_length": 20}, timeout_s=TALK_S)
    history += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "Go on."}]
    second = await local.say(messages=history, params={"max_output_length": 5}, timeout_s=TALK_S)
    assert second.end["usage"]["cached_input_tokens"] >= first.end["usage"]["input_tokens"] - 32


# ---- several at once, and ends


async def test_an_interrupt_ends_a_reply_and_frees_the_engine(local: Client) -> None:
    request = await local.generate(params=LONG)
    await local.chunk(request)
    await local.interrupt()
    reply = await local.end(request)
    assert reply.code == "INTERRUPT"
    assert "upstream_closed_ms" in reply.end
    assert (await say(local, **SAME_WORDS)).code == "SUCCESS"


async def test_an_interrupt_in_a_long_prompt_does_not_wait_for_its_end(module: Module) -> None:
    async with connect(module) as client:
        await loaded(client, context_length=8192)
        request = await client.generate("x" * 8000, params={"max_output_length": 1})
        await client.interrupt()
        assert (await client.end(request)).code == "INTERRUPT"
        assert (await say(client, **SAME_WORDS)).code == "SUCCESS"


async def test_two_clients_are_served_at_once(local: Client, module: Module) -> None:
    async with connect(module) as other:
        await loaded(other)
        requests = [(client, await client.generate(params=LONG)) for client in (local, other)]
        for client, request in requests:
            await client.chunk(request)
        for client, request in requests:
            await client.interrupt()
            assert (await client.end(request)).code == "INTERRUPT"


async def test_more_requests_than_places_are_all_served(local: Client) -> None:
    params = {"max_output_length": 30, "extra": {"ignore_eos": True}}
    requests = [await local.generate(f"Hello {i}", params=params) for i in range(6)]
    replies = [await local.end(request, timeout_s=TALK_S) for request in requests]
    assert [reply.end["usage"]["output_tokens"] for reply in replies] == [30] * 6


async def test_a_request_for_another_model_waits_for_its_turn(local: Client) -> None:
    names = ("tiny", "other", "tiny")
    requests = [await local.generate(params={**SAME_WORDS, "model_id": name}) for name in names]
    replies = [await local.end(request, timeout_s=TALK_S) for request in requests]
    assert [reply.end["model"] for reply in replies] == list(names)
    assert replies[0].text == replies[2].text != replies[1].text


async def test_a_model_that_no_batch_can_hold_is_served_one_by_one(module: Module) -> None:
    async with connect(module) as client:
        await loaded(client, "mamba")
        texts = [(await say(client, **SAME_WORDS)).text for _ in range(2)]
        assert texts[0] == texts[1] != ""
        talking = await client.generate(params=LONG)
        await client.chunk(talking)
        waiting = await client.generate(params=SAME_WORDS)
        await client.interrupt(talking)
        assert (await client.end(talking)).code == "INTERRUPT"
        assert (await client.end(waiting, timeout_s=TALK_S)).text == texts[0]


async def test_a_killed_worker_comes_back_with_the_model(local: Client, module: Module) -> None:
    request = await local.generate(params=LONG)
    await local.chunk(request)
    (worker,) = module.workers()
    worker.kill()
    reply = await local.end(request, timeout_s=TALK_S)
    assert reply.code in ("WORKER_CRASHED", "OUT_OF_MEMORY")
    assert (await say(local, **SAME_WORDS)).code == "SUCCESS"
    assert psutil.pid_exists(module.workers()[0].pid)


async def test_a_connection_that_goes_takes_its_reply_and_the_model_along(module: Module) -> None:
    async with connect(module) as client:
        await loaded(client)
        request = await client.generate(params=LONG)
        await client.chunk(request)
        (worker,) = module.workers()
        with_model = worker.num_threads()
        await client.vanish()
    await asyncio.to_thread(wait_until, lambda: worker.num_threads() < with_model, "the end of the engine")


async def test_a_load_without_the_environment_names_the_command(place: Installation, tmp_path: Path) -> None:
    with Module(Installation(place.checkout, tmp_path / "empty hôme", place.wheels)) as running:
        async with connect(running) as client:
            done = await client.load("hf-local")
    assert done["error_name"] == "PROVISION_FAILED"
    assert "python install.py --llm transformers" in done["message"]


# ---- from inside


@pytest.mark.parametrize("case", ["memory", "fault", "cycles", "kinds", "choices"])
def test_from_inside(transformers: Environment, models: Path, case: str) -> None:
    argv = [
        str(transformers.python),
        "-I",
        str(CHECKOUT / "tests" / "heavy" / "inside.py"),
        case,
        str(models),
    ]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
