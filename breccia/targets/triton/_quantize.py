"""Text of the `@triton.jit` functions that quantize tiles: `breccia.numerics.quantize` in Triton's terms."""

from __future__ import annotations

from dataclasses import replace

from breccia.recipes import Policy, Recipe
from breccia.targets.triton import _affine
from breccia.targets.triton._casts import Library
from breccia.targets.triton._quantize_writer import Shape, Writer


def quantize(
    library: Library, recipe: Recipe, policy: Policy, shape: Shape, given: tuple[int, ...] = (), *, narrow: bool = False
) -> str:
    """The name of a function that quantizes a tile of `shape` (rank 1 to 3, powers of two).

    `f(x, *given_scales[, seed_hi, seed_lo, index])` returns the tuple that `results` names. x is float32, bfloat16 or
    float16, and 0 where the tile reaches beyond the tensor. `given` lists the levels whose scales are handed in: all
    outer ones, or all; as stored, in shapes that broadcast against the level's grid in the tile. Without them, the tile
    is the whole tensor. For stochastic rounding come the words of the key and each element's flat index. narrow: x is
    bfloat16 or float16, of which divisions take fewer steps.

    Raises UnsupportedError for blocks that the tile would cut, nonfinite="error", and scale formats without NaN.
    """
    return Writer(library, replace(recipe, policy=policy), shape, given, narrow).define(_affine.write)
