"""What a scrape reads, held against the reference parser of the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from supervisor.commands import Outcome
from supervisor.errors import Failure
from supervisor.health import STATES, ModuleHealth, WorkerHealth
from supervisor.metrics import CONTENT_TYPE, FIRST_TOKEN_MS, TOTAL_MS, Metrics
from supervisor.version import VERSION
from workers.codes import Code

MODULE = ModuleHealth(
    uptime_s=12.5,
    clients=3,
    memory_bytes=25_000_000,
    cpu_s=1.25,
    lag_s=0.004,
    lost_lines={"stderr": 7, "file": 0},
)
WORKERS = [
    WorkerHealth(
        "groq",
        "ready",
        41,
        uptime_s=9.5,
        restarts=2,
        deaths=3,
        open_requests=4,
        finished_requests=5,
        condition="well",
        heartbeat_ms=0.5,
        memory_bytes=34_000_000,
        cpu_s=0.75,
    ),
    WorkerHealth("demo", "down"),
]
DROPPED = {"it does not read": 2, "no pong": 1}


class Page:
    """A parsed page."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, Metric] = {f.name: f for f in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        """The one sample of that name and those labels."""
        (found,) = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return found

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of each sample of that name."""
        samples = [s for family in self.families.values() for s in family.samples]
        return [dict(sample.labels) for sample in samples if sample.name == name]


def page(
    metrics: Metrics | None = None,
    module: ModuleHealth = MODULE,
    workers: Sequence[WorkerHealth] = WORKERS,
    dropped: Mapping[str, int] = DROPPED,
) -> Page:
    return Page((metrics or Metrics()).text(module, workers, dropped))


def ended(*outcomes: Outcome, provider: str = "groq") -> Metrics:
    metrics = Metrics()
    for outcome in outcomes:
        metrics.ended(provider, outcome)
    return metrics


def failed(code: Code, **fields: Any) -> Outcome:
    return Outcome(Failure(code, "It failed."), **fields)


def test_every_metric_has_a_help_and_a_type_and_the_name_that_its_type_wants() -> None:
    found = page(ended(Outcome(timings_ms={"first_token": 1, "total": 2})))
    assert len(found.families) > 20
    for family in found.families.values():
        assert family.documentation.endswith("."), family.name
        assert family.name.startswith("waifu_llm_")
        if family.type == "counter":
            assert f"# TYPE {family.name}_total counter" in found.text
            assert {sample.name for sample in family.samples} <= {f"{family.name}_total"}
        else:
            assert family.type in ("gauge", "histogram"), family.name
            assert not family.name.endswith("_total")


def test_the_page_is_one_block_a_metric_and_ends_its_last_line() -> None:
    text = page(ended(Outcome())).text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert text.endswith("\n")
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_generations_are_counted_by_provider_and_code() -> None:
    metrics = ended(Outcome(), Outcome(), failed(Code.RATE_LIMITED), failed(Code.SHUTTING_DOWN))
    metrics.ended("demo", failed(Code.INTERRUPT))
    found = page(metrics)
    assert found.value("waifu_llm_requests_total", provider="groq", code="SUCCESS") == 2
    assert found.value("waifu_llm_requests_total", provider="groq", code="RATE_LIMITED") == 1
    assert found.value("waifu_llm_requests_total", provider="groq", code="SHUTTING_DOWN") == 1
    assert found.value("waifu_llm_requests_total", provider="demo", code="SUCCESS") == 0
    assert found.value("waifu_llm_requests_total", provider="demo", code="INTERRUPT") == 1
    assert len(found.labels("waifu_llm_requests_total")) == 5


@pytest.mark.parametrize("code", list(Code))
def test_every_code_can_be_counted(code: Code) -> None:
    found = page(ended(failed(code)))
    assert found.value("waifu_llm_requests_total", provider="groq", code=code.name) == 1


HISTOGRAMS = {
    "first_token": ("waifu_llm_first_token_seconds", FIRST_TOKEN_MS),
    "total": ("waifu_llm_request_seconds", TOTAL_MS),
}


@pytest.mark.parametrize("timing", HISTOGRAMS.keys())
def test_a_histogram_is_cumulative_up_to_infinity(timing: str) -> None:
    name, bounds_ms = HISTOGRAMS[timing]
    values_ms = [0, *bounds_ms, bounds_ms[-1] + 1, 10**9]
    found = page(ended(*(Outcome(timings_ms={timing: value}) for value in values_ms)))
    buckets = [s for s in found.families[name].samples if s.name == f"{name}_bucket"]
    edges = [sample.labels["le"] for sample in buckets]
    assert [float(edge) for edge in edges[:-1]] == [bound / 1000 for bound in bounds_ms]
    assert edges[-1] == "+Inf"
    assert [sample.value for sample in buckets] == [
        *(sum(value <= bound for value in values_ms) for bound in bounds_ms),
        len(values_ms),
    ]
    assert found.value(f"{name}_count", provider="groq") == len(values_ms)
    assert found.value(f"{name}_sum", provider="groq") == pytest.approx(sum(values_ms) / 1000)


