"""Range, coverage and races are found without data, in messages that name the operand, the axis and the blocks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from xdsl.utils.exceptions import VerifyException

from breccia.ir import coverage
from breccia.ir.dialect import parse_module
from breccia.ir.rewriting import kernels

DATA = Path(__file__).parent / "data"
GEMM = (DATA / "gemm_1x128.mlir").read_text()
ATTENTION = (DATA / "attention.mlir").read_text()
SPLIT_K = (DATA / "split_k.mlir").read_text()


def broken(text: str, old: str, new: str) -> str:
    assert old in text
    with pytest.raises(VerifyException) as caught:
        parse_module(text.replace(old, new, 1))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (GEMM, "k = 5", "k = 4", "%a: block 4 of axis 1 is never read by window [64, 128] at (m, k) (1 of 5 blocks"),
        (GEMM, "k = 5", "k = 6", "%a: window [64, 128] at (m, k) reaches block 5 on axis 1, which has blocks 0 to 4"),
        (GEMM, "%sa window [64, 1] at (m, k)", "%sa window [64, 1] at (m, 0)", "%sa: block 1 of axis 1 is never read"),
        (GEMM, "[1, 1] at (k, n)", "[1, 1] at (n, k)", "%sw: "),
        (GEMM, "[1, 128] at (0, n)", "[1, 128] at (0, m)", "%bias: "),
        (
            GEMM,
            "window [64, 128] at (m, n))",
            "window [64, 128] at (m, 0))",
            "result 0: block 1 of axis 1 is never wri",
        ),
        (GEMM, "grid(", "grid(z = 2, ", "result 0: the programs at (z = 0) and (z = 1) write one window"),
        (GEMM, "k = 5 reduction", "k = 5", "result 0: the programs at (k = 0) and (k = 1) write one window"),
        (GEMM, "at (m, n))", "at (m, k))", "result 0: window [64, 128] at (m, k) uses k, a reduction dimension"),
        (GEMM, "step (%acc, %a, %sa", "step (%acc, %a, %a", "redefin|already defined|meet|do not broadcast|neither"),
        (GEMM, "m = ceildiv(M, 64)", "m = ceildiv(Q, 64)", "grid dimension m: its extent uses Q, which is no size"),
        (GEMM, "m = ceildiv(M, 64)", "m = n", "grid dimension m: its extent n uses n, which does not stand before it"),
        (GEMM, "m = ceildiv(M, 64), n", "n = ceildiv(M, 64), n", "grid dimension n: the name stands for something"),
        (GEMM, "at (m, n))", "at (m, n) partial)", "results are written whole; `partial` is for operands"),
        (GEMM, "%bias window [1, 128] at (0, n)", "%bias window [1, 128] at (0, n) combine add", "only results can"),
        (ATTENTION, "m + 1", "m", "%k: block 1 of axis 1 is never read"),
        (ATTENTION, "h floordiv 2", "h", "%k: window [one, 16, 32] at (h, n, 0) reaches block 5 on axis 0"),
        (SPLIT_K, " combine add", "", "result 0: the programs at (p = 0) and (p = 1) write one window"),
    ],
)
def test_messages(text: str, old: str, new: str, message: str) -> None:
    if "|" in message:
        with pytest.raises(Exception, match=message):
            parse_module(text.replace(old, new, 1))
    else:
        assert message in broken(text, old, new)


def test_two_programs_of_one_window() -> None:
    """A map that is not injective, with every block written."""
    text = """func.func @f(%a: !breccia.tensor<[8, 4], f32>) -> !breccia.tensor<[4, 4], f32> {
  %y = breccia.kernel "k" grid(m = 8) in (%a window [1, 4] at (m, 0))
    out (!breccia.tensor<[4, 4], f32> window [1, 4] at (m floordiv 2, 0))
    finish (%a) { yield %a }
  func.return %y : !breccia.tensor<[4, 4], f32>
}"""
    message = broken(text, "@f", "@g")
    assert (
        "result 0: the programs at (m = 0) and (m = 1) write one window, window [1, 4] at (m floordiv 2, 0)" in message
    )


def test_half_reads_need_a_word() -> None:
    text = """func.func @f(%a: !breccia.tensor<[8, 4], f32>) -> !breccia.tensor<[4, 4], f32> {
  %y = breccia.kernel "k" grid(m = 4) in (%a window [1, 4] at (m, 0) partial)
    out (!breccia.tensor<[4, 4], f32> window [1, 4] at (m, 0))
    finish (%a) { yield %a }
  func.return %y : !breccia.tensor<[4, 4], f32>
}"""
    parse_module(text)
    assert "block 4 of axis 0 is never read" in broken(text, " partial", "")
    assert "say `partial` if that is meant" in broken(text, " partial", "")


def test_an_operand_nobody_reads() -> None:
    message = broken(
        GEMM, "finish (%acc, %bias) {\n      %h = binary add %acc, %bias", "finish (%acc) {\n      %h = unary neg %acc"
    )
    assert "%bias: it has a window, but neither step nor finish reads it" in message


def test_large_static_grids_are_quick() -> None:
    """A grid of a hundred million points: axes that share no dimension are looked at one by one."""
    text = """func.func @f(%a: !breccia.tensor<[64000, 8192], f32>) -> !breccia.tensor<[64000, 8192], f32> {
  %y = breccia.kernel "k" grid(m = 16000, n = 8192) in (%a window [4, 1] at (m, n))
    out (!breccia.tensor<[64000, 8192], f32> window [4, 1] at (m, n))
    finish (%a) { yield %a }
  func.return %y : !breccia.tensor<[64000, 8192], f32>
}"""
    start = time.perf_counter()
    parse_module(text)
    assert time.perf_counter() - start < 2


def test_verified_kernels_are_remembered() -> None:
    kernel = kernels(parse_module(GEMM))[0]
    windowed = [(n, t) for n, t, _ in kernel._windowed()]
    coverage._problem.cache_clear()
    for _ in range(3):
        coverage.check_tiling(kernel.tiles, windowed, kernel.operand_names())
    assert coverage._problem.cache_info().misses == 1


def test_tiles_must_not_cut_blocks() -> None:
    text = """func.func @f(%x: !breccia.tensor<[M, 256], f32>) -> !breccia.tensor<[M, 4], f32> {
  %y, %s = breccia.kernel "k" grid(m = ceildiv(M, 8), n = 2) in (%x window [8, 128] at (m, n))
    out (!breccia.tensor<[M, 256], f8E4M3FN> window [8, 128] at (m, n), !breccia.tensor<[M, 4], f32> window [8, 2] at (m, n))
    finish (%x) {
      %e, %se = encode %x policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [1, 64]>
      yield %e, %se
    }
  func.return %s : !breccia.tensor<[M, 4], f32>
}"""  # noqa: E501
    parse_module(text)
    assert "blocks of 96 on axis 1, but tiles of 128 elements move along n" in broken(text, "[1, 64]", "[1, 96]")
