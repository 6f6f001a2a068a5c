"""NVIDIA ModelOpt on the CPU: `MXFP4QTensor`, `MXFP8QTensor`, `NVFP4QTensor`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import recipes
from breccia.recipes import Recipe
from breccia.tensor import cast_array
from tests.peers.compare import Case, Parts, because, check, load, need, parts
from tests.peers.torch_arrays import array_of, codes_of, nibbles_of, to_torch


@pytest.fixture(scope="module")
def peer() -> str:
    return need("nvidia-modelopt", "torch")


def qtensor() -> Any:
    return load("modelopt.torch.quantization.qtensor")


def mxfp4(x: np.ndarray) -> Parts:
    made, scales = qtensor().MXFP4QTensor.quantize(to_torch(x), 32)
    return {"scales": codes_of(scales), "elements": nibbles_of(made._quantized_data)}


def mxfp8(x: np.ndarray) -> Parts:
    made, scales = qtensor().MXFP8QTensor.quantize(to_torch(x))
    return {"scales": codes_of(scales), "elements": codes_of(made._quantized_data)}


def nvfp4(x: np.ndarray) -> Parts:
    made, scales, outer = qtensor().NVFP4QTensor.quantize(to_torch(x), 16)
    return {
        "scales": codes_of(scales),
        "outer scales": array_of(outer.float()),
        "elements": nibbles_of(made._quantized_data),
    }


def plus_zero_as_minus_zero(x: np.ndarray, recipe: Recipe) -> Parts:
    made = parts(cast_array(x, recipe))
    return made | {"elements": np.where(np.asarray(x, np.float32) == 0, 8, made["elements"]).astype(np.uint8)}


MXFP4 = recipes.mxfp4.with_policy(rounding="ties_zero")

NONFINITE = because("blocks with NaN or infinity have a NaN scale here, not in ModelOpt", "nan", "inf")
MXFP4_DIFFERS = NONFINITE | {"wide": "quotients that underflow to 0 become -0 in ModelOpt"}
NO_MINUS_ZERO = "-0, and quotients that underflow to it, become +0 in ModelOpt"
NVFP4_DIFFERS = {
    "wide": f"block scales that round to 0 become 1 in ModelOpt, the smallest positive one here; {NO_MINUS_ZERO}",
    **because(NO_MINUS_ZERO, "subnormal", "zeros"),
    "nothing": "ModelOpt divides 0 by 0 where the whole tensor is 0",
    **because("NaN or infinity reach every block of ModelOpt's tensor, their own block alone here", "nan", "inf"),
}

CASES = [
    Case(
        "mxfp4",
        "MXFP4QTensor.quantize",
        MXFP4,
        mxfp4,
        MXFP4_DIFFERS,
        ours=plus_zero_as_minus_zero,
        note="+0 in x taken for -0",
    ),
    Case("mxfp8", "MXFP8QTensor.quantize", recipes.mxfp8_e4m3, mxfp8, NONFINITE),
    Case("nvfp4", "NVFP4QTensor.quantize", recipes.nvfp4, nvfp4, NVFP4_DIFFERS),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_encoding(case: Case, peer: str, golden: Any) -> None:
    check(case, peer, golden)
