"""`swap-operands`: the transpose of a product, where the schedule says `operands = swapped`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import Capabilities, set_target
from breccia.ir.pipeline import Pipeline
from breccia.ir.printer import print_module
from breccia.ir.rewriting import kernels
from breccia.passes.explode import Explode
from breccia.passes.insert_masks import InsertMasks
from breccia.passes.legalize_windows import LegalizeWindows
from breccia.passes.schedule import Schedule
from breccia.passes.swap_operands import SwapOperands
from breccia.passes.tile import Tile
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import lost_locations, number_locations
from tests.passes.kernel_cases import CASES, PRODUCTS, SMALL_SIZES, product_name
from tests.passes.kernel_texts import SMALL

POWERS = replace(SMALL, name="test:powers", pow2_tiles=True)
SWAPPED = [
    *(product_name(row) for row in PRODUCTS if "mma" not in row[2] + row[3] and row[5] != "1"),
    "w.T packed", "bias, silu, quantize 1x128", "grouped, mainloop",
]  # fmt: skip
NOT_SWAPPED = "batched a, shared w", product_name(PRODUCTS[2])
"""More than matrices, and a product without a loop."""


def asked(source: ModuleOp, target: Capabilities = SMALL) -> ModuleOp:
    """A tiled module whose kernels all want their operands swapped."""
    set_target(source, target)
    for kernel in kernels(source):
        kernel.properties["schedule"] = ScheduleAttr((("operands", "swapped"),))
    Pipeline([Explode(), Schedule(), Tile()]).run(source)
    return source


@pytest.mark.parametrize("case", SWAPPED)
def test_swapped_operands_mean_the_same(case: str) -> None:
    source = asked(CASES[case]())
    number_locations(source)
    before = print_module(source)
    after = validate_pipeline(source, [SwapOperands()], sizes=SMALL_SIZES)
    assert print_module(after) != before
    assert lost_locations(after) == []


@pytest.mark.parametrize("case", [SWAPPED[0], SWAPPED[3], "w.T packed", "bias, silu, quantize 1x128"])
def test_padded_tiles_mean_the_same(case: str) -> None:
    source = asked(CASES[case](), POWERS)
    passes = [SwapOperands(), LegalizeWindows(), InsertMasks()]
    validate_pipeline(source, passes, sizes=SMALL_SIZES, kinds=("normal", "nan"))


@pytest.mark.parametrize("case", NOT_SWAPPED)
def test_other_products_stay_as_they_are(case: str) -> None:
    source = asked(CASES[case]())
    text = print_module(source)
    Pipeline([SwapOperands()]).run(source)
    assert print_module(source) == text


def test_kernels_that_do_not_ask_stay_as_they_are() -> None:
    source = CASES[SWAPPED[0]]()
    set_target(source, SMALL)
    Pipeline([Explode(), Schedule(), Tile()]).run(source)
    text = print_module(source)
    Pipeline([SwapOperands()]).run(source)
    assert print_module(source) == text
