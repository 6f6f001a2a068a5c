"""Tiled kernels: equal to their untiled meaning by definition, at any size; and the ways in which they can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.ir.dialect import parse_module
from breccia.ir.interpreter import InterpreterError, interpret, public_function
from breccia.testing.inputs import make_arguments
from breccia.testing.validate import _close, same

DATA = Path(__file__).parents[1] / "data"
PAIRS = [p.stem for p in sorted(DATA.glob("*.mlir")) if "@untiled" in p.read_text()]
SIZES = [
    {"M": 1, "N": 1, "T": 1, "E": 1, "G": 1, "S": 1},
    {"M": 37, "N": 70, "T": 50, "E": 3, "G": 2, "S": 20},
    {"M": 131, "N": 129, "T": 67, "E": 4, "G": 1, "S": 33},
]


def load(name: str) -> ModuleOp:
    return parse_module((DATA / f"{name}.mlir").read_text(), name)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("sizes", SIZES, ids=["one", "odd", "large"])
def test_tiled_is_untiled(name: str, sizes: dict[str, int]) -> None:
    """Bit for bit in float64 where sums are exact, and to rounding on normal inputs."""
    module = load(name)
    func = public_function(module, "tiled")
    for kind, agree in (("exact", same), ("normal", _close)):
        args = make_arguments(func, sizes, kind, np.random.default_rng(3))  # type: ignore[arg-type]
        tiled = interpret(module, args, function="tiled", wide=True)
        whole = interpret(module, args, function="untiled", wide=True)
        for a, b in zip(tiled, whole, strict=True):
            assert np.all(agree(a, b)), (kind, np.argwhere(~agree(a, b))[:3])


@pytest.mark.parametrize("kind", ["nan", "inf", "zeros", "subnormal", "max", "ties"])
def test_special_values_in_rows(kind: Any) -> None:
    """Rows are whole here, so that nothing is reassociated and f32 is bit-equal."""
    module = load("rms_quantize")
    args = make_arguments(public_function(module, "tiled"), {"M": 19}, kind, np.random.default_rng(1))
    tiled, whole = (interpret(module, args, function=f) for f in ("tiled", "untiled"))
    for a, b in zip(tiled, whole, strict=True):
        assert np.all(same(a, b))


# -- padding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES, ids=["one", "odd", "large"])
def test_masks_make_padded_tiles_equal_smaller_ones(sizes: dict[str, int]) -> None:
    module = load("masked")
    args = make_arguments(public_function(module), sizes, "normal", np.random.default_rng(0))
    clip = interpret(module, args)
    for pad in ("nan", "zero"):
        for a, b in zip(clip, interpret(module, args, pad=pad), strict=True):  # type: ignore[arg-type]
            assert np.all(same(a, b))


def test_without_masks_nan_reaches_results() -> None:
    module = load("gemm_1x128")
    args = make_arguments(public_function(module, "tiled"), SIZES[1], "normal", np.random.default_rng(0))
    (clip,) = interpret(module, args, function="tiled")
    (zero,) = interpret(module, args, function="tiled", pad="zero")
    (garbage,) = interpret(module, args, function="tiled", pad="nan")
    assert np.all(same(clip, zero))
    assert np.isnan(garbage.astype(np.float32)).all()


# -- errors ------------------------------------------------------------------------------------------------------------


def kernel(windows: str, regions: str, out: str, args: str = "%a: !breccia.tensor<[M, 40], f32>") -> str:
    result = out.partition(" window")[0]
    return f"""func.func @f({args}) -> {result} {{
  %y = breccia.kernel "k" {windows}
    out ({out})
    {regions}
  func.return %y : {result}
}}"""


def test_tiles_that_differ_are_named() -> None:
    two = "%a: !breccia.tensor<[M, 40], f32>, %b: !breccia.tensor<[M, 39], f32>"
    text = kernel(
        "grid(m = ceildiv(M, 8), n = 2) in (%a window [8, 20] at (m, n), %b window [8, 20] at (m, n))",
        "finish (%a, %b) { %s = binary add %a, %b  yield %s }",
        "!breccia.tensor<[M, 40], f32> window [8, 20] at (m, n)",
        two,
    )
    args = [np.ones((3, 40), np.float32), np.ones((3, 39), np.float32)]
    with pytest.raises(InterpreterError, match=r"kernel k: .*of 20 and 19 elements meet on tile axis 1: %a and %b"):
        interpret(parse_module(text), args)


def test_a_result_of_another_extent() -> None:
    text = kernel(
        "grid(m = ceildiv(M, 8)) in (%a window [8, 20] at (m, 1) partial)",
        "finish (%a) { yield %a }",
        "!breccia.tensor<[M, 19], f32> window [8, 20] at (m, 0)",
    )
    with pytest.raises(InterpreterError, match="a tile of 20 elements on axis 1 is stored in a window of 19"):
        interpret(parse_module(text), [np.ones((3, 40), np.float32)])


TABLE = "%t: !breccia.tensor<[P], i32>, %a: !breccia.tensor<[M, 40], f32>"


def gather(values: list[int]) -> np.ndarray:
    text = kernel(
        "grid(p = P) in (%t, %a window [1, 40] at (%t[p], 0))",
        "finish (%a) { yield %a }",
        "!breccia.tensor<[P, 40], f32> window [1, 40] at (p, 0)",
        TABLE,
    )
    a = np.arange(120, dtype=np.float32).reshape(3, 40)
    return interpret(parse_module(text), [np.int32(values), a])[0]


def test_tables_are_read() -> None:
    assert gather([2, 0, 2, 1])[:, 0].tolist() == [80, 0, 80, 40]


def test_a_table_that_points_outside() -> None:
    with pytest.raises(InterpreterError, match=r"%a: the window at \(p = 1\) starts at element 3 of axis 0, which"):
        gather([0, 3])


def scatter(values: list[int]) -> np.ndarray:
    text = kernel(
        "grid(p = P) in (%t, %a window [1, 40] at (0, 0) partial)",
        "finish (%a) { yield %a }",
        "!breccia.tensor<[M, 40], f32> window [1, 40] at (%t[p], 0)",
        TABLE,
    )
    return interpret(parse_module(text), [np.int32(values), np.ones((3, 40), np.float32)])[0]


def test_results_written_twice_or_never() -> None:
    assert (scatter([2, 0, 1]) == 1).all()
    with pytest.raises(InterpreterError, match=r"the program at \(p = 2\) writes elements that another one wrote"):
        scatter([2, 0, 2])
    with pytest.raises(InterpreterError, match=r"40 of 120 elements were never written, first at \[1, 0\]"):
        scatter([2, 0])


def test_rows_of_no_segment_stay_as_they_began() -> None:
    text = kernel(
        "grid(e = 2, p = M) in (%t, %a window [1, 40] at (p, 0) within axis 0 %t[e] to %t[e + 1])",
        "finish (%a) { yield %a }",
        "!breccia.tensor<[M, 40], f32> window [1, 40] at (p, 0) within axis 0 %t[e] to %t[e + 1] combine add",
        TABLE,
    )
    (found,) = interpret(parse_module(text), [np.int32([1, 1, 2]), np.ones((4, 40), np.float32)])
    assert found[:, 0].tolist() == [0, 1, 0, 0]


def test_odd_packed_axes() -> None:
    """The last byte of an odd axis holds one code; both tiles of k have an odd end here."""
    text = """func.func @f(%w: !breccia.tensor<[4, ceildiv(N, 2)], ui8>, %s: !breccia.tensor<[4, N], f32>) -> !breccia.tensor<[4, N], f32> {
  %y = breccia.kernel "k" grid(n = ceildiv(N, 8)) in (%w window [4, 4] at (0, n), %s window [4, 8] at (0, n))
    out (!breccia.tensor<[4, N], f32> window [4, 8] at (0, n))
    finish (%w, %s) { %e = unpack %w order packed4 size 8 : ui4  %f = convert %e : f32  %p = binary mul %f, %s  yield %p }
  func.return %y : !breccia.tensor<[4, N], f32>
}"""  # noqa: E501
    module = parse_module(text)
    for n in (1, 7, 8, 9, 15):
        packed = np.random.default_rng(n).integers(0, 256, (4, -(-n // 2))).astype(np.uint8)
        (y,) = interpret(module, [packed, np.ones((4, n), np.float32)])
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(4, -1)[:, :n]
        np.testing.assert_array_equal(y, codes)


def test_ops_on_edge_tiles() -> None:
    """Views inside of regions, on tiles that are partial."""
    text = """func.func @f(%a: !breccia.tensor<[M, 12], f32>) -> !breccia.tensor<[6, M], f32> {
  %y = breccia.kernel "k" grid(m = ceildiv(M, 4)) in (%a window [4, 12] at (m, 0))
    out (!breccia.tensor<[6, M], f32> window [6, 4] at (0, m))
    finish (%a) {
      %l = slice %a axis 1 from 0 to 6
      %r = slice %a axis 1 from 6 to 12
      %p = binary mul %l, %r
      %q = reshape %p to [4, 1, 6]
      %b = broadcast %q to [4, 2, 6]
      %s = reduce sum %b axis [1]
      %t = reshape %s to [4, 6]
      %c = concat %t, %t axis 1
      %d = slice %c axis 1 from 3 to 9
      %e = transpose %d [1, 0]
      yield %e
    }
  func.return %y : !breccia.tensor<[6, M], f32>
}"""
    x = np.random.default_rng(0).integers(-4, 5, (7, 12)).astype(np.float32)
    (y,) = interpret(parse_module(text), [x])
    t = 2 * x[:, :6] * x[:, 6:]
    np.testing.assert_array_equal(y, np.concatenate([t, t], 1)[:, 3:9].T)


def test_partial_tiles_cannot_be_regrouped() -> None:
    text = kernel(
        "grid(m = ceildiv(M, 4)) in (%a window [4, 40] at (m, 0))",
        "finish (%a) { %r = reshape %a to [2, 80]  %s = reshape %r to [4, 40]  yield %s }",
        "!breccia.tensor<[M, 40], f32> window [4, 40] at (m, 0)",
    )
    module = parse_module(text)
    interpret(module, [np.ones((8, 40), np.float32)])
    with pytest.raises(InterpreterError, match="only full tiles can be regrouped"):
        interpret(module, [np.ones((7, 40), np.float32)])


def test_stochastic_rounding_does_not_depend_on_tiles() -> None:
    def text(rows: int) -> str:
        return f"""func.func @f(%x: !breccia.tensor<[M, 64], f32>, %seed: !breccia.tensor<[], i64>) -> (!breccia.tensor<[M, 64], f4E2M1FN>, !breccia.tensor<[M, 2], f8E8M0FNU>) {{
  %y, %s = breccia.kernel "k" grid(m = ceildiv(M, {rows})) in (%x window [{rows}, 64] at (m, 0), %seed window [] at ())
    out (!breccia.tensor<[M, 64], f4E2M1FN> window [{rows}, 64] at (m, 0), !breccia.tensor<[M, 2], f8E8M0FNU> window [{rows}, 2] at (m, 0))
    finish (%x, %seed) {{
      %e, %se = encode %x, %seed policy #breccia.policy<scale = ceil, rounding = stochastic> to #breccia.recipe<f4E2M1FN, f8E8M0FNU per [1, 32]> origin [m * {rows}, 0] extent [M, 64]
      yield %e, %se
    }}
  func.return %y, %s : !breccia.tensor<[M, 64], f4E2M1FN>, !breccia.tensor<[M, 2], f8E8M0FNU>
}}"""  # noqa: E501

    x = np.random.default_rng(0).standard_normal((11, 64)).astype(np.float32)
    first, second = (interpret(parse_module(text(r)), [x, np.int64(7)]) for r in (4, 11))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
