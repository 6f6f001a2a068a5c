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
from xdsl.ir import SSAValue

from breccia.codegen.constants import Constants
from breccia.codegen.host import place_of, symbol_texts
from breccia.codegen.lines import docstring
from breccia.codegen.names import RESERVED, Names, check_entries, entry_name
from breccia.ir import dims
from breccia.ir.capabilities import TARGET_KEY, CapabilitiesAttr
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions
from breccia.targets.numpy._kernel import kernel_function
from breccia.targets.numpy._native import FEATURE
from breccia.targets.numpy._ops import write
from breccia.targets.numpy._region import Region

HEADER = "import numpy as np\n\nfrom breccia.targets.numpy import runtime\n"


def emit(module: ModuleOp) -> str:
    """Source text of a tiled module; raises UnsupportedError naming the op that cannot be printed."""
    constants = Constants("runtime.recipe")
    attribute = module.attributes.get(TARGET_KEY)
    native = isinstance(attribute, CapabilitiesAttr) and FEATURE in attribute.data.features
    check_entries([f.sym_name.data for f in functions(module)], "numpy")
    texts: list[str] = []
    for function in functions(module):
        texts += _Function(function, constants, len(texts), native=native).texts()
    header = HEADER + ("\n" + "\n".join(constants.lines) + "\n" if constants.lines else "")
    return header + "".join(f"\n\n{text}\n" for text in texts)


class _Function:
    """Writes one function and its kernels. `number` tells kernels of the same name in different functions apart."""

    def __init__(self, function: FuncOp, constants: Constants, number: int, *, native: bool) -> None:
        self.function, self.constants, self.native = function, constants, native
        self.region = Region(Names(RESERVED), constants)
        self.kernel_names = Names()
        self.suffix = f"_{number}" if number else ""

    def texts(self) -> list[str]:
        """Source of the kernels, and of the function last."""
        f, region = self.function, self.region
        arguments: dict[SSAValue, str] = {a: region.bind(a, a.name_hint or f"arg{i}") for i, a in enumerate(f.args)}
        sizes = symbol_texts(arguments)
        for symbol in sizes:
            region.sizes.symbol(symbol, region.names.fresh(symbol))
        kernels: list[str] = []
        for op in f.body.block.ops:
            if isinstance(op, KernelOp):
                kernels.append(self._call(op))
            elif isinstance(op, ReturnOp):
                region.line(f"return {', '.join(region[v] for v in op.operands)}".rstrip())
            else:
                write(region, op)
        region.insert([f"{region.sizes[s]} = {text}" for s, text in sizes.items() if s in region.sizes.used])
        doc = docstring(f.sym_name.data, f.args, list(f.function_type.outputs), place_of(f))
        given = ", ".join([*arguments.values(), "*, xp=np, rt=runtime"])
        return [*kernels, f"@runtime.quiet\ndef {entry_name(f.sym_name.data)}({given}):\n{doc}{region.text()}"]

    def _call(self, op: KernelOp) -> str:
        """Write the call of a kernel's function; that function's source."""
        region = self.region
        name = f"_{self.kernel_names.fresh(op.kernel_name)}{self.suffix}"
        source, symbols = kernel_function(op, name, self.constants, native=self.native)
        sizes = [region.size(dims.Sym(s)) for s in symbols]
        arguments = ", ".join(["xp", "rt", *(region[a] for a in op.args), *sizes])
        outs = [region.bind(o, o.name_hint or "out") for o in op.outs]
        region.line(f"{', '.join(outs)} = {name}({arguments})", place_of(op))
        return source
