"""ScaledTensor: construction, shape operations, equality, and the bad-input table."""

from __future__ import annotations

import pickle
import sys

import ml_dtypes
import numpy as np
import pytest

from breccia import recipes
from breccia.arrays import _namespace, library, namespace, primitives_of
from breccia.errors import BlockBorderError, DTypeError, FormatError, RecipeError, ShapeError, UnsupportedError
from breccia.layouts import PerBlockK, PerBlockMN, PerTensor
from breccia.numerics import decode
from breccia.tensor import ScaledTensor, cast_array, concat, from_buffer, requantize

ALL = recipes.all_recipes()
SOME = ["float8_tensor", "float8_row", "float8_128x128", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "nvfp4", "nvfp4_16x16",
        "int8_row", "int4_g32_f16", "uint4_g32_bf16", "nf4", "mxint8"]  # fmt: skip


def gaussian(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("name", "bits"), [
    ("nvfp4", 4.5), ("int4_g128_f16", 4.125), ("mxfp8_e4m3", 8.25), ("mxfp6_e2m3", 6.25), ("mxfp4", 4.25),
    ("float8_row", 8.03125), ("uint4_g128_f16", 4.1875), ("nf4", 4.5),
])  # fmt: skip
def test_bits_per_value_are_true(name, bits):
    st = cast_array(gaussian(256, 1024), ALL[name])
    assert st.bits_per_value == pytest.approx(bits, abs=1e-3)
    assert st.nbytes == st.data.nbytes + sum(s.nbytes for s in st.scales) + (
        st.zero_point.nbytes if st.zero_point is not None else 0
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(64, 96), (5, 77), (3, 33, 70), (7,)])
def test_transpose_is_the_transpose_of_the_values(name, shape):
    st = cast_array(gaussian(*shape), ALL[name])
    assert np.array_equal(st.T.numpy(), st.numpy().T)
    assert st == st.T.T
    order = tuple(np.roll(range(len(shape)), 1).tolist())
    assert np.array_equal(st.transpose(order).numpy(), st.numpy().transpose(order))
    assert np.array_equal(st.transpose(*order).numpy(), st.numpy().transpose(order))


@pytest.mark.parametrize("name", ALL)
def test_cast_along_an_axis_is_cast_of_the_moved_axis(name):
    x = gaussian(40, 20, 34)
    for axis in (0, 1, -1):
        want = cast_array(np.moveaxis(x, axis, -1), ALL[name]).numpy()
        got = cast_array(x, ALL[name], axis=axis)
        assert np.array_equal(np.moveaxis(got.numpy(), axis, -1), want)
        assert got.recipe.blocks(3) == ALL[name].along(axis, 3).blocks(3)


@pytest.mark.parametrize("name", SOME)
def test_fast_decoding_equals_the_definition(name):
    from breccia.numerics import dequantize

    for shape in ((300, 1024), (2, 260, 576), (1030, 514)):
        st = cast_array(gaussian(*shape), ALL[name])
        assert np.array_equal(st.numpy(), dequantize(st.components(), st.recipe), equal_nan=True)
        st = cast_array(gaussian(*shape), ALL[name], axis=0)
        assert np.array_equal(st.numpy(), dequantize(st.components(), st.recipe), equal_nan=True)


@pytest.mark.parametrize("name", SOME)
def test_slices_on_borders_equal_slices_of_values(name):
    st = cast_array(gaussian(256, 512), ALL[name])
    values = st.numpy()
    for key in (slice(128, 256), (slice(None), slice(128, 512)), (..., slice(0, 256)), (slice(0, 128), slice(384, 512)),
                (slice(0, 0), slice(None)), ()):  # fmt: skip
        assert np.array_equal(st[key].numpy(), values[key])
    assert np.array_equal(st[128:][:, 128:].numpy(), values[128:, 128:])


def test_integer_index_drops_an_unblocked_axis():
    st = cast_array(gaussian(3, 4, 64), recipes.mxfp4)
    assert np.array_equal(st[1].numpy(), st.numpy()[1])
    assert st[1].recipe is recipes.mxfp4
    assert np.array_equal(st[1, -1].numpy(), st.numpy()[1, -1])
    assert np.array_equal(st[:, 2].numpy(), st.numpy()[:, 2])


def test_the_last_partial_block_may_be_sliced_to_the_end():
    st = cast_array(gaussian(4, 77), recipes.mxfp4)
    assert np.array_equal(st[:, 64:].numpy(), st.numpy()[:, 64:])
    assert np.array_equal(st[:, 64:77].numpy(), st.numpy()[:, 64:])


