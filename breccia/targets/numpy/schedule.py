"""What NumPy can do: everything, in float32, over whole arrays.

BLAS multiplies float32 alone, so operands are decoded before the product; scales that cover all of k wait until after
it.
"""

from __future__ import annotations

from breccia.ir.capabilities import Capabilities, TileRow

ROWS = (
    Capabilities(
        "numpy",
        compute=("f32",),
        placements=("epilogue", "operand"),
        tiles=(
            TileRow("gemm", 128, 128, 128),
            TileRow("grouped", 128, 128, 128),
            TileRow("rowwise", 128, 128, 1),
            TileRow("reduce", 128, 128, 1),
        ),
        whole_windows=True,
    ),
)
