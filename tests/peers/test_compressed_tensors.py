"""compressed-tensors: `calculate_qparams` and the compressors' codes, for its integer, FP8, NVFP4 and MX schemes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.recipes import Block, Level, Recipe
from breccia.tensor import cast_array
from tests.peers.compare import Case, Parts, because, check, load, need, parts
from tests.peers.torch_arrays import array_of, codes_of, nibbles_of, to_torch


@pytest.fixture(scope="module")
def peer() -> str:
    return need("compressed-tensors", "torch")


NARROW = "compressed-tensors divides in the dtype of x: float16 and bfloat16 are rounded twice"
EPSILON = "scales that are 0 become the epsilon of their dtype in compressed-tensors"
INFINITY = "a block with infinity has a NaN scale here, not in compressed-tensors"
NO_MINUS_ZERO = "-0 in x taken for +0"


def unsigned_zeros(x: np.ndarray, recipe: Recipe) -> Parts:
    return parts(cast_array(x + x.dtype.type(0), recipe))


def scheme(**arguments: Any) -> Any:
    return load("compressed_tensors.quantization").QuantizationArgs(**arguments)


def ranges(values: Any, block: Block) -> tuple[Any, Any]:
    """The smallest and the largest value of each block, as an observer finds them."""
    rows, columns = values.shape
    height, width = block[0] or rows, block[1] or columns
    blocks = values.reshape(rows // height, height, columns // width, width).transpose(1, 2)
    return blocks.amin((-1, -2)), blocks.amax((-1, -2))


def quantized(x: np.ndarray, block: Block, args: Any, dtype: Any = None) -> tuple[Any, Any, Any]:
    """(scales, zero points, elements)"""
    utils = load("compressed_tensors.quantization.utils")
    values = to_torch(x)
    scale, zero = utils.calculate_qparams(*ranges(values, block), args)
    elements = load("compressed_tensors.quantization.lifecycle.forward").quantize(values, scale, zero, args, dtype)
    return scale, zero, elements


# --- integers ---------------------------------------------------------------------------------------------------------


def integers(bits: int, block: Block, symmetric: bool, **strategy: Any) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        import torch

        args = scheme(num_bits=bits, type="int", symmetric=symmetric, **strategy)
        scale, zero, elements = quantized(x, block, args, torch.int8)
        scales = array_of(scale).astype(np.float32)
        codes = codes_of(elements)
        if symmetric:
            return {"scales": scales, "elements": codes & (1 << bits) - 1}
        # Ours are unsigned: codes and zero points are 8 more.
        return {"scales": scales, "elements": codes + 8 & 15, "zero points": codes_of(zero) + 8 & 15}

    return run


GROUP_DIFFERS = {
    **because(NARROW, "normal", "wide", "ties", "huge", "nan"),
    "subnormal": f"{NARROW}; {EPSILON}",
    "zeros": f"{EPSILON}; {NARROW}",
    "nothing": EPSILON,
    "inf": f"{INFINITY}; {NARROW}",
}
SUM = "compressed-tensors rounds after it has added the zero point, we before"
ZERO_POINT_DIFFERS = GROUP_DIFFERS | {
    "ties": f"{SUM}; {NARROW}",
    "subnormal": f"{SUM}; {NARROW}; {EPSILON}",
    **because(f"{EPSILON}, and zero points follow from 0 / 0", "zeros", "nothing"),
    "huge": "the range of a block overflows in compressed-tensors",
    "nan": f"zero points of NaN blocks differ, which decode to NaN alike; {NARROW}",
}


def group_case(size: int, symmetric: bool) -> Case:
    recipe = recipes.find(f"{'int4' if symmetric else 'uint4'}_g{size}_f32")
    run = integers(4, (1, size), symmetric, strategy="group", group_size=size)
    what = f"int, 4 bits, group of {size}, {'symmetric' if symmetric else 'asymmetric'}"
    return Case(recipe.name, what, recipe, run, GROUP_DIFFERS if symmetric else ZERO_POINT_DIFFERS, scales_as_x=True)


TENSOR8 = Recipe(formats.int8, (Level(formats.float32),), policy=recipes.int8_row.policy)
INTEGERS = [
    Case(
        "int8_row", "int, 8 bits, channel", recipes.int8_row, integers(8, (1, None), True, strategy="channel"),
        GROUP_DIFFERS, scales_as_x=True,
    ),
    Case(
        "int8_tensor", "int, 8 bits, tensor", TENSOR8, integers(8, (None, None), True, strategy="tensor"),
        {kind: why for kind, why in GROUP_DIFFERS.items() if kind not in ("subnormal", "nan")}, scales_as_x=True,
    ),
    *(group_case(size, symmetric) for size in (32, 64, 128) for symmetric in (True, False)),
]  # fmt: skip

# --- FP8 --------------------------------------------------------------------------------------------------------------


def float8(block: Block, **strategy: Any) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        import torch

        args = scheme(num_bits=8, type="float", symmetric=True, **strategy)
        scale, _, elements = quantized(x, block, args, torch.float8_e4m3fn)
        return {"scales": array_of(scale).astype(np.float32), "elements": codes_of(elements)}

    return run


def float8_case(name: str, what: str, **strategy: Any) -> Case:
    recipe = recipes.find(name)
    run = float8(recipe.blocks(2)[-1], **strategy)
    differs = GROUP_DIFFERS | {"wide": f"quotients that underflow to -0 become +0 in compressed-tensors; {NARROW}"}
    if name == "float8_tensor":
        del differs["nan"]
        differs["zeros"] = NARROW
    return Case(
        name, f"float, 8 bits, {what}", recipe, run, differs, scales_as_x=True, ours=unsigned_zeros, note=NO_MINUS_ZERO
    )


FLOAT8 = [
    float8_case("float8_tensor", "tensor", strategy="tensor"),
    float8_case("float8_row", "channel", strategy="channel"),
    float8_case("float8_128x128", "block 128 x 128", strategy="block", block_structure=[128, 128]),
]

# --- NVFP4, MX --------------------------------------------------------------------------------------------------------


def packed(format: str, values: Any, scale: Any, args: Any, global_scale: Any = None) -> Any:
    """The state that the compressor stores for a layer."""
    compressor = load("compressed_tensors.compressors").BaseCompressor.get_value_from_registry(format)
    state = {"weight": values, "weight_scale": scale}
    if global_scale is not None:
        state["weight_global_scale"] = global_scale
    kind = load("compressed_tensors.quantization").QuantizationScheme
    return compressor.compress(state, kind(targets=["Linear"], weights=args))


def nvfp4(x: np.ndarray) -> Parts:
    import torch

    utils = load("compressed_tensors.quantization.utils")
    args = scheme(
        num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True,
        scale_dtype=torch.float8_e4m3fn, zp_dtype=torch.float8_e4m3fn,
    )  # fmt: skip
    values = to_torch(x)
    whole = utils.generate_gparam(values.amin(), values.amax())
    scale, _ = utils.calculate_qparams(*ranges(values, (1, 16)), args, global_scale=whole)
    state = packed("nvfp4-pack-quantized", values, scale, args, whole)
    outer = 1 / array_of(whole)
    return {
        "scales": codes_of(state["weight_scale"]),
        "outer scales": outer,
        "elements": nibbles_of(state["weight_packed"]),
    }


def mx(bits: int, format: str) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        import torch

        args = scheme(
            num_bits=bits, type="float", strategy="group", group_size=32, symmetric=True, scale_dtype=torch.uint8,
            zp_dtype=torch.uint8,
        )  # fmt: skip
        values = to_torch(x)
        scale, _ = load("compressed_tensors.quantization.utils").calculate_qparams(*ranges(values, (1, 32)), args)
        state = packed(format, values, scale, args)
        elements = nibbles_of(state["weight_packed"]) if bits == 4 else codes_of(state["weight"])
        return {"scales": codes_of(state["weight_scale"]), "elements": elements}

    return run


OUTER = "the scale of the tensor is kept as 2688 / amax in compressed-tensors, whose reciprocal is an ulp from ours"
SMALL = "block scales that round to 0 become 0.125 in compressed-tensors, the smallest positive one here"
TINY = "compressed-tensors computes scales in the dtype of x, which float16 is too narrow for"
HALF = "compressed-tensors rounds an amax of exactly 1.75 up"
TOP = "the rounded amax overflows in compressed-tensors"
NVFP4_DIFFERS = {
    **because(f"{OUTER}; {NARROW}", "normal", "ties", "huge"),
    "zeros": f"{OUTER}; {SMALL}; {NARROW}",
    **because(f"{SMALL}; {NARROW}", "wide", "nothing"),
    "subnormal": "2688 / amax overflows in compressed-tensors, which then takes 1",
    **because(
        "the scale of the tensor is 1 or infinite in compressed-tensors, that of the finite values here", "nan", "inf"
    ),
}
MXFP4_DIFFERS = {
    "wide": "quotients that underflow to -0 become +0 in compressed-tensors",
    **because(TINY, "subnormal", "zeros", "nothing"),
    "huge": TOP,
    **because("blocks with NaN or infinity have a NaN scale here, not in compressed-tensors", "nan", "inf"),
}
MXFP8_DIFFERS = {
    **because(HALF, "normal", "wide"),
    **because(f"{HALF}; {TINY}", "subnormal", "zeros"),
    "nothing": TINY,
    "huge": f"{TOP}; {HALF}",
    **because(f"{MXFP4_DIFFERS['nan']}; {HALF}", "nan", "inf"),
}
FP4 = [
    Case(
        "nvfp4", "nvfp4-pack-quantized", recipes.nvfp4, nvfp4, NVFP4_DIFFERS, ours=unsigned_zeros, note=NO_MINUS_ZERO
    ),
    Case(
        "mxfp4", "mxfp4-pack-quantized", recipes.mxfp4.with_policy(scale="even"), mx(4, "mxfp4-pack-quantized"),
        MXFP4_DIFFERS, ours=unsigned_zeros, note=NO_MINUS_ZERO,
    ),
    Case("mxfp8", "mxfp8-quantized", recipes.mxfp8_e4m3, mx(8, "mxfp8-quantized"), MXFP8_DIFFERS),
]  # fmt: skip

# --- all --------------------------------------------------------------------------------------------------------------

CASES = [*INTEGERS, *FLOAT8, *FP4]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_encoding(case: Case, peer: str, golden: Any) -> None:
    check(case, peer, golden)