@pytest.mark.parametrize(("key", "text"), [
    ((slice(None), slice(3, 64)), "3:64 on axis 1 of shape .4, 128. cuts a block of 32.*nearest borders: 0 and 32"),
    ((slice(None), slice(0, 100)), "nearest borders: 96 and 128"),
    ((0, 5), "index 5 on axis 1"),
])  # fmt: skip
def test_slices_off_borders_name_the_nearest(key, text):
    with pytest.raises(BlockBorderError, match=text):
        cast_array(gaussian(4, 128), recipes.mxfp4)[key]


def test_other_indexing_is_refused():
    st = cast_array(gaussian(4, 128), recipes.mxfp4)
    with pytest.raises(ShapeError, match="step 2"):
        st[::2]
    with pytest.raises(ShapeError, match="allowed are slices"):
        st[[0, 1]]
    with pytest.raises(IndexError, match="out of range"):
        st[4]
    with pytest.raises(IndexError, match="too many"):
        st[0, 0, 0]


@pytest.mark.parametrize("name", SOME)
def test_reshape_of_leading_axes(name):
    st = cast_array(gaussian(4, 6, 64), ALL[name])
    whole = all(level.block is None for level in st.recipe.levels)
    if name in ("float8_128x128", "nvfp4_16x16"):
        with pytest.raises(ShapeError, match="must stay"):
            st.reshape(24, 64)
        return
    assert np.array_equal(st.reshape(24, 64).numpy(), st.numpy().reshape(24, 64))
    assert np.array_equal(st.reshape((2, -1, 64)).numpy(), st.numpy().reshape(2, 12, 64))
    if whole:
        assert np.array_equal(st.reshape(-1).numpy(), st.numpy().reshape(-1))
    else:
        with pytest.raises(ShapeError, match="hold blocks of"):
            st.reshape(48, 32)
    with pytest.raises(ShapeError, match="values"):
        st.reshape(5, 5)


@pytest.mark.parametrize("name", SOME)
def test_concat_of_cuts_gives_the_tensor_back(name):
    st = cast_array(gaussian(256, 512), ALL[name])
    assert concat([st[:128], st[128:]]) == st
    assert st[:, :128].concat(st[:, 128:], axis=1) == st


def test_concat_refuses_what_would_join_blocks():
    a, b = cast_array(gaussian(4, 40), recipes.mxfp4), cast_array(gaussian(4, 64), recipes.mxfp4)
    with pytest.raises(BlockBorderError, match="nearest borders: 32 and 64"):
        concat([a, b], 1)
    assert concat([b, a], 1).shape == (4, 104)
    with pytest.raises(RecipeError, match="concat needs one recipe"):
        concat([b, cast_array(gaussian(4, 64), recipes.mxfp8_e4m3)])
    with pytest.raises(ShapeError, match="differ on another axis"):
        concat([a, b])
    with pytest.raises(RecipeError, match="scales differ"):
        concat(
            [cast_array(gaussian(4, 64), recipes.float8_tensor), cast_array(2 * gaussian(4, 64), recipes.float8_tensor)]
        )
    with pytest.raises(ShapeError, match="at least one"):
        concat([])


def test_equality_and_hash_are_of_bits():
    x = gaussian(4, 64)
    a, b = cast_array(x, recipes.mxfp4), cast_array(x.copy(), recipes.mxfp4.with_policy(rounding="ties_zero"))
    assert a == b
    assert hash(a) == hash(b)
    assert a != cast_array(2 * x, recipes.mxfp4)
    assert a != cast_array(x, recipes.mxfp4, dtype="bfloat16")
    assert a != cast_array(x, recipes.mxfp4, axis=0)
    assert a != 3
    assert len({a, b}) == 1
    x[0, 0] = np.nan
    assert cast_array(x, recipes.mxfp4) == cast_array(x, recipes.mxfp4)
    assert pickle.loads(pickle.dumps(a)) == a


def test_frozen():
    st = cast_array(gaussian(4, 64), recipes.mxfp4)
    with pytest.raises(AttributeError, match="frozen"):
        st.data = st.data
    with pytest.raises(AttributeError, match="frozen"):
        del st.data


def test_dtypes_of_values():
    x = gaussian(4, 64).astype(ml_dtypes.bfloat16)
    st = cast_array(x, recipes.mxfp8_e4m3)
    assert st.dtype == st.numpy().dtype == ml_dtypes.bfloat16
    assert st.dequantize("float32").dtype == np.float32
    assert np.array_equal(st.numpy(), st.dequantize("float32").astype(ml_dtypes.bfloat16))
    assert cast_array(x.astype(np.float64), recipes.mxfp8_e4m3).dtype == np.float32
    assert np.asarray(st, np.float64).dtype == np.float64
    with pytest.raises(DTypeError, match="allowed: float32, bfloat16, float16, float64"):
        st.dequantize("int8")
    with pytest.raises(ValueError, match="copy"):
        np.array(st, copy=False)


