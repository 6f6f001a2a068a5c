"""Memory layouts are bijections; block layouts say 0.1's shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from breccia import layouts, recipes
from breccia.errors import RecipeError, ShapeError
from breccia.layouts import MEMORY_LAYOUTS, PerBlock, PerBlockK, PerBlockMN, PerChannel, PerTensor


@given(st.sampled_from(MEMORY_LAYOUTS), st.integers(1, 300), st.integers(1, 70))
def test_index_is_one_to_one_and_in_range(layout, rows, columns):
    offsets = layout.index(np.arange(rows)[:, None], np.arange(columns)[None, :], (rows, columns)).reshape(-1)
    assert np.unique(offsets).size == rows * columns
    room = np.prod(layout.shape((rows, columns))) * (2 if layout is layouts.packed4 else 1)
    assert offsets.min() >= 0 and offsets.max() < room  # noqa: PT018
    assert layout.index(rows - 1, columns - 1, (rows, columns)) == offsets[-1]


@given(st.sampled_from(MEMORY_LAYOUTS), st.integers(1, 200), st.integers(1, 40), st.integers(0, 15))
def test_unpack_inverts_pack_and_padding_has_the_pad_value(layout, rows, columns, seed):
    x = np.random.default_rng(seed).integers(1, 16, (2, rows, columns)).astype(np.uint8)
    packed = layout.pack(x)
    assert packed.shape == (2, *layout.shape((rows, columns)))
    assert np.array_equal(layout.unpack(packed, x.shape), x)
    if layout is not layouts.packed4:
        assert np.count_nonzero(packed) == x.size  # the rest is the pad value 0


def test_swizzle_128x4_has_rows_32_apart_side_by_side():
    x = np.arange(128 * 4).reshape(128, 4)
    flat = layouts.swizzle_128x4.pack(x).reshape(-1)
    assert flat[:16].tolist() == [0, 1, 2, 3, 128, 129, 130, 131, 256, 257, 258, 259, 384, 385, 386, 387]
    assert layouts.swizzle_128x4.shape((129, 5)) == (64, 32)


def test_swizzle_128x4_equals_the_reshape_that_torchao_does():
    x = np.random.default_rng(0).integers(0, 255, (256, 8)).astype(np.uint8)
    blocks = x.reshape(2, 128, 2, 4).transpose(0, 2, 1, 3).reshape(-1, 4, 32, 4).transpose(0, 2, 1, 3)
    assert np.array_equal(layouts.swizzle_128x4.pack(x).reshape(-1), blocks.reshape(-1))


def test_mn_major_packed_ue8m0_and_cdna4_by_their_definitions():
    x = np.arange(6 * 5).reshape(6, 5).astype(np.uint8)
    packed = layouts.mn_major.pack(x)
    assert packed.shape == (5, 8)
    assert np.array_equal(packed[:, :6], x.T)
    words = layouts.packed_ue8m0x4.pack(x)
    assert words.shape == (2, 8, 4)
    assert words[1, 2].tolist() == [x[2, 4], 0, 0, 0]
    big = np.random.default_rng(0).integers(0, 255, (256, 16)).astype(np.uint8)
    aiter = big.reshape(8, 2, 16, 2, 2, 4).transpose(0, 3, 5, 2, 4, 1)
    assert np.array_equal(layouts.cdna4_shuffle.pack(big).reshape(-1), aiter.reshape(-1))
    weight = big.reshape(16, 16, 16).reshape(256, 16)
    wide = np.concatenate([weight, weight + 1], axis=1)
    shuffled = wide.reshape(16, 16, 1, 2, 16).transpose(0, 2, 3, 1, 4)
    assert np.array_equal(layouts.cdna4_weight.pack(wide).reshape(-1), shuffled.reshape(-1))


def test_packed4_is_low_nibble_first():
    x = np.array([[1, 7, 15]], np.uint8)
    assert layouts.packed4.pack(x).tolist() == [[0x71, 0x0F]]
    assert layouts.packed4.unpack(np.array([[0x71, 0x0F]], np.uint8), (1, 3)).tolist() == [[1, 7, 15]]


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match="rank 1, at least 2"):
        layouts.swizzle_128x4.pack(np.zeros(3))
    with pytest.raises(ShapeError, match=r"is stored as \(32, 16\), not \(1, 512\)"):
        layouts.swizzle_128x4.unpack(np.zeros((1, 512)), (5, 3))
    with pytest.raises(ShapeError, match=r"is stored as \(5, 2\)"):
        layouts.packed4.unpack(np.zeros((5, 3), np.uint8), (5, 3))


class Shaped:
    def __init__(self, *shape):
        self.shape, self.ndim = shape, len(shape)


@pytest.mark.parametrize(
    ("layout", "data", "scale"),
    [
        (PerTensor(), (4, 8), ()),
        (PerBlockK(128), (4, 256), (4, 2)),
        (PerBlockK(128), (2, 4, 576), (2, 4, 5)),
        (PerChannel(), (4, 8), (4, 1)),
        (PerChannel(), (4, 8), (4,)),
        (PerBlockMN(1, 32), (4, 64), (4, 2)),
        (PerBlockMN(128, 128), (300, 576), (3, 5)),
    ],
)
def test_validate_takes_the_right_shape_and_no_other(layout, data, scale):
    layout.validate(Shaped(*data), Shaped(*scale))
    with pytest.raises(ShapeError, match=layout.name):
        layout.validate(Shaped(*data), Shaped(*scale, 7))


def test_names_defaults_and_refusals_of_0_1():
    assert (PerBlockK().block_size, PerBlockMN().block_m, PerBlockMN().block_n) == (128, 1, 32)
    names = [layout.name for layout in (PerTensor(), PerBlockK(), PerChannel(), PerBlockMN())]
    assert names == ["per_tensor", "per_block_k", "per_channel", "per_block_mn"]
    for bad in (0, -1, 3.5, True):
        with pytest.raises(RecipeError, match="must be > 0"):
            PerBlockK(bad)
        with pytest.raises(RecipeError, match="must be > 0"):
            PerBlockMN(1, bad)
    with pytest.raises(ShapeError, match="ndim >= 2"):
        PerBlockK().validate(Shaped(4), Shaped(1))


def test_of_recipe_says_the_blocks():
    assert layouts.of_recipe(recipes.nvfp4, 2) == PerBlockK(16)
    assert layouts.of_recipe(recipes.nvfp4_16x16, 3) == PerBlockMN(16, 16)
    assert layouts.of_recipe(recipes.float8_row, 2) == PerChannel()
    assert layouts.of_recipe(recipes.float8_tensor, 2) == PerTensor()
    assert layouts.of_recipe(recipes.mxfp4.along(0, 3), 3) == PerBlock((32, 1, 1))
    assert layouts.of_recipe(recipes.mxfp4, 1) == PerBlock((32,))
