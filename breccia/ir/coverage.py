"""What a tiling must satisfy, checked without data: range, coverage, and no races."""

from __future__ import annotations

from breccia.ir.tiling import Tiling
from breccia.ir.types import TensorType


def check_tiling(tiling: Tiling, windowed: list[tuple[str, TensorType]], names: list[str]) -> None:
    """Raise VerifyException naming the operand and the blocks."""