def test_elements_may_be_codes_or_the_ml_dtypes_array_and_are_not_copied():
    st = cast_array(gaussian(4, 64), recipes.float8_tensor)
    for data in (st.data, st.data.view(ml_dtypes.float8_e4m3fn)):
        again = from_buffer(data, st.scale, recipes.float8_tensor, PerTensor())
        assert again == st
        assert np.shares_memory(again.data, data)
    four = cast_array(gaussian(4, 64), recipes.mxfp4)
    assert from_buffer(four.codes().view(ml_dtypes.float4_e2m1fn), four.scale, recipes.mxfp4) == four
    assert from_buffer(four.data, four.scale.view(ml_dtypes.float8_e8m0fnu), recipes.mxfp4) == four
    eight = cast_array(gaussian(4, 64), recipes.int8_row)
    assert eight.data.dtype == np.int8
    assert from_buffer(eight.data.view(np.uint8), eight.scale, recipes.int8_row) == eight
    signed = cast_array(gaussian(4, 64), recipes.int4_g32_f16)
    codes = signed.codes().astype(np.int8)
    assert from_buffer(np.where(codes > 7, codes - 16, codes), signed.scale, signed.recipe) == signed


def test_one_code_a_byte_as_0_1_stored_it():
    st = cast_array(gaussian(4, 64), recipes.mxfp4)
    assert from_buffer(st.codes(), st.scale, recipes.mxfp4) == st
    assert from_buffer(st.codes(), st.scale, recipes.mxfp4, shape=(4, 64)) == st
    odd = cast_array(gaussian(4, 77), recipes.mxfp4)
    assert from_buffer(odd.data, odd.scale, recipes.mxfp4, shape=(4, 77)) == odd
    garbage = st.codes().copy()
    garbage[0, 0] |= 0x30
    with pytest.raises(FormatError, match="bits above the 4"):
        from_buffer(garbage, st.scale, recipes.mxfp4)


def test_outer_levels_left_out_are_one():
    st = cast_array(gaussian(4, 64), recipes.nvfp4)
    single = from_buffer(st.data, st.scale, recipes.nvfp4)
    assert float(single.scales[0]) == 1
    whole = ScaledTensor(st.data, None, recipes.nvfp4, scales=st.scales)
    assert whole == st


@pytest.mark.parametrize(("change", "error", "text"), [
    ({"scale": np.ones((4, 3), np.uint8)}, ShapeError, r"must have shape \(4, 2\).*got \(4, 3\)"),
    ({"scale": np.ones((4, 2), np.float32)}, DTypeError, "uint8, float8_e8m0fnu, got float32"),
    ({"scale": 3}, DTypeError, "scale must be array-like"),
    ({"data": [1]}, DTypeError, "data must be array-like"),
    ({"data": np.zeros((4, 64), ml_dtypes.float8_e4m3fnuz)}, DTypeError, "fnuz.*same bits mean other values"),
    ({"data": np.zeros((4, 64), ml_dtypes.float8_e5m2)}, DTypeError, "cannot be taken from an array of float8_e5m2"),
    ({"data": np.zeros((4, 64), np.float32)}, DTypeError, "float32; allowed: uint8"),
    ({"data": np.zeros((), np.uint8)}, ShapeError, "at least 1-D"),
    ({"recipe": None}, RecipeError, "recipe is required"),
    ({"recipe": "fp8"}, DTypeError, "unsupported recipe: str"),
    ({"layout": "x"}, DTypeError, "must be a breccia layout"),
    ({"layout": PerBlockK(64)}, ShapeError, "does not say the blocks of <recipe mxfp8_e4m3>.*use PerBlockK"),
    ({"shape": (4, 32)}, ShapeError, r"\(4, 32\); got \(4, 64\)|have shape \(4, 32\)"),
    ({"dtype": "int8"}, DTypeError, "dtype of decoded values"),
    ({"zero_point": np.zeros((4, 2), np.uint8)}, RecipeError, "has no zero_point"),
    ({"offset": np.zeros((4, 2), np.float32)}, RecipeError, "has no offset"),
])  # fmt: skip
def test_construction_checks(change, error, text):
    given = {"data": np.zeros((4, 64), np.uint8), "scale": np.full((4, 2), 127, np.uint8), "recipe": recipes.mxfp8_e4m3}
    ScaledTensor(**given)
    with pytest.raises(error, match=text):
        ScaledTensor(**{**given, **change})


def test_scales_of_16_bits_may_be_given_wider_if_exact():
    st = cast_array(gaussian(4, 64), recipes.int4_g32_bf16)
    assert from_buffer(st.data, st.scale.astype(np.float32), recipes.int4_g32_bf16) == st
    with pytest.raises(DTypeError, match="cannot be held exactly"):
        from_buffer(st.data, np.full((4, 2), 0.1, np.float32), recipes.int4_g32_bf16)


