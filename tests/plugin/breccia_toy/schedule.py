"""t1 applies every scale to its operand; t2 as late as it can. Neither scales partial sums."""

from __future__ import annotations

from breccia.ir.capabilities import Capabilities, TileRow

_TILES = (
    TileRow("gemm", 64, 32, 128),
    TileRow("grouped", 64, 32, 128),
    TileRow("rowwise", 16, 128, 1),
    TileRow("reduce", 16, 128, 1),
)
ROWS = (
    Capabilities("toy:t1", placements=("operand",), tiles=_TILES, whole_windows=True),
    Capabilities("toy:t2", placements=("epilogue", "operand"), tiles=_TILES, whole_windows=True),
)
