"""breccia 0.1's names, defaults, positional order, shapes, dtypes and error texts still hold."""

from __future__ import annotations

import inspect
import pickle

import ml_dtypes
import numpy as np
import pytest

from breccia.errors import RecipeError
from breccia.layouts import Layout, PerBlockK, PerBlockMN, PerTensor
from breccia.recipes import Recipe
from breccia.scaling import (
    DelayedScaling,
    Float8BlockScaling,
    Float8CurrentScaling,
    INT4Scaling,
    MXFP8BlockScaling,
    NVFP4BlockScaling,
    ScalingRecipe,
)
from breccia.tensor import ScaledTensor, cast_array, from_buffer

X = np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32)
CASES = {  # recipe: name, layout, scale shape, scale dtype, worst relative error
    Float8CurrentScaling(): ("current", PerTensor(), (), np.float32, 0.03),
    DelayedScaling(): ("delayed", PerTensor(), (), np.float32, 0.03),
    Float8BlockScaling(block_k=128): ("block", PerBlockK(128), (8, 2), np.float32, 0.03),
    MXFP8BlockScaling(): ("mxfp8", PerBlockMN(1, 32), (8, 8), np.uint8, 0.0295),
    NVFP4BlockScaling(): ("nvfp4", PerBlockMN(1, 16), (8, 16), np.uint8, 0.1),
    INT4Scaling(): ("int4", PerBlockK(128), (8, 2), np.float16, 0.13),
    INT4Scaling(symmetric=False): ("int4", PerBlockK(128), (8, 2), np.float16, 0.11),
}


@pytest.mark.parametrize("recipe", CASES, ids=repr)
def test_cast_gives_0_1_s_shapes_dtypes_and_layout(recipe):
    name, layout, shape, dtype, error = CASES[recipe]
    st = cast_array(X, recipe)
    assert st.recipe is recipe
    assert st.layout == layout == recipe.layout
    assert isinstance(st.layout, Layout)
    assert (st.scale.shape, st.scale.dtype) == (shape, dtype)
    assert type(recipe).name == recipe.name == name
    assert st.dequantize().dtype == np.float32
    assert np.linalg.norm(st.numpy() - X) / np.linalg.norm(X) < error
    assert st.data_dtype == np.uint8
    assert (st.shape, st.ndim) == ((8, 256), 2)
    layout.validate(st, st.scale)


@pytest.mark.parametrize("recipe", CASES, ids=repr)
def test_positional_construction(recipe):
    st = cast_array(X, recipe)
    again = ScaledTensor(st.data, st.scale, recipe, st.layout, st.zero_point)
    assert again.layout == st.layout
    assert from_buffer(st.data, st.scale, recipe, st.layout, st.zero_point) == again
    if len(recipe.levels) == 1:
        assert again == st


@pytest.mark.parametrize("recipe", CASES, ids=repr)
def test_zeros_stay_zero(recipe):
    assert not cast_array(np.zeros((4, 256), np.float32), recipe).numpy().any()


