"""The numbers of parts 1 and 3 against independent computations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import breccia
from breccia.demo.measure import (
    agreement,
    choose_recipes,
    cosine,
    measure_neighbours,
    measure_weights,
    neighbours,
    one_of_each,
)
from breccia.demo.sentences import SENTENCES
from breccia.demo.tokenize import tokenize
from breccia.demo.weights import Checkpoint
from breccia.errors import RecipeError
from breccia.recipes import all_recipes, find

if TYPE_CHECKING:
    from pathlib import Path

    from breccia.demo.encoder import Encoder


def _save(path: Path, **weights: np.ndarray) -> Checkpoint:
    save_file({f"{name}.weight": np.ascontiguousarray(w) for name, w in weights.items()}, path / "w.safetensors")
    return Checkpoint(path / "w.safetensors")


def test_the_default_has_one_recipe_of_each_kind() -> None:
    every, chosen = all_recipes(), choose_recipes(None)
    assert {r.element for r in chosen} == {r.element for r in every.values()}
    assert len(chosen) < len(every)
    kinds = {(r.element, r.zero_point, r.blocks(2), r.innermost.dtype.is_power_of_two) for r in chosen}
    assert len(kinds) == len(chosen)
    assert kinds == {(r.element, r.zero_point, r.blocks(2), r.innermost.dtype.is_power_of_two) for r in every.values()}


def test_one_of_each_keeps_the_first_and_what_differs_in_more_than_scale_precision() -> None:
    f16, f32, small = find("int4_g64_f16"), find("int4_g64_f32"), find("int4_g32_f32")
    assert one_of_each([f32, f16, small]) == (f32, small)
    with_zero = find("uint4_g64_f32")
    assert one_of_each([f16, with_zero]) == (f16, with_zero)
    exact, power = find("float8_1x128"), find("float8_1x128_e8m0")
    assert one_of_each([exact, power]) == (exact, power)


def test_recipes_are_chosen_by_name() -> None:
    assert choose_recipes(" nvfp4, mxfp4,nvfp4 ,") == (find("nvfp4"), find("mxfp4"))
    assert choose_recipes("all") == tuple(all_recipes().values())
    with pytest.raises(RecipeError, match=r"unknown recipe 'fp9'; known recipes: float8_tensor"):
        choose_recipes("nvfp4,fp9")
    with pytest.raises(RecipeError, match="--recipes is empty"):
        choose_recipes(" , ")


def test_errors_of_weights_equal_those_of_ml_dtypes(checkpoint: Checkpoint) -> None:
    linears = checkpoint.linears()[:3]
    (row,) = measure_weights(checkpoint, linears, [find("float8_row")]).rows
    noise = signal = 0.0
    for info in linears:
        w = checkpoint.read(info.name)
        scale = (np.abs(w).max(axis=1, keepdims=True) / np.float32(448)).astype(np.float32)
        decoded = (w / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
        noise += float(((w.astype(np.float64) - decoded) ** 2).sum())
        signal += float((w.astype(np.float64) ** 2).sum())
    assert row.relative_error == pytest.approx((noise / signal) ** 0.5, rel=1e-9)
    assert row.signal_to_noise == pytest.approx(10 * np.log10(signal / noise), rel=1e-9)


def test_bits_count_scales_and_zero_points(tmp_path: Path) -> None:
    checkpoint = _save(tmp_path, fc=np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32))
    names = ["nvfp4", "mxfp8_e4m3", "mxfp4", "int4_g128_f16", "float8_row", "float8_tensor"]
    table = measure_weights(checkpoint, checkpoint.linears(), [find(name) for name in names])
    size = 256 * 256
    expected = [4.5 + 32 / size, 8.25, 4.25, 4.125, 8 + 32 / 256, 8 + 32 / size]
    assert [row.bits for row in table.rows] == pytest.approx(expected)
    assert [row.megabytes for row in table.rows] == pytest.approx([bits * size / 8e6 for bits in expected])


def test_weights_that_a_recipe_holds_exactly_have_no_error(tmp_path: Path) -> None:
    checkpoint = _save(tmp_path, fc=np.tile(np.float32([1, -2, 4, 6]), (4, 16)), zeros=np.zeros((4, 8), np.float32))
    table = measure_weights(checkpoint, checkpoint.linears(), [find("mxfp4"), find("int8_row")])
    assert table.rows[0].relative_error == 0.0
    assert table.rows[0].signal_to_noise == np.inf
    assert 0 < table.rows[1].relative_error < 0.01


def test_weights_that_are_not_finite_are_left_out_and_named(tmp_path: Path) -> None:
    good = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    bad = good.copy()
    bad[3, 5] = np.nan
    alone = _save(tmp_path, good=good)
    (expected,) = measure_weights(alone, alone.linears(), [find("nvfp4")]).rows
    checkpoint = _save(tmp_path, good=good, bad=bad)
    done: list[int] = []
    table = measure_weights(checkpoint, checkpoint.linears(), [find("nvfp4")], done.append)
    assert table.rows == (expected,)
    assert (table.tensors, table.values, table.skipped) == (1, 1024, ("bad.weight",))
    assert sum(done) == 2048, "the progress bar reaches its end all the same"
    checkpoint = _save(tmp_path, bad=bad)
    with pytest.raises(RecipeError, match=r"every one of the 1 linear weights .* holds NaN or Inf"):
        measure_weights(checkpoint, checkpoint.linears(), [find("nvfp4")])


def test_cosine_is_the_mean_of_rows() -> None:
    a = np.float32([[1, 0], [0, 2], [0, 0], [0, 0]])
    b = np.float32([[3, 0], [0, -1], [0, 0], [1, 0]])
    assert cosine(a[:1], b[:1]) == pytest.approx(1)
    assert cosine(a[1:2], b[1:2]) == pytest.approx(-1)
    assert cosine(a[2:3], b[2:3]) == 1
    assert cosine(a[3:], b[3:]) == 0
    assert cosine(a, b) == pytest.approx(0.25)


def test_neighbours_are_other_rows_nearest_first() -> None:
    angles = np.radians([0, 10, 30, 100])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert neighbours(vectors, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_agreement_counts_kept_neighbours_and_equal_nearest_ones() -> None:
    before = np.eye(4, dtype=np.float32) + 0.1 * np.float32([[0, 3, 2, 0], [3, 0, 0, 1], [2, 0, 0, 1], [0, 0, 1, 0]])
    assert agreement(before, before, 2).kept == agreement(before, before, 2).top == 1
    swapped = before[[0, 1, 3, 2]]
    found = agreement(before, swapped, 1)
    # Rows 2 and 3 trade places: 0 and 1 stay each other's nearest, and 2 and 3 point elsewhere.
    lists = neighbours(before, 1)[:, 0], neighbours(swapped, 1)[:, 0]
    assert found.top == found.kept == np.mean(lists[0] == lists[1])
    assert found.top < 1


def test_eight_bits_keep_the_neighbours_and_four_bits_keep_fewer(model_folder: Path, encoder: Encoder) -> None:
    linears = [f"{name}.weight" for name in sorted({n.rsplit(".", 1)[0] for n in encoder.weights if "encoder" in n})]
    linears = [name for name in linears if encoder.weights[name].ndim == 2]
    assert len(linears) == 36
    tokens = tokenize(model_folder, SENTENCES[:12])
    reference = encoder.embed(tokens)
    fine = measure_neighbours(encoder, tokens, reference, linears, find("int8_row"), 2)
    coarse = measure_neighbours(encoder, tokens, reference, linears, find("mxfp4"), 2)
    assert 0.999 < fine.weights.cosine < 1
    assert fine.weights.kept > 0.9
    assert coarse.weights.cosine < fine.weights.cosine - 0.01
    for row in (fine, coarse):
        assert row.both.cosine < row.weights.cosine, "casting the inputs too costs more"


def test_casting_activations_is_what_casting_by_hand_gives(model_folder: Path, encoder: Encoder) -> None:
    tokens, recipe = tokenize(model_folder, SENTENCES[:2]), find("mxfp8_e4m3")
    row = measure_neighbours(encoder, tokens, encoder.embed(tokens), [], recipe, 1)
    assert row.weights.cosine == pytest.approx(1, abs=1e-6), "no weight was named, so none is cast"
    by_hand = replace(encoder, activation=lambda x: breccia.cast(x, recipe).dequantize()).embed(tokens)
    np.testing.assert_array_equal(row.both.embeddings, by_hand)
    assert row.both.cosine < 0.99999