def test_static_and_given_scales():
    static = recipes.float8_tensor.with_policy(amax="static")
    assert cast_array([[1.0]], static, scale=0.5).numpy().tolist() == [[1]]
    with pytest.raises(RecipeError, match="pass scale="):
        cast_array([[1.0]], static)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(RecipeError, match="positive and finite"):
            cast_array([[1.0]], static, scale=np.float32(bad))
    with pytest.raises(RecipeError, match="2 levels"):
        cast_array([[1.0]], recipes.nvfp4, scale=(np.float32(1),))


def test_a_given_scale_of_the_tensor_leaves_those_of_blocks_to_be_computed():
    x, recipe = gaussian(4, 64), recipes.nvfp4
    dynamic = cast_array(x, recipe)
    assert cast_array(x, recipe, scale=(dynamic.scales[0], None)) == dynamic
    assert cast_array(x, recipe, scale=(None, None)) == dynamic
    twice = cast_array(x, recipe, scale=(dynamic.scales[0] * 2, None))
    assert np.array_equal(twice.scales[0], dynamic.scales[0] * 2)
    assert np.array_equal(
        decode(twice.scale, recipe.innermost.dtype) * 2, decode(dynamic.scale, recipe.innermost.dtype)
    )
    with pytest.raises(RecipeError, match="2 levels"):
        cast_array(x, recipe, scale=(None,))


def test_cast_refuses_what_it_cannot_take():
    with pytest.raises(ShapeError, match="rank 0"):
        cast_array(np.float32(1), recipes.mxfp4)
    with pytest.raises(ShapeError, match="allowed: -2 to 1"):
        cast_array([[1.0]], recipes.mxfp4, axis=2)
    with pytest.raises(DTypeError, match=r"complex64.*x\.real"):
        cast_array(np.ones((2, 2), np.complex64), recipes.mxfp4)
    with pytest.raises(DTypeError, match="unsupported recipe: <class"):
        cast_array([[1.0]], type(recipes.mxfp4))
    with pytest.raises(DTypeError, match="not an array"):
        cast_array("text", recipes.mxfp4)


def test_libraries_are_found_by_module_and_missing_ones_named(monkeypatch):
    class Tensor:
        __module__ = "torch"

    class Mine(Tensor):
        __module__ = "elsewhere"

    assert namespace([1.0]) is namespace(np.zeros(1)) is namespace(np.float32(1))
    assert library(Tensor()) == library(Mine()) == "torch"
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.delitem(sys.modules, "breccia.arrays.mlx", raising=False)
    _namespace.cache_clear()
    with pytest.raises(UnsupportedError, match=r"mlx is not installed .*pip install breccia\[mlx\]"):
        primitives_of("mlx")
    _namespace.cache_clear()


def test_repr_says_what_matters():
    text = repr(cast_array(gaussian(8, 256), recipes.nvfp4))
    assert text == (
        "breccia.ScaledTensor(shape=(8, 256), dtype=float32, recipe=<recipe nvfp4>, layout=PerBlockK(block_size=16), "
        "data=uint8[8, 128], scales=[float32[], uint8[8, 16]], 4.516 bits per value)"
    )
    assert "<recipe mxfp4 32x1>" in repr(cast_array(gaussian(64, 4), recipes.mxfp4, axis=0))


def test_requantize_keeps_the_logical_dtype():
    st = cast_array(gaussian(4, 64), recipes.mxfp8_e4m3, dtype="bfloat16")
    again = requantize(st, recipes.mxfp4, axis=0)
    assert again.dtype == st.dtype
    assert again.recipe.blocks(2) == ((32, 1),)


def test_more_than_2_to_the_31_elements_are_counted_and_indexed_in_64_bits():
    data = np.broadcast_to(np.zeros((), np.uint8), (1 << 17, 1 << 15))
    st = ScaledTensor(data, np.float32(1), recipes.float8_tensor)
    assert st.size == 1 << 32
    assert st[-1:].numpy().shape == (1, 1 << 15)
    import breccia.arrays.numpy as xp

    high, low = xp.flat_index((2, 2), (1 << 40) + 3, (1 << 33, 1), data)
    index = high.astype(np.uint64) << np.uint64(32) | low
    assert index.tolist() == [[(1 << 40) + 3, (1 << 40) + 4], [(1 << 40) + (1 << 33) + 3, (1 << 40) + (1 << 33) + 4]]


def test_layout_of_a_tensor_says_its_blocks():
    assert cast_array(gaussian(64, 4), recipes.mxfp4, axis=0).layout == PerBlockMN(32, 1)
