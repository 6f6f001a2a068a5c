"""What every emitter needs to know of values and kernels: spellings of sizes, where a line comes from, docstrings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xdsl.ir import Attribute, Operation, SSAValue

from breccia.codegen.names import comment
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import show_location
from breccia.ir.types import DimsAttr, TensorType


class Sizes(Mapping[str, str]):
    """Spellings of symbols and grid dimensions. Invariant: `used` holds the symbols asked for so far."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._symbols: set[str] = set()
        self.used: set[str] = set()

    def symbol(self, name: str, text: str) -> None:
        self._texts[name] = text
        self._symbols.add(name)

    def grid(self, name: str, text: str) -> None:
        self._texts[name] = text
        self._symbols.discard(name)

    def __getitem__(self, name: str) -> str:
        text = self._texts[name]
        if name in self._symbols:
            self.used.add(name)
        return text

    def __contains__(self, name: object) -> bool:
        return name in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def origin(op: Operation, name: str) -> str:
    """Where a line comes from: the IR's name of its value if it goes by another here, and the user's line."""
    hints = [r.name_hint for r in op.results if r.name_hint]
    parts = [f"%{h}" for h in hints if h != name and h not in name.split(", ")]
    where = show_location(op).replace("\\", "/").rpartition("/")[2]
    return comment(" ".join([*parts, *([where] if where else [])]))


def prop(op: Operation, name: str) -> Any:
    """The data of a property, None where it is absent."""
    found = op.properties.get(name)
    return getattr(found, "data", found)


def tensor_type(type_: Attribute) -> TensorType:
    """`type_` as a plain tensor; tiled modules hold nothing else."""
    if isinstance(type_, TensorType):
        return type_
    raise UnsupportedError(
        f"emitters print tiled modules, which hold plain components alone, not {comment(str(type_))}"
    )


def shown(name: str, type_: Attribute) -> str:
    """`x: [M, 128] bf16`, for docstrings."""
    t = tensor_type(type_)
    return comment(f"{name}: [{', '.join(map(dims.show, t.shape))}] {t.dtype}")


def docstring(name: str, arguments: Sequence[SSAValue], results: Sequence[Attribute], about: str = "") -> str:
    """A docstring that says what a function takes and gives: one line, or one for each argument."""
    given = [shown(a.name_hint or f"arg{i}", a.type) for i, a in enumerate(arguments)]
    gives = ", ".join(shown("", r).removeprefix(": ") for r in results) or "nothing"
    tail = f"  {comment(about)}" if about else ""
    line = f'"""{comment(name)}({", ".join(given)}) -> {gives}{tail}"""'
    if len(line) <= 110:
        return f"    {line}\n"
    lines = [f'"""{comment(name)}{tail}', "", *given, f"-> {gives}", '"""']
    return "".join(f"    {text}".rstrip() + "\n" for text in lines)


def kernel_symbols(kernel: KernelOp) -> list[str]:
    """Every symbol that a kernel mentions; grid dimensions are not symbols."""
    found: set[str] = set()
    t = kernel.tiles
    windows = [w for w in (*t.inputs, *t.outputs) if w is not None]
    for w in windows:
        found.update(*(dims.symbols(d) for d in (*w.index, *(b for b in w.block if b is not None))))
        if w.segment is not None:
            found.update(dims.symbols(w.segment.base), dims.symbols(w.segment.limit))
    found.update(*(dims.symbols(d.extent) for d in t.grid))
    for value in (*kernel.args, *kernel.outs):
        found.update(*(dims.symbols(d) for d in tensor_type(value.type).shape))
    for op in kernel.walk():
        for attribute in op.properties.values():
            if isinstance(attribute, DimsAttr):
                found.update(*(dims.symbols(d) for d in attribute.data))
        for value in op.results:
            if not isinstance(op, KernelOp):
                found.update(*(dims.symbols(d) for d in tensor_type(value.type).shape))
    return sorted(found - {d.name for d in t.grid})


def solve(dim: Dim, text: str) -> tuple[str, str] | None:
    """(symbol, its value in Python) where `dim` is a symbol times or plus constants; `text` is the size itself."""
    if isinstance(dim, dims.Sym):
        return dim.name, text
    if isinstance(dim, dims.Op) and isinstance(dim.right, int) and dim.kind in ("mul", "add", "sub"):
        sign = {"mul": "//", "add": "-", "sub": "+"}[dim.kind]
        inner = f"{text} {sign} {dim.right}"
        return solve(dim.left, f"({inner})" if isinstance(dim.left, dims.Op) else inner)
    return None
