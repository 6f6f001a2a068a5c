"""What a language like C is told apart by, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from breccia.ir.functions import UNARY

_KEYWORDS = """
auto bool break case char class const constant continue default device do double else enum extern float for goto half
if inline int kernel local long namespace operator private register return short signed sizeof static struct switch
template this threadgroup typedef uchar uint ulong union unsigned ushort using void volatile while
"""
_USED = """
program a e s t v min max CEILDIV DONE EACH larger smaller code_of combine_add combine_max NAN INFINITY fabs fmin fmax
isfinite pow
"""
WORDS = frozenset({
    *_KEYWORDS.split(), *_USED.split(), *UNARY, *(f"{letter}{axis}" for letter in "ir" for axis in range(10)),
})  # fmt: skip
"""Names that no value gets: keywords of languages like C, and what printed kernels use themselves."""


@dataclass(frozen=True)
class Dialect:
    """A language like C. Texts are templates of `str.format`; floats of all widths are `float` in a tile.

    Printed kernels call what a prelude of the target defines:
      EACH(n) .. DONE       a loop of `e` over 0 to n that the work-items of a group share; all wait for all at its end
      min, max, CEILDIV     of two integers, for sizes
      larger, smaller       of two floats; NaN wins
      code_of(x, steps, n, codes, of_nan)   `codes[number of steps whose key is at most that of x]`, of_nan for NaN; a
                            key is the bits of a float with the sign bit flipped, all of them if it is negative
      combine_add, combine_max (address, x)   atomically, on floats
      the unary functions of the IR that `functions` does not spell, such as `silu`
    """

    target: str
    """Who speaks in errors."""
    kernel: str = "void {name}({parameters}) {{\n{body}\n}}"
    pointer: str = "{type} *{name}"
    size: str = "const long {name}"
    program: str = "long program = 0;"
    """The statement that finds the number of the work-group, in `program`."""
    shared: str = "static {type} {name}[{count}];"
    """An array that the work-items of a group share."""
    constant: str = "static const {type} {name}[] = {{{numbers}}};"
    as_float: str = "as_float({0})"
    """The float with some bits."""
    types: Mapping[str, str] = field(default_factory=lambda: {"f32": "float", "i32": "int", "i64": "long"})
    """What arrays of an IR dtype hold; codes of 8 bits and fewer are `uchar`. Other dtypes are refused."""
    loads: Mapping[str, str] = field(default_factory=dict[str, str])
    """The float at place {1} of array {0}, for dtypes where it is not `{0}[{1}]`."""
    stores: Mapping[str, str] = field(default_factory=dict[str, str])
    """The statement that stores {2} there, for the same dtypes."""
    conversions: Mapping[str, str] = field(default_factory=dict[str, str])
    """A float rounded to a dtype, once, to nearest even: to a float dtype it stays `float`; to integers, it saturates.
    """
    functions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Unary functions of {0}, for those that are not a call of their own name."""
