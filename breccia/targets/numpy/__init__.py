"""NumPy: readable array code over whole arrays. The reference, and what runs where there is no accelerator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from breccia._version import __version__
from breccia.target import Target

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia.targets.numpy.schedule import ROWS

    return ROWS


def _emit(module: ModuleOp) -> str:
    from breccia.targets.numpy.emit import emit

    return emit(module)


def _launch(source: str, entry: str, library: str = "numpy") -> Callable[..., Any]:
    from breccia.targets.numpy.launch import launch

    return launch(source, entry, library)


TARGET = Target("numpy", __version__, _rows, emitter=_emit, launcher=_launch, arrays=("numpy", "torch", "jax", "mlx"))
