"""Formats and their rounding as tables in constant memory, made by breccia's own numerics: exact for every format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from breccia import numerics
from breccia.codegen.c.dialect import Dialect
from breccia.formats import Format
from breccia.recipes import Policy

Array = np.ndarray[Any, Any]
Codes = Callable[[Array], Array]


class Tables:
    """The tables of a program, and calls that use them. Invariant: equal tables have one name."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.texts: list[str] = []
        """Their declarations, which come before the kernels."""
        self._names: dict[object, str] = {}

    def _declare(self, kind: str, name: str, numbers: list[int]) -> None:
        text = ", ".join(map(str, numbers))
        self.texts.append(self.dialect.constant.format(type=kind, name=name, numbers=text))

    def decode(self, fmt: Format, code: str) -> str:
        """The float that a code of at most 8 bits stands for."""
        if fmt not in self._names:
            numbers = numerics.decode(np.arange(1 << fmt.bits, dtype=np.uint8), fmt).view(np.uint32)
            self._names[fmt] = f"_{fmt.name}"  # no value of the IR begins with an underscore
            self._declare("uint", self._names[fmt], numbers.tolist())
        return self.dialect.as_float.format(f"{self._names[fmt]}[{code}]")

    def encode(self, fmt: Format, policy: Policy, x: str) -> str:
        """The code of the float `x`, rounded as the policy says, which must not be stochastic."""

        def codes_of(x: Array) -> Array:
            return numerics.encode(x, fmt, policy.rounding, policy.overflow)

        return self._call(("encode", fmt, policy.rounding, policy.overflow), codes_of, x)

    def power_of_two_scale(self, element: Format, dtype: Format, policy: Policy, amax: str) -> str:
        """The code of the scale of a block that has some positive amax, where `dtype` holds powers of two."""
        rising = replace(policy, zero_scale="smallest")  # so that the scale of zero is the least one

        def codes_of(amax: Array) -> Array:
            return numerics.scale_from_amax(amax, element, dtype, rising)

        return self._call(("scale", element, dtype, policy), codes_of, amax, 0.0)

    def _call(self, key: object, codes_of: Codes, x: str, low: float = -np.inf) -> str:
        """A call that looks `x` up in the table of a function from float32 to codes, where each code has one range."""
        if key not in self._names:
            steps, codes = steps_of(codes_of, low)
            name, of_nan = f"_table{len(self._names)}", int(codes_of(np.array([np.nan], np.float32))[0])
            self._declare("uint", f"{name}_steps", steps)
            self._declare("uchar", f"{name}_codes", codes)
            self._names[key] = f"{name}_steps, {len(steps)}, {name}_codes, {of_nan}"
        return f"code_of({x}, {self._names[key]})"


def steps_of(codes_of: Codes, low: float) -> tuple[list[int], list[int]]:
    """(keys from which on there is another code, the codes, one more): from `low` to infinity, by halving intervals.

    A key orders as its float does: the bits with the sign bit flipped, all of them if it is negative.
    """

    def at(keys: Array) -> Array:
        bits = np.where(keys >> 31, keys ^ 0x80000000, ~keys).astype(np.uint32)
        return codes_of(bits.view(np.float32))

    first = np.array([low], np.float32).view(np.uint32)
    starts = np.where(first >> 31, ~first, first | 0x80000000).astype(np.int64)
    ends = np.array([0xFF800000], np.int64)  # the key of infinity
    for _ in range(32):
        middles = (starts + ends) // 2
        starts, ends = np.concatenate([starts, middles]), np.concatenate([middles, ends])
        changes = at(starts) != at(ends)
        starts, ends = np.sort(starts[changes]), np.sort(ends[changes])
    return ends.tolist(), [*at(starts[:1]).tolist(), *at(ends).tolist()]
