"""What an emitter reads off a tiled kernel: its regions, and which elements of an operand a program sees."""

from __future__ import annotations

import pytest

from breccia.codegen.kernels import RegionParts, WindowAxis, region_of, window_axes
from breccia.ir import dims
from breccia.ir.dialect import parse_module
from breccia.ir.dims import Lookup, Sym
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import kernels

TEXT = """
func.func @f(%a : !breccia.tensor<[M, 96], f32>, %g : !breccia.tensor<[4], i32>, %w : !breccia.tensor<[3, 96, 24], f32>)
    -> !breccia.tensor<[M, 24], f32> {
  %y = breccia.kernel "gemm" grid(m = ceildiv(M, 16), n = 1, k = 3 reduction)
    in (%a window [16, 32] at (m, k), %g, %w window [one, 32, 24] at (%g[m], k, n) partial)
    out (!breccia.tensor<[M, 24], f32> window [16, 24] at (m, n))
    init { %acc = breccia.full 0.0 [16, 24] : f32
           breccia.yield %acc }
    step (%acc, %a, %w) { %p = breccia.dot nn %a, %w
                          %r = breccia.binary add %acc, %p
                          breccia.yield %r }
    finish (%acc) { breccia.yield %acc }
  func.return %y : !breccia.tensor<[M, 24], f32>
}"""
SEGMENT = """
func.func @f(%x : !breccia.tensor<[T, 64], f32>, %o : !breccia.tensor<[3], i32>) -> !breccia.tensor<[T, 64], f32> {
  %y = breccia.kernel "rows" grid(e = 2, m = ceildiv(T, 16))
    in (%o, %x window [16, 64] at (m, 0) within axis 0 %o[e] to %o[e + 1])
    out (!breccia.tensor<[T, 64], f32> window [16, 64] at (m, 0) within axis 0 %o[e] to %o[e + 1])
    finish (%x) { breccia.yield %x }
  func.return %y : !breccia.tensor<[T, 64], f32>
}"""
M = Sym("m")


def gemm() -> KernelOp:
    return kernels(parse_module(TEXT))[0]


def test_regions_have_carried_values_windows_ops_and_yields() -> None:
    kernel = gemm()
    step = region_of(kernel, "step")
    assert [v.name_hint for v in step.carried] == ["acc"]
    assert [(v.name_hint, i) for v, i in step.fetched] == [("a", 0), ("w", 2)]
    assert [op.name for op in step.ops] == ["breccia.dot", "breccia.binary"]
    assert step.yields == step.ops[-1].results
    assert [op.name for op in region_of(kernel, "init").ops] == ["breccia.full"]
    finish = region_of(kernel, "finish")
    assert (finish.ops, finish.yields) == ((), finish.carried)


def test_a_region_that_is_not_there_has_no_parts() -> None:
    assert region_of(kernels(parse_module(SEGMENT))[0], "step") == RegionParts((), (), (), ())


def test_a_window_begins_at_its_block_and_ends_with_its_tensor() -> None:
    kernel = gemm()
    window = kernel.tiles.inputs[0]
    assert window is not None
    k = dims.mul(Sym("k"), 32)
    assert window_axes(kernel.args[0], window) == (WindowAxis(dims.mul(M, 16), 16, Sym("M")), WindowAxis(k, 32, 96))


@pytest.mark.parametrize(("with_grid", "start"), [(True, 0), (False, dims.mul(Sym("n"), 24))])
def test_dropped_axes_and_dimensions_of_extent_1(with_grid: bool, start: dims.Dim) -> None:
    kernel = gemm()
    window = kernel.tiles.inputs[2]
    assert window is not None
    table, _, columns = window_axes(kernel.args[2], window, kernel.tiles.grid if with_grid else ())
    assert table == WindowAxis(Lookup(1, M), None, 3)
    assert columns == WindowAxis(start, 24, 24)


def test_a_segment_moves_both_ends() -> None:
    kernel = kernels(parse_module(SEGMENT))[0]
    rows, columns = window_axes(kernel.outs[0], kernel.tiles.outputs[0], kernel.tiles.grid)
    e = Sym("e")
    assert rows == WindowAxis(dims.add(Lookup(0, e), dims.mul(M, 16)), 16, Lookup(0, dims.add(e, 1)))
    assert columns == WindowAxis(0, 64, 64)
