"""Sizes as text: each emitter says how it spells tables and divisions."""

from __future__ import annotations

import pytest

from breccia.codegen.names import size_text
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Lookup, Sym

M = Sym("M")
NAMES = {"M": "m", "e": "e"}


def cdiv(a: str, b: str) -> str:
    return f"tl.cdiv({a}, {b})"


@pytest.mark.parametrize(
    ("dim", "python", "other"),
    [
        (7, "7", "7"),
        (dims.ceildiv(M, 128), "-(-m // 128)", "tl.cdiv(m, 128)"),
        (dims.ceildiv(dims.add(M, 1), 2), "-(-(m + 1) // 2)", "tl.cdiv((m + 1), 2)"),
        (dims.mul(dims.ceildiv(M, 4), 3), "-(-m // 4) * 3", "tl.cdiv(m, 4) * 3"),
        (dims.minimum(M, dims.ceildiv(M, 2)), "min(m, -(-m // 2))", "min(m, tl.cdiv(m, 2))"),
        (Lookup(2, dims.add(Sym("e"), 1)), "t2[e + 1]", "t2[e + 1]"),
    ],
)
def test_each_emitter_spells_divisions_its_way(dim: dims.Dim, python: str, other: str) -> None:
    def table(operand: int, index: str) -> str:
        return f"t{operand}[{index}]"

    assert size_text(dim, NAMES, table) == python
    assert size_text(dim, NAMES, table, ceildiv=cdiv) == other
    env = {"m": 37, "e": 1, "t2": [5, 6, 7], "min": min}
    assert eval(python, env) == dims.evaluate(dim, {"M": 37, "e": 1}, lambda operand, index: env[f"t{operand}"][index])


def test_what_cannot_be_spelled_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="size N cannot be found from the arguments' shapes"):
        size_text(Sym("N"), NAMES)
    with pytest.raises(UnsupportedError, match="reads a table outside of a kernel"):
        size_text(Lookup(0, 1), NAMES)
