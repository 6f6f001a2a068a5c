"""Traced programs whose emitted Triton text is kept in golden files, and that are compiled without a device."""

from __future__ import annotations

from functools import partial

from xdsl.dialects.builtin import ModuleOp

from breccia import formats, recipes
from breccia.ir.capabilities import set_target
from breccia.ir.dialect import parse_module
from breccia.ir.pipeline import Pipeline
from breccia.ir.types import ScaledType, scaled
from breccia.passes import default_pipeline
from breccia.recipes import Recipe
from breccia.target import find
from tests.targets.numpy.programs import SOFTMAX, normalized, quantized, x_type

FP8_BLOCKS = ("float8_1x128", "float8_128x128")
"""Recipes of an activation and of a weight."""


def weight(recipe: Recipe, k: int, n: int, *, rows: bool) -> ScaledType:
    """A weight whose blocks run along k: stored as [n, k] with `rows`, else as [k, n]."""
    return scaled((n, k), formats.float32, recipe) if rows else scaled((k, n), formats.float32, recipe.along(0, 2))


def gemm(
    a: str, b: str = "", *, k: int = 1024, n: int = 512, rows: bool = True, bias: bool = False, typical: int = 0
) -> str:
    """The product of a [M, k] and a weight, as bf16. a, b: recipes' names; an empty `a` is a plain bf16 activation.

    typical: the rows to expect, for which tiles are chosen.
    """
    w = weight(recipes.find(b or a), k, n, rows=rows)
    left = x_type(recipes.find(a), k) if a else f"!breccia.tensor<[M, {k}], bf16>"
    lines = ["%t = breccia.transpose %w [1, 0]"] if rows else []
    lines.append(f"%p = breccia.matmul %x, {'%t' if rows else '%w'}")
    if bias:
        lines += ["%h = breccia.binary add %p, %bias", "%g = breccia.unary silu %h"]
    lines.append(f"%y = breccia.convert {'%g' if bias else '%p'} : bf16")
    body = "\n  ".join(lines)
    more = f", %bias : !breccia.tensor<[1, {n}], f32>" if bias else ""
    hint = f' attributes {{breccia.typical = "M={typical}"}}' if typical else ""
    return f"""
func.func @gemm(%x : {left}, %w : {w}{more}) -> !breccia.tensor<[M, {n}], bf16>{hint} {{
  {body}
  func.return %y : !breccia.tensor<[M, {n}], bf16>
}}"""


def batch(*, k: int = 1024, n: int = 512) -> str:
    """A [B, S, k] activation, cast to FP8, times a weight [n, k]; silu and a cast after it."""
    recipe, shapes = "#breccia.recipe<f8E4M3FN, f32 per [1, 1, 128]>", [f"[B, S, {size}]" for size in (k, n)]
    out = f"!breccia.scaled<{shapes[1]}, f32, {recipe}>"
    w = weight(recipes.find("float8_128x128"), k, n, rows=True)
    return f"""
func.func @batch(%x : !breccia.tensor<{shapes[0]}, bf16>, %w : {w}) -> {out}
    attributes {{breccia.typical = "B=4 S=1024"}} {{
  %q = breccia.quantize %x policy #breccia.policy<> to {recipe}
  %t = breccia.transpose %w [1, 0]
  %p = breccia.matmul %q, %t
  %g = breccia.unary silu %p
  %y = breccia.quantize %g policy #breccia.policy<> to {recipe}
  func.return %y : {out}
}}"""


