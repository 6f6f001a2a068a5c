"""The four forms of a module, and what each of them promises to the passes that follow.

traced       pure ops on whole tensors; no kernel
partitioned  every compute op sits in a kernel; only views between kernels
laid_out     partitioned, and every scaled type at a boundary has a layout
tiled        only tiled kernels, constants and views on plain tensors; no scaled type outside of a region
"""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import VerifyException

from breccia.errors import PassError
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import WHOLE_TENSOR_OPS
from breccia.ir.rewriting import functions, show_location
from breccia.ir.tile_ops import TILE_OPS
from breccia.ir.types import LayoutAttr, ScaledType

FORMS = ("traced", "partitioned", "laid_out", "tiled")
VIEWS = ("transpose", "reshape", "slice", "concat", "broadcast", "parts", "assemble", "convert_layout")
"""Ops that may stand between kernels: they compute nothing."""
ALLOWED_ON_TILES = (
    "unary", "binary", "select", "convert", "reduce", "full", "iota", "broadcast", "transpose", "reshape", "slice",
    "concat", "scale_from_amax", "history_update", "amax_from_history", "yield",
    *(op.name.removeprefix("breccia.") for op in TILE_OPS),
)  # fmt: skip
"""Ops that may stand in the regions of a tiled kernel: everything that deals with components alone."""


def verify_form(module: ModuleOp, form: str) -> None:
    """Raise VerifyException naming the op that breaks a rule of `form`, and the rule.

    Raises PassError for a form that is not one of `FORMS`.
    """
    if form not in FORMS:
        raise PassError(f"unknown form {form!r}; forms are {', '.join(FORMS)}")
    for op in module.ops:
        if not isinstance(op, FuncOp):
            raise VerifyException(f"{form} form: a module holds functions only, found {op.name}")
    for func in functions(module):
        for problem in _problems(func, form):
            raise VerifyException(f"{form} form, @{func.sym_name.data}: {problem}")


def _problems(func: FuncOp, form: str) -> Iterator[str]:
    for op in func.body.block.ops:
        if isinstance(op, ReturnOp):
            continue
        if isinstance(op, KernelOp):
            yield from _kernel_problems(op, form)
        else:
            yield from _op_problems(op, form)
    if form == "laid_out":
        yield from _layout_problems(func)
    if form == "tiled":
        yield from _plain_problems(func)


def _op_problems(op: Operation, form: str) -> Iterator[str]:
    name = op.name.removeprefix("breccia.")
    if isinstance(op, TILE_OPS):
        yield f"{_shown(op)} belongs inside a tiled kernel"
    elif not isinstance(op, WHOLE_TENSOR_OPS):
        yield f"{_shown(op)} is no op of the dialect"
    elif form == "traced" or name in VIEWS or (form == "tiled" and name == "full"):
        return
    else:
        rest = "full and views" if form == "tiled" else "views"
        yield f"{_shown(op)} computes outside of a kernel; only {rest} may stand between kernels ({', '.join(VIEWS)})"


def _kernel_problems(op: KernelOp, form: str) -> Iterator[str]:
    if form == "traced":
        yield f"{_shown(op)}: kernels are made by `partition`; there are none in this form"
    elif form == "tiled" and not op.is_tiled:
        yield f"{_shown(op)} has no grid; every kernel is tiled in this form"
    elif form != "tiled" and op.is_tiled:
        yield f"{_shown(op)} has a grid; kernels are tiled only in the tiled form"
    for _, region in op.named_regions():
        for inner in region.block.ops:
            name = inner.name.removeprefix("breccia.")
            if isinstance(inner, KernelOp):
                yield f"{_shown(inner)} stands inside {_shown(op)}; kernels do not nest"
            elif op.is_tiled and name not in ALLOWED_ON_TILES:
                yield f"{_shown(inner)} stands in a tiled kernel, where scaled tensors are spelled out in components"
            elif not op.is_tiled and isinstance(inner, TILE_OPS):
                yield f"{_shown(inner)} stands in {_shown(op)}, which has no grid"


def _layout_problems(func: FuncOp) -> Iterator[str]:
    """Scaled types of arguments, results and kernel boundaries have a layout."""
    for i, arg in enumerate(func.body.block.args):
        if isinstance(arg.type, ScaledType) and not isinstance(arg.type.layout, LayoutAttr):
            yield f"argument {i} is {arg.type}, which has no layout"
    for op in func.body.block.ops:
        if not isinstance(op, KernelOp | ReturnOp):
            continue  # a view's result has no layout; a convert_layout after it says which one is meant
        for what, values in (("operand", op.operands), ("result", op.results)):
            for i, value in enumerate(values):
                if isinstance(value.type, ScaledType) and not isinstance(value.type.layout, LayoutAttr):
                    yield f"{what} {i} of {_shown(op)} is {value.type}, which has no layout"


def _plain_problems(func: FuncOp) -> Iterator[str]:
    for i, arg in enumerate(func.body.block.args):
        if isinstance(arg.type, ScaledType):
            yield f"argument {i} is {arg.type}; boundaries hold plain components in this form"
    for op in func.body.block.ops:
        for value in (*op.operands, *op.results):
            if isinstance(value.type, ScaledType):
                yield f"{_shown(op)} handles {value.type}; only plain components stand outside of regions in this form"


def _shown(op: Operation) -> str:
    """An op for people: its name, its first result, and the user's line where it is known."""
    text = f'kernel "{op.kernel_name}"' if isinstance(op, KernelOp) else op.name
    hint = op.results[0].name_hint if op.results else None
    where = show_location(op)
    return text + (f" (%{hint})" if hint else "") + (f" from {where}" if where else "")
