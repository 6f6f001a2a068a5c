"""Tiled modules to a Python module that holds OpenCL C: a kernel for each kernel, a function for each function."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

from breccia.codegen.c import CKernel, Dialect, Tables
from breccia.codegen.host import HostFunction, host_dtype, place_of
from breccia.codegen.lines import tensor_type
from breccia.codegen.names import Names, check_entries
from breccia.ir import dims
from breccia.ir.capabilities import target_of
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions
from breccia.ir.types import TensorType

OPENCL = Dialect(
    "opencl",
    kernel="__kernel void {name}({parameters}) {{\n{body}\n}}",
    pointer="__global {type} *{name}",
    program="long program = get_group_id(0);",
    shared="__local {type} {name}[{count}];",
    constant="__constant {type} {name}[] = {{{numbers}}};",
    types={"f32": "float", "bf16": "ushort", "f16": "half", "i32": "int", "i64": "long"},
    loads={"bf16": "load_bf16({0}[{1}])", "f16": "vload_half({1}, {0})"},
    stores={"bf16": "{0}[{1}] = as_uint({2}) >> 16;", "f16": "vstore_half_rte({2}, {1}, {0});"},
    conversions={
        "bf16": "round_bf16({0})",
        "f16": "round_f16({0})",
        "i32": "convert_int_sat_rte({0})",
        "i64": "convert_long_sat_rte({0})",
    },
    functions={"abs": "fabs({0})", "rsqrt": "1.0f / sqrt({0})"},
)
FILLS = {None: "0", "add": "0", "max": '-float("inf")'}


def emit(module: ModuleOp) -> str:
    """Source text of a tiled module; raises UnsupportedError naming the op that cannot be printed."""
    check_entries([f.sym_name.data for f in functions(module)], "opencl")
    tables, names, hosts = Tables(OPENCL), Names(), list[Host]()
    for function in functions(module):
        hosts.append(Host(function, tables, names, target_of(module, "emit").scratch_bytes))
    texts = [host.text() for host in hosts]
    kernels = "\n\n".join([*tables.texts, *(text for host in hosts for text in host.kernels)])
    head = (
        f'import numpy as np\n\nfrom breccia_opencl import launch as rt\n\nKERNELS = rt.build(r"""\n{kernels}\n""")\n'
    )
    return head + "".join(f"\n\n{text}\n" for text in texts)


class Host(HostFunction):
    """Writes the function that runs kernels; `kernels` holds their text."""

    target = "opencl"
    VIEWS: ClassVar = {
        **HostFunction.VIEWS,
        "broadcast": "np.broadcast_to({x}, {shape})",
        "concat": "np.concatenate(({all},), {axis})",
    }

    def __init__(self, function: FuncOp, tables: Tables, kernel_names: Names, scratch_bytes: int) -> None:
        super().__init__(function)
        self.tables, self.kernel_names, self.scratch_bytes = tables, kernel_names, scratch_bytes
        self.kernels: list[str] = []

    def kernel(self, op: KernelOp) -> None:
        """Write the call of a kernel, and bind its results."""
        name = self.kernel_names.fresh(op.kernel_name)
        kernel = CKernel(op, name, OPENCL, self.tables, self.scratch_bytes)
        self.kernels.append(kernel.text())
        given = [self.texts[a] for a in op.args]
        made = [self.bind(out, out.name_hint or "out") for out in op.outs]
        for out, text, window in zip(op.outs, made, op.tiles.outputs, strict=True):
            self.line(f"{text} = {self.full(tensor_type(out.type), FILLS[window.combine])}")
        groups = [self.size(d.extent, 2) for d in kernel.programs]
        sizes = ", ".join(self.size(dims.Sym(s)) for s in kernel.symbols)
        arrays = f"[{', '.join(given)}], [{', '.join(made)}]"
        self.line(f'rt.run(KERNELS, "{name}", {" * ".join(groups) or 1}, {arrays}, [{sizes}])', place_of(op))

    def full(self, t: TensorType, number: str) -> str:
        """An array of one number: results start as one, too."""
        return f'rt.full({self.shape(t.shape)}, {number}, "{host_dtype(t)}")'
