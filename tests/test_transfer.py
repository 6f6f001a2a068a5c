"""Scaled tensors from library to library: every pair, every component, the same bits, shared memory where it can be."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.arrays import namespace
from breccia.errors import DTypeError, UnsupportedError
from breccia.tensor import ScaledTensor
from tests.optional import need

LIBRARIES = ("numpy", "torch", "jax", "mlx")
RECIPES = breccia.all_recipes()
PAIRS = list(product(LIBRARIES, LIBRARIES))


def example(recipe) -> ScaledTensor:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((3, 5, 130)) * np.exp(rng.standard_normal((3, 5, 1)) * 3)).astype(np.float32)
    x[0, 0, :7] = [0.0, -0.0, 1e-42, np.nan, 3e38, -1.5, 448.0]
    scale = np.float32(0.25) if recipe.policy.amax == "static" else None
    return breccia.cast(x, recipe, seed=5, scale=scale, dtype="bfloat16")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=str)
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda v: v)
def test_every_pair_keeps_every_bit(source, target, recipe):
    need(source, target)
    st = example(recipe)
    there = st.to(source).to(target)
    assert there.library == target
    assert there == st
    assert there.to("numpy") == st
    assert (there.shape, there.dtype, there.recipe) == (st.shape, st.dtype, st.recipe)
    assert np.array_equal(there.numpy(), st.numpy(), equal_nan=True)


def address(x) -> int:
    return namespace(x).to_numpy(x).__array_interface__["data"][0]


SHARING = [("numpy", "torch"), ("torch", "numpy"), ("jax", "numpy"), ("jax", "torch"), ("mlx", "numpy")]


@pytest.mark.parametrize(("source", "target"), SHARING)
def test_memory_is_shared_where_both_libraries_can(source, target):
    need(source, target)
    st = breccia.cast(np.ones((64, 256), np.float32), recipes.mxfp8_e4m3).to(source)
    there = st.to(target)
    assert address(there.data) == address(st.data)
    assert address(there.scale) == address(st.scale)


def test_a_tensor_already_there_is_not_moved():
    st = breccia.cast(np.ones((2, 32), np.float32), recipes.mxfp4)
    assert st.to("numpy").data is st.data
    assert st.to().data is st.data


def test_an_unknown_library_is_refused():
    st = breccia.cast(np.ones((2, 32), np.float32), recipes.mxfp4)
    with pytest.raises(DTypeError, match=r"cupy.*allowed: numpy, torch, jax, mlx"):
        st.to("cupy")


def test_numpy_has_no_devices():
    st = breccia.cast(np.ones((2, 32), np.float32), recipes.mxfp4)
    with pytest.raises(UnsupportedError, match="host's memory"):
        st.to("numpy", device="cuda:0")


@pytest.mark.parametrize("name", ["torch", "jax", "mlx"])
def test_components_of_two_libraries_are_refused(name):
    need(name)
    st = breccia.cast(np.ones((2, 32), np.float32), recipes.mxfp8_e4m3)
    there = st.to(name)
    with pytest.raises(DTypeError, match=f"data is an array of {name} must be one of {name} too, not of numpy"):
        ScaledTensor(there.data, st.scale, recipes.mxfp8_e4m3)


@pytest.mark.parametrize("name", ["torch", "jax", "mlx"])
def test_a_tensor_is_made_of_a_library_s_arrays(name):
    need(name)
    xp = breccia.arrays.primitives_of(name)
    data, scale = np.array([[0x71, 0x00]], np.uint8), np.array([[128]], np.uint8)
    st = ScaledTensor(xp.from_numpy(data), xp.from_numpy(scale), recipes.mxfp4)
    assert st.library == name
    assert st.numpy().tolist() == [[1.0, 12.0, 0.0, 0.0]]
    assert st == ScaledTensor(data, scale, recipes.mxfp4)
    assert hash(st) == hash(ScaledTensor(data, scale, recipes.mxfp4))
    assert name in repr(st)
