"""The lines of one kernel while they are written: which tile stands under which name, and how sizes are spelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import Sizes, origin, tensor_type
from breccia.codegen.names import Names, size_text
from breccia.errors import UnsupportedError
from breccia.ir.dims import Dim
from breccia.ir.types import TensorType, format_of
from breccia.targets.triton._casts import Library, triton_type


def cdiv(a: str, b: str) -> str:
    """A division rounded up in Triton, where `//` on numbers of the device rounds towards zero."""
    return f"tl.cdiv({a}, {b})"


class Region:
    """Writes lines. Invariants: a value in `literals` has no line of its own, and is a number that broadcasts; one in
    `elastic` may have fewer axes, or size 1, where its type says more.
    """

    def __init__(
        self, names: Names, library: Library, features: Sequence[str], table: Callable[[int, str], str] | None = None
    ) -> None:
        self.names, self.library, self.features, self.table = names, library, features, table
        self.sizes = Sizes()
        self.elastic: set[SSAValue] = set()
        self.literals: dict[SSAValue, str] = {}
        self.planes: dict[SSAValue, tuple[str, ...]] = {}
        """6-bit codes: as they are loaded, (low, high) byte of each code; before they are stored, the codes alone."""
        self.packed: dict[SSAValue, str] = {}
        """4-bit codes that only scaled instructions read: the tile of bytes that holds them."""
        self.delayed: dict[SSAValue, Operation] = {}
        """Values that are part of the line of their only user."""
        self.targets: dict[SSAValue, str] = {}
        """Carried values: the name that a result is assigned to."""
        self._texts: dict[SSAValue, str] = {}
        self._lines: list[str] = []
        self._indent = 1

    # -- values --------------------------------------------------------------------------------------------------------

    def bind(self, value: SSAValue, wanted: str) -> str:
        """A new name for a value."""
        name = self.names.fresh(wanted)
        self._texts[value] = name
        return name

    def name(self, value: SSAValue, text: str) -> None:
        """`value` stands under the existing name `text`."""
        self._texts[value] = text

    def alias(self, value: SSAValue, like: SSAValue) -> None:
        """`value` stands for what `like` stands for."""
        if like in self.elastic:
            self.elastic.add(value)
        for table in (self._texts, self.literals, self.planes):
            if like in table:
                table[value] = table[like]  # type: ignore[assignment]

    def __getitem__(self, value: SSAValue) -> str:
        """The value as a tile of its own shape."""
        t = tensor_type(value.type)
        if value in self.literals:
            return self.full(t, self.literals[value])
        if value in self.elastic:
            return f"tl.broadcast_to({self._texts[value]}, {self.shape(t.shape)})"
        return self._texts[value]

    def loose(self, value: SSAValue) -> str:
        """The value as something that broadcasts to its shape: a number where it is a literal."""
        return self.literals[value] if value in self.literals else self._texts[value]

    def broadcasts(self, value: SSAValue) -> bool:
        """True where the value has not the extents that its type says."""
        return value in self.literals or value in self.elastic

    def full(self, t: TensorType, number: str) -> str:
        """A tile of one number."""
        if not t.shape:
            return f"tl.cast({number}, {self.dtype(t)})"
        return f"tl.full({self.shape(t.shape)}, {number}, {self.dtype(t)})"

    def dtype(self, t: TensorType) -> str:
        """The Triton dtype of tiles of this type, as an expression."""
        return f"tl.{self.triton_dtype(t)}"

    def triton_dtype(self, t: TensorType) -> str:
        """The name of that dtype: float32, uint8 ..."""
        name = str(t.dtype)
        if name in ("i1", "i32", "i64"):
            return f"int{name[1:]}"
        fmt = format_of(t.dtype)
        if fmt is None or name == "f64":
            raise UnsupportedError(f"triton: tiles of {name} are not printed; convert to f32 first")
        return triton_type(fmt, self.library.native)

    def along(self, size: int, axis: int, rank: int) -> str:
        """The numbers from 0 to `size`, laid along an axis of a tile."""
        return f"{arange(size)}{spread(axis, rank)}"

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim, strength: int = 0) -> str:
        return size_text(dim, self.sizes, self.table, strength, cdiv)

    def shape(self, shape: Sequence[Dim]) -> str:
        return "(" + ", ".join(map(self.size, shape)) + (",)" if len(shape) == 1 else ")")

    # -- lines ---------------------------------------------------------------------------------------------------------

    def line(self, text: str, about: str = "") -> None:
        self._lines.append("    " * self._indent + text + (f"  # {about}" if about else ""))

    def assign(self, op: Operation, text: str, *, wanted: str = "v") -> None:
        """The only result of `op` is `text`; it is called `wanted` where the IR has no name for it."""
        out = op.results[0]
        if out in self.targets:
            name = self.targets[out]
            self._texts[out] = name
        else:
            name = self.bind(out, out.name_hint or wanted)
        self.line(f"{name} = {text}", origin(op, name))

    def indent(self, by: int) -> None:
        self._indent += by

    def text(self) -> str:
        return "\n".join(self._lines)


def spread(axis: int, rank: int) -> str:
    """The index that lays a vector along an axis of a tile: `[:, None]`; nothing for rank 1."""
    return "" if rank == 1 else "[" + ", ".join(":" if i == axis else "None" for i in range(rank)) + "]"


def arange(size: int) -> str:
    return f"tl.arange(0, {size})"
