"""Random whole programs, lowered, emitted and run, against the interpreter on the program as it was traced."""

from __future__ import annotations

import pytest

from breccia.target import find
from breccia.testing.conformance import callable_for, compare, lower
from breccia.testing.programs import random_program

NUMPY = find("numpy")


def check(seed: int) -> None:
    source = random_program(seed)
    lowered, _ = lower(source, NUMPY)
    call = callable_for(lowered, NUMPY)
    for kind in ("normal", "zeros", "nan"):
        for rows in (1, 7):
            outcome, detail = compare(source, call, {"M": rows}, kind, strict=False)
            assert outcome != "FAILED", f"{kind} inputs, M = {rows}: {detail}\n{NUMPY.emit(lowered)}"


@pytest.mark.parametrize("seed", range(20))
def test_random_program(seed: int) -> None:
    check(seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(20, 60))
def test_many_random_programs(seed: int) -> None:
    check(seed)
