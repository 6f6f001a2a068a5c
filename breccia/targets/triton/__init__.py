"""Triton: NVIDIA and AMD. This version lowers and interprets for it; it does not emit code yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from breccia._version import __version__
from breccia.target import Target

if TYPE_CHECKING:
    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia.targets.triton.schedule import ROWS

    return ROWS


ARCHITECTURES = (
    "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx942", "gfx950", "gfx1201",
)  # fmt: skip
TARGET = Target("triton", __version__, _rows, ARCHITECTURES, arrays=("torch",))
