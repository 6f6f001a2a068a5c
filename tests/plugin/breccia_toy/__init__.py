"""The toy chip: two architectures, NumPy's emitter, and other capabilities, so that kernels are lowered another way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from breccia.target import Target, find

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia_toy.schedule import ROWS

    return ROWS


def _emit(module: ModuleOp) -> str:
    return find("numpy").emit(module)


def _launch(source: str, entry: str) -> Callable[..., Any]:
    return find("numpy").launch(source, entry)


TARGET = Target("toy", "1.0", _rows, ("t1", "t2"), _emit, _launch)
