"""Programs of the conformance kit: formats, shapes, placements and epilogues, written as IR in traced form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from breccia import formats
from breccia.ir.attributes import PolicyAttr
from breccia.ir.capabilities import Capabilities
from breccia.ir.dims import Sym
from breccia.ir.types import ScaledType, scaled
from breccia.recipes import Recipe

Shape = tuple[int, int, int]
SHAPES: tuple[Shape, ...] = ((1, 64, 48), (5, 160, 24), (33, 96, 7))
"""(M, K, N): none of them a multiple of a usual tile, and K of partial blocks among them."""
EPILOGUES = ("none", "bias", "quantize")
"""What follows a product of two scaled operands: nothing; a bias and a rounding to bfloat16; a relu and the recipe."""


@dataclass(frozen=True)
class Program:
    """One generated program. `text` is IR in traced form; `placement` limits where scales may be applied.

    name: `dequantize`, `quantize`, `weight` (a product with one scaled side) or `product` (two). Programs without a
    product have neither placement nor epilogue.
    """

    name: str
    recipe: str
    shape: Shape
    placement: str
    text: str
    epilogue: str = ""

    @property
    def cell(self) -> tuple[str, str, str, str]:
        """What is claimed, whatever the shape: recipe, program, placement, epilogue."""
        return self.recipe, self.name, self.placement, self.epilogue


def programs(
    capabilities: Capabilities,
    recipes: Mapping[str, Recipe],
    shapes: Sequence[Shape] = SHAPES,
    epilogues: Sequence[str] = EPILOGUES,
) -> Iterator[Program]:
    """Decoding, encoding, and products with one and two scaled sides, with each placement that is claimed.

    >>> from breccia import recipes
    >>> chosen = {"mxfp4": recipes.find("mxfp4")}
    >>> some = programs(Capabilities("mine", placements=("operand",)), chosen, [(5, 64, 8)])
    >>> [(p.name, p.placement, p.epilogue) for p in some][2:4]
    [('weight', 'operand', 'none'), ('product', 'operand', 'none')]
    """
    for name, recipe in recipes.items():
        for shape in shapes:
            yield Program("dequantize", name, shape, "", _dequantize(recipe, shape))
            yield Program("quantize", name, shape, "", _quantize(recipe, shape))
            for placement in capabilities.placements:
                yield Program("weight", name, shape, placement, _weight_only(recipe, shape), "none")
                for epilogue in epilogues:
                    yield Program("product", name, shape, placement, _product(recipe, shape, epilogue), epilogue)


def _weight(recipe: Recipe, k: int, n: int) -> ScaledType:
    """A weight whose blocks run along k."""
    return scaled((k, n), formats.bfloat16, recipe.along(0, 2))


def _rows(recipe: Recipe, width: int) -> ScaledType:
    """An activation [M, width] whose blocks run along its rows."""
    return scaled((Sym("M"), width), formats.float32, recipe)


def _dequantize(recipe: Recipe, shape: Shape) -> str:
    _, k, _ = shape
    return f"""
func.func @f(%q : {_rows(recipe, k)}) -> !breccia.tensor<[M, {k}], f32> {{
  %x = breccia.dequantize %q
  func.return %x : !breccia.tensor<[M, {k}], f32>
}}"""


def _quantize(recipe: Recipe, shape: Shape) -> str:
    _, k, _ = shape
    out = _rows(recipe, k)
    return f"""
func.func @f(%x : !breccia.tensor<[M, {k}], f32>) -> {out} {{
  %q = breccia.quantize %x policy {PolicyAttr(recipe.policy)} to {out.encoding}
  func.return %q : {out}
}}"""


def _weight_only(recipe: Recipe, shape: Shape) -> str:
    _, k, n = shape
    return f"""
func.func @f(%x : !breccia.tensor<[M, {k}], f32>, %w : {_weight(recipe, k, n)}) -> !breccia.tensor<[M, {n}], f32> {{
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[M, {n}], f32>
}}"""


def _product(recipe: Recipe, shape: Shape, epilogue: str) -> str:
    _, k, n = shape
    bias = f", %b : !breccia.tensor<[1, {n}], f32>" if epilogue == "bias" else ""
    lines, out = _EPILOGUES[epilogue](recipe, n)
    body = "\n".join(f"  {line}" for line in ("%h = breccia.matmul %q, %w", *lines))
    return f"""
func.func @f(%q : {_rows(recipe, k)}, %w : {_weight(recipe, k, n)}{bias})
    -> {out} {{
{body}
  func.return %{"y" if lines else "h"} : {out}
}}"""


def _nothing(_recipe: Recipe, n: int) -> tuple[list[str], str]:
    return [], f"!breccia.tensor<[M, {n}], f32>"


def _bias(_recipe: Recipe, n: int) -> tuple[list[str], str]:
    lines = ["%g = breccia.binary add %h, %b", "%y = breccia.convert %g : bf16"]
    return lines, f"!breccia.tensor<[M, {n}], bf16>"


def _requantize(recipe: Recipe, n: int) -> tuple[list[str], str]:
    out = _rows(recipe, n)
    encode = f"%y = breccia.quantize %g policy {PolicyAttr(recipe.policy)} to {out.encoding}"
    return ["%g = breccia.unary relu %h", encode], str(out)


_EPILOGUES = {"none": _nothing, "bias": _bias, "quantize": _requantize}
