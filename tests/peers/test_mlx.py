"""MLX on the CPU: `mx.quantize` in all its modes, and `mx.dequantize`, which decodes what breccia encodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from breccia import formats, recipes
from breccia.recipes import Level, Offset, Policy, Recipe
from breccia.tensor import cast_array
from tests.peers.compare import Case, Parts, because, check, load, need, parts, without_minus_zero
from tests.peers.inputs import KINDS


@pytest.fixture(scope="module")
def peer() -> str:
    return need("mlx")


def to_mlx(x: np.ndarray) -> Any:
    mx = load("mlx.core")
    return mx.array(x.view(np.uint16)).view(mx.bfloat16) if x.dtype == ml_dtypes.bfloat16 else mx.array(x)


def from_mlx(array: Any) -> np.ndarray:
    mx = load("mlx.core")
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.array(array)


def codes(words: Any, bits: int) -> np.ndarray:
    """Codes from 32-bit words, the first one lowest."""
    octets = from_mlx(words).view(np.uint8)
    if bits == 8:
        return octets
    return np.stack([octets & 15, octets >> 4], -1).reshape(octets.shape[0], -1)


def affine(size: int, bits: int) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        mx = load("mlx.core")
        with mx.stream(mx.cpu):
            words, scales, biases = mx.quantize(to_mlx(x), size, bits)
            return {
                "scales": from_mlx(scales).astype(np.float32),
                "offsets": from_mlx(biases).astype(np.float32),
                "elements": codes(words, bits),
            }

    return run


def affine_recipe(size: int, bits: int) -> Recipe:
    element = formats.uint4 if bits == 4 else formats.uint8
    return Recipe(element, (Level(formats.float32, (1, size)),), offset=Offset(formats.float32))


def scaled(mode: str, bits: int, whole: bool = False) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        mx = load("mlx.core")
        with mx.stream(mx.cpu):
            values = to_mlx(x)
            if not whole:
                words, scales = mx.quantize(values, mode=mode)
                return {"scales": from_mlx(scales), "elements": codes(words, bits)}
            amax = mx.abs(values).max().astype(mx.float32)
            words, scales = mx.quantize(values, mode=mode, global_scale=amax)
            outer = from_mlx(amax) / np.float32(2688)
            return {"scales": from_mlx(scales), "outer scales": outer, "elements": codes(words, bits)}

    return run


def fp4(x: np.ndarray, recipe: Recipe) -> Parts:
    return without_minus_zero(parts(cast_array(x, recipe)))


ONE_LEVEL = Recipe(
    formats.float4_e2m1fn,
    (Level(formats.float8_e4m3fn, (1, 16)),),
    policy=Policy(rounding="ties_zero", zero_scale="zero"),
)
MXFP4 = recipes.mxfp4.with_policy(rounding="ties_zero", zero_scale="one")
MXFP8 = recipes.mxfp8_e4m3.with_policy(zero_scale="one")
NVFP4 = recipes.nvfp4.with_policy(rounding="ties_zero", zero_scale="zero")
NO_MINUS_ZERO = "-0 taken for +0"

NONFINITE = because("blocks with NaN or infinity have a NaN scale here, not in MLX", "nan", "inf")
WRAPS = {
    "subnormal": "the code of a scale below 2**-127 wraps to a large one in MLX; scales of float16 are computed in it"
}
NVFP4_DIFFERS = {
    **because("MLX multiplies by 2688 / amax, which is rounded", "normal", "ties", "zeros", "huge"),
    **because("scales that round to 0 are 0 in MLX, the smallest positive one here", "wide", "subnormal"),
    "nothing": "the scale of a tensor of zeros is 0 in MLX, 1 here",
    **because("NaN or infinity reach every block of MLX's tensor, their own block alone here", "nan", "inf"),
}
ONE_LEVEL_DIFFERS = NONFINITE | {
    **because("scales that round to 0 are 0 in MLX, the smallest positive one here", "wide", "subnormal"),
    "huge": "elements that overflow, as their scale saturates, become 0 in MLX, the largest one here",
}
EDGE = (
    "MLX makes the end of the range that is larger in magnitude exact, by scales of either sign; the recipe makes the "
    "lower end exact"
)
AFFINE_DIFFERS = because(EDGE, *KINDS)

CASES = [
    Case("mxfp4", "quantize, mxfp4", MXFP4, scaled("mxfp4", 4), NONFINITE | WRAPS, ours=fp4, note=NO_MINUS_ZERO),
    Case("mxfp8", "quantize, mxfp8", MXFP8, scaled("mxfp8", 8), NONFINITE | WRAPS),
    Case(
        "nvfp4_one_level", "quantize, nvfp4", ONE_LEVEL, scaled("nvfp4", 4), ONE_LEVEL_DIFFERS, ours=fp4,
        note=NO_MINUS_ZERO,
    ),
    Case(
        "nvfp4", "quantize, nvfp4, global_scale", NVFP4, scaled("nvfp4", 4, True), NVFP4_DIFFERS, ours=fp4,
        note=NO_MINUS_ZERO,
    ),
    *(
        Case(
            f"affine_g{size}_{bits}", f"quantize, affine, group of {size}, {bits} bits", affine_recipe(size, bits),
            affine(size, bits), AFFINE_DIFFERS, scales_as_x=True,
        )
        for bits in (4, 8) for size in (32, 64, 128)
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_encoding(case: Case, peer: str, golden: Any) -> None:
    check(case, peer, golden)
