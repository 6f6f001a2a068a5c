"""Kernels with other schedules than their default, interpreted on the CPU: the results are the same."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, by whichever module does so
torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia.frontend.tuning import Space, scheduled, spaces  # noqa: E402
from breccia.target import Entries  # noqa: E402
from tests.targets.triton import gluon  # noqa: E402
from tests.targets.triton.test_gluon import agree, multiply, scaled, values  # noqa: E402

SIZES = {"many rows": (300, 264, 640), "few rows": (40, 136, 640)}


def kind(entries: Entries) -> tuple[Any, ...]:
    """What a schedule differs in besides the shape of programs."""
    return tuple(entries.get(key, 1) for key in ("num_stages", "raster", "turns"))


def different(space: Space) -> list[Entries]:
    """Schedules in Gluon of which each has a shape, a number of stages or a raster that those before it had not."""
    seen: set[tuple[Any, ...]] = set()
    chosen: list[Entries] = []
    for entries in space.candidates:
        shape = tuple(entries.get(key) for key in ("groups", "waves_m", "waves_n", "block_n"))
        if "groups" in entries and not {shape, kind(entries)} <= seen:
            seen |= {shape, kind(entries)}
            chosen.append(entries)
    return chosen


@pytest.mark.parametrize("size", SIZES)
def test_results_do_not_depend_on_the_schedule(size: str) -> None:
    torch.manual_seed(0)
    m, n, k = SIZES[size]
    a, w = scaled("float8_1x128", m, k), scaled("float8_128x128", n, k)
    low = breccia.compile(multiply, target="triton:sm_90").lower(a, w)
    wanted = breccia.compile(multiply, target="numpy")(a, w).float()
    (space,) = spaces(low)
    tried = different(space)
    assert len(tried) >= 8
    sources = [scheduled(low, {space.key: entries}).emitted() for entries in tried]
    assert len(set(sources)) == len(sources)
    for entries, source in zip(tried, sources, strict=True):
        assert "gl.warp_specialize" in source
        for programs, seed in ((2, None), (3, 1)):
            tensors = [part for st in (a, w) for part in (st.data, *st.scales)]
            found = values(gluon.run(source, *tensors, programs=programs, seed=seed))
            assert agree(found, wanted), entries
