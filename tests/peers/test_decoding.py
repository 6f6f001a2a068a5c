"""Peers' decoders on the components that breccia makes: float32 values, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.recipes import Level, Offset, Recipe
from breccia.tensor import ScaledTensor, cast_array
from tests.peers.compare import Case, because, check, load, need, shown

Decoder = Callable[[ScaledTensor], np.ndarray]


def torch_codes(codes: np.ndarray, name: str) -> Any:
    import torch

    return torch.from_numpy(codes.copy()).view(getattr(torch, name))


def packed(st: ScaledTensor) -> np.ndarray:
    """Two codes of 4 bits for each byte, the first one low."""
    codes = st.codes()
    return codes[..., ::2] | codes[..., 1::2] << 4


# --- torchao ----------------------------------------------------------------------------------------------------------


def by_to_dtype(st: ScaledTensor) -> np.ndarray:
    import torch

    constants = load("torchao.prototype.mx_formats.constants")
    name = st.recipe.element.name
    six = {"float6_e2m3fn": constants.DTYPE_FP6_E2M3, "float6_e3m2fn": constants.DTYPE_FP6_E3M2}
    if name == "float4_e2m1fn":
        data, element = torch.from_numpy(packed(st)), torch.float4_e2m1fn_x2
    elif name in six:
        data, element = torch.from_numpy(st.codes()), six[name]
    else:
        data, element = torch_codes(st.codes(), name), getattr(torch, name)
    to_dtype = load("torchao.prototype.mx_formats.mx_tensor").to_dtype
    return to_dtype(data, torch_codes(st.scale, "float8_e8m0fnu"), element, 32, torch.float32).numpy()


def by_nvfp4_tensor(st: ScaledTensor) -> np.ndarray:
    import torch

    made = load("torchao.prototype.mx_formats.nvfp4_tensor").NVFP4Tensor(
        torch.from_numpy(packed(st)), torch_codes(st.scale, "float8_e4m3fn"), 16, torch.float32,
        torch.from_numpy(np.asarray(st.scales[0])),
    )  # fmt: skip
    return made.dequantize(torch.float32).numpy()


def by_float8_tensor(st: ScaledTensor) -> np.ndarray:
    import torch

    block = [size or whole for size, whole in zip(st.recipe.blocks(2)[-1], st.shape, strict=True)]
    data, scale = torch_codes(st.codes(), st.recipe.element.name), torch.from_numpy(np.asarray(st.scale))
    made = load("torchao.quantization").Float8Tensor(
        data, scale.reshape([n // b for n, b in zip(st.shape, block, strict=True)]), block, dtype=torch.float32
    )
    return made.dequantize().numpy()


# --- compressed-tensors, ModelOpt, bitsandbytes -----------------------------------------------------------------------


def by_compressed_tensors(st: ScaledTensor) -> np.ndarray:
    import torch

    kind = load("compressed_tensors.quantization").QuantizationArgs
    args = kind(num_bits=4, type="int", symmetric=st.zero_point is None, strategy="group", group_size=32)
    signed = st.codes().astype(np.int8)
    zero = None
    if st.zero_point is None:
        signed = np.where(signed > 7, signed - 16, signed).astype(np.int8)
    else:
        signed, zero = signed - np.int8(8), torch.from_numpy(st.zero_point.view(np.int8) - np.int8(8))
    dequantize = load("compressed_tensors.quantization.lifecycle.forward").dequantize
    return dequantize(torch.from_numpy(signed), torch.from_numpy(st.scale), zero, args).numpy()


def by_modelopt_nvfp4(st: ScaledTensor) -> np.ndarray:
    import torch

    kind = load("modelopt.torch.quantization.qtensor").NVFP4QTensor
    made = kind(torch.Size(st.shape), torch.float32, torch.from_numpy(packed(st)))
    scale, whole = torch_codes(st.scale, "float8_e4m3fn"), torch.from_numpy(np.asarray(st.scales[0]))
    return made.dequantize(torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16}).numpy()


def by_modelopt_mxfp8(st: ScaledTensor) -> np.ndarray:
    import torch

    kind = load("modelopt.torch.quantization.qtensor").MXFP8QTensor
    made = kind(torch.Size(st.shape), torch.float32, torch_codes(st.codes(), "float8_e4m3fn"))
    return made.dequantize(torch.float32, scale=torch.from_numpy(st.scale)).numpy()


def by_bitsandbytes(st: ScaledTensor) -> np.ndarray:
    import torch

    functional = load("bitsandbytes.functional")
    codes = st.codes()
    high_first = torch.from_numpy((codes[..., ::2] << 4 | codes[..., 1::2]).reshape(-1, 1))
    book = functional.get_4bit_type("nf4", device="cpu")
    state = functional.QuantState(
        torch.from_numpy(st.scale.reshape(-1)), torch.Size(st.shape), book, 64, "nf4", torch.float32
    )
    return functional.dequantize_4bit(high_first, state).numpy()


# --- MLX --------------------------------------------------------------------------------------------------------------


def by_mlx(mode: str) -> Decoder:
    def run(st: ScaledTensor) -> np.ndarray:
        mx = load("mlx.core")
        octets = st.codes() if st.recipe.element.bits == 8 else packed(st)
        words = mx.array(np.ascontiguousarray(octets).view(np.uint32))
        size = st.recipe.blocks(2)[-1][-1]
        with mx.stream(mx.cpu):
            if mode == "affine":
                made = mx.dequantize(words, mx.array(st.scale), mx.array(st.offset), size, st.recipe.element.bits)
            else:
                made = mx.dequantize(words, mx.array(st.scale), mode=mode, dtype=mx.float32)
            return np.array(made)

    return run


# --- gguf -------------------------------------------------------------------------------------------------------------


def by_gguf(name: str) -> Decoder:
    def run(st: ScaledTensor) -> np.ndarray:
        rows = st.shape[0]
        codes = st.codes().reshape(rows, -1, 32)
        if name == "Q4_0":
            codes = codes + 8 & 15
        elements = codes if name == "Q8_0" else codes[..., :16] | codes[..., 16:] << 4
        sides = [np.ascontiguousarray(a)[..., None].view(np.uint8) for a in (st.scale, st.offset) if a is not None]
        kind = load("gguf").GGMLQuantizationType[name]
        return load("gguf.quants").dequantize(np.concatenate([*sides, elements], -1).reshape(rows, -1), kind)

    return run


def gguf_nvfp4(st: ScaledTensor) -> np.ndarray:
    """Blocks of 64: four scales, then four times eight bytes, in which the first eight codes are the low ones."""
    rows = st.shape[0]
    codes = st.codes().reshape(rows, -1, 4, 16)
    elements = (codes[..., :8] | codes[..., 8:] << 4).reshape(rows, -1, 32)
    octets = np.concatenate([st.scale.reshape(rows, -1, 4), elements], -1).reshape(rows, -1)
    return load("gguf.quants").dequantize(octets, load("gguf").GGMLQuantizationType.NVFP4)


# --- all --------------------------------------------------------------------------------------------------------------

HALF = Level(formats.float16, (1, 32))
NVFP4_ONE_LEVEL = Recipe(formats.float4_e2m1fn, (Level(formats.float8_e4m3fn, (1, 16)),))
AFFINE = Recipe(formats.uint4, (Level(formats.float32, (1, 64)),), offset=Offset(formats.float32))
Q8_0, Q4_0 = Recipe(formats.int8, (HALF,)), Recipe(formats.int4, (HALF,))
Q4_1 = Recipe(formats.uint4, (HALF,), offset=Offset(formats.float16))


def case(
    distribution: str, what: str, recipe: Recipe, decode: Decoder, differs: dict[str, str] | None = None,
    minus_zero: bool = True,
) -> tuple[str, Case]:  # fmt: skip
    """minus_zero: whether the peer decodes the code of -0 as such, not as +0."""

    def theirs(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"elements": decode(cast_array(x, recipe))}

    def ours(x: np.ndarray, _: Any) -> dict[str, np.ndarray]:
        values = cast_array(x, recipe).numpy()
        return {"elements": values if minus_zero else values + np.float32(0)}

    name = f"{distribution}_{recipe.name or recipe.element.name + '_' + str(len(recipe.levels))}".replace("-", "_")
    name += "_offset" * (recipe.offset is not None)
    note = f"dequantize, {shown(recipe)}" + ("" if minus_zero else "; -0 taken for +0")
    return distribution, Case(name, what, None, theirs, differs or {}, ("float32",), ours=ours, note=note)


NO_NAN = because("the code of a NaN scale is a number in gguf", "nan", "inf")


def scales_first(peer: str) -> dict[str, str]:
    why = f"{peer} multiplies the two scales first, which are rounded to another ulp"
    return because(why, "normal", "wide", "ties", "subnormal", "zeros", "nan", "inf")


CASES_OF = [
    *(
        case("torchao", f"to_dtype, {recipe.element.name}", recipe, by_to_dtype)
        for recipe in (recipes.mxfp8_e4m3, recipes.mxfp8_e5m2, recipes.mxfp6_e2m3, recipes.mxfp6_e3m2, recipes.mxfp4)
    ),
    case("torchao", "NVFP4Tensor.dequantize", recipes.nvfp4, by_nvfp4_tensor, scales_first("torchao")),
    *(
        case("torchao", "Float8Tensor.dequantize", recipe, by_float8_tensor)
        for recipe in (recipes.float8_tensor, recipes.float8_row, recipes.float8_1x128, recipes.float8_128x128)
    ),
    *(
        case("compressed-tensors", "dequantize, int, 4 bits, group of 32", recipe, by_compressed_tensors)
        for recipe in (recipes.int4_g32_f32, recipes.uint4_g32_f32)
    ),
    case(
        "nvidia-modelopt", "NVFP4QTensor.dequantize", recipes.nvfp4, by_modelopt_nvfp4, scales_first("ModelOpt"), False
    ),
    case("nvidia-modelopt", "MXFP8QTensor.dequantize", recipes.mxfp8_e4m3, by_modelopt_mxfp8),
    case("bitsandbytes", "dequantize_4bit, nf4", recipes.nf4, by_bitsandbytes),
    case("mlx", "dequantize, mxfp4", recipes.mxfp4, by_mlx("mxfp4")),
    case("mlx", "dequantize, mxfp8", recipes.mxfp8_e4m3, by_mlx("mxfp8")),
    case("mlx", "dequantize, nvfp4", NVFP4_ONE_LEVEL, by_mlx("nvfp4")),
    case("mlx", "dequantize, affine", AFFINE, by_mlx("affine")),
    case("gguf", "dequantize, MXFP4", recipes.mxfp4, by_gguf("MXFP4"), NO_NAN, False),
    case("gguf", "dequantize, NVFP4", NVFP4_ONE_LEVEL, gguf_nvfp4, NO_NAN, False),
    case("gguf", "dequantize, Q8_0", Q8_0, by_gguf("Q8_0")),
    case("gguf", "dequantize, Q4_0", Q4_0, by_gguf("Q4_0")),
    case("gguf", "dequantize, Q4_1", Q4_1, by_gguf("Q4_1")),
]
CASES = [case for _, case in CASES_OF]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("distribution", "case"), CASES_OF, ids=[case.name for case in CASES])
def test_decoding(distribution: str, case: Case, golden: Any) -> None:
    check(case, need(distribution, *(() if distribution in ("gguf", "mlx") else ("torch",))), golden)
