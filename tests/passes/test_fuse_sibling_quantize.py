"""Quantizations of one value: adjacent, in one group, and bit-equal, also through a transpose."""

from __future__ import annotations

import pytest

from breccia.ir.ops import QuantizeOp, TransposeOp
from breccia.ir.rewriting import kernels
from breccia.ir.types import ScaledType
from breccia.passes import TRACED
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import PROGRAMS, lowered, parsed, passes


def test_rowwise_and_columnwise_become_one_kernel() -> None:
    module = lowered(PROGRAMS["siblings"], ("fuse-sibling-quantize",))
    block = next(iter(module.ops)).regions[0].block  # type: ignore[union-attr]
    found = [op for op in block.ops if isinstance(op, QuantizeOp)]
    assert len(found) == 2
    assert found[0].next_op is found[1]
    assert {str(op.attributes["breccia.group"]) for op in found} == {'"quantize0"'}
    types = [op.out.type for op in found]
    assert [t.recipe.blocks(2)[0] for t in types if isinstance(t, ScaledType)] == [(1, 32), (32, 1)]
    (kernel,) = kernels(lowered(PROGRAMS["siblings"], (*TRACED, "partition")))
    assert sum(isinstance(op, QuantizeOp) for op in kernel.body.block.ops) == 2


@pytest.mark.parametrize("order", ["[1, 0, 2]", "[2, 0, 1]", "[0, 2, 1]"])
@pytest.mark.parametrize(
    "recipe", ["#breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 1, 4]>", "#breccia.recipe<i8, f32 per [1, 1, all]>"]
)
def test_any_permutation(order: str, recipe: str) -> None:
    shape = {"[1, 0, 2]": "[6, 5, 7]", "[2, 0, 1]": "[7, 5, 6]", "[0, 2, 1]": "[5, 7, 6]"}[order]
    policy = "#pmx" if "E8M0" in recipe else "#exact"
    a, b = f"!breccia.scaled<[5, 6, 7], f32, {recipe}>", f"!breccia.scaled<{shape}, f32, {recipe}>"
    text = f"""
func.func @f(%x: !breccia.tensor<[5, 6, 7], f32>) -> ({a}, {b}) {{
  %q = breccia.quantize %x policy {policy} to {recipe}
  %t = breccia.transpose %x {order}
  %r = breccia.quantize %t policy {policy} to {recipe}
  func.return %q, %r : {a}, {b}
}}"""
    out = validate_pipeline(parsed(text), passes(["fuse-sibling-quantize"]))
    (turn,) = [op for op in out.walk() if isinstance(op, TransposeOp)]
    assert isinstance(turn.args[0].owner, QuantizeOp), "the transpose comes after the quantization"


def test_a_lone_transposed_quantization_stays() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[64, M], f32, #mx> {
  %t = breccia.transpose %x [1, 0]
  %r = breccia.quantize %t policy #pmx to #mx
  func.return %r : !breccia.scaled<[64, M], f32, #mx>
}"""
    module = lowered(text, ["fuse-sibling-quantize"])
    assert [type(op) for op in module.walk() if op.name.startswith("breccia")] == [TransposeOp, QuantizeOp]
