"""Tiled modules to Triton: one `@triton.jit` function for each kernel, and a Python function that launches them.

    import triton
    import triton.language as tl

    from breccia.targets.triton import launch as rt


    @triton.jit
    def _gemm_0(a_elements, b_elements, out, a_elements_stride0, ...):
        ...


    gemm_0 = rt.Kernel(_gemm_0, pointers=("fp8e4nv", "fp8e4nv", "bf16"), strided=(2, 2, 0), sizes=0, ...).call


    def f(a_elements, b_elements):
        out = rt.empty((300, 512), rt.bf16, a_elements)
        gemm_0(12, a_elements, b_elements, out)
        return out

The text follows from the module alone. Views between kernels are views of the host's tensors; results are contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from breccia.codegen.host import HostFunction, host_dtype, place_of
from breccia.codegen.lines import docstring, tensor_type
from breccia.codegen.names import RESERVED, Names, check_entries, entry_name, size_text
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities, target_of
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import functions
from breccia.ir.types import TensorType
from breccia.targets.triton._casts import Library
from breccia.targets.triton._gluon import HEADER as GLUON
from breccia.targets.triton._gluon import NAMES as GLUON_NAMES
from breccia.targets.triton._gluon_kernels import gluon_text
from breccia.targets.triton._kernel import kernel_text
from breccia.targets.triton._region import cdiv
from breccia.targets.triton._text import KernelText

BOTH = '    """{0} in the first programs, {1} in the others: they are independent, and one launch."""'
HEADER = "import triton\nimport triton.language as tl\n{}\nfrom breccia.targets.triton import launch as rt\n{}"
AFTER = "    rt.wait_for_previous()\n"
"""The first line of a kernel that is launched before the one before it has ended."""
_TYPED = ("f8E4M3FN", "f8E5M2", "f8E4M3FNUZ", "f8E5M2FNUZ", "i8")


def native_formats(capabilities: Capabilities) -> frozenset[str]:
    """Formats whose tiles have a type of their own, because some matrix instruction takes them."""
    rows = (*capabilities.mma, *capabilities.scaled_mma)
    found = {name for row in rows for name in (row.a, row.b)}
    found |= {row.scale for row in capabilities.scaled_mma if row.scale in _TYPED}
    return frozenset(found & set(_TYPED))


def exact_conversions(capabilities: Capabilities) -> frozenset[str]:
    """FP8 formats that the architecture itself rounds float32 to, to nearest even, saturating."""
    return frozenset({"f8E4M3FN", "f8E5M2"} if "fp8_conversion" in capabilities.features else ())


def emit(module: ModuleOp) -> str:
    """Source text of a tiled module; raises UnsupportedError naming the op that cannot be printed."""
    capabilities = target_of(module, "emit")
    ptx = "ptx" in capabilities.features
    library = Library(native_formats(capabilities), exact_conversions(capabilities), ptx=ptx)
    check_entries([f.sym_name.data for f in functions(module)], "triton")
    kernels: list[str] = []
    hosts: list[str] = []
    for function in functions(module):
        host = _Host(function, library, capabilities, len(hosts))
        hosts.append(host.text())
        kernels += host.kernels
    texts = [*(text.strip() for text in library.texts), *kernels, *hosts]
    body = "".join(f"\n\n{text}\n" for text in texts)
    return HEADER.format(*(GLUON if "@gluon.jit" in body else ("", ""))) + body


class _Host(HostFunction):
    """Writes the function that launches kernels. `number` tells kernels of different functions apart."""

    target = "triton"
    VIEWS: ClassVar = {
        **HostFunction.VIEWS,
        "transpose": "{x}.permute({order})",
        "broadcast": "{x}.expand({shape})",
        "concat": "rt.concat(({all},), {axis})",
    }

    def __init__(self, function: FuncOp, library: Library, capabilities: Capabilities, number: int) -> None:
        super().__init__(function, RESERVED | GLUON_NAMES)
        self.library, self.capabilities = library, capabilities
        self.kernel_names = Names()
        self.suffix = f"_{number}" if number else ""
        self.kernels: list[str] = []
        self.launched = False
        """Whether a kernel has been launched before the next one."""

    def ops(self, ops: Sequence[Operation]) -> None:
        """Write calls and views; two kernels that may share a launch, as one."""
        written: set[Operation] = set()
        for op, following in zip(ops, [*ops[1:], None], strict=True):
            if op in written:
                continue
            if isinstance(op, KernelOp) and isinstance(following, KernelOp) and may_share_launch(op, following):
                self._call_both(op, following)
                written.add(following)
            else:
                super().ops([op])

    def full(self, t: TensorType, number: str) -> str:
        return f"rt.full({self.shape(t.shape)}, {number}, rt.{host_dtype(t)}, {self.texts[self.function.args[0]]})"

    # -- kernels -------------------------------------------------------------------------------------------------------

    def kernel(self, op: KernelOp) -> None:
        name = self.kernel_names.fresh(op.kernel_name) + self.suffix
        text = gluon_text(op, f"_{name}", self.library, self.capabilities)
        text = text or kernel_text(op, f"_{name}", self.library, self.capabilities)
        text = self._following(text, docstring(op.kernel_name, op.args, [o.type for o in op.outs]))
        self.kernels += [text.source, self._launcher(name, text)]
        outs = self._allocate(op, text)
        sizes = [self.size(dims.Sym(s)) for s in text.symbols]
        arguments = [self.size(text.programs), *(self.texts[a] for a in op.args), *outs, *sizes]
        self.line(f"{entry_name(name)}({', '.join(arguments)})", place_of(op))

    def _following(self, text: KernelText, doc: str) -> KernelText:
        """The kernel as it follows another one: launched before that has ended, which it waits for at its start."""
        first, self.launched = not self.launched, True
        if first or "dependent_launch" not in self.capabilities.features:
            return text
        assert text.source.count(doc) == 1, "a docstring tells one kernel from another"
        return replace(
            text, source=text.source.replace(doc, f"{doc}{AFTER}"), options={**text.options, "launch_pdl": True}
        )

    def _allocate(self, op: KernelOp, text: KernelText) -> list[str]:
        """Write what makes the results of a kernel; their names."""
        if text.kept:
            for out, operand in zip(op.outs, text.kept, strict=True):
                self.texts[out] = self.texts[op.args[operand]]
            return [self.texts[out] for out in op.outs]
        place = self._place(op)
        outs: list[str] = []
        for out, fill, turned in zip(op.outs, text.fills, text.turned, strict=True):
            outs.append(self.bind(out, out.name_hint or "out"))
            t = tensor_type(out.type)
            made = "columns" if turned else "empty" if fill is None else "full"
            value = "" if fill is None else f"{fill}, "
            self.line(f"{outs[-1]} = rt.{made}({self.shape(t.shape)}, {value}rt.{host_dtype(t)}, {place})")
        return outs

    def _call_both(self, first: KernelOp, second: KernelOp) -> None:
        """Two independent kernels in one launch."""
        names = [self.kernel_names.fresh(op.kernel_name) + self.suffix for op in (first, second)]
        texts = [
            kernel_text(op, f"_{name}", self.library, self.capabilities, part=True)
            for op, name in zip((first, second), names, strict=True)
        ]
        both = self._following(joined(names, texts), f"{BOTH.format(*names)}\n")
        name = entry_name(f"{names[0]}_and_{names[1]}")
        self.kernels += [texts[0].source, texts[1].source, both.source, self._launcher(name, both)]
        outs = [self._allocate(op, text) for op, text in zip((first, second), texts, strict=True)]
        tensors = [
            text for op, made in zip((first, second), outs, strict=True) for text in (*map(self._text, op.args), *made)
        ]
        sizes = [self.size(dims.Sym(s)) for s in both.symbols]
        self.line(f"{name}({', '.join([self.size(both.programs), *tensors, *sizes])})", place_of(second))

    def _text(self, value: SSAValue) -> str:
        return self.texts[value]

    def _launcher(self, name: str, text: KernelText) -> str:
        """The statement that makes a kernel callable."""
        arch = self.capabilities.name.partition(":")[2]
        pointers = ", ".join(f'"{p}"' for p in text.pointers)
        given = [
            f"    _{name},",
            f"    pointers=({pointers},),",
            f"    strided=({', '.join(map(str, text.ranks))},),",
            f"    sizes={len(text.symbols)},",
            *([f"    boxes=({', '.join(map(str, text.boxes))},),"] if text.boxes else []),
            *([f"    columns=({', '.join(map(str, text.columns))},),"] if text.columns else []),
            *(f"    {key}={_literal(value)}," for key, value in text.options.items()),
            f'    target="{arch}",',
        ]
        return "\n".join([f"{entry_name(name)} = rt.Kernel(", *given, ").call"])

    def _place(self, op: KernelOp) -> str:
        """A tensor that lies where the results belong."""
        for value in (*op.args, *self.function.args):
            if value in self.texts:
                return self.texts[value]
        raise UnsupportedError(
            f"triton: kernel {op.kernel_name} reads no tensor, so nothing says on which device its results lie; give "
            "the function an array argument"
        )


def _literal(value: int | str) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def may_share_launch(first: KernelOp, second: KernelOp) -> bool:
    """True for two kernels that are marked for it, and of which the second does not read what the first writes."""
    marks = [op.entries.get("launch") for op in (first, second)]
    return marks == ["shared", "shared"] and not set(second.args) & set(first.outs)


def joined(names: Sequence[str], texts: Sequence[KernelText]) -> KernelText:
    """The kernel whose first programs are those of the first text, and the others those of the second."""
    unique = Names(RESERVED)
    pid = unique.fresh("pid")
    renamed = [tuple(tuple(map(unique.fresh, group)) for group in (t.parameters[0], t.parameters[2])) for t in texts]
    symbols = tuple(sorted({s for t in texts for s in t.symbols}))
    sizes = {s: unique.fresh(s) for s in symbols}
    calls = [
        ", ".join([*pointers, *(sizes[s] for s in t.symbols), *strides])
        for t, (pointers, strides) in zip(texts, renamed, strict=True)
    ]
    count = size_text(texts[0].programs, sizes, None, 2, cdiv)
    given = [*renamed[0][0], *renamed[1][0], *sizes.values(), *renamed[0][1], *renamed[1][1]]
    lines = [
        "@triton.jit",
        f"def _{names[0]}_and_{names[1]}({', '.join(given)}):",
        BOTH.format(*names),
        f"    {pid} = tl.program_id(0)",
        f"    if {pid} < {count}:",
        f"        _{names[0]}({pid}, {calls[0]})",
        "    else:",
        f"        _{names[1]}({pid} - {count}, {calls[1]})",
    ]
    return KernelText(
        "\n".join(lines), (tuple(given), (), ()), symbols, texts[0].pointers + texts[1].pointers,
        _ranks(texts), dims.add(texts[0].programs, texts[1].programs), (), texts[0].options, (),
    )  # fmt: skip


def _ranks(texts: Sequence[KernelText]) -> tuple[int, ...]:
    return tuple(rank for text in texts for rank in text.ranks)
