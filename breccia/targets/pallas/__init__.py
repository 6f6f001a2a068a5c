"""Pallas: TPU. This version lowers and interprets for it; it does not emit code yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from breccia._version import __version__
from breccia.target import Target

if TYPE_CHECKING:
    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia.targets.pallas.schedule import ROWS

    return ROWS


ARCHITECTURES = ("v5e", "v5p", "v6e", "v7")
TARGET = Target("pallas", __version__, _rows, ARCHITECTURES, arrays=("jax",))
