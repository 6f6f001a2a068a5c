"""Tensors as boxes that Hopper's copy engine moves: their types for the compiler, and what its launcher is handed.

A descriptor takes rows of neighbouring elements, whose distance is a multiple of 16 bytes, from an address that is one.
Matrices of the same size, one behind the other, are a single one of all their rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from triton.backends.nvidia import driver as nvidia
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

Tensor = torch.Tensor
Box = tuple[int, int]
__all__ = ["GluonASTSource", "Maps", "aligned", "bare_launcher", "described", "kind_of"]
_DTYPES = {
    "fp8e4nv": gl.float8e4nv, "fp8e5": gl.float8e5, "bf16": gl.bfloat16, "fp16": gl.float16, "fp32": gl.float32,
    "u8": gl.uint8, "i8": gl.int8,
}  # fmt: skip
MOST_MAPS = 1024
"""Sets of addresses whose descriptors a kernel remembers, before it forgets them all."""
_MAKE: Callable[..., list[Any]] = nvidia.make_tensordesc_arg
_MORE = (None,) * (len(inspect.signature(_MAKE).parameters) - 2)


def _layout(pointer: str, box: Box) -> Any:
    default: Any = gl.NVMMASharedLayout.get_default_for
    return default(list(box), _DTYPES[pointer])


def kind_of(pointer: str, box: Box) -> str:
    """The type of a parameter, as signatures spell it."""
    return f"tensordesc<{pointer}[{box[0]}, {box[1]}],{_layout(pointer, box)!r}>"


def rows_of(tensor: Tensor) -> Tensor:
    """A matrix, or those of a tensor of three axes as one; they have to lie one behind the other."""
    return tensor if tensor.dim() == 2 else tensor.view(-1, tensor.shape[-1])


def fits(tensor: Tensor) -> bool:
    """True where a descriptor can take the tensor as it lies."""
    if tensor.dim() == 3:
        behind = tensor.shape[0] < 2 or tensor.stride(0) == tensor.shape[1] * tensor.stride(1)
        return behind and fits(tensor.flatten(0, 1))
    size = tensor.dtype.itemsize
    rows = tensor.shape[0] < 2 or tensor.stride(0) * size % 16 == 0
    return rows and (tensor.stride(1) == 1 or tensor.shape[1] < 2) and tensor.data_ptr() % 16 == 0


def aligned(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy of it that a descriptor can take."""
    if fits(tensor):
        return tensor
    per_row = 16 // tensor.dtype.itemsize
    columns = tensor.shape[-1]
    width = max(-(-columns // per_row), 1) * per_row
    room = torch.empty(*tensor.shape[:-1], width, dtype=tensor.dtype, device=tensor.device)[..., :columns]
    return room.copy_(tensor)


def described(tensor: Tensor, pointer: str, box: Box) -> TensorDescriptor:
    """What Triton's own launcher takes in the place of a tensor."""
    tensor = rows_of(tensor)
    stride = tensor.stride(0) if tensor.shape[0] > 1 else -(-tensor.shape[1] * tensor.dtype.itemsize // 16) * 16
    return TensorDescriptor(tensor, list(tensor.shape), [stride, 1], list(box), _layout(pointer, box))


def bare_launcher(launch: Any) -> Any:
    """The driver's function inside what makes descriptors anew at each launch; None where there is none."""
    return inspect.getclosurevars(launch).nonlocals.get("launcher") if inspect.isfunction(launch) else None


class Maps:
    """The descriptors of a compiled kernel's tensors, by their addresses.

    Invariant: sizes and strides are those of the first tensors asked about; other ones have other `Maps`.
    """

    def __init__(self, kernel: Any, boxes: Sequence[tuple[str, Box]]) -> None:
        self.boxes = boxes
        self.about: Sequence[Any] = kernel.metadata.tensordesc_meta
        self.known: dict[tuple[int, ...], tuple[tuple[Any, ...], ...]] = {}

    def find(self, addresses: tuple[int, ...], tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], ...]:
        """What the launcher takes for each tensor: its descriptor, sizes and strides."""
        if len(self.known) >= MOST_MAPS:
            self.known.clear()
        made = tuple(
            tuple(_MAKE(described(tensor, *box), about, *_MORE))
            for tensor, box, about in zip(tensors, self.boxes, self.about, strict=True)
        )
        self.known[addresses] = made
        return made
