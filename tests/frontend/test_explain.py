"""What `explain()` says: kernels, placements with reasons, layouts, bytes, and what would be better."""

# ruff: noqa: PLW0108 - lambdas are functions under test
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import breccia
from breccia import recipes
from tests.optional import need

X = np.ones((40, 256), np.float32)


def report(fn: Any, *args: Any) -> str:
    return breccia.compile(fn).lower(*args).explain()


def weight(recipe: Any, axis: int, shape: tuple[int, int] = (256, 128)) -> Any:
    return breccia.cast(np.ones(shape, np.float32), recipe, axis=axis)


def layer(x: Any, w: Any) -> Any:
    return breccia.silu(breccia.matmul(breccia.cast(x, recipes.float8_row), w))


def test_one_block_for_each_kernel_with_lines_and_fusion() -> None:
    text = report(layer, X, weight(recipes.float8_row, 0))
    line = layer.__code__.co_firstlineno + 1
    assert text.startswith("layer for numpy: 2 kernels\n")
    assert "  x: [M, 256] f32\n" in text
    assert "  any size: M (here 40)\n" in text
    assert f"rowwise_0 ({__file__}:{line})\n  fuses     quantize\n" in text
    assert f"gemm_0 ({__file__}:{line})\n  fuses     matmul -> silu\n" in text
    assert "no fallback was taken" in text


@pytest.mark.parametrize("library", ["torch", "jax", "mlx"])
def test_the_library_is_named(library: str) -> None:
    need(library)
    x = breccia.arrays.primitives_of(library).from_numpy(X)
    assert report(breccia.silu, x).startswith(f"silu for numpy on arrays of {library}: 1 kernel\n")


def test_placements_have_reasons() -> None:
    text = report(layer, X, weight(recipes.float8_row, 0))
    assert "a level 0 (f32 per [1, all]): epilogue" in text
    assert "b level 0 (f32 per [all, 1]): epilogue" in text


def test_layouts_and_bytes_next_to_bf16() -> None:
    text = report(lambda x, w: x @ w, X, weight(recipes.nvfp4, 0))
    assert "elements packed4" in text
    # 256 * 128 * 4.5 bits + 4 bytes for w, 4 bytes for each of the 40 * 256 + 40 * 128 plain values
    moved = (256 * 128 * 4.5 / 8 + 4 + 4 * (40 * 256 + 40 * 128)) / 1024
    plain = 2 * (256 * 128 + 40 * 256 + 40 * 128) / 1024
    assert f"moves     {moved:.4g} KiB (in bf16 {plain:.4g} KiB, {moved / plain:.2f} x) at M = 40" in text


def test_leading_axes_are_rows_and_views_move_nothing() -> None:
    def both(x: Any, w: Any) -> Any:
        return breccia.cast(layer(x, w), recipes.float8_row)

    text = report(both, np.ones((3, 40, 256), np.float32), weight(recipes.float8_row, 0))
    assert "gives     [M * 40, 128] <f8E4M3FN, f32 per [1, all]>" in text
    assert "layouts converted" not in text


def test_a_weight_cast_along_the_wrong_axis_is_told_of() -> None:
    advice = "cast the weight with axis=0 so that its blocks run along k and the scale folds"
    wrong = weight(recipes.float8_1x128, -1)
    assert advice in report(lambda x, w: breccia.matmul(x, w), X, wrong)
    assert advice in breccia.compile(breccia.matmul).lower(X, wrong).explain()
    assert advice not in report(lambda x, w: breccia.matmul(x, w), X, weight(recipes.float8_1x128, 0))


def test_sizes_in_the_code_are_told_of() -> None:
    text = report(lambda x: x * float(int(x.shape[0])), X)
    assert "note: M is used as a number by int() at" in text
    assert "slower: M is used as a number by int() at" in text
    assert "no fallback" not in text
    assert "note: matmul at" in report(lambda x, w: x @ w, X, np.ones((256, 3), np.float32))


def test_a_function_without_kernels() -> None:
    assert "0 kernels" in report(lambda x: x.T, X)