def test_buckets_are_fine_below_the_second_in_which_a_character_must_speak() -> None:
    assert sum(bound <= 1_000 for bound in FIRST_TOKEN_MS) > len(FIRST_TOKEN_MS) / 2
    assert TOTAL_MS[-1] == 600_000


def test_a_failure_has_no_total_and_keeps_the_first_token_that_it_had() -> None:
    found = page(ended(failed(Code.INTERRUPT, timings_ms={"first_token": 300, "total": 900}), Outcome()))
    assert found.value("waifu_llm_first_token_seconds_count", provider="groq") == 1
    assert found.value("waifu_llm_request_seconds_count", provider="groq") == 0


def test_tokens_are_counted_where_they_are_reported_and_nothing_else_of_usage_is() -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "cached_input_tokens": 4, "reasoning_tokens": 2}
    found = page(ended(Outcome(usage=usage), Outcome(usage={"input_tokens": 1, "made_up": 9}), Outcome()))
    assert found.value("waifu_llm_input_tokens_total", provider="groq") == 11
    assert found.value("waifu_llm_output_tokens_total", provider="groq") == 5
    assert found.value("waifu_llm_cached_input_tokens_total", provider="groq") == 4
    assert found.value("waifu_llm_reasoning_tokens_total", provider="groq") == 2
    assert "made_up" not in found.text


def test_a_counter_never_goes_down_and_takes_any_whole_number() -> None:
    found = page(ended(Outcome(usage={"input_tokens": -5, "output_tokens": 10**30})))
    assert found.value("waifu_llm_input_tokens_total", provider="groq") == 0
    assert found.value("waifu_llm_output_tokens_total", provider="groq") == 10**30


def test_retries_are_counted() -> None:
    found = page(ended(Outcome(retries=1), failed(Code.UNREACHABLE, retries=1), Outcome()))
    assert found.value("waifu_llm_retries_total", provider="groq") == 2


def test_a_model_is_no_label() -> None:
    assert "a-model-of-mine" not in page(ended(Outcome(model="a-model-of-mine"))).text


def test_a_worker_is_told_of_in_base_units() -> None:
    found = page()
    values = {
        "up": 1,
        "uptime_seconds": 9.5,
        "restarts_total": 2,
        "deaths_total": 3,
        "open_requests": 4,
        "resident_memory_bytes": 34_000_000,
        "cpu_seconds_total": 0.75,
        "heartbeat_seconds": 0.0005,
    }
    for name, value in values.items():
        assert found.value(f"waifu_llm_worker_{name}", provider="groq") == value, name
    assert found.value("waifu_llm_worker_up", provider="demo") == 0


def test_what_is_not_known_of_a_worker_is_no_sample() -> None:
    found = page()
    for name in ("resident_memory_bytes", "cpu_seconds_total", "heartbeat_seconds"):
        assert found.labels(f"waifu_llm_worker_{name}") == [{"provider": "groq"}]


def test_a_worker_is_in_one_state() -> None:
    found = page()
    for provider, current in (("groq", "ready"), ("demo", "down")):
        ones = [
            state
            for state in STATES
            if found.value("waifu_llm_worker_state", provider=provider, state=state) == 1
        ]
        assert ones == [current]


def test_the_supervisor_tells_of_itself() -> None:
    found = page()
    values = {
        "clients": 3,
        "supervisor_uptime_seconds": 12.5,
        "supervisor_resident_memory_bytes": 25_000_000,
        "supervisor_cpu_seconds_total": 1.25,
        "supervisor_loop_lag_seconds": 0.004,
    }
    for name, value in values.items():
        assert found.value(f"waifu_llm_{name}") == value, name
    assert found.value("waifu_llm_build_info", version=VERSION) == 1
    assert found.value("waifu_llm_clients_dropped_total", reason="no pong") == 1
    assert found.value("waifu_llm_clients_dropped_total", reason="it does not read") == 2
    assert found.value("waifu_llm_log_lines_lost_total", sink="stderr") == 7
    assert found.value("waifu_llm_log_lines_lost_total", sink="file") == 0


def test_a_module_that_did_nothing_yet_has_a_page_that_parses() -> None:
    found = page(module=ModuleHealth(0.0), workers=(), dropped={})
    assert found.labels("waifu_llm_supervisor_resident_memory_bytes") == []
    assert found.value("waifu_llm_clients") == 0


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\nb", "a\\nb", "ä漢"])
def test_a_labels_value_is_escaped(odd: str) -> None:
    found = page(ended(Outcome(), provider=odd), dropped={odd: 1})
    assert found.value("waifu_llm_requests_total", provider=odd, code="SUCCESS") == 1
    assert found.value("waifu_llm_clients_dropped_total", reason=odd) == 1
