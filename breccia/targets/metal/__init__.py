"""Metal through MLX: Apple GPUs. This version lowers and interprets for it; it does not emit code yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from breccia._version import __version__
from breccia.target import Target

if TYPE_CHECKING:
    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia.targets.metal.schedule import ROWS

    return ROWS


ARCHITECTURES = ("apple",)
TARGET = Target("metal", __version__, _rows, ARCHITECTURES, arrays=("mlx",))
