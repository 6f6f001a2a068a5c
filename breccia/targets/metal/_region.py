"""The text of one kernel while it is written.

A value of the IR is a tile; here it is a rule that gives its entry at any place. `Scope.value` writes what an entry
takes, so that a loop over the entries of a result computes in registers whatever elementwise ops lie between it and
memory. Only what threads have to exchange is kept in threadgroup memory, as an `Array`: operands and sums of products,
sums and maxima, scales of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import Sizes, origin, tensor_type
from breccia.codegen.names import Names as PythonNames
from breccia.errors import UnknownSizeError, UnsupportedError
from breccia.ir.dims import Dim
from breccia.ir.types import TensorType, format_of
from breccia.targets.metal._library import Library
from breccia.targets.metal._sizes import modulo, over, plus, size_text, times

Coords = tuple[str, ...]
Rule = Callable[["Scope", Coords], str]
"""What gives the entry of a value at a place: it may write lines, and gives a name or a number."""
Entry = Callable[["Scope", SSAValue, Coords], str]

_WORDS = """
alignas alignof and and_eq asm atomic_uint auto bfloat bfloat16_t bitand bitor bool break case catch char class compl
const constant constexpr const_cast continue decltype default delete device do double dynamic_cast else enum explicit
export extern false float float16_t for friend fragment goto half if inline int int8_t int16_t int32_t int64_t kernel
long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public ray_data register
reinterpret_cast return sampler short signed sizeof static static_assert static_cast struct switch template this thread
thread_local threadgroup throw true try typedef typeid typename uchar uint uint8_t uint16_t uint32_t uint64_t ulong
union unsigned ushort using vertex virtual void volatile wchar_t while xor xor_eq
abs as_type clamp clz exp floor isnan log max metal min precise rint INFINITY NAN
program thread_id simdgroup lane at e group top side rows columns sums
error_function gelu gelu_tanh larger over_power raised random_bits relu scatter sigmoid silu smaller sortable
"""
RESERVED = frozenset(_WORDS.split())
"""Words of the language, and names that emitted kernels use themselves."""
_HELPERS = (
    "codes_",
    "combine_",
    "decode_",
    "divided_",
    "encode_",
    "round_",
    "scale_",
    "shift_",
    "sorted_",
    "to_",
    "values_",
)
"""How names of helper functions and tables begin."""
THREADS = 128
SIMD = 32
NARROW = ("bf16", "f16")


class Names(PythonNames):
    """Unique identifiers that are no words of the language, and no names of helpers."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        super().__init__(RESERVED | taken)

    def fresh(self, wanted: str) -> str:
        """`wanted`, or something like it."""
        return super().fresh(f"v_{wanted}" if wanted.startswith(_HELPERS) else wanted)

    def inner(self) -> Names:
        """Names for a block within: those of here are taken there."""
        return Names(frozenset(self._taken))


@dataclass(frozen=True)
class Array:
    """A tile in threadgroup memory, rows of `pitch` entries apart."""

    name: str
    ctype: str
    shape: tuple[int, ...]
    pitch: int

    def at(self, coords: Coords) -> str:
        """The entry at a place, as an expression."""
        place, step = "0", 1
        for axis in reversed(range(len(self.shape))):
            if self.shape[axis] != 1:
                place = plus(times(coords[axis], str(step)), place)
            step *= self.pitch if axis == len(self.shape) - 1 else self.shape[axis]
        return f"{self.name}[{place}]"


