"""The lines of one kernel while they are written: which tile stands under which name, and how sizes are spelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.ir import Operation, SSAValue

from breccia.codegen.constants import Constants
from breccia.codegen.lines import Sizes, origin, tensor_type
from breccia.codegen.names import Names, size_text
from breccia.errors import UnsupportedError
from breccia.ir.dims import Dim
from breccia.ir.types import TensorType

_DTYPES = {
    "f32": "float32", "bf16": "bfloat16", "f16": "uint16", "i1": "bool_", "i32": "int32", "i64": "int32",
}  # fmt: skip
"""What tiles are made of. Float16 does not exist on TPUs, so that its bits stand for it; JAX's integers have 32."""


def storage_dtype(t: TensorType) -> str:
    """The name in `jax.numpy` of the dtype that holds a value of this type in a kernel; bytes for codes."""
    name = str(t.dtype)
    if name in _DTYPES:
        return _DTYPES[name]
    if t.format is not None and t.format.bits <= 8:
        return "uint8"
    raise UnsupportedError(f"pallas: tiles of {name} are not printed; convert to f32 first")


def host_dtype(t: TensorType) -> str:
    """The dtype of an array between kernels, as the IR spells it; `ui8` for codes of 8 bits and fewer."""
    return str(t.dtype) if storage_dtype(t) != "uint8" else "ui8"


class Region:
    """Writes lines. Invariants: a value in `literals` has no line of its own, and is a number that broadcasts; one in
    `elastic` may have size 1 where its type says more.
    """

    def __init__(self, names: Names, constants: Constants, table: Callable[[int, str], str]) -> None:
        self.names, self.constants, self.table = names, constants, table
        self.sizes = Sizes()
        self.elastic: set[SSAValue] = set()
        self.literals: dict[SSAValue, str] = {}
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
        """`value` stands under the existing name, or expression, `text`."""
        self._texts[value] = text

    def alias(self, value: SSAValue, like: SSAValue) -> None:
        """`value` stands for what `like` stands for."""
        if like in self.elastic:
            self.elastic.add(value)
        for table in (self._texts, self.literals):
            if like in table:
                table[value] = table[like]

    def __getitem__(self, value: SSAValue) -> str:
        """The value as a tile of its own shape."""
        t = tensor_type(value.type)
        if value in self.literals:
            return f"jnp.full({self.shape(t.shape)}, {self.literals[value]}, {self.dtype(t)})"
        if value in self.elastic:
            return f"jnp.broadcast_to({self._texts[value]}, {self.shape(t.shape)})"
        return self._texts[value]

    def loose(self, value: SSAValue) -> str:
        """The value as something that broadcasts to its shape: a number where it is a literal."""
        return self.literals[value] if value in self.literals else self._texts[value]

    def broadcasts(self, value: SSAValue) -> bool:
        """True where the value has not the extents that its type says."""
        return value in self.literals or value in self.elastic

    @staticmethod
    def dtype(t: TensorType) -> str:
        """The dtype of tiles of this type, as an expression."""
        return f"jnp.{storage_dtype(t)}"

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim, strength: int = 0) -> str:
        return size_text(dim, self.sizes, self.table, strength)

    def shape(self, shape: Sequence[Dim]) -> str:
        return "(" + ", ".join(map(self.size, shape)) + (",)" if len(shape) == 1 else ")")

    # -- lines ---------------------------------------------------------------------------------------------------------

    def line(self, text: str, about: str = "") -> None:
        self._lines.append("    " * self._indent + text + (f"  # {about}" if about else "") if text else "")

    def assign(self, op: Operation, text: str, *, wanted: str = "v") -> None:
        """The only result of `op` is `text`; it is called `wanted` where the IR has no name for it."""
        out = op.results[0]
        name = self.bind(out, out.name_hint or wanted)
        self.line(f"{name} = {text}", origin(op, name))

    def indent(self, by: int) -> None:
        self._indent += by

    def text(self) -> str:
        return "\n".join(self._lines)
