"""Decode the operands of large products once, in kernels of their own, instead of in every tile that meets them.

Contract: exact. A tile of a product decodes its operands for itself, so that an operand is decoded as often as there
are tiles along the other axis. Where `schedule` says `decode = apart`, what stands between an operand's windows and the
`dot` moves to a kernel that writes decoded values, in the order that matrix instructions like best: rows of n.

    step (%acc, %a, %w, %s) { %e = convert %w : f32  %x = expand %s ..  %v = binary mul %e, %x  %b = convert %v : bf16
                              %p = dot nt %a, %b ..}
    // becomes
    %w_values = breccia.kernel "decode_0" grid(k = .., n = ..) in (%w .., %s ..) finish { .. %t = transpose %b .. }
    .. step (%acc, %a, %w_values) { %p = dot nn %a, %w_values ..}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue

from breccia.ir import dims
from breccia.ir.attributes import IntsAttr, ScheduleAttr
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import TransposeOp, YieldOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import insert_before, kernels, replace_op, with_location
from breccia.ir.tile_ops import DotOp, UnpackOp
from breccia.ir.tiling import GridDim, Tiling, Window
from breccia.ir.types import TensorType, tensor
from breccia.passes._group_tiles import APART
from breccia.passes._sharing import cone
from breccia.passes._walked import shape


@dataclass(frozen=True)
class SplitDecode(BrecciaPass):
    """Kernels whose schedule does not ask for it stay as they are, and so do operands that no grid of tiles covers."""

    name: ClassVar[str] = "split-decode"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for number, kernel in enumerate([k for k in kernels(module) if _asks(k)]):
            first = _split(kernel, 0, f"decode_{2 * number}")
            _split(first, 1, f"decode_{2 * number + 1}")


def _asks(kernel: KernelOp) -> bool:
    return kernel.is_tiled and bool(kernel.step.blocks) and kernel.entries.get("decode") == APART


def _split(kernel: KernelOp, side: int, name: str) -> KernelOp:
    """`kernel` with one operand of its product decoded before it; itself where that cannot be."""
    dots = [op for op in kernel.step.block.ops if isinstance(op, DotOp)]
    if len(dots) != 1:
        return kernel
    value = dots[0].args[side]
    ops = _slice(value)
    turned = dots[0].form.data[side] != _best_form(value, side)  # type: ignore[attr-defined]
    leaves = _leaves(kernel, value, ops)
    if leaves is None or not (ops or turned):
        return kernel
    found = _place(kernel, value)
    if found is None:
        return kernel
    window, sizes = found
    moving = set().union(*(dims.symbols(i) for w in (window, *leaves.values()) for i in w.index))
    grid = tuple(replace(d, kind="parallel") for d in kernel.tiles.grid if d.name in moving)
    if any(dims.symbols(d.extent) & {g.name for g in kernel.tiles.grid} for d in grid):
        return kernel
    decode, values = _decode_kernel(kernel, name, ops, value, leaves, grid, window, sizes, turned=turned)
    insert_before(kernel, decode)
    out = replace(window, block=_turned(window.block), index=_turned(window.index)) if turned else window
    return _without(kernel, side, decode.outs[0], out, values)


def _best_form(value: SSAValue, side: int) -> str:
    """How an operand should lie: rows of k for the first; for the second rows of n, or of k where elements are bytes,
    of which matrix instructions take no others.
    """
    assert isinstance(value.type, TensorType) and value.type.format is not None, "operands of products have formats"  # noqa: PT018
    return "t" if side == 1 and value.type.format.bits <= 8 else "n"


def _slice(value: SSAValue) -> list[Operation]:
    """The ops that make `value` from the arguments of its region, in order."""
    found = cone(value)
    block = value.owner.parent_block() if isinstance(value.owner, Operation) else None
    return [op for op in block.ops if op in found] if block is not None else []


def _leaves(kernel: KernelOp, value: SSAValue, ops: Sequence[Operation]) -> dict[BlockArgument, Window] | None:
    """The windows that `value` is made of; None where these are carried values, segments or found in tables, or where
    a table comes after them, whose number would change.
    """
    carried = len(kernel.step.block.args) - len(kernel.tiles.step_uses)
    last_table = max(_tables(kernel), default=-1)
    found: dict[BlockArgument, Window] = {}
    for operand in (value, *(v for op in ops for v in op.operands)):
        if not isinstance(operand, BlockArgument):
            continue
        if operand.index < carried:
            return None
        number = kernel.tiles.step_uses[operand.index - carried]
        window = kernel.tiles.inputs[number]
        if window is None or window.segment is not None or window.partial or number <= last_table:
            return None
        if any(dims.has_lookup(index) for index in window.index):
            return None
        found[operand] = window
    return found


def _tables(kernel: KernelOp) -> set[int]:
    """The numbers of the operands that index maps and segments read."""
    found: set[int] = set()
    for window in (*kernel.tiles.inputs, *kernel.tiles.outputs):
        if window is not None:
            segment = () if window.segment is None else (window.segment.base, window.segment.limit)
            parts = [part for dim in (*window.index, *segment) for part in dims.walk(dim)]
            found |= {part.operand for part in parts if isinstance(part, dims.Lookup)}
    return found


def _place(kernel: KernelOp, value: SSAValue) -> tuple[Window, tuple[Dim, ...]] | None:
    """The window of decoded values, and the sizes of their tensor: those of the elements, unpacked."""
    tile, length = shape(value), None
    current = value
    while isinstance(current.owner, Operation):
        op = current.owner
        if isinstance(op, UnpackOp):
            length = op.of.data[0] if op.of is not None else None  # type: ignore[attr-defined]
            if length is None:
                return None
            current = op.args[0]
            continue
        same = [v for v in op.operands if shape(v) == tile and op.name not in ("breccia.expand", "breccia.broadcast")]
        if not same or isinstance(op, TransposeOp):
            return None
        current = same[0]
    assert isinstance(current, BlockArgument), "a value that no op makes is an argument"
    carried = len(kernel.step.block.args) - len(kernel.tiles.step_uses)
    number = kernel.tiles.step_uses[current.index - carried]
    window, type_ = kernel.tiles.inputs[number], kernel.args[number].type
    assert window is not None and isinstance(type_, TensorType), "regions use windows of plain tensors"  # noqa: PT018
    sizes, block = list(type_.shape), list(window.block)
    for axis, size in zip(window.kept_axes, tile, strict=True):
        block[axis] = size
    if length is not None:
        sizes[-1] = length
    return replace(window, block=tuple(block)), tuple(sizes)


def _turned(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*entries[:-2], entries[-1], entries[-2])


def _decode_kernel(
    kernel: KernelOp, name: str, ops: Sequence[Operation], value: SSAValue, leaves: dict[BlockArgument, Window],
    grid: tuple[GridDim, ...], window: Window, sizes: tuple[Dim, ...], *, turned: bool,
) -> tuple[KernelOp, list[int]]:  # fmt: skip
    """The kernel that decodes, and the numbers of the operands that it reads."""
    carried = len(kernel.step.block.args) - len(kernel.tiles.step_uses)
    numbers = [kernel.tiles.step_uses[a.index - carried] for a in leaves]
    block = Block(arg_types=[a.type for a in leaves])
    mapped: dict[SSAValue, SSAValue] = {}
    for old, new in zip(leaves, block.args, strict=True):
        new.name_hint = old.name_hint
        mapped[old] = new
    for op in ops:
        block.add_op(op.clone(mapped))
    result = mapped[value]
    assert isinstance(value.type, TensorType), "regions of tiled kernels hold plain tensors"
    out_window, out_sizes = window, sizes
    if turned:
        rank = value.type.rank
        order = IntsAttr((*range(rank - 2), rank - 1, rank - 2))
        transpose = TransposeOp.make(result, order=order)
        block.add_op(with_location(transpose, kernel))
        result = transpose.out
        out_window = replace(window, block=_turned(window.block), index=_turned(window.index))
        out_sizes = _turned(sizes)
    block.add_op(with_location(YieldOp.make(result), kernel))
    uses = tuple(range(len(numbers)))
    tiling = Tiling(grid, tuple(leaves.values()), (out_window,), (), uses)
    type_ = tensor(out_sizes, value.type.dtype)
    made = KernelOp.make(
        name, [kernel.args[i] for i in numbers], [type_], tiling=tiling, finish=Region(block),
        schedule=ScheduleAttr((("num_warps", 8), ("launch", "shared"))),
    )  # fmt: skip
    made.outs[0].name_hint = f"{kernel.args[numbers[0]].name_hint or 'operand'}_values".replace("_elements", "")
    return with_location(made, kernel), numbers


def _without(kernel: KernelOp, side: int, decoded: SSAValue, window: Window, numbers: Sequence[int]) -> KernelOp:
    """`kernel` reading decoded values; operands that nothing else reads are dropped."""
    t = kernel.tiles
    step = kernel.step.clone()
    block = step.block
    carried = len(block.args) - len(t.step_uses)
    dot = next(op for op in block.ops if isinstance(op, DotOp))
    added = block.insert_arg(_tile_type(decoded, window), len(block.args))
    added.name_hint = decoded.name_hint
    dot.operands[side] = added
    form = dot.form.data  # type: ignore[attr-defined]
    best = _best_form(added, side)
    dot.properties["form"] = StringAttr(best + form[1] if side == 0 else form[0] + best)
    _erase_unused(block)
    read = [(n, block.args[carried + at]) for at, n in enumerate(t.step_uses)]
    gone = [(n, argument) for n, argument in read if n in numbers and not argument.uses]
    step_uses = [n for n, argument in read if (n, argument) not in gone]
    lost = {n for n, _ in gone} - {*step_uses, *t.finish_uses}
    for _, argument in reversed(gone):
        block.erase_arg(argument)
    order = [i for i in range(len(kernel.args)) if i not in lost]
    renumber = {old: new for new, old in enumerate(order)}
    tiling = Tiling(
        t.grid,
        (*(t.inputs[i] for i in order), window),
        t.outputs,
        (*(renumber[n] for n in step_uses), len(order)),
        tuple(renumber[i] for i in t.finish_uses),
    )
    new = KernelOp.make(
        kernel.kernel_name, [*(kernel.args[i] for i in order), decoded], [o.type for o in kernel.outs], tiling=tiling,
        init=kernel.init.clone(), step=step, finish=kernel.finish.clone(), schedule=kernel.schedule,
    )  # fmt: skip
    new.attributes.update(kernel.attributes)
    replace_op(kernel, new, list(new.outs))
    return new


def _tile_type(decoded: SSAValue, window: Window) -> TensorType:
    """The type of a tile of decoded values."""
    assert isinstance(decoded.type, TensorType), "decoded values are a plain tensor"
    return tensor(window.tile, decoded.type.dtype)  # type: ignore[arg-type]


def _erase_unused(block: Block) -> None:
    for op in reversed(list(block.ops)):
        if op.results and not any(r.uses for r in op.results):
            op.detach()
            op.erase()
