"""`coarsen`: one program wherever that is possible, one dot for each product, and the same meaning."""

from __future__ import annotations

import pytest

from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import kernels
from breccia.passes.coarsen import Coarsen
from breccia.passes.explode import Explode
from breccia.passes.schedule import Schedule
from breccia.passes.tile import Tile
from breccia.testing.validate import validate_pipeline
from tests.passes.kernel_cases import CASES, SMALL_SIZES

LEFT = {
    "grouped, counted": ["e"],
    "1x128@mainloop x 128x128@mainloop Mx576x300": ["k"],
    "1x128@mainloop x 128x128@mainloop 1x96x33": ["k"],
    "1x128@mainloop x 128x128@operand Mx200x33": ["k"],
    "w.T, mainloop": ["k"],
    "w.T, one tile of rows and of k": ["n"],
    "slice and concat": ["m"],
    "grouped": ["e"],
    "grouped, with a bias": ["e"],
    "grouped, mainloop": ["e", "k"],
}
"""Dimensions that stay: scaled partial sums, scales that meet all rows, rows that views cut, groups."""


def coarsened(case: str) -> list[KernelOp]:
    # The tiled kernel stands for the whole one here, whose agreement test_tile holds.
    source = CASES[case]()
    for step in (Explode(), Schedule(), Tile()):
        step.run(source)
    return kernels(validate_pipeline(source, [Coarsen()], sizes=SMALL_SIZES, kinds=("normal", "exact", "zeros", "nan")))


@pytest.mark.parametrize("case", CASES)
def test_coarse_kernels_mean_the_same(case: str) -> None:
    kernel = coarsened(case)[0]
    assert [d.name for d in kernel.tiles.grid] == LEFT.get(case, [])
    dots = [op for _, region in kernel.named_regions() for op in region.block.ops if op.name.startswith("breccia.dot")]
    assert len(dots) <= 1


def test_one_program_needs_no_loop() -> None:
    (kernel,) = coarsened("mxfp8@operand x mxfp8.T@operand Mx96x70")
    assert [name for name, _ in kernel.named_regions()] == ["finish"]
    names = [op.name.removeprefix("breccia.") for op in kernel.finish.block.ops]
    assert [name for name in names if name in ("full", "binary", "dot")] == ["binary", "binary", "dot"]


def test_scales_that_stood_for_a_tile_are_repeated() -> None:
    (kernel,) = coarsened("1x128@mainloop x 128x128@mainloop Mx576x300")
    expands = [op for op in kernel.step.block.ops if op.name == "breccia.expand"]
    assert [(op.by.data, op.to.data) for op in expands] == [((128,), (300,))]  # type: ignore[attr-defined]


def test_groups_stay_one_by_one() -> None:
    (kernel,) = coarsened("grouped")
    (window,) = kernel.tiles.outputs
    assert window.segment is not None
    assert [str(b) for b in window.block] == ["T", "70"]
