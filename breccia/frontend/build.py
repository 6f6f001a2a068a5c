"""Run a function over traced arguments and make the module in traced form."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Region
from xdsl.utils.exceptions import VerifyException

from breccia.arrays import foreign, namespace
from breccia.errors import TraceError
from breccia.frontend import jax_functions, keys
from breccia.frontend.elementwise import as_value
from breccia.frontend.program import device_of
from breccia.frontend.results import Result, Tree
from breccia.frontend.symbols import Pin, Retrace, Size, Symbols
from breccia.frontend.trace import Trace, Value, held_by_jax
from breccia.frontend.tracer import Tracer
from breccia.ir.attributes import IntsAttr
from breccia.ir.dims import Sym
from breccia.ir.hints import set_typical
from breccia.ir.rewriting import functions, location
from breccia.tensor import ScaledTensor

CONSTANTS = "breccia.constants"
_MOST_TRACES = 64


@dataclass
class Traced:
    """A function's IR in traced form, and how to call it.

    Invariants: the module's function takes the leaves of the call, then `constants`; `slots` are the leaves whose
    leading size may be a symbol, in the order of `symbols`.
    """

    module: ModuleOp
    name: str
    constants: tuple[Any, ...]
    symbols: Symbols
    slots: tuple[int, ...]
    tree: Tree
    results: tuple[Result, ...]
    notes: tuple[str, ...] = field(default=())


def trace(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, dynamic: bool = True, name: str = "",
    pinned: str = "", accuracy: str = "exact",
) -> Traced:  # fmt: skip
    """Trace `fn` for arguments like these; again under each constraint on sizes that it turns out to need.

    pinned: why no size may stay unknown; empty where they may. accuracy: of products that do not say it.
    """
    _, leaves = keys.call_key(args, kwargs, dynamic)
    slots = tuple(i for i, leaf in enumerate(leaves) if keys.is_dynamic(leaf, dynamic))
    symbols = Symbols(tuple(leaves[i].shape[0] for i in slots))
    if pinned:
        symbols.pins = {i: Pin(i, size, pinned, number=True) for i, size in enumerate(symbols.sizes)}
    for _ in range(_MOST_TRACES + len(slots)):
        attempt = Trace(tracer_of(leaves), symbols)
        attempt.device, attempt.accuracy = device_of(leaves), accuracy
        try:
            return _attempt(attempt, fn, args, kwargs, slots, name or function_name(fn))
        except Retrace:
            continue
        finally:
            attempt.open = False
    raise TraceError(f"{function_name(fn)}: sizes do not settle; compile with dynamic=False")


def tracer_of(leaves: Sequence[Any]) -> type[Tracer]:
    """What stands for the arrays of a call: an array whose methods are those of the arguments' library."""
    if any(keys.library_of(leaf) == "torch" for leaf in leaves):
        from breccia.frontend.torch_tracer import TorchTracer

        return TorchTracer
    return Tracer


def _attempt(
    trace: Trace,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    slots: Sequence[int],
    name: str,
) -> Traced:
    names = leaf_names(fn, args, kwargs)
    leading = {leaf: trace.symbols.dim(slot) for slot, leaf in enumerate(slots)}
    count = 0

    def argument(leaf: Any) -> Value:
        nonlocal count
        value = trace.argument(leaf, names[count], leading.get(count))
        count += 1
        return value

    given = [keys.rebuild(x, argument) for x in args]
    named = {key: keys.rebuild(x, argument) for key, x in kwargs.items()}
    with jax_functions.handing(trace):
        out = fn(*given, **named)
    values: list[Value] = []
    tree = flatten_result(trace, out, values)
    trace.open = False
    module = _module(trace, name, fn, count, values)
    _, leaves = keys.call_key(args, kwargs, True)
    expected = {d.name: keys.typical(leaves[i].shape[0]) for i, d in leading.items()
                if isinstance(d, Sym) and _on_accelerator(leaves[i])}  # fmt: skip
    set_typical(next(functions(module)), expected)
    results = tuple(Result(v._dtype, v.recipe, v.dims) for v in values)
    return Traced(
        module, name, tuple(trace.constants), trace.symbols, tuple(slots), tree, results,
        (*(p.reason for p in trace.symbols.pins.values()), *trace.symbols.reasons),
    )  # fmt: skip


