"""Emitted Metal text: kept in golden files, a function of the module alone, and safe from names."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from breccia.errors import UnknownSizeError, UnsupportedError
from breccia.ir.dialect import parse_module
from breccia.targets.metal._library import number
from breccia.targets.metal.emit import emit
from breccia.testing.conformance import compare
from tests.conftest import CheckGolden
from tests.targets.metal import programs, shim


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_text_is_as_kept(name: str, golden: CheckGolden) -> None:
    golden(programs.source(programs.GOLDEN[name]), f"{name}.txt")


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_text_follows_from_the_module_alone(name: str) -> None:
    module = programs.lowered(programs.GOLDEN[name])
    first = emit(module)
    assert emit(module) == first
    assert emit(programs.lowered(programs.GOLDEN[name])) == first


def test_emitting_imports_no_framework() -> None:
    code = """
import sys
from tests.targets.metal import programs
for text in programs.GOLDEN.values():
    programs.source(text)
assert not {"torch", "jax", "mlx", "triton"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


HOSTILE = (
    "half",
    "threadgroup",
    "i",
    "at",
    "rows",
    "silu",
    "decode_float8_e4m3fn",
    "x_strides",
    "amax",
    "total",
    "float_",
)


def test_names_of_the_user_do_no_harm() -> None:
    """Values that are called as words of the language, helpers, and what kernels name themselves."""
    text = """
func.func @f(%NAME : !breccia.tensor<[M, 96], f32>, %OTHER : !breccia.tensor<[M, 96], f32>)
    -> !breccia.scaled<[M, 96], f32, #breccia.recipe<f8E4M3FN, f32 per [1, 32]>> {
  %a = breccia.unary silu %NAME
  %b = breccia.binary mul %a, %OTHER
  %y = breccia.quantize %b policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [1, 32]>
  func.return %y : !breccia.scaled<[M, 96], f32, #breccia.recipe<f8E4M3FN, f32 per [1, 32]>>
}"""
    for name, other in zip(HOSTILE, (*HOSTILE[1:], HOSTILE[0]), strict=True):
        module = text.replace("NAME", name).replace("OTHER", other)
        call = shim.launch(programs.source(module), "f")
        outcome, detail = compare(parse_module(module), _listed(call), {"M": 3}, "normal", strict=False)
        assert outcome != "FAILED", detail


def _listed(call):
    return lambda args: list(call(*args))


def test_numbers_read_back() -> None:
    """The text of a number is that float32, to the bit; C reads a decimal to the nearest float."""
    texts = {value: number(value) for value in (0.1, -3.5, 3e38, 0.0)}
    assert all(np.float32(text.removesuffix("f")) == np.float32(value) for value, text in texts.items())
    assert number(1e-40) == f"as_type<float>({hex(int(np.float32(1e-40).view(np.uint32)))}u)"
    assert (number(float("nan")), number(float("-inf"))) == ("NAN", "-INFINITY")


def test_what_cannot_be_printed_says_so() -> None:
    wide = programs.product("float8_tensor")
    with pytest.raises(UnsupportedError, match=r"threadgroup memory; there are 32768: give the kernel smaller tiles"):
        programs_with_tiles(wide, 128)
    recipe = "#breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 1]>"
    column = f"""
func.func @f(%x : !breccia.tensor<[M, 1], f32>) -> !breccia.scaled<[M, 1], f32, {recipe}> {{
  %y = breccia.quantize %x policy #breccia.policy<> to {recipe}
  func.return %y : !breccia.scaled<[M, 1], f32, {recipe}>
}}"""
    with pytest.raises(UnknownSizeError, match="of an axis of unknown size cannot be kept"):
        programs.source(column)


def programs_with_tiles(text: str, size: int) -> str:
    """The text of a product in tiles of size x size x size."""
    from dataclasses import replace

    from breccia.ir.capabilities import TileRow, set_target
    from breccia.ir.pipeline import Pipeline
    from breccia.passes import default_pipeline
    from breccia.target import find

    row = replace(find("metal").capabilities, tiles=(TileRow("gemm", size, size, size), TileRow("rowwise", 4, 128, 1)))
    module = parse_module(text)
    set_target(module, row)
    Pipeline(default_pipeline(row)).run(module)
    return emit(module)
