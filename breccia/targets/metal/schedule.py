"""What Apple GPUs can do through the Metal Shading Language: 8 x 8 products of halves and floats, no narrow formats.

Codes are decoded by integer operations; one threadgroup has 32 KiB (Metal feature set tables).
"""

from __future__ import annotations

from breccia.ir.capabilities import Capabilities, Mma, TileRow

ROWS = (
    Capabilities(
        "metal:apple",
        mma=(Mma("f16", "f16", 8), Mma("bf16", "bf16", 8), Mma("f32", "f32", 8)),
        compute=("bf16", "f16", "f32"),
        placements=("epilogue", "operand"),
        tiles=(
            TileRow("gemm", 32, 32, 32),
            TileRow("grouped", 32, 32, 32),
            TileRow("rowwise", 4, 128, 1),
            TileRow("reduce", 16, 128, 1),
        ),
        scratch_bytes=32 * 1024,
    ),
)
