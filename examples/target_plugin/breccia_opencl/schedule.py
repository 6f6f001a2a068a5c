"""What OpenCL C can do on any device: float32 alone, scales on loaded operands or after the product."""

from __future__ import annotations

from breccia.ir.capabilities import Capabilities, TileRow

ROWS = (
    Capabilities(
        "opencl",
        compute=("f32",),
        placements=("epilogue", "operand"),
        tiles=(
            TileRow("gemm", 16, 16, 32),
            TileRow("grouped", 16, 16, 32),
            TileRow("rowwise", 4, 128, 1),
            TileRow("reduce", 16, 128, 1),
        ),
        fetch_pad="zero",
        scratch_bytes=32 * 1024,  # what every device of the full profile has
    ),
)