def grouped(
    a: str = "float8_1x128", b: str = "float8_128x128", *, k: int = 512, n: int = 256, groups: int = 4,
    typical: int = 0, counted: int = 0,
) -> str:  # fmt: skip
    """Groups of rows, each times its own weight [n, k].

    typical: the rows to expect, of all groups. counted: the room of each group, of which some rows count.
    """
    w = scaled((groups, n, k), formats.float32, recipes.find(b))
    if counted:
        x, y = scaled((groups * counted, k), formats.float32, recipes.find(a)), f"[{groups * counted}, {n}]"
        return f"""
func.func @grouped(%x : {x}, %w : {w}, %counts : !breccia.tensor<[{groups}], i64>) -> !breccia.tensor<{y}, bf16> {{
  %t = breccia.transpose %w [0, 2, 1]
  %p = breccia.grouped_matmul %x, %t, %counts each {counted}
  %y = breccia.convert %p : bf16
  func.return %y : !breccia.tensor<{y}, bf16>
}}"""
    hint = f' attributes {{breccia.typical = "M={typical}"}}' if typical else ""
    return f"""
func.func @grouped(%x : {x_type(recipes.find(a), k)}, %w : {w}, %offsets : !breccia.tensor<[{groups + 1}], i32>)
    -> !breccia.tensor<[M, {n}], bf16>{hint} {{
  %t = breccia.transpose %w [0, 2, 1]
  %p = breccia.grouped_matmul %x, %t, %offsets
  %y = breccia.convert %p : bf16
  func.return %y : !breccia.tensor<[M, {n}], bf16>
}}"""


def cast(name: str, k: int = 1024) -> str:
    """A bf16 activation encoded by a recipe."""
    recipe = recipes.find(name)
    return f"""
func.func @cast(%x : !breccia.tensor<[M, {k}], bf16>) -> {x_type(recipe, k)} {{
  %f = breccia.convert %x : f32
  %q = {quantized(recipe, "%f", k)}
  func.return %q : {x_type(recipe, k)}
}}"""


def dequantize(name: str, k: int = 1024) -> str:
    """An activation decoded to bf16."""
    return f"""
func.func @decode(%q : {x_type(recipes.find(name), k)}) -> !breccia.tensor<[M, {k}], bf16> {{
  %x = breccia.dequantize %q
  %y = breccia.convert %x : bf16
  func.return %y : !breccia.tensor<[M, {k}], bf16>
}}"""


fp8 = partial(gemm, *FP8_BLOCKS, bias=True)
"""The FP8 product that most models run, with bias and silu."""

GOLDEN: dict[str, tuple[str, str]] = {
    "gemm_float8_1x128": ("sm_90", fp8()),
    "gemm_float8_in_groups": ("sm_90", fp8(typical=4096)),
    "gemm_float8_in_turns": ("sm_90", fp8(typical=64, k=7168)),
    "gemm_int4_zero_point": ("sm_90", gemm("", "uint4_g128_f16")),
    "gemm_int4_few_rows": ("sm_90", gemm("", "uint4_g128_f16", typical=16)),
    "gemm_mxfp4_few_rows": ("sm_90", gemm("", "mxfp4", typical=64, bias=True)),
    "gemm_nvfp4": ("sm_100", gemm("nvfp4")),
    "gemm_mxfp8": ("gfx950", gemm("mxfp8_e4m3")),
    "gemm_float8_as_bytes": ("sm_80", fp8()),
    "grouped_float8": ("sm_90", grouped()),
    "grouped_float8_in_groups": ("sm_90", grouped(typical=4096)),
    "rms_norm": ("sm_90", normalized()),
    "cast_mxfp6": ("sm_90", cast("mxfp6_e3m2")),
    "softmax": ("sm_90", SOFTMAX.replace("N]", "200]")),
}
"""Name to (architecture, traced text)."""


def lowered(text: str, arch: str) -> ModuleOp:
    """The module after the whole pipeline for an architecture."""
    module = parse_module(text)
    capabilities = find(f"triton:{arch}").capabilities
    set_target(module, capabilities)
    Pipeline(default_pipeline(capabilities)).run(module)
    return module


def source(text: str, arch: str) -> str:
    """What the Triton target prints for traced IR."""
    return find(f"triton:{arch}").emit(lowered(text, arch))
