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

from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

from breccia.codegen.constants import Constants
from breccia.codegen.host import HostFunction, place_of
from breccia.codegen.names import Names, check_entries, quoted
from breccia.ir import dims
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions
from breccia.ir.types import TensorType
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
        host = _Host(function, constants, number)
        text = host.text()
        texts += [*host.kernels, text]
    header = HEADER + ("\n" + "\n".join(constants.lines) + "\n" if constants.lines else "")
    return header + "".join(f"\n\n{text}\n" for text in texts)


class _Host(HostFunction):
    """Writes the function that calls kernels. `number` tells kernels of different functions apart."""

    target = "pallas"
    VIEWS: ClassVar = {
        **HostFunction.VIEWS,
        "transpose": "jnp.transpose({x}, {order})",
        "broadcast": "jnp.broadcast_to({x}, {shape})",
        "concat": "jnp.concatenate(({all},), {axis})",
    }

    def __init__(self, function: FuncOp, constants: Constants, number: int) -> None:
        super().__init__(function, NAMES)
        self.constants = constants
        self.kernel_names = Names()
        self.suffix = f"_{number}" if number else ""
        self.kernels: list[str] = []
        """The source of each kernel, once the function is written."""

    def full(self, t: TensorType, number: str) -> str:
        return f"rt.full({self.shape(t.shape)}, {number}, {quoted(host_dtype(t))})"

    def kernel(self, op: KernelOp) -> None:
        name = f"_{self.kernel_names.fresh(op.kernel_name)}{self.suffix}"
        text = kernel_text(op, name, self.constants)
        self.kernels.append(text.source)
        sizes = [self.size(dims.Sym(s)) for s in text.symbols]
        arguments = ", ".join([*(self.texts[a] for a in op.args), *sizes])
        outs = [self.bind(o, o.name_hint or "out") for o in op.outs]
        self.line(f"{', '.join(outs)}{',' if len(outs) == 1 else ''} = {name}({arguments})", place_of(op))
