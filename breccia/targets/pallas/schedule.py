"""What each TPU generation can do, as the Mosaic compiler of libtpu 0.0.48 accepts it.

v5e, v5p and v6e take FP8 operands and multiply them as bf16; v7 multiplies FP8 itself. No generation converts to E8M0
in hardware, none loads f16, and none has subnormal float32 numbers. VMEM sizes are those that libtpu reports. Tiles are
two by two matrix units of 128, or one of 256: larger ones need fewer bundles for each product (`docs/targets.md`).
"""

from __future__ import annotations

from dataclasses import replace

from breccia.ir.capabilities import Capabilities, Mma, TileRow

_E4M3, _E5M2, _E2M1 = "f8E4M3FN", "f8E5M2", "f4E2M1FN"
_STEP = 128
_MIB = 1 << 20


def _pairs(*formats: str) -> tuple[Mma, ...]:
    return tuple(Mma(a, b, _STEP) for a in formats for b in formats)


_WIDE = (Mma("bf16", "bf16", _STEP), Mma("f32", "f32", _STEP))
_INT = (Mma("i8", "i8", _STEP), Mma("i4", "i4", _STEP))

_V5E = Capabilities(
    "pallas:v5e",
    mma=(*_pairs(_E4M3, _E5M2), Mma("bf16", _E4M3, _STEP), Mma("bf16", "i8", _STEP), *_INT, *_WIDE),
    compute=("bf16", "f32"),
    placements=("epilogue", "mainloop", "operand"),
    tiles=(
        TileRow("gemm", 256, 256, 256),
        TileRow("grouped", 128, 256, 256),
        TileRow("rowwise", 32, 128, 1),
        TileRow("reduce", 64, 128, 1),
    ),
    min_tile=(8, 128),
    fetch_pad="garbage",
    smallest_kept=-126,
    features=("mxu_128",),
    scratch_bytes=128 * _MIB,
)

ROWS = (
    _V5E,
    replace(_V5E, name="pallas:v5p", scratch_bytes=64 * _MIB),
    replace(_V5E, name="pallas:v6e", features=("mxu_256",)),
    replace(
        _V5E,
        name="pallas:v7",
        mma=(*_pairs(_E4M3, _E5M2), *_pairs(_E2M1), Mma(_E4M3, _E2M1, _STEP), Mma("bf16", _E4M3, _STEP), *_INT, *_WIDE),
        features=("native_fp8", "native_fp4", "mxu_256"),
        scratch_bytes=64 * _MIB,
    ),
)
