"""The Python function that calls kernels: what emitters print for an IR function, around their kernels.

    def mlp(x, w):
        M = x.shape[0]
        y = rt.empty((M, 256), ...)
        gemm_0(-(-M // 128) * 2, x, w, y, M)  # model.py:13
        return y

Its arguments are arrays with a `shape`; symbols are found from those. A subclass says how a kernel is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import Sizes, docstring, origin, prop, solve, tensor_type
from breccia.codegen.names import RESERVED, Names, comment, entry_name, size_text
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import show_location
from breccia.ir.types import TensorType


def symbol_texts(arguments: Mapping[SSAValue, str]) -> dict[str, str]:
    """Every symbol of the arguments' types, and how to find it from their shapes; plain ones first.

    arguments: the name of each in the emitted text; those that are no plain tensors are passed over.
    """
    found: dict[str, str] = {}
    plain = ((a.type, name) for a, name in arguments.items())
    axes = [(d, name, i) for t, name in plain if isinstance(t, TensorType) for i, d in enumerate(t.shape)]
    for dim, name, axis in sorted(axes, key=lambda entry: not isinstance(entry[0], dims.Sym)):
        solved = solve(dim, f"{name}.shape[{axis}]")
        if solved is not None:
            found.setdefault(*solved)
    return found


class HostFunction:
    """Writes the function. Invariants: every value that was written has an entry in `texts`; subclasses define
    `kernel`, and what of `VIEWS`, `full` and `concat` their arrays spell otherwise than NumPy's.
    """

    target: ClassVar[str]
    """Who speaks in errors."""
    VIEWS: ClassVar[Mapping[str, str]] = {
        "reshape": "{x}.reshape({shape})",
        "transpose": "{x}.transpose({order})",
        "slice": "{x}[{cut}]",
    }
    """Views that stand between kernels, of `x`; `shape` is that of the result, `order` that of axes."""

    def __init__(self, function: FuncOp, reserved: frozenset[str] = RESERVED) -> None:
        self.function = function
        self.names, self.sizes = Names(reserved), Sizes()
        self.texts: dict[SSAValue, str] = {}
        self.lines: list[str] = []

    def kernel(self, op: KernelOp) -> None:
        """Write the call of a kernel, and bind its results."""
        raise NotImplementedError

    def ops(self, ops: Sequence[Operation]) -> None:
        """Write what stands between arguments and return."""
        for op in ops:
            if isinstance(op, KernelOp):
                self.kernel(op)
            else:
                self.view(op)

    def text(self) -> str:
        """Source of the function."""
        f = self.function
        for argument in f.args:
            tensor_type(argument.type)  # refuses scaled ones, before anything asks for their shapes
        arguments: dict[SSAValue, str] = {a: self.bind(a, a.name_hint or f"arg{i}") for i, a in enumerate(f.args)}
        symbols = symbol_texts(arguments)
        for symbol in symbols:
            self.sizes.symbol(symbol, self.names.fresh(symbol))
        *ops, last = f.body.block.ops
        assert isinstance(last, ReturnOp), "functions end in a return"
        self.ops(ops)
        self.line(f"return {', '.join(self.texts[v] for v in last.operands)}".rstrip())
        found = [f"    {self.sizes[s]} = {text}" for s, text in symbols.items() if s in self.sizes.used]
        doc = docstring(f.sym_name.data, f.args, list(f.function_type.outputs), place_of(f))
        body = "\n".join([*found, *self.lines])
        return f"def {entry_name(f.sym_name.data)}({', '.join(arguments.values())}):\n{doc}{body}"

    # -- values and sizes ----------------------------------------------------------------------------------------------

    def bind(self, value: SSAValue, wanted: str) -> str:
        """A new name for a value."""
        self.texts[value] = self.names.fresh(wanted)
        return self.texts[value]

    def size(self, dim: Dim, strength: int = 0) -> str:
        return size_text(dim, self.sizes, None, strength)

    def shape(self, shape: Sequence[Dim]) -> str:
        return "(" + ", ".join(map(self.size, shape)) + (",)" if len(shape) == 1 else ")")

    def line(self, text: str, about: str = "") -> None:
        self.lines.append(f"    {text}" + (f"  # {about}" if about else ""))

    # -- views ---------------------------------------------------------------------------------------------------------

    def full(self, t: TensorType, number: str) -> str:
        """An array of one number; targets that print it override this."""
        raise UnsupportedError(f"{self.target}: cannot print an array of {number} of type {t} between kernels")

    def view(self, op: Operation) -> None:
        """Write a view, or an array of one number."""
        name, out = op.name.removeprefix("breccia."), op.results[0]
        t = tensor_type(out.type)
        if name == "full":
            value = float(prop(op, "value"))
            text = self.full(t, repr(value) if value - value == 0 else f'float("{value}")')
        elif name in self.VIEWS:
            parts = [self.texts[v] for v in op.operands]
            cut = order = axis = ""
            if name == "slice":
                (start,), (stop,) = prop(op, "start"), prop(op, "stop")
                cut = ", ".join([":"] * prop(op, "axis") + [f"{self.size(start)}:{self.size(stop)}"])
            elif name == "transpose":
                order = str(tuple(prop(op, "order")))
            elif name == "concat":
                axis = str(prop(op, "axis"))
            text = self.VIEWS[name].format(
                x=parts[0], all=", ".join(parts), shape=self.shape(t.shape), cut=cut, order=order, axis=axis
            )
        else:
            raise UnsupportedError(f"{self.target}: cannot print {op.name} between kernels")
        bound = self.bind(out, out.name_hint or "v")
        self.line(f"{bound} = {text}", origin(op, bound))


def host_dtype(t: TensorType) -> str:
    """The dtype of the array that a result is written to; codes of 8 bits and fewer are bytes, `ui8`."""
    name = str(t.dtype)
    return name if name in ("f32", "bf16", "f16", "i1", "i32", "i64") else "ui8"


def place_of(op: Operation) -> str:
    """The file and line of the user's Python that an op comes from, for a comment."""
    return comment(show_location(op).replace("\\", "/").rpartition("/")[2])