@pytest.mark.parametrize(
    ("cls", "defaults"),
    [
        (DelayedScaling, {"fp8_format": "E4M3", "amax_history_len": 16, "margin": 0}),
        (Float8CurrentScaling, {"fp8_format": "E4M3"}),
        (Float8BlockScaling, {"fp8_format": "E4M3", "block_k": 128}),
        (MXFP8BlockScaling, {"fp8_format": "E4M3", "block_size": 32}),
        (NVFP4BlockScaling, {"fp4_format": "E2M1", "block_size": 16, "scale_format": "E4M3"}),
        (INT4Scaling, {"group_size": 128, "signed": True, "scale_dtype": "fp16", "symmetric": True}),
    ],
)
def test_parameters_defaults_and_order(cls, defaults):
    recipe = cls()
    assert list(inspect.signature(cls).parameters) == list(defaults)
    assert recipe.parameters == defaults
    assert {name: getattr(recipe, name) for name in defaults} == defaults
    assert cls(*defaults.values()) == recipe == pickle.loads(pickle.dumps(recipe))
    assert hash(cls()) == hash(recipe)
    assert isinstance(recipe, ScalingRecipe)
    assert isinstance(recipe, Recipe)
    assert repr(recipe) == f"{cls.__name__}({', '.join(f'{k}={v!r}' for k, v in defaults.items())})"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Float8BlockScaling(block_k=0), "block_k must be an integer of at least 1"),
        (lambda: Float8BlockScaling(block_k=-32), "block_k"),
        (lambda: Float8BlockScaling(block_k=3.5), "block_k"),
        (lambda: Float8BlockScaling(block_k=True), "block_k"),
        (lambda: Float8CurrentScaling("E3M4"), "must be 'E4M3' or 'E5M2', got 'E3M4'"),
        (lambda: MXFP8BlockScaling(block_size=16), "block_size is fixed at 32 by the OCP MX spec"),
        (lambda: NVFP4BlockScaling(block_size=32), "block_size is fixed at 16"),
        (lambda: NVFP4BlockScaling("E3M0"), "fp4_format is fixed at 'E2M1'"),
        (lambda: NVFP4BlockScaling(scale_format="E8M0"), "scale_format is fixed at 'E4M3'"),
        (lambda: INT4Scaling(group_size=0), "group_size"),
        (lambda: INT4Scaling(scale_dtype="fp8"), "'fp16', 'bf16', 'fp32'"),
        (lambda: INT4Scaling(signed=True, symmetric=False), "signed=False"),
        (lambda: DelayedScaling(amax_history_len=0), "amax_history_len must be an integer of at least 1"),
        (lambda: DelayedScaling(margin=-1), "margin must be an integer of at least 0"),
    ],
)
def test_bad_parameters_are_value_errors(make, text):
    with pytest.raises(ValueError, match=text) as caught:
        make()
    assert isinstance(caught.value, RecipeError)


def test_zero_point_errors_keep_their_words():
    st = cast_array(X, INT4Scaling(symmetric=False))
    assert st.zero_point is not None
    assert st.zero_point.shape == st.scale.shape
    with pytest.raises(ValueError, match=r"zero_point.shape"):
        ScaledTensor(st.data, st.scale, st.recipe, st.layout, st.zero_point[:4])
    with pytest.raises(TypeError, match="zero_point must be array-like"):
        ScaledTensor(st.data, st.scale, st.recipe, st.layout, 3)


def test_zero_points_in_the_scale_s_dtype_as_0_1_stored_them():
    st = cast_array(X, INT4Scaling(symmetric=False))
    assert from_buffer(st.data, st.scale, st.recipe, None, st.zero_point.astype(np.float16)) == st


def test_bf16_scales_may_come_as_float32_as_0_1_stored_them():
    st = cast_array(X, INT4Scaling(scale_dtype="bf16"))
    assert st.scale.dtype == ml_dtypes.bfloat16
    assert from_buffer(st.data, st.scale.astype(np.float32), st.recipe, st.layout) == st


def test_codes_one_a_byte_as_0_1_stored_them():
    for recipe in (NVFP4BlockScaling(), INT4Scaling()):
        st = cast_array(X, recipe)
        again = from_buffer(st.codes(), st.scale, recipe, st.layout)
        assert again.shape == (8, 256)
        assert np.array_equal(again.codes(), st.codes())


def test_what_0_1_refused_or_got_wrong():
    cast_array(np.ones((256, 64), np.float32), Float8BlockScaling(block_k=128))
    ragged = cast_array(np.ones((4, 576), np.float32), Float8BlockScaling(block_k=128))
    assert ragged.scale.shape == (4, 5)
    small = np.float32(1e-3) * X
    got = cast_array(small, NVFP4BlockScaling()).numpy()
    assert np.linalg.norm(got - small) / np.linalg.norm(small) < 0.1
    x = np.random.default_rng(1).uniform(10, 11, (4, 128)).astype(np.float32)
    got = cast_array(x, INT4Scaling(symmetric=False)).numpy()
    assert np.linalg.norm(got - x) / np.linalg.norm(x) < 0.05
    assert cast_array(X, DelayedScaling(margin=3)).scale == 8 * cast_array(X, DelayedScaling()).scale
    one_nan = X.copy()
    one_nan[0, 0] = np.nan
    got = cast_array(one_nan, MXFP8BlockScaling()).numpy()
    assert np.isnan(got).sum() == 32
    weight = cast_array(
        np.random.default_rng(2).standard_normal((256, 256)).astype(np.float32), Float8BlockScaling(), axis=0
    )
    assert weight.recipe.blocks(2) == ((128, 1),)
    assert weight.scale.shape == (2, 256)
