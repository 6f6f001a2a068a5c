"""Names and sizes in emitted code. Whatever an IR name holds, only identifiers reach code, and only printable text
comments.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim

RESERVED = frozenset((
    "xp", "rt", "np", "runtime", "range", "min", "max", "int", "slice", "float", "True", "False", "None",
    *keyword.softkwlist,
))  # fmt: skip
"""Names that emitted code uses itself."""


def identifier(name: str) -> str:
    """`name` as a Python identifier that is no keyword and none of `RESERVED`.

    >>> identifier("0"), identifier("lambda"), identifier("a-b; import os")
    ('v0', 'lambda_', 'a_b_import_os')
    """
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "v"
    if text[0].isdigit():
        text = f"v{text}"
    return f"{text}_" if keyword.iskeyword(text) or text in RESERVED else text


def comment(text: str) -> str:
    """`text` fit for a comment or docstring: one printable line without quotes or backslashes."""
    return "".join(c if c.isprintable() and c not in '"\\' else "?" for c in text)[:120]


def quoted(name: object) -> str:
    """The name of a format, dtype or order as a string literal."""
    text = str(name)
    assert re.fullmatch(r"\w+", text), f"{text!r} is no name of a format, dtype or order"
    return f'"{text}"'


def entry_name(function: str) -> str:
    """The Python name of the IR function `function`; those of kernels and constants begin with an underscore."""
    return identifier(function)


class Names:
    """Unique identifiers. Invariant: no two calls of `fresh` give the same name."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken = set(taken)

    def fresh(self, wanted: str) -> str:
        """`wanted` as an identifier; with a number after it if that is taken."""
        base = identifier(wanted)
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


_OPERATORS = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "floordiv": ("//", 2)}


def size_text(dim: Dim, names: Mapping[str, str], table: Callable[[int], str] | None = None, strength: int = 0) -> str:
    """A size as a Python expression. `names` spells symbols and grid dimensions, `table` the operand of a look-up.

    >>> size_text(dims.ceildiv(dims.Sym("M"), 128), {"M": "M"})
    '-(-M // 128)'
    """
    if isinstance(dim, int):
        return str(dim)
    if isinstance(dim, dims.Sym):
        if dim.name not in names:
            raise UnsupportedError(f"numpy: size {comment(dim.name)} cannot be found from the arguments' shapes")
        return names[dim.name]
    if isinstance(dim, dims.Lookup):
        if table is None:
            raise UnsupportedError(f"numpy: {dims.show(dim)} reads a table outside of a kernel")
        return f"int({table(dim.operand)}[{size_text(dim.index, names, table)}])"
    assert isinstance(dim, dims.Op), "a size is an int, a symbol, a look-up or an operation"
    if dim.kind in _OPERATORS:
        sign, own = _OPERATORS[dim.kind]
        text = f"{size_text(dim.left, names, table, own)} {sign} {size_text(dim.right, names, table, own + 1)}"
        return f"({text})" if own < strength else text
    left, right = (size_text(d, names, table, 3 if dim.kind == "ceildiv" else 0) for d in (dim.left, dim.right))
    return f"-(-{left} // {right})" if dim.kind == "ceildiv" else f"{dim.kind}({left}, {right})"
