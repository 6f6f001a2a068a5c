"""What a kernel in a language like C consists of while it is written: lines, tiles in shared memory, and how entries
are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from xdsl.ir import SSAValue

from breccia.codegen.c.dialect import WORDS, Dialect
from breccia.codegen.c.spelling import atom
from breccia.codegen.c.tables import Tables
from breccia.codegen.lines import Sizes, kernel_symbols, tensor_type
from breccia.codegen.names import Names, comment, size_text
from breccia.errors import UnsupportedError
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.types import format_of, is_float

Entry = Callable[[Sequence[str]], str]
_BYTES = {"uchar": 1, "long": 8}


class Body:
    """Lines of one kernel.

    Invariants: `entries` says how an entry of a value is read at an index, for every value that was written; `arrays`
    names operands and results, `symbols` are the sizes that the kernel mentions; `used_bytes` is what the tiles in
    shared memory take.
    """

    def __init__(self, op: KernelOp, dialect: Dialect, tables: Tables) -> None:
        self.op, self.dialect, self.tables = op, dialect, tables
        self.names, self.sizes, self.symbols = Names(WORDS), Sizes(), kernel_symbols(op)
        self.arrays = {v: self.names.fresh(v.name_hint or "tensor") for v in (*op.args, *op.outs)}
        for symbol in self.symbols:
            self.sizes.symbol(symbol, self.names.fresh(symbol))
        for d in op.tiles.grid:
            self.sizes.grid(d.name, self.names.fresh(d.name))
        self.entries: dict[SSAValue, Entry] = {}
        self.lines: list[str] = []
        self.shared: list[str] = []
        self.used_bytes = 0
        self._kept: set[SSAValue] = set()

    def unsupported(self, what: str) -> UnsupportedError:
        """An error that says what of this kernel cannot be printed."""
        return UnsupportedError(f"{self.dialect.target}: kernel {comment(self.op.kernel_name)} {what}")

    # -- entries -------------------------------------------------------------------------------------------------------

    def at(self, value: SSAValue, index: Sequence[str]) -> str:
        """An entry of a value as an expression; axes of size 1 broadcast, and leading ones of the index are dropped."""
        shape = tensor_type(value.type).shape
        last = index[len(index) - len(shape) :]
        return self.entries[value](["0" if n == 1 else i for n, i in zip(shape, last, strict=True)])

    def keep(self, value: SSAValue, like: SSAValue | None = None) -> None:
        """Put a value into shared memory, unless it lies there: what its entries are. With `like`, a copy of those."""
        if value in self._kept and like is None:
            return
        self.compute(value, lambda place, index: f"{place} = {self.at(like or value, index)};")

    def compute(self, value: SSAValue, body: Callable[[str, list[str]], str]) -> None:
        """Put a value into shared memory: `body` has the statements that compute the entry at an index into a place."""
        shape = tensor_type(value.type).shape
        name, kind = self.names.fresh(value.name_hint or "tile"), self.tile_type(value)
        count = prod(self.numbers(shape))
        self.shared.append(self.dialect.shared.format(type=kind, name=name, count=count))
        self.used_bytes += count * _BYTES.get(kind, 4)

        def place(index: Sequence[str]) -> str:
            return f"{name}[{self.flat(shape, index)}]"

        self.each(shape, lambda index: body(place(index), index))
        self.entries[value] = place
        self._kept.add(value)

    def each(self, shape: Sequence[Dim], body: Callable[[list[str]], str]) -> None:
        """Write a loop over the entries of a tile, which work-items share."""
        sizes, parts = self.numbers(shape), list[str]()
        for axis, n in enumerate(sizes):
            inner = prod(sizes[axis + 1 :])
            whole = "e" if inner == 1 else f"e / {inner}"
            parts.append(f"i{axis} = {whole}" if axis == 0 else f"i{axis} = {whole} % {n}")
        declared = [f"  const int {', '.join(parts)};"] if parts else []
        statements = body([f"i{axis}" for axis in range(len(sizes))])
        self.lines += [f"EACH({prod(sizes)}) {{", *declared, f"  {statements}", "} DONE;"]

    def size(self, dim: Dim, strength: int = 3) -> str:
        """A size as an expression: with strength 3 one that binds tightly, with 1 one that may stand in a sum."""
        return size_text(dim, self.sizes, self._table, strength, lambda a, b: f"CEILDIV({a}, {b})", "/")

    def _table(self, operand: int, entry: str) -> str:
        return f"{self.arrays[self.op.args[operand]]}[{entry}]"

    def numbers(self, shape: Sequence[Dim]) -> list[int]:
        """The sizes of a tile, which have to be known."""
        if not all(isinstance(n, int) for n in shape):
            raise self.unsupported("has a tile whose size is known only at the call")
        return [n for n in shape if isinstance(n, int)]

    def flat(self, shape: Sequence[Dim], index: Sequence[str]) -> str:
        """The place of an entry in memory, row after row."""
        text = ""
        for n, i in zip(shape, index, strict=True):
            text = f"{atom(text)} * {self.size(n)} + {i}" if text else i
        return text or "0"

    # -- types ---------------------------------------------------------------------------------------------------------

    def array_type(self, value: SSAValue) -> str:
        """What an array of a value's type holds; codes of 8 bits and fewer are bytes."""
        dtype = tensor_type(value.type).dtype
        fmt, name = format_of(dtype), str(dtype)
        if name not in self.dialect.types and not (name == "i1" or (fmt is not None and fmt.bits <= 8)):
            raise self.unsupported(f"has an array of {comment(name)}; convert to f32 first")
        return self.dialect.types.get(name, "uchar")

    def tile_type(self, value: SSAValue) -> str:
        """What a tile of a value's type holds: floats of all widths are float."""
        kind = self.array_type(value)
        return "float" if is_float(tensor_type(value.type).dtype) else kind

    def converted(self, dtype: str, text: str) -> str:
        """The float `text` rounded to a dtype."""
        if dtype == "f32":
            return text
        if dtype not in self.dialect.conversions:
            known = ", ".join(("f32", *self.dialect.conversions))
            raise self.unsupported(f"converts to {comment(dtype)}; known: {known}")
        return self.dialect.conversions[dtype].format(text)
