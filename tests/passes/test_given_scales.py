"""Given scales do not leave a kernel again, except where a NaN may have changed them."""

from __future__ import annotations

import pytest

from breccia.ir.rewriting import kernels
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import UPPER, lowered, parsed, passes


def program(recipe: str, given: str = "") -> str:
    type_ = f"!breccia.scaled<[M, 48], f32, {recipe}>"
    operand, keyword, policy = (", %s", " given [0]", "<amax = static>") if given else ("", "", "<>")
    return f"""
func.func @f(%x: !breccia.tensor<[M, 48], f32>, %s: !breccia.tensor<[1, 1], f32>) -> {type_} {{
  %q = breccia.quantize %x{operand}{keyword} policy #breccia.policy{policy} to {recipe}
  func.return %q : {type_}
}}"""


@pytest.mark.parametrize(
    ("recipe", "given", "results"),
    [
        ("#breccia.recipe<f8E4M3FN, f32 per [all, all]>", "", 1),
        ("#breccia.recipe<f8E4M3FN, f32 per [all, all]>", "given", 1),
        ("#breccia.recipe<i8, f32 per [all, all]>", "", 1),
        ("#breccia.recipe<i8, f32 per [all, all]>", "given", 2),
        ("#breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>", "", 2),
    ],
)
def test_results_of_the_last_kernel(recipe: str, given: str, results: int) -> None:
    text = program(recipe, given)
    module = lowered(text, (*UPPER, "explode"))
    assert len(kernels(module)[-1].outs) == results
    validate_pipeline(lowered(text), passes(["explode"]), sizes=[{"M": 5}])


@pytest.mark.parametrize("element", ["f8E4M3FN", "i8", "f4E2M1FN"])
def test_tiles_of_a_quantization_by_its_own_amax(element: str) -> None:
    """Rows are walked in tiles, since no program but that of the scale itself gives the scale."""
    text = program(f"#breccia.recipe<{element}, f32 per [all, all]>")
    names = [*UPPER, "explode", "schedule", "tile"]
    out = validate_pipeline(parsed(text), passes(names), sizes=[{"M": 5}], kinds=("normal", "nan", "inf"))
    assert [d.name for d in kernels(out)[-1].tiles.grid] == ["m"]
