"""A model of random weights that calls a tool as soon as it speaks, as far as the engine's grammar wants it.

Its template tells it of tools in the manner of many: each call is a JSON object between two marks. The first
mark is made of letters that differ, which is what tests.tiny_model can make a model say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.tiny_gguf import make_tiny_gguf
from tests.tiny_model import STOP

__all__ = ["ENDS_WHEN_IT_MAY", "make_calling_model"]

ENDS_WHEN_IT_MAY: Final = {"logit_bias": [[STOP, 100]]}
"""In `extra`: the model ends its reply where the grammar lets it; else it goes on to the next call."""
_BEGINS: Final = "<use>\n"
_PROMPT_ENDS: Final = " "
_TEMPLATE: Final = """\
{%- if tools -%}<|from|>system: Tools:{%- for tool in tools %}
{{ tool | tojson }}{%- endfor %}
Call one with <use>
{"name": <name>, "arguments": <arguments>}
</use><|stop|>{%- endif -%}
{%- for message in messages -%}
{%- if message.role == "tool" -%}<|from|>user: <answer>
{{ message.content }}
</answer><|stop|>
{%- elif message.tool_calls -%}<|from|>assistant: {{ message.content or "" }}
{%- for call in message.tool_calls %}
<use>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</use>{%- endfor -%}<|stop|>
{%- else -%}<|from|>{{ message.role }}: {{ message.content }}<|stop|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|from|>assistant: {%- endif -%}
"""


def make_calling_model(path: Path) -> None:
    """Writes the model to `path`."""
    make_tiny_gguf(path, template=_TEMPLATE, says=_BEGINS, after=_PROMPT_ENDS)
