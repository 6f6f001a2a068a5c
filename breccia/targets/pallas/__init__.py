"""Pallas: TPU, on JAX arrays. Where there is no TPU, the same kernels are interpreted, as operations of XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from breccia._version import __version__
from breccia.target import Target, not_installed

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from breccia.ir.capabilities import Capabilities


def _rows() -> Sequence[Capabilities]:
    from breccia.targets.pallas.schedule import ROWS

    return ROWS


def _emit(module: ModuleOp) -> str:
    from breccia.targets.pallas.emit import emit

    return emit(module)


def _launch(source: str, entry: str, library: str = "jax") -> Callable[..., Any]:
    from breccia.targets.pallas.launch import launch

    return launch(source, entry, library)


def _how() -> str:
    from breccia.targets.pallas.launch import backend

    if backend() == "tpu":
        return ""
    return f"kernels are interpreted, as operations of XLA, since JAX's backend here is {backend()} and not a TPU"


def _missing(_arch: str) -> str:
    return not_installed("jax")


ARCHITECTURES = ("v5e", "v5p", "v6e", "v7")
TARGET = Target(
    "pallas",
    __version__,
    _rows,
    ARCHITECTURES,
    emitter=_emit,
    launcher=_launch,
    arrays=("jax",),
    backward="numpy",
    how=_how,
    missing=_missing,
)
