"""The helper functions of one emitted file, and numbers as they are written in the Metal Shading Language."""

from __future__ import annotations

import struct
from textwrap import indent

from breccia.errors import UnsupportedError
from breccia.numerics import bits as f32

PROLOGUE = """#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
"""
"""No step may be fused, reordered or approximated; compilers before Metal 3.2 do not know the lines, and MLX turns fast
math off for them too."""


class Library:
    """Helper functions by name, dependencies first. Invariant: one name stands for one text."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def texts(self, used: frozenset[str] | None = None) -> list[str]:
        """All texts, or those of some names."""
        return [text for name, text in self._texts.items() if used is None or name in used]

    def define(self, result: str, name: str, parameters: str, doc: str, body: str) -> str:
        """Register a function from its parts; the name it is called by, with a number where another one has it."""
        for attempt in range(1, 1000):
            tried = name if attempt == 1 else f"{name}_{attempt}"
            lines = indent(body.strip("\n"), "    ")
            if self._register(tried, f"// {doc}\ninline {result} {tried}({parameters}) {{\n{lines}\n}}\n"):
                return tried
        raise UnsupportedError(f"metal: too many helper functions are called {name}")

    def table(self, name: str, values: tuple[float, ...]) -> str:
        """Register a table of numbers in constant memory."""
        numbers = ", ".join(map(number, values))
        text = f"constant float {name}[{len(values)}] = {{{numbers}}};\n"
        if not self._register(name, text):
            raise UnsupportedError(f"metal: two tables are called {name}")
        return name

    def _register(self, name: str, text: str) -> bool:
        return self._texts.setdefault(name, text) == text


def number(value: float) -> str:
    """A float32 as text; subnormal ones as bits, since a compiler may take them for 0.

    >>> number(0.5), number(float("-inf")), number(2.0**-149)
    ('0.5f', '-INFINITY', 'as_type<float>(0x1u)')
    """
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "-INFINITY" if value < 0 else "INFINITY"
    return from_bits(f32.float32_bits(value))


def from_bits(bits: int) -> str:
    """The float32 of these bits as text."""
    if 0 < bits & f32.MAGNITUDE < f32.HIDDEN:
        return f"as_type<float>({hex(bits)}u)"
    value = struct.unpack("<f", struct.pack("<I", bits))[0]
    return "NAN" if value != value else f"{value!r}f"
