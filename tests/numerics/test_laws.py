"""Laws that hold for every recipe, searched by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from breccia import formats, recipes
from breccia.numerics import decode, dequantize, encode, pack, packed_length, quantize, unpack
from breccia.recipes import Recipe

ALL = recipes.all_recipes()
GENERAL = [r for r in ALL.values() if r.zero_point is None]
SYMMETRIC = [r for r in GENERAL if r.policy.max is None and r.element.kind != "codebook"]
BLOCKED = [r for r in ALL.values() if all(level.block is not None and None not in level.block for level in r.levels)]
NARROW = [f for f in formats.ALL if f.bits <= 8]

exact = st.floats(-64, 64, width=32).map(lambda v: np.float32(v) if abs(v) > 2**-30 else np.float32(0))
matrices = st.tuples(st.integers(1, 3), st.integers(1, 70)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=exact)
)
any_matrix = st.one_of(
    matrices,
    st.tuples(matrices, st.integers(-100, 100)).map(
        lambda pair: (pair[0] * np.float32(2.0 ** pair[1])).astype(np.float32)
    ),
)


def value(x: np.ndarray, recipe: Recipe) -> np.ndarray:
    return dequantize(quantize(x, recipe), recipe)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


@given(st.sampled_from([r for r in GENERAL if r.policy.max is None]), any_matrix)
def test_values_survive_a_second_round_trip(recipe, x):
    """Not for integers mapped to half steps beyond their largest (`max` 7.5), nor for zero points: their range
    shrinks."""
    once = value(x, recipe)
    assert same(value(once, recipe), once)


@given(st.sampled_from(SYMMETRIC), any_matrix)
def test_sign_symmetry(recipe, x):
    assert same(value(-x, recipe), -value(x, recipe))


@given(st.sampled_from([r for r in ALL.values() if r.innermost.dtype.name != "float16"]), matrices)
def test_eight_times_the_input_is_eight_times_the_output(recipe, x):
    assume(np.abs(x)[x != 0].min(initial=1) > 2**-20)
    assert same(value(8 * x, recipe), 8 * value(x, recipe))


@given(st.sampled_from(list(ALL.values())), any_matrix, st.randoms())
def test_order_within_a_block_does_not_matter(recipe, x, random):
    width = recipe.blocks(2)[-1][-1] or x.shape[1]
    x = x[:, :width]
    order = list(range(x.shape[1]))
    random.shuffle(order)
    assert same(value(x[:, order], recipe), value(x, recipe)[:, order])


@given(st.sampled_from(BLOCKED), any_matrix)
def test_a_slice_on_borders_is_quantized_as_in_the_whole(recipe, x):
    width = recipe.blocks(2)[-1][-1]
    assert width is not None
    x = np.tile(x, (1, width // x.shape[1] + 1))
    assert x.shape[1] > width
    assert same(value(x[:, width:], recipe), value(x, recipe)[:, width:])
    assert same(value(x[:, :width], recipe), value(x, recipe)[:, :width])


@given(st.sampled_from(list(ALL.values())), any_matrix, st.integers(1, 40))
def test_padding_with_zeros_changes_no_code(recipe, x, more):
    padded = quantize(np.pad(x, ((0, 0), (0, more))), recipe)
    assert np.array_equal(padded.elements[:, : x.shape[1]], quantize(x, recipe).elements)


@given(st.sampled_from(list(ALL.values())), any_matrix)
def test_transposing_commutes(recipe, x):
    turned = recipe.along(0, 2)
    assert same(value(x.T, turned), value(x, recipe).T)


@given(st.sampled_from(BLOCKED), matrices, st.data())
def test_nan_poisons_its_block_alone(recipe, x, data):
    row, column = data.draw(st.integers(0, x.shape[0] - 1)), data.draw(st.integers(0, x.shape[1] - 1))
    clean = value(x, recipe)
    x = x.copy()
    x[row, column] = np.nan
    height, width = recipe.blocks(2)[-1]
    hit = np.zeros(x.shape, bool)
    hit[row // height * height :][:height, column // width * width :][:, :width] = True
    got = value(x, recipe)
    assert np.isnan(got[hit]).all()
    assert same(got[~hit], clean[~hit])


@given(st.sampled_from([r for r in GENERAL if r.element.kind == "float"]), matrices)
def test_error_is_at_most_half_a_step_or_saturation(recipe, x):
    parts = quantize(x, recipe)
    scale = np.ones_like(x, np.float64)
    for level, array, block in zip(recipe.levels, parts.scales, recipe.blocks(2), strict=True):
        grid = decode(array, level.dtype).astype(np.float64)
        if grid.ndim:
            for axis, width in enumerate(block):
                grid = np.repeat(grid, width or x.shape[axis], axis)
            grid = grid[: x.shape[0], : x.shape[1]]
        scale = scale * grid
    element = recipe.element
    ratio = np.abs(x) / scale
    exponent = np.floor(np.log2(np.maximum(ratio, element.smallest_normal)))
    half = 2.0 ** (exponent - element.mantissa_bits - 1)
    bound = np.maximum(half, ratio - element.max) * scale * (1 + 1e-6)
    assert (np.abs(dequantize(parts, recipe) - x) <= bound).all()


@given(st.sampled_from(NARROW), arrays(np.float32, 40, elements=st.floats(width=32, allow_nan=False)))
def test_encode_is_monotone(fmt, x):
    x = np.sort(np.abs(x) if not fmt.signed else x)
    assume(not fmt.is_power_of_two or x[0] > 0)
    values = decode(encode(x, fmt, overflow="saturate"), fmt)
    assert (np.diff(values) >= 0).all()


@given(st.sampled_from([f for f in NARROW if not f.is_power_of_two]), st.floats(-1e4, 1e4, width=32))
def test_encode_is_at_least_as_near_as_every_other_value(fmt, x):
    values = decode(np.arange(1 << fmt.bits).astype(np.uint8), fmt).astype(np.float64)
    values = values[np.isfinite(values)]
    got = float(decode(encode([x], fmt), fmt)[0])
    assert abs(got - float(np.float32(x))) == np.abs(values - float(np.float32(x))).min()


@settings(max_examples=50)
@given(st.sampled_from(NARROW), st.integers(0, 3), st.integers(0, 19), st.integers(0, 2**32))
def test_unpack_inverts_pack(fmt, rows, length, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << fmt.bits, (rows, length)).astype(np.uint8)
    packed = pack(codes, fmt)
    assert packed.shape == (rows, packed_length(length, fmt))
    assert np.array_equal(unpack(packed, fmt, length), codes)


@given(st.sampled_from(GENERAL), st.floats(2**-10, 2**10, width=32), st.floats(2**-10, 2**10, width=32))
def test_scales_grow_with_amax(recipe, a, b):
    low, high = sorted((a, b))
    scales = []
    for amax in (low, high):
        parts = quantize(np.full((1, 1), amax, np.float32), recipe)
        total = 1.0
        for level, array in zip(recipe.levels, parts.scales, strict=True):
            total *= float(decode(array, level.dtype).reshape(-1)[0])
        scales.append(total)
    if len(recipe.levels) == 1:
        assert scales[0] <= scales[1]
    else:
        assert scales[0] <= scales[1] * (1 + 2.0**-20)


@pytest.mark.parametrize("fmt", [formats.float4_e2m1fn, formats.float6_e3m2fn], ids=lambda f: f.name)
def test_packing_order_is_lowest_bits_first(fmt):
    codes = np.array([1, 2, 3, 4], np.uint8)
    word = int.from_bytes(pack(codes, fmt).tobytes(), "little")
    assert [(word >> (fmt.bits * i)) & ((1 << fmt.bits) - 1) for i in range(4)] == [1, 2, 3, 4]
