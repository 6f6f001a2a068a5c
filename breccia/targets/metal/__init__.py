"""Metal through MLX: Apple GPUs. Everything but the launch works without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from breccia._version import __version__
from breccia.target import Target, not_installed

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia.targets.metal.schedule import ROWS

    return ROWS


def _emit(module: ModuleOp) -> str:
    from breccia.targets.metal.emit import emit

    return emit(module)


def _launch(source: str, entry: str, library: str = "mlx") -> Callable[..., Any]:
    from breccia.targets.metal.launch import launch

    return launch(source, entry, library)


def _missing(_arch: str) -> str:
    lacking = not_installed("mlx")
    if lacking:
        return lacking
    from breccia.targets.metal.launch import is_available

    return "" if is_available() else "MLX has no Metal device here"


ARCHITECTURES = ("apple",)
TARGET = Target(
    "metal", __version__, _rows, ARCHITECTURES, emitter=_emit, launcher=_launch, arrays=("mlx",), gradients=False,
    missing=_missing, stands_in=True,
)  # fmt: skip
