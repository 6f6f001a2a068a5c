"""Traced programs whose emitted text is kept in golden files, and run against the interpreter."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp

from breccia import formats, recipes
from breccia.ir.attributes import PolicyAttr
from breccia.ir.capabilities import set_target
from breccia.ir.dialect import parse_module
from breccia.ir.dims import Sym
from breccia.ir.pipeline import Pipeline
from breccia.ir.types import ScaledType, scaled
from breccia.passes import default_pipeline
from breccia.recipes import Recipe
from breccia.target import find


def x_type(recipe: Recipe, k: int) -> ScaledType:
    """An activation [M, k] whose blocks run along k."""
    return scaled((Sym("M"), k), formats.float32, recipe)


def w_type(recipe: Recipe, k: int, n: int) -> ScaledType:
    """A weight [k, n] whose blocks run along k."""
    return scaled((k, n), formats.float32, recipe.along(0, 2))


def quantized(recipe: Recipe, value: str, k: int) -> str:
    """The text of a `quantize`."""
    return f"breccia.quantize {value} policy {PolicyAttr(recipe.policy)} to {x_type(recipe, k).encoding}"


def product(name: str) -> str:
    """Two scaled operands, a bias, silu, bf16 out."""
    recipe = recipes.find(name)
    return f"""
func.func @product(%x : {x_type(recipe, 576)}, %w : {w_type(recipe, 576, 72)}, %bias : !breccia.tensor<[1, 72], f32>)
    -> !breccia.tensor<[M, 72], bf16> {{
  %p = breccia.matmul %x, %w
  %h = breccia.binary add %p, %bias
  %g = breccia.unary silu %h
  %y = breccia.convert %g : bf16
  func.return %y : !breccia.tensor<[M, 72], bf16>
}}"""


def normalized(recipe_name: str = "float8_1x128") -> str:
    """rms_norm and quantize: one kernel."""
    recipe = recipes.find(recipe_name)
    return f"""
func.func @normalized(%x : !breccia.tensor<[M, 192], bf16>, %gain : !breccia.tensor<[1, 192], f32>)
    -> {x_type(recipe, 192)} {{
  %xf = breccia.convert %x : f32
  %square = breccia.unary square %xf
  %total = breccia.reduce sum %square axis [1]
  %count = breccia.full 192.0 [1, 1] : f32
  %mean = breccia.binary div %total, %count
  %epsilon = breccia.full 1.0e-05 [1, 1] : f32
  %safe = breccia.binary add %mean, %epsilon
  %r = breccia.unary rsqrt %safe
  %n = breccia.binary mul %xf, %r
  %scaled = breccia.binary mul %n, %gain
  %q = {quantized(recipe, "%scaled", 192)}
  func.return %q : {x_type(recipe, 192)}
}}"""


def mlp(name: str = "mxfp8_e4m3") -> str:
    """Two products with a quantized activation between them, and the residual."""
    recipe = recipes.find(name)
    return f"""
func.func @mlp(%x : !breccia.tensor<[M, 96], bf16>, %w1 : {w_type(recipe, 96, 160)}, %w2 : {w_type(recipe, 160, 96)})
    -> !breccia.tensor<[M, 96], bf16> {{
  %xf = breccia.convert %x : f32
  %xq = {quantized(recipe, "%xf", 96)}
  %h = breccia.matmul %xq, %w1
  %g = breccia.unary gelu %h
  %gq = {quantized(recipe, "%g", 160)}
  %o = breccia.matmul %gq, %w2
  %s = breccia.binary add %o, %xf
  %y = breccia.convert %s : bf16
  func.return %y : !breccia.tensor<[M, 96], bf16>
}}"""


SOFTMAX = """
func.func @softmax(%x : !breccia.tensor<[M, N], f32>) -> !breccia.tensor<[M, N], f32> {
  %top = breccia.reduce max %x axis [1]
  %d = breccia.binary sub %x, %top
  %e = breccia.unary exp %d
  %total = breccia.reduce sum %e axis [1]
  %y = breccia.binary div %e, %total
  func.return %y : !breccia.tensor<[M, N], f32>
}"""

GOLDEN: dict[str, str] = {
    **{name: product(name) for name in (
        "float8_tensor", "float8_row", "float8_1x128", "float8_128x128", "mxfp8_e4m3", "nvfp4", "uint4_g128_f16",
    )},
    "rms_norm": normalized(),
    "mlp": mlp(),
    "softmax": SOFTMAX,
}  # fmt: skip


def lowered(text: str) -> ModuleOp:
    """The module after the whole pipeline for NumPy."""
    module = parse_module(text)
    capabilities = find("numpy").capabilities
    set_target(module, capabilities)
    Pipeline(default_pipeline(capabilities)).run(module)
    return module


def source(text: str) -> str:
    """What the NumPy target prints for traced IR."""
    return find("numpy").emit(lowered(text))
