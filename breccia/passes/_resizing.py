"""Rebuilds a tiled kernel with other tile sizes and without batch axes of one element; the grid stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from xdsl.dialects.builtin import IntAttr
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.utils.exceptions import VerifyException

from breccia.errors import UnsupportedError
from breccia.ir.attributes import IntsAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp, tile_type
from breccia.ir.ops import (
    AmaxFromHistoryOp,
    BroadcastOp,
    ConcatOp,
    FullOp,
    HistoryUpdateOp,
    IotaOp,
    ReduceOp,
    ReshapeOp,
    ScaleFromAmaxOp,
    SliceOp,
    TransposeOp,
    YieldOp,
)
from breccia.ir.rewriting import with_location
from breccia.ir.storage import PACKING
from breccia.ir.tile_ops import EncodeOp, ExpandOp, MaskOp, PackOp, UnpackOp, UnswizzleOp
from breccia.ir.tiling import Window
from breccia.ir.types import DimsAttr, RecipeAttr, TensorType
from breccia.passes._walked import shape
from breccia.recipes import Recipe

RANK = 2
"""Tiles have at most this many axes once batch axes are dropped."""
REGROUPING = (SliceOp, ConcatOp, ReshapeOp, HistoryUpdateOp, AmaxFromHistoryOp)
"""Ops that count positions: on them a tile cannot be longer than what it holds."""


def next_power(size: int) -> int:
    """The smallest power of two not below `size`."""
    return 1 << (size - 1).bit_length()


def byte_units(kernel: KernelOp) -> dict[Window, tuple[int, int]]:
    """Windows over packed codes, whose last axis counts bytes: codes and bytes of a unit, such as four in three."""
    t = kernel.tiles
    found: dict[Window, tuple[int, int]] = {}
    for name, region in kernel.named_regions():
        uses = {"step": t.step_uses, "finish": t.finish_uses}.get(name, ())
        windows = dict(
            zip(region.block.args[len(region.block.args) - len(uses) :], [t.inputs[i] for i in uses], strict=True)
        )
        for op in region.block.ops:
            window = windows.get(op.args[0]) if isinstance(op, UnpackOp) else None  # type: ignore[call-overload]
            if window is not None:
                found[window] = PACKING[op.order.data][1:]  # type: ignore[attr-defined]
    for value, window in zip(KernelOp.terminator(kernel.finish).args, t.outputs, strict=True):
        if isinstance(value.owner, PackOp):
            found[window] = PACKING[value.owner.order.data][1:]  # type: ignore[attr-defined]
    return found


def legal_block(size: int, unit: int = 1) -> int:
    """The smallest power of two of units that holds `size`."""
    return next_power(-(-size // unit)) * unit


def can_squeeze(kernel: KernelOp) -> bool:
    """True where some value has more than two axes and every axis in front of the last two has one element in tiles."""
    values: list[SSAValue] = []
    for _, region in kernel.named_regions():
        values += region.block.args
        for op in region.block.ops:
            if isinstance(op, ReshapeOp) or (isinstance(op, EncodeOp) and op.origin is not None):
                return False
            if isinstance(op, TransposeOp) and not _keeps_front(op):
                return False
            values += op.results
    shapes = [shape(v) for v in values]
    return any(len(s) > RANK for s in shapes) and all(d == 1 for s in shapes for d in s[:-RANK])


def _keeps_front(op: TransposeOp) -> bool:
    order: tuple[int, ...] = op.order.data  # type: ignore[attr-defined]
    front = max(len(order) - RANK, 0)
    return order[:front] == tuple(range(front))


class Resizing:
    """Applies `resize` to every tile size, and drops batch axes if `squeeze`."""

    def __init__(self, kernel: KernelOp, resize: Callable[[int], int], squeeze: bool, target: str) -> None:
        self.kernel, self.resize, self.squeeze, self.target = kernel, resize, squeeze, target
        self.units = byte_units(kernel)
        self.values: dict[SSAValue, SSAValue] = {}

    def run(self) -> KernelOp:
        """The rebuilt kernel, not yet inserted."""
        kernel, t = self.kernel, self.kernel.tiles
        self.inputs = [None if w is None else self._window(w) for w in t.inputs]
        outputs = tuple(self._window(w) for w in t.outputs)
        regions: dict[str, Region] = {}
        for name, region in kernel.named_regions():
            uses = {"step": t.step_uses, "finish": t.finish_uses}.get(name, ())
            regions[name] = self._region(region.block, uses)
        self._check_stores(regions["finish"], [tile_type(o.type, w) for o, w in zip(kernel.outs, outputs, strict=True)])
        return KernelOp.make(
            kernel.kernel_name, list(kernel.args), [o.type for o in kernel.outs],
            tiling=replace(t, inputs=tuple(self.inputs), outputs=outputs), schedule=kernel.schedule,
            init=regions.get("init"), step=regions.get("step"), finish=regions["finish"],
        )  # fmt: skip

    def _size(self, size: Dim) -> Dim:
        return self.resize(size) if isinstance(size, int) else size

    def _shape(self, old: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(self._size(d) for d in (old[-RANK:] if self.squeeze else old))

    def _dropped(self, value: SSAValue) -> int:
        return max(len(shape(value)) - RANK, 0) if self.squeeze else 0

    def _window(self, window: Window) -> Window:
        blocks = [b if b is None else self._size(b) for b in window.block]
        last = window.block[-1] if window.block else None
        if window in self.units and isinstance(last, int):
            codes, size = self.units[window]
            blocks[-1] = self.resize(-(-last // size) * codes) // codes * size
        kept = window.kept_axes
        for axis in kept[: max(len(kept) - RANK, 0)] if self.squeeze else ():
            blocks[axis] = None
        return replace(window, block=tuple(blocks))

    def _region(self, old: Block, uses: tuple[int, ...]) -> Region:
        types: list[Any] = []
        carried = len(old.args) - len(uses)
        for arg in old.args[:carried]:
            t = arg.type
            assert isinstance(t, TensorType), "regions of tiled kernels hold plain tensors"
            types.append(TensorType(DimsAttr(self._shape(t.shape)), t.dtype))
        for i in uses:
            window = self.inputs[i]
            assert window is not None, "regions use operands that have windows"
            types.append(tile_type(self.kernel.args[i].type, window))
        block = Block(arg_types=types)
        for a, n in zip(old.args, block.args, strict=True):
            n.name_hint = a.name_hint
            self.values[a] = n
        for op in old.ops:
            block.add_op(self._rebuilt(op))
        return Region(block)

    def _check_stores(self, finish: Region, wanted: list[TensorType]) -> None:
        terminator = KernelOp.terminator(finish)
        for value, type_ in zip(terminator.args, wanted, strict=True):
            if value.type != type_ and isinstance(value.owner, Operation):
                raise self._unsupported(value.owner, f"it gives {value.type} where a window of {type_} is stored")

    def _rebuilt(self, op: Operation) -> BrecciaOp:
        assert isinstance(op, BrecciaOp), "regions hold ops of this dialect alone"
        args = [self.values[a] for a in op.args]
        changed = any(shape(a)[self._dropped(a) :] != shape(v) for a, v in zip(op.args, args, strict=True))
        if isinstance(op, REGROUPING) and changed:
            raise self._unsupported(op, "it counts positions in a tile that would become longer than the axis it holds")
        if isinstance(op, YieldOp):
            return with_location(YieldOp.make(*args), op)
        try:
            new = type(op).make(*args, **self._properties(op))
        except VerifyException as error:
            raise self._unsupported(op, str(error)) from error
        for old, out in zip(op.outs, new.outs, strict=True):
            out.name_hint = old.name_hint
            self.values[old] = out
        return with_location(new, op)

    def _properties(self, op: BrecciaOp) -> dict[str, Any]:
        properties = dict(op.properties)
        lost = self._dropped(op.args[0]) if op.args else self._dropped(op.outs[0])
        if isinstance(op, FullOp | IotaOp | BroadcastOp | UnswizzleOp):
            properties["shape"] = DimsAttr(self._shape(shape(op.outs[0])))
        if isinstance(op, IotaOp | ExpandOp | MaskOp):
            properties["axis"] = IntAttr(op.axis.data - lost)  # type: ignore[attr-defined]
        if isinstance(op, ExpandOp):
            properties["to"] = DimsAttr((self._size(op.to.data[0]),))  # type: ignore[attr-defined]
        if isinstance(op, UnpackOp):
            properties["size"] = DimsAttr((self._unpacked(op),))
        if isinstance(op, ReduceOp):
            properties["axes"] = IntsAttr(tuple(a - lost for a in op.axes.data if a >= lost))  # type: ignore[attr-defined]
        if isinstance(op, TransposeOp):
            properties["order"] = IntsAttr(tuple(a - lost for a in op.order.data[lost:]))  # type: ignore[attr-defined]
        if isinstance(op, EncodeOp | ScaleFromAmaxOp) and lost:
            properties["recipe"] = RecipeAttr(_without_front(op.recipe.data, lost))  # type: ignore[attr-defined]
        return properties

    def _unpacked(self, op: UnpackOp) -> Dim:
        """As many codes as the tile has; where they do not fill their last byte, `of` says how many there are."""
        (size,) = op.size.data  # type: ignore[attr-defined]
        codes = PACKING[op.order.data][1]  # type: ignore[attr-defined]
        new = self._size(size)
        if new != size and isinstance(size, int) and size % codes and op.of is None:  # type: ignore[attr-defined]
            raise self._unsupported(
                op, f"{size} codes do not fill their last byte; pad that axis to a multiple of {codes}"
            )
        return new

    def _unsupported(self, op: Operation, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"kernel {self.kernel.kernel_name}: {self.target} works on tiles whose sizes are powers of two, and "
            f"{op.name} cannot follow: {why}. Use sizes and blocks that are powers of two, store elements unpacked, or "
            "move the op out of the kernel"
        )


def _without_front(recipe: Recipe, lost: int) -> Recipe:
    levels = tuple(replace(level, block=None if level.block is None else level.block[lost:]) for level in recipe.levels)
    return replace(recipe, levels=levels)
