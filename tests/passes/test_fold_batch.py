"""Leading axes of one operand become rows: what comes before and after a product folds with it, and bits stay."""

from __future__ import annotations

import pytest

from breccia.ir.ops import MatmulOp, QuantizeOp, ReshapeOp
from breccia.ir.rewriting import kernels
from breccia.ir.types import ScaledType, TensorType
from breccia.passes import default_pipeline
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import UPPER, capabilities, kernel_ops, lowered, parsed, validated

RECIPES = {
    "mx": ("#breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 1, 32]>", "#pmx"),
    "nv": ("#breccia.recipe<f4E2M1FN, f32 per [all, all, all], f8E4M3FN per [1, 1, 16]>", "#exact"),
    "blocks": ("#breccia.recipe<f8E4M3FN, f32 per [1, 1, 32]>", "#exact"),
    "row": ("#breccia.recipe<f8E4M3FN, f32 per [1, 1, all]>", "#exact"),
    "tensor": ("#breccia.recipe<f8E4M3FN, f32 per [all, all, all]>", "#exact"),
    "uint4": ("#breccia.recipe<ui4, f16 per [1, 1, 32], zero ui4>", "#breccia.policy<>"),
}
SHAPES = ["B, S", "2, S", "B, 3", "1, S", "B, 1"]


def layer(shape: str, recipe: str, policy: str) -> str:
    """Norm, cast, product, bias, activation, residual and another cast, on [.., 64]."""
    x, y = f"!breccia.tensor<[{shape}, 64], bf16>", f"!breccia.scaled<[{shape}, 64], bf16, {recipe}>"
    return f"""
func.func @layer(%x: {x}, %w: !breccia.scaled<[64, 64], bf16, #mxt>, %b: !breccia.tensor<[64], f32>,
                 %s: !breccia.tensor<[{shape}, 1], f32>) -> ({y}, {x}) {{
  %xf = breccia.convert %x : f32
  %sq = breccia.unary square %xf
  %t = breccia.reduce sum %sq axis [2]
  %n = breccia.binary div %xf, %t
  %nb = breccia.convert %n : bf16
  %q = breccia.quantize %nb policy {policy} to {recipe}
  %p = breccia.matmul %q, %w
  %pb = breccia.binary add %p, %b
  %g = breccia.unary relu %pb
  %h = breccia.binary mul %g, %s
  %r = breccia.binary add %h, %xf
  %y = breccia.convert %r : bf16
  %yq = breccia.quantize %y policy {policy} to {recipe}
  func.return %yq, %y : {y}, {x}
}}"""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RECIPES)
def test_bits_stay_and_nothing_of_three_axes_is_computed(name: str, shape: str) -> None:
    recipe, policy = RECIPES[name]
    after = validated("fold-batch", layer(shape, recipe, policy), sizes={"B": 3, "S": 5})
    for op in after.walk():
        if op.name.startswith("breccia.") and not isinstance(op, ReshapeOp):
            assert all(len(r.type.shape) < 3 for r in op.results if isinstance(r.type, TensorType | ScaledType)), (
                f"{op} has leading axes"
            )


@pytest.mark.parametrize("target", ["numpy", "triton:sm_90", "triton:sm_100"])
def test_kernels_are_those_of_matrices(target: str) -> None:
    recipe, policy = RECIPES["mx"]
    many = lowered(layer("B, S", recipe, policy), UPPER, target)
    one = lowered(layer("M, 1", recipe, policy), UPPER, target)
    assert kernel_ops(many) == kernel_ops(one)
    assert [k.kernel_name for k in kernels(many)] == ["rowwise_0", "gemm_0"]


def product(a: str, b: str, out: str, after: str = "", result: str = "%y") -> str:
    return f"""
func.func @f(%a: !breccia.tensor<[{a}], f32>, %b: !breccia.tensor<[{b}], f32>, %t: !breccia.tensor<[S, 8], f32>)
    -> !breccia.tensor<[{out}], f32> {{
  %y = breccia.matmul %a, %b
  {after}
  func.return {result} : !breccia.tensor<[{out}], f32>
}}"""


@pytest.mark.parametrize(
    "text",
    [
        product("B, S, 16", "B, 16, 8", "B, S, 8"),
        product("B, S, 16", "1, 16, 8", "B, S, 8"),
        product("4, 16", "B, 16, 8", "B, 4, 8"),
        product("S, 16", "16, 8", "S, 8"),
        product("0, S, 16", "16, 8", "0, S, 8"),
        # A table for all of the batch joins the product's kernel, which it could not if the product were folded.
        product("B, S, 16", "16, 8", "B, S, 8", "%z = breccia.binary add %y, %t", "%z"),
    ],
)
def test_other_products_stay(text: str) -> None:
    module = lowered(text, ["fold-batch"])
    assert not [op for op in module.walk() if isinstance(op, ReshapeOp)]
    assert print_shapes(module) == print_shapes(parsed(text))


def print_shapes(module: object) -> list[str]:
    return [str(op.out.type) for op in module.walk() if isinstance(op, MatmulOp)]  # type: ignore[attr-defined]


