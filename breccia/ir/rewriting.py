"""Helpers for passes that keep what xDSL's own rewriting drops: source locations and value names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from xdsl.dialects.builtin import FileLineColLoc, IntAttr, ModuleOp, StringAttr, UnknownLoc
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue
from xdsl.rewriter import Rewriter

from breccia.ir.kernel import KernelOp

OperationT = TypeVar("OperationT", bound=Operation)


def location(filename: str, line: int, column: int = 0) -> FileLineColLoc:
    """The location attribute of a place in a file."""
    return FileLineColLoc(StringAttr(filename), IntAttr(line), IntAttr(column))


def show_location(op: Operation) -> str:
    """`file.py:12` of an op, or an empty string where it is unknown."""
    loc = op.location
    return f"{loc.filename.data}:{loc.line.data}" if isinstance(loc, FileLineColLoc) else ""


def with_location(op: OperationT, like: Operation) -> OperationT:
    """`op`, with the location of `like` where it has none of its own; inner ops likewise."""
    for inner in op.walk():
        if isinstance(inner.location, UnknownLoc):
            inner.location = like.location
    return op


def replace_op(
    old: Operation, new_ops: Operation | Iterable[Operation], values: Sequence[SSAValue] | None = None
) -> None:
    """Put `new_ops` where `old` stands; `values` (default: results of the last) stand for its results. Erases `old`.

    Locations and name hints of `old` pass on to what replaces it.
    """
    ops = [new_ops] if isinstance(new_ops, Operation) else list(new_ops)
    block = old.parent_block()
    assert block is not None, "only an op that stands in a block can be replaced"
    for op in ops:
        with_location(op, old)
        block.insert_op_before(op, old)
    new_values = list(values) if values is not None else list(ops[-1].results)
    for result, value in zip(old.results, new_values, strict=True):
        if value.name_hint is None and result.name_hint is not None:
            value.name_hint = result.name_hint
        result.replace_all_uses_with(value)
    old.detach()
    old.erase()


def insert_before(anchor: Operation, op: Operation) -> Operation:
    """`op`, inserted before `anchor` with its location."""
    block = anchor.parent_block()
    assert block is not None, "the anchor stands in a block"
    block.insert_op_before(with_location(op, anchor), anchor)
    return op


def inserted(anchor: Operation, op: Operation) -> SSAValue:
    """The result of `op`, inserted before `anchor` with its location."""
    (result,) = insert_before(anchor, op).results
    return result


def retype(value: SSAValue, type_: Attribute) -> SSAValue:
    """The value that takes the place of `value`, with another type; name and location pass on."""
    new = Rewriter.replace_value_with_new_type(value, type_)
    new.name_hint = value.name_hint
    if isinstance(value, BlockArgument) and isinstance(new, BlockArgument):
        new.location = value.location
    return new


def functions(module: ModuleOp) -> Iterator[FuncOp]:
    """Every function of the module that has a body."""
    for op in module.ops:
        if isinstance(op, FuncOp) and op.body.blocks:
            yield op


def kernels(module: Operation) -> list[KernelOp]:
    """Every kernel, in order."""
    return [op for op in module.walk() if isinstance(op, KernelOp)]


def erase_dead(block: Block) -> None:
    """Erase ops whose results nobody uses, from the end, so that chains go at once. All dialect ops are pure."""
    for op in reversed(list(block.ops)):
        if op.results and not any(r.uses for r in op.results):
            op.detach()
            op.erase()
