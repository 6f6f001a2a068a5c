"""What a component looks like in memory: its storage type for a layout.

Names are those of `breccia.layouts`. Packed and swizzled orders are windows over *storage* in the tiled form, undone by
one region op (`unpack`, `unswizzle`, `transpose`).
"""

from __future__ import annotations

from collections.abc import Callable

from xdsl.utils.exceptions import VerifyException

from breccia import formats
from breccia.ir import dims
from breccia.ir.types import LayoutAttr, ScaledType, TensorType, component_types, tensor

PACKING = {"packed4": (4, 2, 1), "packed6": (6, 4, 3)}
"""Layout name: bits of a code, codes in a unit, bytes of a unit. Codes run low bits first along the last axis."""


def _packed(order: str) -> Callable[[TensorType], TensorType]:
    bits, codes, size = PACKING[order]

    def storage(logical: TensorType) -> TensorType:
        fmt = logical.format
        if fmt is None or fmt.bits != bits:
            raise VerifyException(f"layout {order} packs codes of {bits} bits, not {logical.dtype}")
        last = dims.mul(dims.ceildiv(logical.shape[-1], codes), size)
        return tensor((*logical.shape[:-1], last), formats.uint8)

    return storage


def _swizzle_128x4(logical: TensorType) -> TensorType:
    *batch, rows, columns = logical.shape
    return tensor((*batch, dims.ceildiv(rows, 128), dims.ceildiv(columns, 4), 32, 16), logical.dtype)


def _mn_major(logical: TensorType) -> TensorType:
    *batch, rows, columns = logical.shape
    return tensor((*batch, columns, rows), logical.dtype)


STORAGE: dict[str, Callable[[TensorType], TensorType]] = {
    "row_major": lambda logical: logical,
    "packed4": _packed("packed4"),
    "packed6": _packed("packed6"),
    "mn_major": _mn_major,
    "swizzle_128x4": _swizzle_128x4,
}


def storage_type(logical: TensorType, order: str) -> TensorType:
    """The type of a component's memory; raises VerifyException for an order that is unknown or does not fit."""
    if order not in STORAGE:
        raise VerifyException(f"unknown layout {order!r}; known layouts: {', '.join(STORAGE)}")
    return STORAGE[order](logical)


def canonical_layout(scaled: ScaledType) -> LayoutAttr:
    """The order at the API and on disk: row-major, and sub-byte elements packed along the last axis, low bits first.

    Zero points stay one a byte, like scales: there are few of them, and slices stay views.
    """
    packed = {4: "packed4", 6: "packed6"}.get(scaled.recipe.element.bits, "row_major")
    names = [name for name, _ in component_types(scaled)]
    return LayoutAttr(tuple((name, packed if name == "elements" else "row_major") for name in names))


def storage_types(scaled: ScaledType) -> list[tuple[str, TensorType]]:
    """Name and storage type of each component; unpacked logical ones where the type has no layout."""
    parts = component_types(scaled)
    if not isinstance(scaled.layout, LayoutAttr):
        return parts
    return [(name, storage_type(t, scaled.layout.order(name))) for name, t in parts]
