"""`--interpret`: the module before and after the passes on the same random values, and how far apart the results
are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.interpreter import interpret, public_function
from breccia.ir.types import ScaledType, TensorType, component_types
from breccia.testing.inputs import make_arguments
from breccia.testing.validate import flatten_value, same

if TYPE_CHECKING:
    from breccia.cli._opt_options import Options

Array = np.ndarray[Any, np.dtype[Any]]
DEFAULT_SIZE = 40
"""What a symbol stands for unless --dim says so: no multiple of a usual tile."""
SHOWN = 16


def report(before: ModuleOp, after: ModuleOp, options: Options) -> str:
    """Lines for people: the function and its sizes, then each result, compared with the module before the passes."""
    func = public_function(before, options.function)
    name = func.sym_name.data
    sizes = _sizes(func, options.dims)
    arguments = make_arguments(func, sizes, "normal", np.random.default_rng(options.seed))
    result_types = func.function_type.outputs.data
    old = _run(before, name, func, arguments, result_types, None)
    new = _run(after, name, func, arguments, result_types, options.pad)
    shown = "".join(f", {symbol} = {size}" for symbol, size in sizes.items())
    lines = [f"// @{name}: seed {options.seed}{shown}" + (f", tiles padded with {options.pad}" if options.pad else "")]
    for label, a, b in zip(_labels(result_types), old, new, strict=True):
        lines.append(f"// {label}: {b.dtype}{list(b.shape)} {compared(a, b)}")
        if b.size <= SHOWN:
            lines.append(f"//   {b.tolist()}")
    return "\n".join(lines) + "\n"


def _sizes(func: FuncOp, given: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for argument in func.args:
        if isinstance(argument.type, TensorType | ScaledType):
            for symbol in sorted(s for d in argument.type.shape for s in dims.symbols(d)):
                found[symbol] = given.get(symbol, DEFAULT_SIZE)
    unknown = [symbol for symbol in given if symbol not in found]
    if unknown:
        known = ", ".join(found) or "none"
        raise UnsupportedError(f"--dim {unknown[0]}: @{func.sym_name.data} has no such symbol; its symbols: {known}")
    return found


def _run(
    module: ModuleOp,
    name: str,
    signature: FuncOp,
    arguments: Sequence[Any],
    results: Sequence[Attribute],
    pad: str | None,
) -> list[Array]:
    """All results as stored components, whether or not the module takes and gives components."""
    func = public_function(module, name)
    if len(func.args) != len(arguments) or any(
        isinstance(a.type, ScaledType) and not isinstance(b.type, ScaledType)
        for a, b in zip(signature.args, func.args, strict=True)
    ):
        arguments = [c for a, v in zip(signature.args, arguments, strict=True) for c in flatten_value(a.type, v)]
    values = interpret(module, arguments, function=name, pad=pad)  # type: ignore[arg-type]
    types = func.function_type.outputs.data
    if len(types) == len(results):
        return [c for t, v in zip(types, values, strict=True) for c in flatten_value(t, v)]
    return [np.asarray(v) for v in values]


def _labels(results: Sequence[Attribute]) -> list[str]:
    labels: list[str] = []
    for i, type_ in enumerate(results):
        parts = component_types(type_) if isinstance(type_, ScaledType) else [("", type_)]
        labels += [f"result {i}" + (f" {name}" if name else "") for name, _ in parts]
    return labels


def compared(old: Array, new: Array) -> str:
    """How two results differ, in words."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"DIFFERS in kind: {old.dtype}{list(old.shape)} before the passes"
    equal = same(old, new)
    if bool(np.all(equal)):
        return "equal"
    count = int(np.sum(~equal))
    if new.dtype.kind in "biu":
        return f"{count} of {new.size} differ"
    a, b = old.astype(np.float64), new.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    largest = float(np.max(np.abs(a - b), where=finite, initial=0.0))
    scale = float(np.max(np.abs(a), where=finite, initial=0.0))
    return f"{count} of {new.size} differ, by at most {largest:.3g}" + (
        f" ({largest / scale:.2g} of the largest)" if scale else ""
    )
