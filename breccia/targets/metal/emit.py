'''Tiled modules to Metal: a kernel of the Metal Shading Language for each kernel, and a Python function that launches
them on arrays of MLX.

    from breccia.targets.metal import launch as rt

    HEADER = """
    // The value of a code of float4_e2m1fn.
    inline float decode_float4_e2m1fn(uint code) {
    ...
    """

    gemm_0 = rt.Kernel(
        "gemm_0",
        inputs=("x", "w_elements", "w_scale0"),
        outputs=("out",),
        dtypes=("float",),
        header=HEADER,
        body="""
    ...
    """,
    ).call


    def f(x, w_elements, w_scale0):
        M = x.shape[0]
        (y,) = gemm_0(2 * -(-M // 32), (x, w_elements, w_scale0), ((M, 48),))
        return y

The text follows from the module alone. Views between kernels are MLX's; kernels take arrays with any strides.
'''

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

from breccia.codegen.host import HostFunction, place_of
from breccia.codegen.lines import docstring, tensor_type
from breccia.codegen.names import RESERVED, Names, check_entries, entry_name
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities, target_of
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions
from breccia.ir.types import TensorType
from breccia.targets.metal._kernel import KernelText, kernel_text
from breccia.targets.metal._library import PROLOGUE, Library
from breccia.targets.metal._windows import device_type

IMPORT = "from breccia.targets.metal import launch as rt\n"


def emit(module: ModuleOp) -> str:
    """Source text of a tiled module; raises UnsupportedError naming the op that cannot be printed."""
    capabilities = target_of(module, "emit")
    library = Library()
    check_entries([f.sym_name.data for f in functions(module)], "metal")
    kernels: list[str] = []
    hosts: list[str] = []
    for function in functions(module):
        host = _Host(function, library, capabilities, len(hosts))
        hosts.append(host.text())
        kernels += host.kernels
    header = "\n".join([PROLOGUE, *library.texts()])
    parts = [f'HEADER = """\n{header}"""', *kernels]
    return IMPORT + "".join(f"\n{part}\n" for part in parts) + "".join(f"\n\n{host}\n" for host in hosts)


class _Host(HostFunction):
    """Writes the function that launches kernels. `number` tells kernels of different functions apart."""

    target = "metal"
    VIEWS: ClassVar = {
        "reshape": "rt.reshape({x}, {shape})",
        "transpose": "rt.transpose({x}, {order})",
        "slice": "{x}[{cut}]",
        "broadcast": "rt.broadcast({x}, {shape})",
        "concat": "rt.concat(({all},), {axis})",
    }

    def __init__(self, function: FuncOp, library: Library, capabilities: Capabilities, number: int) -> None:
        super().__init__(function, RESERVED | {"HEADER"})
        self.library, self.capabilities = library, capabilities
        self.kernel_names = Names(frozenset({entry_name(function.sym_name.data)}))
        self.suffix = f"_{number}" if number else ""
        self.kernels: list[str] = []
        """The source of each kernel, once the function is written."""

    def full(self, t: TensorType, number: str) -> str:
        return f'rt.full({self.shape(t.shape)}, {number}, "{device_type(t)}")'

    def kernel(self, op: KernelOp) -> None:
        name = self.kernel_names.fresh(op.kernel_name) + self.suffix
        text = kernel_text(op, name, self.library, self.capabilities)
        self.kernels.append(_definition(entry_name(name), text, op))
        arrays = _tuple([self.texts[a] for a in op.args])
        shapes = _tuple([self.shape(tensor_type(o.type).shape) for o in op.outs])
        given = [self.size(text.programs), arrays, shapes]
        if text.sizes:
            given.append(_tuple([self.size(dims.Sym(s)) for s in text.sizes]))
        outs = [self.bind(o, o.name_hint or "out") for o in op.outs]
        self.line(f"{_tuple(outs)} = {entry_name(name)}({', '.join(given)})", place_of(op))


def _tuple(parts: Sequence[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _definition(name: str, text: KernelText, op: KernelOp) -> str:
    """The statement that makes a kernel callable."""
    given = docstring(op.kernel_name, op.args, [o.type for o in op.outs]).replace('"""', "")
    about = "\n".join(f"# {line.strip()}".rstrip() for line in given.strip().splitlines())

    def quoted(names: tuple[str, ...]) -> str:
        return "(" + "".join(f'"{n}", ' for n in names).rstrip() + ")"

    lines = [
        about, f"{name} = rt.Kernel(", f'    "{text.name}",', f"    inputs={quoted(text.inputs)},",
        f"    types={quoted(text.kinds[0])},", f"    outputs={quoted(text.outputs)},",
        f"    dtypes={quoted(text.kinds[1])},",
        *([f"    sizes={len(text.sizes)},"] if text.sizes else []),
        *([f"    fill={text.fill},"] if text.fill else []), "    header=HEADER,", '    body="""', text.body, '""",',
        ").call",
    ]  # fmt: skip
    return "\n".join(lines)
