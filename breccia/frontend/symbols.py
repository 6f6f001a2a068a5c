"""Leading sizes that are left unknown while tracing, and what the traced function asks of them.

Every plain array argument of two axes or more starts with a symbol of its own for its leading axis. Where the function
needs two of them to be equal, or needs one as a number, the trace is thrown away and made again under that constraint.
A compiled function holds its constraints, and checks them at every call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from breccia.ir import dims
from breccia.ir.dims import Dim, Expr, Sym


class Retrace(BaseException):
    """A new constraint is known: trace again. No `except Exception` of a user's function may stop it."""


@dataclass(frozen=True)
class Pin:
    """A leading size that is part of the code: which argument, the size, and why."""

    slot: int
    size: int
    reason: str
    number: bool
    """True where the function asked for the number itself, false where shapes had to fit."""


@dataclass
class Symbols:
    """Constraints on the leading sizes `sizes`, one slot for each argument whose leading axis may be unknown.

    Invariants: `roots[i] <= i`, and is its own root; a pinned root pins all slots that share it.
    """

    sizes: tuple[int, ...]
    roots: list[int] = field(default_factory=list[int])
    pins: dict[int, Pin] = field(default_factory=dict[int, Pin])
    reasons: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        if not self.roots:
            self.roots = list(range(len(self.sizes)))

    @staticmethod
    def name(slot: int) -> str:
        """`M`, `M1`, `M2` ..."""
        return f"M{slot}" if slot else "M"

    def dim(self, slot: int) -> Dim:
        """What stands in the type of argument `slot`."""
        root = self.roots[slot]
        return self.sizes[root] if root in self.pins else Sym(self.name(root))

    def hints(self) -> dict[str, int]:
        """The sizes of the call that is traced, by symbol."""
        return {self.name(slot): size for slot, size in enumerate(self.sizes)}

    def merge(self, a: Sym, b: Sym, reason: str) -> None:
        """Let two symbols be one."""
        low, high = sorted((self._slot(a.name), self._slot(b.name)))
        self.roots = [low if root == high else root for root in self.roots]
        self.reasons.append(f"{self.name(low)} and {self.name(high)} are one size: {reason}")

    def pin(self, dim: Dim, reason: str, *, number: bool) -> None:
        """Make every symbol in `dim` a number."""
        for name in dims.symbols(dim):
            slot = self._slot(name)
            self.pins[slot] = Pin(slot, self.sizes[slot], reason, number)

    def _slot(self, name: str) -> int:
        return int(name[1:] or 0)

    def pinned(self) -> tuple[tuple[int, int], ...]:
        """(slot, size) of every slot whose size is part of the code."""
        return tuple((i, self.sizes[i]) for i, root in enumerate(self.roots) if root in self.pins)

    def equal(self) -> tuple[tuple[int, int], ...]:
        """(slot, slot) of sizes that must be equal."""
        return tuple((root, i) for i, root in enumerate(self.roots) if root != i and root not in self.pins)


class Size:
    """A size that is a symbol while tracing, as in `x.shape[0]`; adds, multiplies and divides like an integer.

    Asking for its value (int(), a comparison, range()) makes the size part of the compiled code.
    """

    __slots__ = ("dim", "trace")

    def __init__(self, trace: Any, dim: Expr) -> None:
        self.trace, self.dim = trace, dim

    def _combine(self, other: object, build: Any, *, swap: bool = False) -> Any:
        if isinstance(other, Size):
            right: Dim = other.dim
        elif isinstance(other, int) and not isinstance(other, bool):
            right = other
        else:
            return NotImplemented
        return self.trace.size(build(right, self.dim) if swap else build(self.dim, right))

    def __add__(self, other: object) -> Any:
        return self._combine(other, dims.add)

    def __radd__(self, other: object) -> Any:
        return self._combine(other, dims.add, swap=True)

    def __sub__(self, other: object) -> Any:
        return self._combine(other, dims.sub)

    def __rsub__(self, other: object) -> Any:
        return self._combine(other, dims.sub, swap=True)

    def __mul__(self, other: object) -> Any:
        return self._combine(other, dims.mul)

    def __rmul__(self, other: object) -> Any:
        return self._combine(other, dims.mul, swap=True)

    def __floordiv__(self, other: object) -> Any:
        return self._combine(other, dims.floordiv)

    def _number(self, use: str) -> int:
        return self.trace.number(self.dim, use)

    def __int__(self) -> int:
        return self._number("int()")

    def __index__(self) -> int:
        return self._number("an index or range()")

    def __float__(self) -> float:
        return float(self._number("float()"))

    def __bool__(self) -> bool:
        return bool(self._number("a truth value"))

    def __truediv__(self, other: Any) -> Any:
        return NotImplemented if hasattr(other, "ssa") else self._number("a division") / other

    def __rtruediv__(self, other: Any) -> Any:
        return NotImplemented if hasattr(other, "ssa") else other / self._number("a division")

    def __mod__(self, other: Any) -> Any:
        return self._number("a remainder") % other

    def __rmod__(self, other: Any) -> Any:
        return other % self._number("a remainder")

    def __pow__(self, other: Any) -> Any:
        return self._number("a power") ** other

    def __neg__(self) -> int:
        return -self._number("a negative number")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Size) and other.dim == self.dim:
            return True
        return self._number("a comparison") == other

    def __lt__(self, other: Any) -> bool:
        return self._number("a comparison") < other

    def __le__(self, other: Any) -> bool:
        return self._number("a comparison") <= other

    def __gt__(self, other: Any) -> bool:
        return self._number("a comparison") > other

    def __ge__(self, other: Any) -> bool:
        return self._number("a comparison") >= other

    def __hash__(self) -> int:
        return hash(self._number("a dictionary key"))

    def __repr__(self) -> str:
        return dims.show(self.dim)


def factors(shape: Sequence[Dim]) -> tuple[int, Counter[Dim]]:
    """The number of elements of a shape as a constant and a bag of symbolic factors."""
    constant, bag = 1, Counter[Dim]()
    pending = list(shape)
    while pending:
        d = pending.pop()
        if isinstance(d, int):
            constant *= d
        elif isinstance(d, dims.Op) and d.kind == "mul":
            pending += [d.left, d.right]
        else:
            bag[d] += 1
    return constant, bag


def quotient(total: Sequence[Dim], known: Sequence[Dim]) -> Dim | None:
    """The size that `known` lacks to hold as many elements as `total`; None where that is not visible."""
    (count, bag), (divisor, out) = factors(total), factors(known)
    if divisor == 0 or count % divisor or out - bag:
        return None
    return product([*sorted((bag - out).elements(), key=dims.show), count // divisor])


def uncommon(a: Sequence[Dim], b: Sequence[Dim]) -> list[Dim]:
    """Symbolic factors of one shape's number of elements that are not in the other's."""
    (_, left), (_, right) = factors(a), factors(b)
    return [*(left - right), *(right - left)]


def product(shape: Sequence[Dim]) -> Dim:
    """The number of elements of a shape."""
    total: Dim = 1
    for size in shape:
        total = dims.mul(total, size)
    return total
