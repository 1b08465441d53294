"""What a load tells beyond what every adapter's does: options that are none, keys that nothing checks.

All else of workers/http_adapter.py is held for every adapter by tests/workers/adapters/test_contract.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.bound import bound, load_only
from tests.fakes.openai_server import OpenAIServer
from workers.adapter import AdapterError, LoadRequest
from workers.codes import Code


async def test_an_option_that_is_no_text_is_told() -> None:
    async with OpenAIServer() as server:
        adapter = bound(
            server.base_url, {"models_path": "/list?version={version}"}, options={"version": ["1"]}
        )
        with pytest.raises(AdapterError) as caught:
            await load_only(adapter)
        await adapter.close()
    assert (caught.value.code, caught.value.message) == (
        Code.INVALID_REQUEST,
        "the option version must be a text",
    )


@pytest.mark.parametrize(
    ("quirks", "key", "verify", "told"),
    [
        pytest.param({"models_open": True}, "k", True, True, id="an open list"),
        pytest.param({"models_path": ""}, "k", True, True, id="no list"),
        pytest.param({}, "k", True, False, id="a list that needs the key"),
        pytest.param({"models_open": True}, None, True, False, id="no key"),
        pytest.param({"models_open": True}, "k", False, False, id="no check wanted"),
        pytest.param(
            {"models_open": True, "key_check_path": "/key"}, "k", True, False, id="checked elsewhere"
        ),
    ],
)
async def test_a_key_that_nothing_checked_is_told(
    quirks: dict[str, Any], key: str | None, verify: bool, told: bool
) -> None:
    async with OpenAIServer() as server:
        adapter = bound(server.base_url, quirks, key=key)
        loaded = await load_only(adapter, LoadRequest(verify=verify))
        await adapter.close()
    assert [warning.name for warning in loaded.warnings] == ["KEY_NOT_CHECKED"] * told
