"""The function around kernels: its symbols, its views, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.func import FuncOp

from breccia.codegen.host import HostFunction, host_dtype, symbol_texts
from breccia.codegen.lines import tensor_type
from breccia.errors import UnsupportedError
from breccia.ir.dialect import parse_module
from breccia.ir.interpreter import public_function
from breccia.ir.kernel import KernelOp

VIEWS = """
func.func @f(%x : !breccia.tensor<[M, 6], f32>, %w : !breccia.tensor<[2 * N, 3], f8E4M3FN>)
    -> (!breccia.tensor<[6, M - 1], f32>, !breccia.tensor<[N, 6], f8E4M3FN>) {
  %t = breccia.transpose %x [1, 0]
  %s = breccia.slice %t axis 1 from 1 to M
  %r = breccia.reshape %w to [N, 6]
  func.return %s, %r : !breccia.tensor<[6, M - 1], f32>, !breccia.tensor<[N, 6], f8E4M3FN>
}"""


class Host(HostFunction):
    """A target whose arrays are NumPy's."""

    target = "mine"

    def kernel(self, op: KernelOp) -> None:
        raise AssertionError("there is none")


def function(text: str) -> FuncOp:
    return public_function(parse_module(text))


def test_symbols_are_found_from_shapes_plain_ones_first() -> None:
    f = function(VIEWS)
    assert symbol_texts(dict(zip(f.args, ("x", "w"), strict=True))) == {"M": "x.shape[0]", "N": "w.shape[0] // 2"}


def test_views_are_those_of_arrays() -> None:
    text = Host(function(VIEWS)).text()
    names: dict[str, object] = {}
    exec(text, names)
    x, w = np.arange(24.0).reshape(4, 6), np.arange(12).reshape(4, 3)
    s, r = names["f"](x, w)  # type: ignore[operator]
    np.testing.assert_array_equal(s, x.T[:, 1:])
    np.testing.assert_array_equal(r, w.reshape(2, 6))
    assert '"""f(x: [M, 6] f32, w: [N * 2, 3] f8E4M3FN) -> [6, M - 1] f32, [N, 6] f8E4M3FN"""' in text


@pytest.mark.parametrize("op", ["breccia.unary exp %x", "breccia.broadcast %x to [M, 6]"])
def test_other_ops_are_refused_by_name(op: str) -> None:
    text = f"""
func.func @f(%x : !breccia.tensor<[M, 6], f32>) -> !breccia.tensor<[M, 6], f32> {{
  %y = {op}
  func.return %y : !breccia.tensor<[M, 6], f32>
}}"""
    with pytest.raises(UnsupportedError, match=rf"mine: cannot print {op.split()[0]} between kernels"):
        Host(function(text)).text()


def test_arrays_of_one_number_are_the_targets_own_matter() -> None:
    text = """
func.func @f() -> !breccia.tensor<[2], f32> {
  %y = breccia.full 1.0 [2] : f32
  func.return %y : !breccia.tensor<[2], f32>
}"""
    with pytest.raises(UnsupportedError, match=r"mine: cannot print an array of 1\.0"):
        Host(function(text)).text()


def test_codes_are_bytes() -> None:
    x, w = function(VIEWS).args
    assert (host_dtype(tensor_type(x.type)), host_dtype(tensor_type(w.type))) == ("f32", "ui8")
