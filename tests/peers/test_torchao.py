"""torchao: `to_mx` by all scale rules, `nvfp4_quantize`, `Float8Tensor`, `Int8Tensor`, `IntxUnpackedToInt8Tensor`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.recipes import Level, Policy, Recipe, ZeroPoint
from tests.peers.compare import Case, Parts, because, check, identifier, load, need
from tests.peers.torch_arrays import array_of, codes_of, nibbles_of, to_torch

FP32_BF16 = ("float32", "bfloat16")
RECIPROCAL = "torchao multiplies by the reciprocal of the scale, rounded: a few quotients near ties differ"
INFINITY = "a block with infinity has a NaN scale here, not in torchao"


@pytest.fixture(scope="module")
def peer() -> str:
    return need("torchao", "torch")


# --- MX ---------------------------------------------------------------------------------------------------------------

RULES = {"FLOOR": "floor", "RCEIL": "ceil", "EVEN": "even", "CEIL": "ceil"}
ELEMENTS = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4")


def to_mx(name: str, mode: str) -> Any:
    def run(x: np.ndarray) -> Parts:
        module = load("torchao.prototype.mx_formats.mx_tensor")
        scales, elements = module.to_mx(to_torch(x), element(name), 32, module.ScaleCalculationMode[mode])
        return {"scales": codes_of(scales), "elements": (nibbles_of if name == "mxfp4" else codes_of)(elements)}

    return run


def element(name: str) -> Any:
    import torch

    constants = load("torchao.prototype.mx_formats.constants")
    return {
        "mxfp8_e4m3": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
        "mxfp6_e2m3": constants.DTYPE_FP6_E2M3,
        "mxfp6_e3m2": constants.DTYPE_FP6_E3M2,
        "mxfp4": torch.float4_e2m1fn_x2,
    }[name]


def mx_case(name: str, mode: str) -> Case:
    recipe = recipes.find(name).with_policy(scale=RULES[mode])
    if mode == "CEIL":
        recipe = recipe.with_policy(max=2.0 ** math.floor(math.log2(recipe.element.max)))
    what = f"to_mx, {mode}, {recipe.element.name}"
    return Case(identifier(f"{name}_{mode}"), what, recipe, to_mx(name, mode), mx_differs(name, mode), FP32_BF16)


def mx_differs(name: str, mode: str) -> dict[str, str]:
    divisor = "multiplies by 1" if mode == "RCEIL" else "divides by 2**-126"
    tiny = f"where the scale is 2**-127 (code 0), torchao {divisor}"
    differs = {"subnormal": tiny, "inf": INFINITY}
    return differs | ({"wide": tiny} if name == "mxfp8_e5m2" else {})


# --- NVFP4 ------------------------------------------------------------------------------------------------------------

E4M3_EPS = {"scale_min": 2.0**-6, "zero_scale": "smallest"}
ONE_LEVEL = Recipe(formats.float4_e2m1fn, (Level(formats.float8_e4m3fn, (1, 16)),), policy=Policy(**E4M3_EPS))


def nvfp4(x: np.ndarray) -> Parts:
    module = load("torchao.prototype.mx_formats.nvfp4_tensor")
    values = to_torch(x)
    outer = module.per_tensor_amax_to_scale(values.abs().max())
    scales, elements = module.nvfp4_quantize(values, 16, outer)
    return {"scales": codes_of(scales), "outer scales": array_of(outer), "elements": nibbles_of(elements)}


def nvfp4_one_level(x: np.ndarray) -> Parts:
    module = load("torchao.prototype.mx_formats.nvfp4_tensor")
    scales, elements = module.nvfp4_quantize(to_torch(x), 16)
    return {"scales": codes_of(scales), "elements": nibbles_of(elements)}


NVFP4_DIFFERS = {
    **because(RECIPROCAL, "normal", "wide", "ties", "huge"),
    "subnormal": "the reciprocal of the scale overflows in torchao",
    "nothing": "torchao divides 0 by 0 where the whole tensor is 0",
    **because("NaN or infinity reach every block of torchao's tensor, their own block alone here", "nan", "inf"),
}
NVFP4 = [
    Case(
        "nvfp4", "nvfp4_quantize, per_tensor_scale", recipes.nvfp4.with_policy(**E4M3_EPS), nvfp4, NVFP4_DIFFERS,
        FP32_BF16,
    ),
    Case(
        "nvfp4_one_level", "nvfp4_quantize", ONE_LEVEL, nvfp4_one_level,
        because(RECIPROCAL, "normal", "zeros", "nan") | because(f"{INFINITY}; {RECIPROCAL}", "inf"), FP32_BF16,
    ),
]  # fmt: skip

# --- float8 -----------------------------------------------------------------------------------------------------------


def float8(name: str) -> Any:
    def run(x: np.ndarray) -> Parts:
        import torch

        recipe = recipes.find(name)
        granularity = load("torchao.quantization.granularity")
        block = recipe.blocks(2)[-1]
        chosen = {
            (None, None): granularity.PerTensor(),
            (1, None): granularity.PerRow(),
        }.get(block) or granularity.PerBlock(list(block))
        dtype = getattr(torch, recipe.element.name)
        made = load("torchao.quantization").Float8Tensor.from_hp(to_torch(x), dtype, granularity=chosen)
        return {"scales": array_of(made.scale), "elements": codes_of(made.qdata)}

    return run


def float8_case(name: str) -> Case:
    recipe = recipes.find(name)
    differs = {
        "subnormal": "a scale below the smallest number is 0 in torchao, that number here",
        "nothing": "torchao divides 0 by 0",
        "inf": INFINITY,
    }
    if recipe.innermost.block is not None:
        differs["zeros"] = differs["nothing"]
    block = "x".join("all" if size is None else str(size) for size in recipe.blocks(2)[-1])
    what = f"Float8Tensor.from_hp, {recipe.element.name}, {block}"
    return Case(name, what, recipe, float8(name), differs, scales_as_x=True)


FLOAT8 = [
    float8_case(name)
    for name in ("float8_tensor", "float8_e5m2_tensor", "float8_row", "float8_1x128", "float8_128x128")
]

# --- integers ---------------------------------------------------------------------------------------------------------

ROW = Level(formats.float32, (1, None))
GROUP = Level(formats.float32, (1, 32))


def int8(mapping: str) -> Any:
    def run(x: np.ndarray) -> Parts:
        mapping_type = load("torchao.quantization.quant_primitives").MappingType[mapping]
        granularity = load("torchao.quantization.granularity").PerRow()
        made = load("torchao.quantization").Int8Tensor.from_hp(to_torch(x), granularity, mapping_type)
        return integers(made, mapping, 255)

    return run


def intx(mapping: str) -> Any:
    def run(x: np.ndarray) -> Parts:
        import torch

        mapping_type = load("torchao.quantization.quant_primitives").MappingType[mapping]
        made = load("torchao.quantization").IntxUnpackedToInt8Tensor.from_hp(
            to_torch(x), (1, 32), torch.int4, mapping_type=mapping_type
        )
        return integers(made, mapping, 15)

    return run


def integers(made: Any, mapping: str, mask: int) -> Parts:
    out = {"scales": array_of(made.scale).astype(np.float32), "elements": codes_of(made.qdata) & mask}
    return out if mapping == "SYMMETRIC" else out | {"zero points": codes_of(made.zero_point) & mask}


NARROW = f"torchao computes the range in the dtype of x; {RECIPROCAL}"
EPSILON = "a block of zeros has the smallest normal number for a scale in torchao"
SYMMETRIC_DIFFERS = because(RECIPROCAL, "normal", "wide", "ties", "zeros", "huge", "nan") | {
    "inf": f"{INFINITY}; {RECIPROCAL}"
}
ASYMMETRIC_DIFFERS = because(NARROW, "normal", "wide", "ties", "zeros", "nan") | {
    "huge": "the range of a block overflows in torchao",
    "inf": f"{INFINITY}; {NARROW}",
}
INTX_DIFFERS = {
    "subnormal": "scales below the smallest normal number are raised to it in torchao",
    "nothing": EPSILON,
    "zeros": f"{EPSILON}; {RECIPROCAL}",
}
EPS = {"scale_min": 2.0**-23, "zero_scale": "smallest"}
INTEGERS = [
    Case(
        "int8_row", "Int8Tensor.from_hp, PerRow", recipes.int8_row.with_policy(**EPS), int8("SYMMETRIC"),
        SYMMETRIC_DIFFERS, scales_as_x=True,
    ),
    Case(
        "int8_row_asymmetric", "Int8Tensor.from_hp, PerRow, ASYMMETRIC",
        Recipe(formats.int8, (ROW,), zero_point=ZeroPoint(formats.int8), policy=Policy(**EPS)), int8("ASYMMETRIC"),
        ASYMMETRIC_DIFFERS, scales_as_x=True,
    ),
    Case(
        "int4_g32", "IntxUnpackedToInt8Tensor.from_hp, int4, (1, 32)", recipes.int4_g32_f32, intx("SYMMETRIC"),
        SYMMETRIC_DIFFERS | INTX_DIFFERS, scales_as_x=True,
    ),
    Case(
        "int4_g32_asymmetric", "IntxUnpackedToInt8Tensor.from_hp, int4, (1, 32), ASYMMETRIC",
        Recipe(formats.int4, (GROUP,), zero_point=ZeroPoint(formats.int4)), intx("ASYMMETRIC"),
        ASYMMETRIC_DIFFERS | INTX_DIFFERS | {"zeros": f"{EPSILON}; {NARROW}"}, scales_as_x=True,
    ),
]  # fmt: skip

# --- all --------------------------------------------------------------------------------------------------------------

CASES = [*(mx_case(name, mode) for mode in RULES for name in ELEMENTS), *NVFP4, *FLOAT8, *INTEGERS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_encoding(case: Case, peer: str, golden: Any) -> None:
    check(case, peer, golden)