class Region:
    """Writes lines. Invariants: a value is in at most one of `literals`, `arrays` and `rules`, and in none where its op
    says what it is; `bytes` is how much threadgroup memory `declared` takes.
    """

    def __init__(
        self, library: Library, names: Names, table: Callable[[int, str], str], entry: Entry, scratch: int
    ) -> None:
        """table: spells an entry of an operand that index maps read. entry: writes an entry of an op's result."""
        self.entry = entry
        self.library, self.names, self.table, self.scratch = library, names, table, scratch
        self.sizes = Sizes()
        self.literals: dict[SSAValue, str] = {}
        self.arrays: dict[SSAValue, Array] = {}
        self.rules: dict[SSAValue, Rule] = {}
        self.declared: list[str] = []
        self.bytes = 0
        self.lines: list[str] = []
        self._indent = 0

    # -- lines ---------------------------------------------------------------------------------------------------------

    def line(self, text: str, about: str = "") -> None:
        self.lines.append("    " * self._indent + text + (f"  // {about}" if about else ""))

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """Lines in braces."""
        self.line(f"{head} {{".lstrip())
        self._indent += 1
        yield
        self._indent -= 1
        self.line("}")

    def barrier(self) -> None:
        """Every thread waits for the others, and sees what they wrote."""
        self.line("threadgroup_barrier(mem_flags::mem_threadgroup);")

    def scope(self) -> Scope:
        return Scope(self)

    @contextmanager
    def each(self, shape: Sequence[Dim]) -> Generator[tuple[Scope, Coords]]:
        """A loop over the entries of a tile, shared by all threads: (where to write, the place of the entry)."""
        sizes = [self.size(d) for d in shape]
        with self.block(f"for (int at = thread_id; at < {self.count(shape)}; at += {THREADS})"):
            scope = self.scope()
            yield scope, scope.split("at", sizes)

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim, strength: int = 0) -> str:
        return size_text(dim, self.sizes, self.table, strength)

    def count(self, shape: Sequence[Dim]) -> str:
        """How many entries a tile has."""
        known = prod(d for d in shape if isinstance(d, int))
        return " * ".join([*([str(known)] if known != 1 or not shape else []), *self._unknown(shape)]) or "1"

    def _unknown(self, shape: Sequence[Dim]) -> list[str]:
        return [self.size(d, 3) for d in shape if not isinstance(d, int)]

    # -- threadgroup memory --------------------------------------------------------------------------------------------

    def array(self, wanted: str, ctype: str, shape: Sequence[Dim], pitch: int = 0, what: str = "") -> Array:
        """A new array; UnsupportedError where its size is not known or there is no room."""
        if not all(isinstance(d, int) for d in shape):
            raise UnknownSizeError(
                f"metal: {what or wanted} of a tile of unknown size cannot be kept in threadgroup memory; compile with "
                "dynamic=False, or give that axis a static size"
            )
        known = tuple(d for d in shape if isinstance(d, int))
        last = known[-1] if known else 1
        found = Array(self.names.fresh(wanted), ctype, known, max(pitch, last))
        entries = prod(known[:-1]) * found.pitch
        self.bytes += entries * {"float": 4, "uint": 4, "int": 4, "long": 8}.get(ctype, 2)
        if self.bytes > self.scratch:
            raise UnsupportedError(
                f"metal: a program would need {self.bytes} bytes of threadgroup memory; there are {self.scratch}: "
                "give the kernel smaller tiles in its schedule"
            )
        self.declared.append(f"threadgroup {ctype} {found.name}[{entries}];")
        return found

    def keep(self, value: SSAValue, wanted: str) -> Array:
        """Write a loop that computes a value once, into threadgroup memory, and a barrier."""
        t = tensor_type(value.type)
        found = self.array(wanted, scalar_type(t), t.shape)
        with self.each(t.shape) as (scope, coords):
            text = scope.value(value, coords)
            self.line(f"{found.at(coords)} = {text};")
        self.barrier()
        self.arrays[value] = found
        return found


class Scope:
    """Lines of one loop body. Invariant: an entry that was written once has a name that is not written again."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.names = region.names.inner()
        self._known: dict[tuple[SSAValue, Coords], str] = {}
        self._numbers: dict[str, str] = {}

    def value(self, value: SSAValue, coords: Coords) -> str:
        """The entry of a value at a place, as a name or a number."""
        region = self.region
        if value in region.literals:
            text = region.literals[value]
            return f"({text})" if text.startswith("-") else text
        key = (value, coords)
        if key not in self._known:
            self._known[key] = self._entry(value, coords)
        return self._known[key]

    def _entry(self, value: SSAValue, coords: Coords) -> str:
        region = self.region
        if value in region.arrays:
            array = region.arrays[value]
            return self.define(array.ctype, value.name_hint or "v", array.at(coords))
        if value in region.rules:
            return region.rules[value](self, coords)
        return region.entry(self, value, coords)

    def operand(self, value: SSAValue, coords: Coords) -> str:
        """An operand that is broadcast to where its result's entry lies."""
        shape = tensor_type(value.type).shape
        own = coords[len(coords) - len(shape) :]
        return self.value(value, tuple("0" if size == 1 else c for c, size in zip(own, shape, strict=True)))

    def define(self, ctype: str, wanted: str, text: str, op: Operation | None = None) -> str:
        """Write a constant, and give its name."""
        name = self.names.fresh(wanted)
        self.region.line(f"const {_cpp(ctype)} {name} = {text};", "" if op is None else origin(op, name))
        return name

    def number(self, text: str, wanted: str = "place") -> str:
        """A name for a coordinate that is more than a name."""
        if text.isidentifier() or text.isdigit():
            return text
        if text not in self._numbers:
            self._numbers[text] = self.define("int", wanted, text)
        return self._numbers[text]

    def split(self, index: str, sizes: Sequence[str], prefix: str = "") -> Coords:
        """The place of the entry number `index` in a tile, row-major."""
        coords: list[str] = []
        rest, long = index, [i for i, size in enumerate(sizes) if size != "1"]
        for axis in reversed(range(len(sizes))):
            if axis not in long:
                coords.insert(0, "0")
            elif axis == long[0]:
                coords.insert(0, self.number(rest, f"{prefix}{'ijkl'[axis % 4]}"))
            else:
                coords.insert(0, self.number(modulo(rest, sizes[axis]), f"{prefix}{'ijkl'[axis % 4]}"))
                rest = over(rest, sizes[axis])
        return tuple(coords)


def scalar_type(t: TensorType) -> str:
    """The C type of an entry in registers: floats are float, codes uint."""
    name = str(t.dtype)
    if name in ("i1", "i32", "i64"):
        return {"i1": "bool", "i32": "int", "i64": "long"}[name]
    fmt = format_of(t.dtype)
    if fmt is None or name == "f64":
        raise UnsupportedError(f"metal: tiles of {name} are not printed; convert to f32 first")
    return "float" if fmt.bits > 8 else "uint"


def _cpp(ctype: str) -> str:
    """The type of a value that was stored as a narrower one."""
    return {"uchar": "uint", "half": "float", "bfloat": "float"}.get(ctype, ctype)
