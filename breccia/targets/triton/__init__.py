"""Triton: NVIDIA and AMD, on PyTorch tensors. Everything but the launch works without a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from breccia._version import __version__
from breccia.target import Target, not_installed
from breccia.targets.triton.tuning import TUNING

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia.targets.triton.schedule import ROWS

    return ROWS


def _emit(module: ModuleOp) -> str:
    from breccia.targets.triton.emit import emit

    return emit(module)


def _launch(source: str, entry: str, library: str = "torch") -> Callable[..., Any]:
    from breccia.targets.triton.launch import launch

    return launch(source, entry, library)


def _missing(arch: str) -> str:
    lacking = not_installed("torch", "triton")
    if lacking:
        return lacking
    from breccia.targets.triton.timing import missing

    return missing(arch)


ARCHITECTURES = (
    "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx942", "gfx950", "gfx1201",
)  # fmt: skip
TARGET = Target(
    "triton", __version__, _rows, ARCHITECTURES, emitter=_emit, launcher=_launch, arrays=("torch",), gradients=False,
    tuning=TUNING, missing=_missing,
)  # fmt: skip
