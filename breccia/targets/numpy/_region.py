"""The lines of one function while they are written: which value stands under which name, and what may be done with
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.ir import Operation, SSAValue

from breccia.codegen.constants import Constants
from breccia.codegen.lines import Sizes, origin, tensor_type
from breccia.codegen.names import Names, quoted, size_text
from breccia.ir.dims import Dim


class Region:
    """Writes lines. Invariants: a value in `fresh` is an array that nothing else refers to, so that its only user may
    write into it; one in `elastic` may have fewer axes or size 1 where its type says more, and broadcasts; one in
    `literals` has no line of its own.
    """

    def __init__(self, names: Names, constants: Constants, table: Callable[[int, str], str] | None = None) -> None:
        self.names, self.constants, self.table = names, constants, table
        self.sizes = Sizes()
        self.fresh: set[SSAValue] = set()
        self.elastic: set[SSAValue] = set()
        self.literals: dict[SSAValue, str] = {}
        self.cut_rows: set[SSAValue] = set()
        """Windows on a part of the last axis."""
        self.native = False
        """True where products with decoded weights are left to the array library."""
        self.clipped = False
        """True in a loop, where tiles may be smaller than their types say."""
        self.clip: Callable[[Dim, Dim], str | None] = lambda _start, _block: None
        """The part of a block that lies in the operand which is cut there."""
        self._lines: list[str] = []
        self._texts: dict[SSAValue, str] = {}
        self._indent = 1

    # -- values --------------------------------------------------------------------------------------------------------

    def bind(self, value: SSAValue, wanted: str) -> str:
        """A new name for a value."""
        name = self.names.fresh(wanted)
        self._texts[value] = name
        return name

    def knows(self, value: SSAValue) -> bool:
        """True for a value that has a name by now."""
        return value in self._texts

    def alias(self, value: SSAValue, like: SSAValue) -> None:
        """`value` stands for what `like` stands for."""
        if like in self.elastic:
            self.elastic.add(value)
        if like in self.fresh and like.has_one_use():
            self.fresh.add(value)
        for table in (self._texts, self.literals):
            if like in table:
                table[value] = table[like]

    def name(self, value: SSAValue, text: str) -> None:
        """`value` stands under the existing name `text`."""
        self._texts[value] = text

    def __getitem__(self, value: SSAValue) -> str:
        """The value as an array of its own shape."""
        type_ = tensor_type(value.type)
        if value in self.literals:
            return f"rt.full(xp, {self.shape(type_.shape)}, {self.literals[value]}, {quoted(type_.dtype)})"
        if value in self.elastic:
            return f"xp.broadcast_to({self._texts[value]}, {self.shape(type_.shape)})"
        return self._texts[value]

    def loose(self, value: SSAValue) -> str:
        """The value as something that broadcasts to its shape."""
        if value in self.literals:
            return f"rt.full(xp, (), {self.literals[value]}, {quoted(tensor_type(value.type).dtype)})"
        return self._texts[value]

    def broadcasts(self, value: SSAValue) -> bool:
        """True where the value has not the extents that its type says."""
        return value in self.literals or value in self.elastic

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim, strength: int = 0) -> str:
        return size_text(dim, self.sizes, self.table, strength)

    def shape(self, shape: Sequence[Dim]) -> str:
        return "(" + ", ".join(map(self.size, shape)) + (",)" if len(shape) == 1 else ")")

    # -- lines ---------------------------------------------------------------------------------------------------------

    def line(self, text: str, about: str = "") -> None:
        self._lines.append("    " * self._indent + text + (f"  # {about}" if about else ""))

    def assign(self, op: Operation, text: str, *, fresh: bool = True, wanted: str = "v") -> None:
        """The only result of `op` is `text`; it is called `wanted` where the IR has no name for it."""
        out = op.results[0]
        name = self.bind(out, out.name_hint or wanted)
        self.line(f"{name} = {text}", origin(op, name))
        if fresh:
            self.fresh.add(out)

    def update(self, op: Operation, operand: SSAValue, text: str) -> None:
        """The only result of `op` is `operand`, changed in place by `text`, such as `*= scale`."""
        out = op.results[0]
        self._texts[out] = self._texts[operand]
        self.line(f"{self._texts[operand]} {text}", origin(op, self._texts[operand]))
        self.fresh.add(out)

    def indent(self, by: int) -> None:
        self._indent += by

    def insert(self, lines: Sequence[str]) -> None:
        """Put lines first."""
        self._lines[:0] = [f"    {line}" for line in lines]

    def text(self) -> str:
        return "\n".join(self._lines)
