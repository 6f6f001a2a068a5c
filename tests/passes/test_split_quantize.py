"""Splitting scales off quantizations: errors with a way out, and NaN and infinity as before."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.errors import UnsupportedError
from breccia.ir.ops import QuantizeOp, ReduceOp
from breccia.ir.rewriting import location
from breccia.passes.split_quantize import SplitQuantize
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import lowered, parsed, passes


def program(recipe: str, shape: str = "[M, 48]", policy: str = "#exact", dtype: str = "bf16") -> str:
    type_ = f"!breccia.scaled<{shape}, {dtype}, {recipe}>"
    return (
        f"func.func @f(%x: !breccia.tensor<{shape}, {dtype}>) -> {type_} {{\n"
        f"  %q = breccia.quantize %x policy {policy} to {recipe}\n  func.return %q : {type_}\n}}"
    )


E4M3, INT8, FP4 = "f8E4M3FN", "i8", "f4E2M1FN"


@pytest.mark.parametrize("nonfinite", ["poison", "saturate"])
@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        (f"#breccia.recipe<{E4M3}, f32 per [all, all]>", "[M, 48]"),
        (f"#breccia.recipe<{INT8}, f32 per [all, all]>", "[M, 48]"),
        (f"#breccia.recipe<{FP4}, bf16 per [all, all]>", "[M, 48]"),
        (f"#breccia.recipe<{E4M3}, f32 per [all, 1]>", "[M, 48]"),
        (f"#breccia.recipe<{E4M3}, f32 per [all, 16]>", "[M, 48]"),
        (f"#breccia.recipe<{FP4}, f32 per [all, all], {E4M3} per [1, 16]>", "[M, 40]"),
        (f"#breccia.recipe<{FP4}, f32 per [all, all], {E4M3} per [16, 16]>", "[M, 40]"),
        (f"#breccia.recipe<{FP4}, f32 per [1, all, all], {E4M3} per [1, 1, 16]>", "[2, M, 20]"),
    ],
)
def test_bits_stay(recipe: str, shape: str, nonfinite: str) -> None:
    module = parsed(program(recipe, shape, f"#breccia.policy<nonfinite = {nonfinite}>"))
    out = validate_pipeline(module, passes(["split-quantize"]), sizes=[{"M": 5}, {"M": 17}])
    assert any(isinstance(op, ReduceOp) for op in out.walk())


@pytest.mark.parametrize("rule", ["floor", "ceil", "even"])
def test_bits_stay_with_powers_of_two(rule: str) -> None:
    policy = f"#breccia.policy<scale = {rule}, zero_scale = smallest>"
    module = parsed(program(f"#breccia.recipe<{E4M3}, f8E8M0FNU per [all, all]>", policy=policy))
    validate_pipeline(module, passes(["split-quantize"]), sizes=[{"M": 5}])


def split_error(module: ModuleOp) -> str:
    for number, op in enumerate(module.walk()):
        op.location = location("model.py", number)
    with pytest.raises(UnsupportedError) as caught:
        SplitQuantize().run(module)
    return str(caught.value)


def test_zero_points_need_blocks_within_rows() -> None:
    text = split_error(parsed(program("#breccia.recipe<ui4, f32 per [all, 1], zero ui4>")))
    assert text.startswith("model.py:")
    assert "quantize of [M, 48]" in text
    assert "a zero point or offset needs the range of its block" in text
    assert "let blocks run along the last axis" in text


def test_inner_level_across_a_tiled_axis() -> None:
    text = split_error(parsed(program(f"#breccia.recipe<{FP4}, f32 per [all, all], {E4M3} per [all, 16]>")))
    assert "the scales of level 1 span a tiled axis and depend on the level outside" in text
    assert "finite blocks inside" in text


def test_partial_blocks_across_a_tiled_axis() -> None:
    text = split_error(parsed(program(f"#breccia.recipe<{E4M3}, f32 per [all, 32]>")))
    assert "48 is not known to be a multiple of 32" in text
    assert "use a static multiple of 32" in text


def test_asymmetric_within_rows_is_left_alone() -> None:
    module = lowered(program("#breccia.recipe<ui4, f32 per [1, 16], zero ui4>"), ["split-quantize"])
    assert [type(op) for op in module.walk() if op.name.startswith("breccia")] == [QuantizeOp]


def test_seeds_stay_last() -> None:
    type_ = "!breccia.scaled<[M, 48], f32, #tensor>"
    text = (
        f"func.func @f(%x: !breccia.tensor<[M, 48], f32>, %s: !breccia.tensor<[], i64>) -> {type_} {{\n"
        "  %q = breccia.quantize %x, %s policy #breccia.policy<rounding = stochastic> to #tensor\n"
        f"  func.return %q : {type_}\n}}"
    )
    out = validate_pipeline(parsed(text), passes(["split-quantize"]), sizes=[{"M": 5}])
    (op,) = [op for op in out.walk() if isinstance(op, QuantizeOp)]
    assert [a.name_hint for a in op.args] == ["x", "q_scale", "s"]
