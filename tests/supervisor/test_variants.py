"""Environments in several variants: which one is in use, what a person may ask for, what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from supervisor import cli, environments, variants
from supervisor.catalog import load_catalog
from supervisor.environments import Environment
from supervisor.errors import SettingsError
from supervisor.home import Home
from supervisor.lockfile import marker_environment
from supervisor.probes import Place
from supervisor.providers import USUAL, EnvSpec, Variant
from supervisor.trials import _variant_flags
from tests.supervisor.places import mark
from tests.wheelhouse import CHECKOUT

HERE: Final = marker_environment()["sys_platform"]
ELSEWHERE: Final = "sys_platform == 'nowhere'"
SPEC: Final = EnvSpec(
    "big",
    ("torch",),
    ("torch",),
    heavy=True,
    others=(
        Variant("cpu", "big-cpu", about="the processor", size_mb={HERE: 249}),
        Variant("strange", "big-strange", about="another machine", where=ELSEWHERE),
    ),
    about="everything",
)
PLAIN: Final = EnvSpec("plain", (), ())


def test_without_a_choice_the_usual_one_is_in_use(home: Home) -> None:
    assert variants.in_use(home, SPEC).name == USUAL
    assert variants.lock_of(home, Path("checkout"), SPEC) == Path("checkout", "locks", "big.txt")
    assert variants.lock_of(home, Path("checkout"), PLAIN) == Path("checkout", "locks", "plain.txt")


def test_the_one_that_was_made_last_is_in_use_until_it_is_removed(home: Home) -> None:
    variants.choose(home, SPEC, SPEC.others[0])
    assert variants.lock_of(home, Path("checkout"), SPEC).name == "big-cpu.txt"
    variants.choose(home, SPEC, SPEC.variants[0])
    assert variants.in_use(home, SPEC).name == USUAL
    variants.choose(home, SPEC, SPEC.others[0])
    variants.forget(home, SPEC)
    assert variants.in_use(home, SPEC).name == USUAL


def test_an_environment_without_variants_leaves_no_note(home: Home) -> None:
    variants.choose(home, PLAIN, PLAIN.variants[0])
    variants.forget(home, PLAIN)
    assert not home.variants.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"big": 7}', '{"big": "gone"}'])
def test_a_note_that_says_nothing_is_none(home: Home, text: str) -> None:
    home.variants.write_text(text, encoding="utf-8")
    assert variants.in_use(home, SPEC).name == USUAL


def test_a_variant_is_asked_for_by_its_name() -> None:
    assert variants.named(SPEC, "cpu").lock == "big-cpu"
    with pytest.raises(SettingsError, match="it has default, cpu, strange"):
        variants.named(SPEC, "gpu")


def test_a_variant_without_files_for_this_machine_is_refused_before_anything_is_done() -> None:
    with pytest.raises(SettingsError, match="no files for this machine") as caught:
        variants.named(SPEC, "strange")
    assert ELSEWHERE in caught.value.message


def test_a_download_is_as_large_as_the_table_says() -> None:
    assert variants.download_bytes(SPEC.others[0]) == 249_000_000
    assert variants.download_bytes(SPEC.others[1]) == 0


# The real table.


@pytest.fixture
def made(home: Home, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The locks that install.py would have made, instead of making them."""
    mark(home, "supervisor")
    locks: list[str] = []

    def make(self: cli._Commands, recipe: Any) -> Environment:
        locks.append(recipe.lock.name)
        return mark(home, recipe.lock.stem)

    monkeypatch.setattr(cli._Commands, "_make", make)
    monkeypatch.setattr(variants, "named", lambda spec, name: _of(spec, name))
    return locks


def _of(spec: EnvSpec, name: str) -> Variant:
    """On whatever machine the tests run."""
    found = spec.variant(name)
    assert found is not None
    return found


def install(home: Home, *flags: str) -> int:
    return cli.main(["--home", str(home.root), "--installer", "pip", *flags])


def test_a_variant_is_made_used_and_removed(
    home: Home, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(home, "--llm", "transformers", "--variant", "cpu") == 0
    assert made == ["transformers-cpu.txt"]
    said = capsys.readouterr()
    assert "transformers, variant cpu (" in said.err
    assert "to download" in said.err
    assert "transformers: installed" in said.out
    assert install(home, "--llm", "transformers") == 0, "what is there is taken"
    assert made == ["transformers-cpu.txt"]
    spec = load_catalog(CHECKOUT / "venvs.toml").envs["transformers"]
    found = environments.find(home, variants.lock_of(home, CHECKOUT, spec))
    assert found is not None
    assert found.name == "transformers-cpu"


def test_a_variant_of_nothing_is_refused_before_anything_is_made(
    home: Home, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(home, "--llm", "groq", "--variant", "cpu") == 2
    assert "--variant goes with" in capsys.readouterr().err
    assert made == []


def test_without_a_variant_the_usual_one_is_made(home: Home, made: list[str]) -> None:
    assert install(home, "--llm", "transformers") == 0
    assert made == ["transformers.txt"]


def test_the_doctor_names_the_variant_that_was_made(home: Home) -> None:
    place = Place(home, CHECKOUT, {})
    assert _variant_flags(place, "transformers-cpu") == ("--variant", "cpu")
    assert _variant_flags(place, "transformers") == _variant_flags(place, "nothing") == ()


def test_every_variant_of_ours_says_what_it_is_for_and_what_it_costs() -> None:
    catalog = load_catalog(CHECKOUT / "venvs.toml")
    several = [spec for spec in catalog.envs.values() if spec.others]
    assert several
    for variant in (variant for spec in several for variant in spec.variants):
        assert variant.about
        assert variant.size_mb
        assert (CHECKOUT / "locks" / f"{variant.lock}.txt").is_file()
        assert catalog.env_of_lock(variant.lock) in several


def test_an_environment_suits_the_machines_that_its_marker_names() -> None:
    assert variants.suits(PLAIN)
    assert not variants.suits(EnvSpec("far", (), (), where=ELSEWHERE))
