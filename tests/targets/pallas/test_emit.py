"""Emitted Pallas kernels: their text in golden files, and their results against the interpreter."""

from __future__ import annotations

import ast

import pytest

jax = pytest.importorskip("jax")

from jax.experimental.pallas import tpu as pltpu  # noqa: E402

from breccia.errors import UnsupportedError  # noqa: E402
from breccia.ir.dialect import parse_module  # noqa: E402
from breccia.target import find  # noqa: E402
from breccia.targets.pallas import launch  # noqa: E402
from breccia.testing.conformance import callable_for, compare  # noqa: E402
from breccia.testing.programs import random_program  # noqa: E402
from tests.conftest import CheckGolden  # noqa: E402
from tests.targets.pallas import programs  # noqa: E402

PALLAS = find(programs.TARGET)
IMPORTS = ["from functools import partial", "import jax.numpy as jnp", "from jax.experimental import pallas as pl",
           "from jax.experimental.pallas import tpu as pltpu", "from breccia.targets.pallas import launch as rt",
           "from breccia.targets.pallas import tiles"]  # fmt: skip


def check(text: str, kind: str, rows: int, *, strict: bool = False) -> None:
    call = callable_for(programs.lowered(text), PALLAS)
    outcome, detail = compare(parse_module(text), call, {"M": rows}, kind, strict=strict)
    assert outcome != "FAILED", detail


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_text_is_as_kept(name: str, golden: CheckGolden) -> None:
    golden(programs.source(programs.GOLDEN[name]), f"{name}.txt")


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_text_parses_and_imports_what_it_says(name: str) -> None:
    tree = ast.parse(programs.source(programs.GOLDEN[name]))
    imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports == IMPORTS


@pytest.mark.parametrize("name", [n for n in programs.GOLDEN if n != "grouped_in_rooms"])
def test_results_are_the_interpreters(name: str) -> None:
    for kind in ("normal", "zeros"):
        check(programs.GOLDEN[name], kind, 150)


@pytest.mark.parametrize("name", ["float8_tensor", "float8_1x128", "mxfp8_e4m3", "nvfp4", "uint4_g128_f16"])
def test_exact_sums_give_equal_bits(name: str) -> None:
    text = programs.GOLDEN[name].replace("breccia.unary silu", "breccia.unary relu")
    check(text, "coarse", 130, strict=True)


@pytest.mark.parametrize("name", ["float8_1x128", "mxfp8_e4m3", "rms_norm", "grouped"])
def test_as_a_tpu_would_run_it(name: str) -> None:
    """The TPU interpreter raises for reads outside, fills memory with NaN, and looks for races."""
    checks = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="raise", uninitialized_memory="nan")
    with launch.interpreting(checks):
        check(programs.GOLDEN[name], "normal", 150)
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as state

    assert state.races is not None
    assert not state.races.races_found


SEEDS = (1, 3, 5, 6, 7, 8, 9, 11)
"""Random programs whose tiles have known sizes, and whose values are no subnormal numbers."""


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs(seed: int) -> None:
    source = random_program(seed)
    call = callable_for(_lowered(source), PALLAS)
    for kind in ("normal", "zeros", "nan"):
        outcome, detail = compare(source, call, {"M": 7}, kind, strict=False)
        assert outcome != "FAILED", detail


def _lowered(source):
    from breccia.testing.conformance import lower

    return lower(source, PALLAS)[0]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_float64_is_refused() -> None:
    text = """func.func @f(%x : !breccia.tensor<[M, 64], f64>) -> !breccia.tensor<[M, 64], f64> {
  %y = breccia.unary abs %x
  func.return %y : !breccia.tensor<[M, 64], f64>
}"""
    with pytest.raises(UnsupportedError, match="pallas: tiles of f64 are not printed; convert to f32 first"):
        programs.source(text)


def test_policies_that_raise_are_refused() -> None:
    from tests.targets.numpy.programs import normalized

    text = normalized().replace("#breccia.policy<>", "#breccia.policy<nonfinite = error>")
    with pytest.raises(UnsupportedError, match="nonfinite='error' cannot raise in a kernel"):
        programs.source(text)
