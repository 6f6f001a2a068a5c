"""What each architecture can do, as Triton 3.9 makes use of it.

Every row was established by compiling kernels for the architecture and reading the instructions: a matrix instruction
stands here only where its own opcode came out, not where Triton converts operands for a wider one. Scratch sizes are
the vendors' figures for the shared memory (LDS) of one block.
"""

from __future__ import annotations

from dataclasses import replace

from breccia.ir.capabilities import Capabilities, Mma, ScaledMma, TileRow

_E4M3, _E5M2, _E2M1, _E8M0 = "f8E4M3FN", "f8E5M2", "f4E2M1FN", "f8E8M0FNU"
_HALVES = (Mma("bf16", "bf16", 16), Mma("f16", "f16", 16))
_INT8 = Mma("i8", "i8", 32)
_FP8 = tuple(Mma(a, b, 32) for a in (_E4M3, _E5M2) for b in (_E4M3, _E5M2))
_MXFP8 = tuple(ScaledMma(a, b, _E8M0, 32) for a in (_E4M3, _E5M2) for b in (_E4M3, _E5M2))
_MXFP4 = ScaledMma(_E2M1, _E2M1, _E8M0, 32)
_NVFP4 = ScaledMma(_E2M1, _E2M1, _E4M3, 16)
_MIXED = tuple(ScaledMma(*pair, _E8M0, 32) for f8 in (_E4M3, _E5M2) for pair in ((f8, _E2M1), (_E2M1, f8)))
_F6 = ("f6E2M3FN", "f6E3M2FN")
_MXFP6 = tuple(
    ScaledMma(a, b, _E8M0, 32) for a in (*_F6, _E4M3, _E5M2) for b in (*_F6, _E4M3, _E5M2) if {a, b} & set(_F6)
)
"""Triton has no 6-bit operands; every value of theirs is one of E4M3, which the same instruction takes."""
_MXFP6_MIXED = tuple(ScaledMma(*pair, _E8M0, 32) for f6 in _F6 for pair in ((f6, _E2M1), (_E2M1, f6)))
_KIB = 1024


def _tiles(m: int, n: int, k: int) -> tuple[TileRow, ...]:
    return (
        TileRow("gemm", m, n, k),
        TileRow("grouped", m, n, k),
        TileRow("rowwise", 4, 1024, 1),
        TileRow("reduce", 16, 1024, 1),
    )


_SM_80 = Capabilities(
    "triton:sm_80",
    mma=(*_HALVES, _INT8),
    compute=("bf16", "f16", "f32"),
    # FP8 cannot even be loaded as such: codes are bytes here, decoded by integer operations.
    placements=("epilogue", "mainloop", "operand"),
    mainloop_least_block=32,
    tiles=_tiles(128, 128, 64),
    pow2_tiles=True,
    smallest_kept=-126,
    shortest_dot=16,
    decode_rows=512,
    features=("tf32", "ptx"),
    scratch_bytes=163 * _KIB,
)
_SM_89 = replace(
    _SM_80,
    name="triton:sm_89",
    mma=(*_FP8, *_HALVES, _INT8),
    placements=("epilogue", "mainloop", "operand"),
    tiles=_tiles(128, 128, 128),
    sum_bits=14,
    scratch_bytes=99 * _KIB,
)
_SM_90 = replace(
    _SM_89,
    name="triton:sm_90",
    features=("tf32", "ptx", "fp8_conversion", "tma", "wgmma", "warp_specialize", "dependent_launch"),
    scratch_bytes=227 * _KIB,
)
_SM_100 = replace(
    _SM_90,
    name="triton:sm_100",
    scaled_mma=(*_MXFP8, *_MIXED, _MXFP4, _NVFP4, *_MXFP6, *_MXFP6_MIXED),
    placements=("epilogue", "mma", "mainloop", "operand"),
    sum_bits=24,
    features=("tf32", "ptx", "fp8_conversion", "tma", "tcgen05", "warp_specialize", "dependent_launch"),
)
_SM_120 = replace(
    _SM_89,
    name="triton:sm_120",
    scaled_mma=(*_MXFP8, _MXFP4, _NVFP4, *_MXFP6),
    placements=("epilogue", "mma", "mainloop", "operand"),
    features=("tf32", "ptx", "fp8_conversion", "tma", "warp_specialize", "dependent_launch"),
)
_GFX942 = replace(
    _SM_89,
    name="triton:gfx942",
    # The matrix instructions take FNUZ alone; OCP FP8 goes through f16.
    features=(),
    mma=(Mma("f8E4M3FNUZ", "f8E4M3FNUZ", 16), Mma("f8E5M2FNUZ", "f8E5M2FNUZ", 16), *_HALVES, _INT8),
    scratch_bytes=64 * _KIB,
)
_GFX950 = replace(
    _GFX942,
    name="triton:gfx950",
    mma=(Mma(_E4M3, _E4M3, 64), Mma(_E5M2, _E5M2, 64), *_HALVES, _INT8),
    scaled_mma=(
        ScaledMma(_E4M3, _E4M3, _E8M0, 32),
        ScaledMma(_E5M2, _E5M2, _E8M0, 32),
        *_MIXED,
        _MXFP4,
        *_MXFP6,
        *_MXFP6_MIXED,
    ),
    placements=("epilogue", "mma", "mainloop", "operand"),
    scratch_bytes=160 * _KIB,
)
_GFX1201 = replace(
    _GFX942, name="triton:gfx1201", mma=(Mma(_E4M3, _E4M3, 16), Mma(_E5M2, _E5M2, 16), *_HALVES, Mma("i8", "i8", 16))
)

ROWS = (
    _SM_80,
    replace(_SM_80, name="triton:sm_86", scratch_bytes=99 * _KIB),
    _SM_89,
    _SM_90,
    _SM_100,
    replace(_SM_100, name="triton:sm_103"),
    _SM_120,
    _GFX942,
    _GFX950,
    _GFX1201,
)
