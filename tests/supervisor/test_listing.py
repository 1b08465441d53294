"""The list of providers as a person sees it; the documents that are made of it: tests/test_readme.py."""

from __future__ import annotations

from supervisor.listing import listed
from supervisor.providers import Catalog, EnvSpec, Variant


def test_an_environment_with_variants_says_how_each_is_chosen() -> None:
    spec = EnvSpec(
        "big",
        (),
        (),
        heavy=True,
        about="all",
        others=(Variant("cpu", "big-cpu", about="less", size_mb={"linux": 249}),),
    )
    lines = list(listed(Catalog({}, {"big": spec, "plain": EnvSpec("plain", (), ())}), {}))
    assert "big, without --variant: all; to download: not known" in lines
    assert "big, --variant cpu: less; to download: linux 249 MB" in lines
    assert not [line for line in lines if line.startswith("plain,")]
