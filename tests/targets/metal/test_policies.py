"""Every rule by which tensors are encoded, in Metal: bit-equal to the interpreter, on values of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from breccia import formats, recipes
from breccia.errors import UnsupportedError
from breccia.ir.attributes import PolicyAttr
from breccia.ir.dialect import parse_module
from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint
from breccia.testing.conformance import callable_for, compare, lower
from breccia.testing.inputs import KINDS
from tests.targets.metal import shim
from tests.targets.numpy.programs import x_type

E4M3, E2M1, F32, F16, BF16 = (
    formats.float8_e4m3fn, formats.float4_e2m1fn, formats.float32, formats.float16, formats.bfloat16,
)  # fmt: skip
ROW32 = (1, 32)


def with_policy(name: str, **changes: object) -> Recipe:
    recipe = recipes.find(name)
    return replace(recipe, policy=replace(recipe.policy, **changes))


RULES: dict[str, Recipe] = {
    **{f"mxfp8 {rule}": with_policy("mxfp8_e4m3", scale=rule) for rule in ("floor", "ceil", "even")},
    **{f"mxfp4 {rule}": with_policy("mxfp4", scale=rule, zero_scale="one") for rule in ("floor", "even")},
    **{f"fp8 {way}": with_policy("float8_1x128", division=way) for way in ("reciprocal", "inverse")},
    **{f"fp8 {rounding}": with_policy("float8_1x128", rounding=rounding) for rounding in ("ties_away", "ties_zero")},
    "fp8 powers of two": with_policy("float8_1x128", scale="ceil"),
    "fp8 or infinity": with_policy("float8_e5m2_tensor", overflow="nan", max=40000.0),
    "fp8 saturate": with_policy("float8_1x128", nonfinite="saturate"),
    "fp8 floors": with_policy("float8_1x128", amax_min=1e-4, scale_min=2.0**-20),
    "fp8 columns": recipes.float8_1x128.along(0, 2),
    "fp4 half scales": Recipe(E2M1, (Level(F16, ROW32),)),
    "fp4 bfloat scales": Recipe(E2M1, (Level(BF16, (1, 24)),), policy=Policy(scale="ceil")),
    "nf4 ties away": with_policy("nf4", rounding="ties_away"),
    "uint4 zero point, fp8 scales": Recipe(formats.uint4, (Level(E4M3, ROW32),), ZeroPoint(formats.uint4)),
    "int8 zero point": Recipe(formats.int8, (Level(F32, ROW32),), ZeroPoint(formats.int8)),
    "uint8 offset": Recipe(formats.uint8, (Level(F32, ROW32),), None, Offset(F32)),
    "uint4 half offset": Recipe(formats.uint4, (Level(F16, ROW32),), None, Offset(F16)),
}
"""Recipes, each for a rule of its own."""


def encoding(recipe: Recipe, extra: str = "", operand: str = "%x") -> str:
    """The text of a program that encodes an activation of 96 columns."""
    out = x_type(recipe, 96)
    return f"""
func.func @f(%x : !breccia.tensor<[M, 96], f32>{extra}) -> {out} {{
  %q = breccia.quantize {operand} policy {PolicyAttr(recipe.policy)} to {out.encoding}
  func.return %q : {out}
}}"""


def held(text: str, kinds: tuple[str, ...], rows: tuple[int, ...] = (1, 5)) -> None:
    source, target = parse_module(text), shim.target()
    lowered, _ = lower(source, target)
    call = callable_for(lowered, target)
    for kind in kinds:
        for m in rows:
            outcome, detail = compare(source, call, {"M": m}, kind, strict=True)
            assert outcome == "equal", f"{kind}, M = {m}: {detail}\n{target.emit(lowered)}"


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str) -> None:
    held(encoding(RULES[name]), KINDS)


@pytest.mark.parametrize("recipe", ["float8_1x128", "mxfp4", "nf4", "uint4_g32_f16"])
def test_stochastic_rounding_goes_by_the_seed(recipe: str) -> None:
    chosen = with_policy(recipe, rounding="stochastic")
    held(encoding(chosen, ", %seed : !breccia.tensor<[], i64>", "%x, %seed"), ("normal", "ties"), (3, 9))


@pytest.mark.parametrize("recipe", ["float8_1x128", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("levels", [1, 2])
def test_given_scales(recipe: str, levels: int) -> None:
    """All scales, or the outer ones, come as arguments. NaN under given scales of an element without NaN is left out:
    `explode` hands such scales on as they came, on all targets, where `quantize` makes them NaN.
    """
    chosen = recipes.find(recipe)
    given = list(range(min(levels, len(chosen.levels))))
    types: list[str] = []
    for level, block in zip(chosen.levels, chosen.blocks(2), strict=True):
        sizes = [
            ("1" if b is None else rest if b == 1 else str(-(-96 // b))) for b, rest in zip(block, "M1", strict=True)
        ]
        types.append(f"!breccia.tensor<[{', '.join(sizes)}], {level.dtype.mlir}>")
    extra = "".join(f", %s{i} : {types[i]}" for i in given)
    names = "".join(f", %s{i}" for i in given)
    lost = len(given) == len(chosen.levels) and not chosen.element.has_nan
    kinds = ("normal", "zeros") if lost else ("normal", "zeros", "nan", "inf")
    held(encoding(chosen, extra, f"%x{names} given {given}"), kinds)


def test_a_policy_that_raises_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"nonfinite='error', and kernels cannot raise"):
        held(encoding(with_policy("float8_1x128", nonfinite="error")), ("normal",))


def test_float32_is_what_is_encoded() -> None:
    """Tiles that took some computing are kept: a product of values, encoded, is the same as in two programs."""
    out = x_type(recipes.mxfp4, 96)
    text = f"""
func.func @f(%x : !breccia.tensor<[M, 96], f32>, %gain : !breccia.tensor<[1, 96], f32>) -> {out} {{
  %y = breccia.binary mul %x, %gain
  %q = breccia.quantize %y policy {PolicyAttr(recipes.mxfp4.policy)} to {out.encoding}
  func.return %q : {out}
}}"""
    held(text, ("normal", "ties", "zeros"))
