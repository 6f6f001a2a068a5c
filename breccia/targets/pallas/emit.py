"""Tiled modules to Pallas: two functions for each kernel, and a function of JAX that calls them.

    from functools import partial

    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    from breccia.targets.pallas import launch as rt
    from breccia.targets.pallas import tiles


    def _gemm_0_kernel(a_ref, b_ref, out_ref, acc_ref):
        ...


    def _gemm_0(a, b):
        return rt.pallas_call(_gemm_0_kernel, grid=(2, 4), ...)(a, b)


    def f(a, b):
        out = _gemm_0(a, b)
        return out

The text follows from the module alone, and runs as it is with JAX 0.10 to 0.12. Sizes are those of the call's arrays.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from breccia.codegen.constants import Constants
from breccia.codegen.lines import Sizes, docstring, origin, solve, tensor_type
from breccia.codegen.names import Names, check_entries, comment, entry_name, quoted, size_text
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions, show_location
from breccia.targets.pallas._kernel import NAMES, kernel_text
from breccia.targets.pallas._region import host_dtype

HEADER = """from functools import partial

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from breccia.targets.pallas import launch as rt
from breccia.targets.pallas import tiles
"""


def emit(module: ModuleOp) -> str:
    """Source text of a tiled module; raises UnsupportedError naming the op that cannot be printed."""
    constants = Constants("tiles.recipe")
    check_entries([f.sym_name.data for f in functions(module)], "pallas")
    texts: list[str] = []
    for number, function in enumerate(functions(module)):
        texts += _Host(function, constants, number).texts()
    header = HEADER + ("\n" + "\n".join(constants.lines) + "\n" if constants.lines else "")
    return header + "".join(f"\n\n{text}\n" for text in texts)


class _Host:
    """Writes the function that calls kernels. `number` tells kernels of different functions apart."""

    def __init__(self, function: FuncOp, constants: Constants, number: int) -> None:
        self.function, self.constants = function, constants
        self.names, self.sizes = Names(NAMES), Sizes()
        self.bound: dict[SSAValue, str] = {}
        self.kernel_names = Names()
        self.suffix = f"_{number}" if number else ""
        self.lines: list[str] = []

    def texts(self) -> list[str]:
        """Sources of the kernels, and of the function last."""
        f = self.function
        arguments = [self._bind(a, a.name_hint or f"arg{i}") for i, a in enumerate(f.args)]
        symbols = self._symbols()
        kernels: list[str] = []
        for op in f.body.block.ops:
            if isinstance(op, KernelOp):
                kernels.append(self._call(op))
            elif isinstance(op, ReturnOp):
                self._line(f"return {', '.join(self.bound[v] for v in op.operands)}".rstrip())
            else:
                self._view(op)
        found = [f"    {self.sizes[s]} = {text}" for s, text in symbols.items() if s in self.sizes.used]
        where = show_location(f).replace("\\", "/").rpartition("/")[2]
        doc = docstring(f.sym_name.data, f.args, list(f.function_type.outputs), where)
        body = "\n".join([*found, *self.lines])
        return [*kernels, f"def {entry_name(f.sym_name.data)}({', '.join(arguments)}):\n{doc}{body}"]

    def _bind(self, value: SSAValue, wanted: str) -> str:
        self.bound[value] = self.names.fresh(wanted)
        return self.bound[value]

    def _symbols(self) -> dict[str, str]:
        """Every symbol of the arguments' types, and how to find it from their shapes; plain ones first."""
        found: dict[str, str] = {}
        axes = [(d, a, i) for a in self.function.args for i, d in enumerate(tensor_type(a.type).shape)]
        for dim, value, axis in sorted(axes, key=lambda entry: not isinstance(entry[0], dims.Sym)):
            solved = solve(dim, f"{self.bound[value]}.shape[{axis}]")
            if solved is not None and solved[0] not in found:
                found[solved[0]] = solved[1]
                self.sizes.symbol(solved[0], self.names.fresh(solved[0]))
        return found

    def _size(self, dim: Dim) -> str:
        return size_text(dim, self.sizes)

    def _shape(self, shape: tuple[Dim, ...]) -> str:
        return "(" + ", ".join(map(self._size, shape)) + (",)" if len(shape) == 1 else ")")

    def _line(self, text: str, about: str = "") -> None:
        self.lines.append(f"    {text}" + (f"  # {about}" if about else ""))

    def _call(self, op: KernelOp) -> str:
        """Write the call of a kernel; its source."""
        name = f"_{self.kernel_names.fresh(op.kernel_name)}{self.suffix}"
        text = kernel_text(op, name, self.constants)
        sizes = [self._size(dims.Sym(s)) for s in text.symbols]
        arguments = ", ".join([*(self.bound[a] for a in op.args), *sizes])
        outs = [self._bind(o, o.name_hint or "out") for o in op.outs]
        where = show_location(op).replace("\\", "/").rpartition("/")[2]
        self._line(f"{', '.join(outs)}{',' if len(outs) == 1 else ''} = {name}({arguments})", comment(where))
        return text.source

    def _view(self, op: Operation) -> None:
        name = op.name.removeprefix("breccia.")
        parts = [self.bound[v] for v in op.operands]
        out = op.results[0]
        t = tensor_type(out.type)
        if name == "reshape":
            text = f"{parts[0]}.reshape({self._shape(t.shape)})"
        elif name == "transpose":
            text = f"jnp.transpose({parts[0]}, {tuple(op.properties['order'].data)})"  # type: ignore[attr-defined]
        elif name == "slice":
            axis = op.properties["axis"].data  # type: ignore[attr-defined]
            (start,), (stop,) = op.properties["start"].data, op.properties["stop"].data  # type: ignore[attr-defined]
            text = f"{parts[0]}[{', '.join([':'] * axis + [f'{self._size(start)}:{self._size(stop)}'])}]"
        elif name == "broadcast":
            text = f"jnp.broadcast_to({parts[0]}, {self._shape(t.shape)})"
        elif name == "concat":
            text = f"jnp.concatenate(({', '.join(parts)},), {op.properties['axis'].data})"  # type: ignore[attr-defined]
        elif name == "full":
            value = float(op.properties["value"].data)  # type: ignore[attr-defined]
            number = repr(value) if value - value == 0 else f'float("{value}")'
            text = f"rt.full({self._shape(t.shape)}, {number}, {quoted(host_dtype(t))})"
        else:
            raise UnsupportedError(f"pallas: cannot print {op.name} between kernels")
        bound = self._bind(out, out.name_hint or "v")
        self._line(f"{bound} = {text}", origin(op, bound))
