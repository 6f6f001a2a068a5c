"""OpenCL: one work-group for each program, on the first device that pyopencl finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from breccia.target import Target, not_installed

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia_opencl.schedule import ROWS

    return ROWS


def _emit(module: ModuleOp) -> str:
    from breccia_opencl.emit import emit

    return emit(module)


def _launch(source: str, entry: str) -> Callable[..., Any]:
    from breccia_opencl.launch import launch

    return launch(source, entry)


def _missing(_arch: str) -> str:
    lacking = not_installed("pyopencl")
    if lacking:
        return lacking
    from breccia_opencl.launch import missing

    return missing()


TARGET = Target("opencl", "1.0", _rows, emitter=_emit, launcher=_launch, missing=_missing)