def test_four_axes_fold_and_reductions_of_others_stay_outside() -> None:
    text = """
func.func @f(%a: !breccia.tensor<[B, 2, S, 16], f32>, %b: !breccia.tensor<[16, 8], f32>)
    -> (!breccia.tensor<[B, 2, S, 8], f32>, !breccia.tensor<[B, 2, 1, 8], f32>) {
  %y = breccia.matmul %a, %b
  %z = breccia.unary exp %y
  %r = breccia.reduce max %z axis [2]
  func.return %z, %r : !breccia.tensor<[B, 2, S, 8], f32>, !breccia.tensor<[B, 2, 1, 8], f32>
}"""
    after = validated("fold-batch", text, sizes={"B": 3, "S": 5})
    assert print_shapes(after) == ["!breccia.tensor<[B * 2 * S, 8], f32>"]


def test_products_one_after_the_other_meet_without_reshapes() -> None:
    text = """
func.func @f(%a: !breccia.tensor<[B, S, 16], f32>, %b: !breccia.tensor<[16, 8], f32>, %c: !breccia.tensor<[8, 4], f32>)
    -> !breccia.tensor<[B, S, 4], f32> {
  %y = breccia.matmul %a, %b
  %z = breccia.unary relu %y
  %r = breccia.matmul %z, %c
  func.return %r : !breccia.tensor<[B, S, 4], f32>
}"""
    after = validated("fold-batch", text, sizes={"B": 3, "S": 5})
    assert sum(isinstance(op, ReshapeOp) for op in after.walk()) == 2


@pytest.mark.parametrize(
    ("target", "name", "rank"),
    [("triton:sm_90", "blocks", 2), ("triton:sm_90", "mx", 3), ("triton:sm_100", "blocks", 3), ("numpy", "blocks", 3)],
)
def test_a_cast_folds_alone_where_scales_are_to_lie_by_columns(target: str, name: str, rank: int) -> None:
    recipe, policy = RECIPES[name]
    out = f"!breccia.scaled<[B, S, 64], bf16, {recipe}>"
    text = f"""
func.func @f(%x: !breccia.tensor<[B, S, 64], bf16>) -> {out} {{
  %q = breccia.quantize %x policy {policy} to {recipe}
  func.return %q : {out}
}}"""
    after = validated("fold-batch", text, target, sizes={"B": 3, "S": 5})
    (cast,) = [op for op in after.walk() if isinstance(op, QuantizeOp)]
    assert isinstance(cast.out.type, ScaledType)
    assert cast.out.type.rank == rank


def test_stochastic_rounding_stays_where_it_is() -> None:
    policy = "#breccia.policy<rounding = stochastic>"
    text = f"""
func.func @f(%x: !breccia.tensor<[B, S, 64], f32>, %s: !breccia.tensor<[], i64>, %w: !breccia.tensor<[64, 8], f32>)
    -> !breccia.tensor<[B, S, 8], f32> {{
  %q = breccia.quantize %x, %s policy {policy} to {RECIPES["blocks"][0]}
  %y = breccia.matmul %q, %w
  func.return %y : !breccia.tensor<[B, S, 8], f32>
}}"""
    after = validated("fold-batch", text, sizes={"B": 3, "S": 5})
    assert print_shapes(after) == ["!breccia.tensor<[B * S, 8], f32>"]
    (cast,) = [op for op in after.walk() if isinstance(op, QuantizeOp)]
    assert isinstance(cast.out.type, ScaledType)
    assert cast.out.type.rank == 3


@pytest.mark.parametrize("target", ["numpy", "triton:sm_90", "triton:sm_100", "pallas:v6e", "metal"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_pipeline_keeps_what_its_passes_promise(name: str, target: str) -> None:
    module = parsed(layer("B, S", *RECIPES[name]), target)
    validate_pipeline(module, default_pipeline(capabilities(target)), sizes=[{"B": 3, "S": 5}])


def test_what_enters_and_leaves_groups_of_counted_rows_folds_too() -> None:
    recipe, policy = RECIPES["blocks"]
    text = f"""
func.func @f(%x: !breccia.tensor<[3, M, 64], f32>, %w: !breccia.tensor<[3, 64, 32], f32>, %c: !breccia.tensor<[3], i32>)
    -> !breccia.scaled<[3, M, 32], bf16, {recipe}> {{
  %q = breccia.quantize %x policy {policy} to {recipe}
  %r = breccia.reshape %q to [M * 3, 64]
  %y = breccia.grouped_matmul %r, %w, %c each M
  %b = breccia.convert %y : bf16
  %o = breccia.reshape %b to [3, M, 32]
  %f = breccia.convert %o : f32
  %g = breccia.unary relu %f
  %h = breccia.convert %g : bf16
  %p = breccia.quantize %h policy {policy} to {recipe}
  func.return %p : !breccia.scaled<[3, M, 32], bf16, {recipe}>
}}"""
    after = validated("fold-batch", text, sizes={"M": 5})
    assert [str(op.args[0].type) for op in after.walk() if isinstance(op, ReshapeOp)] == [
        "!breccia.tensor<[3, M, 64], f32>",
        "!breccia.scaled<[M * 3, 32], bf16, #breccia.recipe<f8E4M3FN, f32 per [1, 32]>>",
    ]
    kernels_after = kernel_ops(lowered(text))
    assert list(kernels_after) == ["rowwise_0", "grouped_0"]
    assert kernels_after["grouped_0"][-1] == "convert_layout"
