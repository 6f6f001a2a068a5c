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

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import Sizes, docstring, origin, prop, solve, tensor_type
from breccia.codegen.names import RESERVED, Names, check_entries, comment, entry_name, size_text
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities, target_of
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions, show_location
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


class _Host:
    """Writes the function that launches kernels. `number` tells kernels of different functions apart."""

    def __init__(self, function: FuncOp, library: Library, capabilities: Capabilities, number: int) -> None:
        self.function, self.library, self.capabilities = function, library, capabilities
        self.names, self.sizes = Names(RESERVED | {"HEADER"}), Sizes()
        self.texts: dict[SSAValue, str] = {}
        self.kernel_names = Names(frozenset({entry_name(function.sym_name.data)}))
        self.suffix = f"_{number}" if number else ""
        self.kernels: list[str] = []
        self.lines: list[str] = []

    def text(self) -> str:
        """Source of the function; `kernels` holds that of its kernels then."""
        f = self.function
        arguments = [self._bind(a, a.name_hint or f"arg{i}") for i, a in enumerate(f.args)]
        symbols = self._symbols()
        for op in f.body.block.ops:
            if isinstance(op, KernelOp):
                self._call(op)
            elif isinstance(op, ReturnOp):
                self._line(f"return {', '.join(self.texts[v] for v in op.operands)}".rstrip())
            else:
                self._view(op)
        found = [f"    {self.sizes[s]} = {text}" for s, text in symbols.items() if s in self.sizes.used]
        where = show_location(f).replace("\\", "/").rpartition("/")[2]
        doc = docstring(f.sym_name.data, f.args, list(f.function_type.outputs), where)
        body = "\n".join([*found, *self.lines])
        return f"def {entry_name(f.sym_name.data)}({', '.join(arguments)}):\n{doc}{body}"

    # -- names and sizes -----------------------------------------------------------------------------------------------

    def _bind(self, value: SSAValue, wanted: str) -> str:
        self.texts[value] = self.names.fresh(wanted)
        return self.texts[value]

    def _symbols(self) -> dict[str, str]:
        """Every symbol of the arguments' types, and how to find it from their shapes; plain ones first."""
        found: dict[str, str] = {}
        axes = [(d, a, i) for a in self.function.args for i, d in enumerate(tensor_type(a.type).shape)]
        for dim, value, axis in sorted(axes, key=lambda entry: not isinstance(entry[0], dims.Sym)):
            solved = solve(dim, f"{self.texts[value]}.shape[{axis}]")
            if solved is not None and solved[0] not in found:
                found[solved[0]] = solved[1]
                self.sizes.symbol(solved[0], self.names.fresh(solved[0]))
        return found

    def _size(self, dim: Dim) -> str:
        return size_text(dim, self.sizes)

    def _tuple(self, parts: list[str]) -> str:
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"

    def _shape(self, shape: tuple[Dim, ...]) -> str:
        return self._tuple(list(map(self._size, shape)))

    def _line(self, text: str, about: str = "") -> None:
        self.lines.append(f"    {text}" + (f"  # {about}" if about else ""))

    # -- kernels and views ---------------------------------------------------------------------------------------------

    def _call(self, op: KernelOp) -> None:
        name = self.kernel_names.fresh(op.kernel_name) + self.suffix
        text = kernel_text(op, name, self.library, self.capabilities)
        self.kernels.append(_definition(entry_name(name), text, op))
        arrays = self._tuple([self.texts[a] for a in op.args])
        shapes = self._tuple([self._shape(tensor_type(o.type).shape) for o in op.outs])
        given = [self._size(text.programs), arrays, shapes]
        if text.sizes:
            given.append(self._tuple([self._size(dims.Sym(s)) for s in text.sizes]))
        outs = [self._bind(o, o.name_hint or "out") for o in op.outs]
        where = show_location(op).replace("\\", "/").rpartition("/")[2]
        self._line(f"{self._tuple(outs)} = {entry_name(name)}({', '.join(given)})", comment(where))

    def _view(self, op: Operation) -> None:
        name = op.name.removeprefix("breccia.")
        parts = [self.texts[v] for v in op.operands]
        t = tensor_type(op.results[0].type)
        if name == "reshape":
            text = f"rt.reshape({parts[0]}, {self._shape(t.shape)})"
        elif name == "transpose":
            text = f"rt.transpose({parts[0]}, {tuple(prop(op, 'order'))})"
        elif name == "slice":
            axis, (start,), (stop,) = prop(op, "axis"), prop(op, "start"), prop(op, "stop")
            text = f"{parts[0]}[{', '.join([':'] * axis + [f'{self._size(start)}:{self._size(stop)}'])}]"
        elif name == "broadcast":
            text = f"rt.broadcast({parts[0]}, {self._shape(t.shape)})"
        elif name == "concat":
            text = f"rt.concat({self._tuple(parts)}, {prop(op, 'axis')})"
        elif name == "full":
            value = float(prop(op, "value"))
            number = repr(value) if value - value == 0 else f'float("{value}")'
            text = f'rt.full({self._shape(t.shape)}, {number}, "{device_type(t)}")'
        else:
            raise UnsupportedError(f"metal: cannot print {op.name} between kernels")
        bound = self._bind(op.results[0], op.results[0].name_hint or "v")
        self._line(f"{bound} = {text}", origin(op, bound))


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