def _on_accelerator(leaf: Any) -> bool:
    return bool(foreign(leaf)) and bool(namespace(leaf).architecture(leaf))


def _module(trace: Trace, name: str, fn: Callable[..., Any], arguments: int, values: Sequence[Value]) -> ModuleOp:
    """The finished function in a verified module."""
    block = trace.block
    returned = ReturnOp(*(v.ssa for v in values))
    place = definition(fn)
    returned.location = location(*place)
    block.add_op(returned)
    function = FuncOp(name, ([a.type for a in block.args], [v.ssa.type for v in values]), Region(block))
    function.location = location(*place)
    if trace.constants:
        function.attributes[CONSTANTS] = IntsAttr(tuple(range(arguments, len(block.args))))
    module = ModuleOp([function])
    try:
        module.verify()
    except VerifyException as error:
        raise TraceError(f"{name}: the traced function does not verify: {error}") from error
    return module


def flatten_result(trace: Trace, out: Any, values: list[Value]) -> Tree:
    """The shape of what a function returns; its arrays go to `values`."""
    out = held_by_jax(out)
    if isinstance(out, Value):
        if out.trace is not trace:
            trace.fail(TraceError, "the function returns a traced value of another function")
        values.append(out)
        return Tree("array")
    if isinstance(out, np.ndarray | ScaledTensor | np.generic | Size) or foreign(out):
        values.append(as_value(trace, out))
        return Tree("array")
    if (isinstance(out, tuple | list) and type(out) in (tuple, list)) or hasattr(out, "_fields"):
        children = tuple(flatten_result(trace, item, values) for item in out)
        return Tree(
            "tuple" if isinstance(out, tuple) else "list", children, cls=type(out) if hasattr(out, "_fields") else None
        )
    if isinstance(out, dict):
        return Tree("dict", tuple(flatten_result(trace, v, values) for v in out.values()), tuple(out))
    if out is None or isinstance(out, bool | int | float | str):
        return Tree("static", value=out)
    raise TraceError(
        f"a compiled function returns arrays, numbers, strings, None, and tuples, lists and dicts of them; not "
        f"{type(out).__name__}"
    )


def function_name(fn: Callable[..., Any]) -> str:
    """A name that IR and code may carry: `lambda` for a lambda."""
    name = getattr(fn, "__name__", type(fn).__name__)
    clean = re.sub(r"\W", "_", name.strip("<>"), flags=re.ASCII)
    return clean if clean and not clean[0].isdigit() else f"f_{clean}"


def definition(fn: Callable[..., Any]) -> tuple[str, int]:
    """File and line where a function is defined."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code is not None else ("<unknown>", 0)


def leaf_names(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """A distinct name for each array argument, from the function's signature."""
    names: list[str] = []
    for name, value in zip(_positional(fn, len(args)), args, strict=True):
        names += keys.named_leaves(value, name)
    for name, value in kwargs.items():
        names += keys.named_leaves(value, name)
    out: list[str] = []
    for name in names:
        clean = re.sub(r"\W", "_", name, flags=re.ASCII) or "x"
        while clean in out:
            clean += "_"
        out.append(clean)
    return out


def _positional(fn: Callable[..., Any], count: int) -> list[str]:
    """Names of the first `count` positional parameters."""
    out: list[str] = []
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            out += [f"{p.name}{i}" for i in range(count - len(out))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            out.append(p.name)
    return (out + [f"arg{i}" for i in range(len(out), count)])[:count]
