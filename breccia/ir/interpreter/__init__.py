"""The meaning of every op of the dialect on NumPy arrays, in every form: what passes and targets are held to.

>>> from breccia.ir.dialect import parse_module
>>> import numpy as np
>>> module = parse_module('''
... func.func @double(%x : !breccia.tensor<[M], f32>) -> !breccia.tensor<[M], f32> {
...   %y = breccia.binary add %x, %x
...   func.return %y : !breccia.tensor<[M], f32>
... }''')
>>> interpret(module, [np.float32([1.0, 2.5])])[0].tolist()
[2.0, 5.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from breccia.ir.attributes import IntsAttr
from breccia.ir.interpreter.values import (
    InterpreterError,
    Mode,
    Nudge,
    ScaledValue,
    Value,
    bind_symbols,
    carried,
    value_shape,
)
from breccia.ir.interpreter.whole import run_block, run_whole
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions

__all__ = ["CONSTANTS_KEY", "PREPARE", "InterpreterError", "ScaledValue", "interpret", "public_function"]

PREPARE = "prepare"
"""Name of the function that converts constant arguments once."""
CONSTANTS_KEY = "breccia.constants"
"""Attribute of a function: positions of its constant (weight-like) arguments."""

Pad = Literal["nan", "zero"]


def interpret(
    module: ModuleOp,
    args: Sequence[Any],
    *,
    function: str | None = None,
    wide: bool = False,
    pad: Pad | None = None,
    nudge: Nudge | None = None,
) -> list[Any]:
    """The results of a function of `module`.

    args: one array or `ScaledValue` for each argument (see `interpreter.values`). function: its name; the only public
        one by default. A module with `@prepare` runs that first, on the constant arguments.
    wide: carry f32 as float64 and round only where an op says so; f32 results then are float64.
    pad: run tiles at their full size, with NaN (or 0) where a window lies outside its tensor, as hardware does; by
        default a partial window is a smaller tile.

    Raises InterpreterError where shapes contradict types, or tiles that do not describe the same elements meet.
    """
    func = public_function(module, function)
    values, settings = list(args), _Settings(wide, pad, nudge)
    with np.errstate(all="ignore"):
        if func.sym_name.data != PREPARE:
            values = _prepared(module, func, values, settings)
        return _run_function(func, values, settings)


@dataclass(frozen=True)
class _Settings:
    """What stays the same for a whole run."""

    wide: bool
    pad: Pad | None
    nudge: Nudge | None


def public_function(module: ModuleOp, name: str | None = None) -> FuncOp:
    """The function called `name`, or the only one but `@prepare`; raises InterpreterError naming those there are."""
    found = {f.sym_name.data: f for f in functions(module)}
    if name is None:
        public = [n for n in found if n != PREPARE]
        if len(public) != 1:
            raise InterpreterError(f"the module has functions {', '.join(found) or '(none)'}; say which one to run")
        name = public[0]
    if name not in found:
        raise InterpreterError(f"the module has no function {name!r}; it has {', '.join(found) or 'none'}")
    return found[name]


def _prepared(module: ModuleOp, func: FuncOp, values: list[Any], settings: _Settings) -> list[Any]:
    """The arguments with constant ones replaced by what `@prepare` makes of them, and what else it makes after them."""
    prepare = next((f for f in functions(module) if f.sym_name.data == PREPARE), None)
    constants = func.attributes.get(CONSTANTS_KEY)
    if prepare is None or not isinstance(constants, IntsAttr):
        return values
    positions = constants.data
    if len(prepare.body.block.args) != len(positions):
        raise InterpreterError(
            f"@{PREPARE} takes {len(prepare.body.block.args)} arguments; @{func.sym_name.data} has "
            f"{len(positions)} constants"
        )
    made = _run_function(prepare, [values[i] for i in positions], settings)
    if len(made) < len(positions):
        raise InterpreterError(f"@{PREPARE} gives {len(made)} values for {len(positions)} constants")
    values = [*values, *made[len(positions) :]]
    for position, value in zip(positions, made, strict=False):
        values[position] = value
    return values


def _run_function(func: FuncOp, values: Sequence[Any], settings: _Settings) -> list[Any]:
    block = func.body.block
    if len(values) != len(block.args):
        raise InterpreterError(f"@{func.sym_name.data} takes {len(block.args)} arguments; {len(values)} are given")
    names = [f"argument {i}" + (f" (%{a.name_hint})" if a.name_hint else "") for i, a in enumerate(block.args)]
    types = [a.type for a in block.args]
    sizes = bind_symbols(types, [value_shape(v) for v in values], names)
    mode = Mode(sizes, settings.wide, None, settings.nudge)
    ready = [carried(v, t, n, mode) for v, t, n in zip(values, types, names, strict=True)]

    def run_op(op: Operation, given: list[Value]) -> list[Value]:
        if isinstance(op, KernelOp):
            return _run_kernel(op, given, mode, settings)
        return run_whole(op, given, mode)

    return run_block(block, ready, run_op)


def _run_kernel(op: KernelOp, values: list[Value], mode: Mode, settings: _Settings) -> list[Value]:
    try:
        if op.is_tiled:
            from breccia.ir.interpreter.tiled import run_tiled

            return list(run_tiled(op, values, mode, settings.pad))
        return run_block(op.body.block, values, lambda inner, given: run_whole(inner, given, mode))
    except InterpreterError as error:
        raise InterpreterError(f"kernel {op.kernel_name}: {error}") from None
