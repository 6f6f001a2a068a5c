"""Tiled modules to Python source: array code over a namespace, one function for each function and each kernel.

    import numpy as np

    from breccia.targets.numpy import runtime


    def _gemm_0(xp, rt, a, sa, w, sw):
        v = rt.dequantize(xp, a, "float8_e4m3fn", ((sa, (1, 128)),))
        ...


    @runtime.quiet
    def mlp(a, sa, w, sw, *, xp=np, rt=runtime):
        y = _gemm_0(xp, rt, a, sa, w, sw)
        return y

The text follows from the module alone. `xp` is the array namespace and `rt` what a namespace lacks. Nothing writes
into an array that it was given; `x *= y` stands only where `x` is an array of the function's own.
"""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp

from breccia.codegen.constants import Constants
from breccia.codegen.lines import docstring, solve
from breccia.codegen.names import RESERVED, Names, check_entries, comment, entry_name
from breccia.ir import dims
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions, show_location
from breccia.ir.types import TensorType
from breccia.targets.numpy._kernel import kernel_function
from breccia.targets.numpy._ops import write
from breccia.targets.numpy._region import Region

HEADER = "import numpy as np\n\nfrom breccia.targets.numpy import runtime\n"


def emit(module: ModuleOp) -> str:
    """Source text of a tiled module; raises UnsupportedError naming the op that cannot be printed."""
    constants = Constants("runtime.recipe")
    check_entries([f.sym_name.data for f in functions(module)], "numpy")
    texts: list[str] = []
    for function in functions(module):
        texts += _Function(function, constants, len(texts)).texts()
    header = HEADER + ("\n" + "\n".join(constants.lines) + "\n" if constants.lines else "")
    return header + "".join(f"\n\n{text}\n" for text in texts)


class _Function:
    """Writes one function and its kernels. `number` tells kernels of the same name in different functions apart."""

    def __init__(self, function: FuncOp, constants: Constants, number: int) -> None:
        self.function, self.constants = function, constants
        self.region = Region(Names(RESERVED), constants)
        self.kernel_names = Names()
        self.suffix = f"_{number}" if number else ""

    def texts(self) -> list[str]:
        """Source of the kernels, and of the function last."""
        f, region = self.function, self.region
        arguments = [region.bind(a, a.name_hint or f"arg{i}") for i, a in enumerate(f.args)]
        sizes = self._symbols()
        kernels: list[str] = []
        for op in f.body.block.ops:
            if isinstance(op, KernelOp):
                kernels.append(self._call(op))
            elif isinstance(op, ReturnOp):
                region.line(f"return {', '.join(region[v] for v in op.operands)}".rstrip())
            else:
                write(region, op)
        region.insert([f"{region.sizes[s]} = {text}" for s, text in sizes.items() if s in region.sizes.used])
        where = show_location(f).replace("\\", "/").rpartition("/")[2]
        doc = docstring(f.sym_name.data, f.args, list(f.function_type.outputs), where)
        given = ", ".join([*arguments, "*, xp=np, rt=runtime"])
        return [*kernels, f"@runtime.quiet\ndef {entry_name(f.sym_name.data)}({given}):\n{doc}{region.text()}"]

    def _symbols(self) -> dict[str, str]:
        """Every symbol of the arguments' types, and how to find it from their shapes; plain ones first."""
        region, found = self.region, dict[str, str]()
        axes = [
            (d, a, i) for a in self.function.args if isinstance(a.type, TensorType) for i, d in enumerate(a.type.shape)
        ]
        for dim, value, axis in sorted(axes, key=lambda entry: not isinstance(entry[0], dims.Sym)):
            solved = solve(dim, f"{region[value]}.shape[{axis}]")
            if solved is not None and solved[0] not in found:
                found[solved[0]] = solved[1]
                region.sizes.symbol(solved[0], region.names.fresh(solved[0]))
        return found

    def _call(self, op: KernelOp) -> str:
        """Write the call of a kernel's function; that function's source."""
        region = self.region
        name = f"_{self.kernel_names.fresh(op.kernel_name)}{self.suffix}"
        source, symbols = kernel_function(op, name, self.constants)
        sizes = [region.size(dims.Sym(s)) for s in symbols]
        arguments = ", ".join(["xp", "rt", *(region[a] for a in op.args), *sizes])
        outs = [region.bind(o, o.name_hint or "out") for o in op.outs]
        where = show_location(op).replace("\\", "/").rpartition("/")[2]
        region.line(f"{', '.join(outs)} = {name}({arguments})", comment(where))
        return source
