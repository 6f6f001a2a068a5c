"""PyTorch's functions in NumPy's spelling."""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from breccia.arrays.torch import Array, convert

_SAME = (
    "abs", "exp", "log", "sqrt", "tanh", "sin", "cos", "floor", "round", "maximum", "minimum", "where", "matmul",
    "swapaxes", "broadcast_to", "reshape", "logical_not", "logical_and", "logical_or", "zeros_like", "ones_like",
    "floor_divide", "sigmoid",
)  # fmt: skip


class Functions:
    """Functions on one device. Invariants: arrays that are made lie on `device`; `wide` says that there are 64-bit
    integers.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        for name in _SAME:
            setattr(self, name, getattr(torch, name))
        self.power = torch.pow
        self.wide = True

    def full(self, shape: tuple[int, ...], value: Any, dtype: str) -> Array:
        return convert(torch.full(shape, value, dtype=_made(dtype), device=self.device), dtype)

    def arange(self, start: int, stop: int, dtype: str) -> Array:
        return convert(torch.arange(start, stop, device=self.device), dtype)

    def store(self, target: Array, index: Any, value: Array) -> Array:
        """`target` with `value` at `index`. It is a buffer of the emitted code's own, so it is written into."""
        target[index] = value
        return target

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return x.permute(tuple(axes))

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        return torch.cat(tuple(arrays), axis)

    def sum(self, x: Array, axes: tuple[int, ...]) -> Array:
        return torch.sum(x, axes, keepdim=True, dtype=x.dtype)

    def max(self, x: Array, axes: tuple[int, ...]) -> Array:
        return torch.amax(x, axes, keepdim=True)

    def min(self, x: Array, axes: tuple[int, ...]) -> Array:
        return torch.amin(x, axes, keepdim=True)


def _made(dtype: str) -> torch.dtype:
    return {"bool": torch.bool, "float64": torch.float64, "int32": torch.int64, "int64": torch.int64}.get(
        dtype, torch.float32
    )


@lru_cache(maxsize=16)
def _on(device: torch.device) -> Functions:
    return Functions(device)


def functions(x: Array) -> Functions:
    """The functions on the device of `x`."""
    return _on(x.device)
