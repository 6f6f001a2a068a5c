"""Whole programs, lowered, emitted and run by the shim, against the interpreter on the program as it was traced."""

from __future__ import annotations

import pytest

from breccia.errors import UnknownSizeError
from breccia.ir.dialect import parse_module
from breccia.testing.conformance import callable_for, compare, lower
from breccia.testing.programs import random_program
from tests.targets.metal import programs, shim

SEEDS = tuple(range(24))
LAST_PLACE = (10,)
"""Programs in which exp of the C library, which is not NumPy's in the last place, is raised to a power."""


def check(source, rows: tuple[int, ...], kinds: tuple[str, ...], *, sizes: dict[str, int] | None = None) -> None:
    target = shim.target()
    lowered, _ = lower(source, target)
    call = callable_for(lowered, target)
    for kind in kinds:
        for m in rows:
            outcome, detail = compare(source, call, {"M": m, **(sizes or {})}, kind, strict=False)
            assert outcome != "FAILED", f"{kind} inputs, M = {m}: {detail}\n{target.emit(lowered)}"


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_golden_programs(name: str) -> None:
    exact = "exact" if name.startswith("grouped") else "coarse"  # which makes no offsets of groups
    check(parse_module(programs.GOLDEN[name]), (1, 37), (exact, "normal", "zeros"))


@pytest.mark.parametrize("seed", [s for s in SEEDS if s not in LAST_PLACE])
def test_random_program(seed: int) -> None:
    source = random_program(seed)
    try:
        check(source, (1, 7), ("normal", "nan"))
    except UnknownSizeError:
        pytest.skip("this program needs the height of a tensor as a number, and says so")


@pytest.mark.parametrize("kind", ["ties", "subnormal", "inf", "max"])
@pytest.mark.parametrize("recipe", ["float8_1x128", "mxfp4", "nvfp4", "uint4_g32_f16", "nf4"])
def test_values_where_encoders_go_wrong(recipe: str, kind: str) -> None:
    check(parse_module(programs.cast(recipe, k=160)), (3,), (kind,))


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(24, 80))
def test_many_random_programs(seed: int) -> None:
    test_random_program(seed)
