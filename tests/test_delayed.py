"""Delayed scaling: history and scale, step by step, on every library and inside their transformations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import breccia
from breccia import DelayedScaling, formats, recipes
from breccia.recipes import Level, Policy, Recipe

F = np.float32
LIBRARIES = ["numpy", "torch", "jax", "mlx"]
AMAXES = [0.0, 3.0, 1e-40, 7.0, np.inf, 2.0, 3.0, 4.0, np.nan, 5.0, 1e38, 2.0, 1e-37, 4.0]


def array_of(name):
    if name == "numpy":
        return np.asarray
    module, function = {"torch": ("torch", "tensor"), "jax": ("jax.numpy", "asarray"), "mlx": ("mlx.core", "array")}[
        name
    ]
    return getattr(pytest.importorskip(module), function)


def reference(history, scale_inv, amax, recipe):
    """TransformerEngine's rule in NumPy: it keeps the factor that encodes, and stores its inverse."""
    history = np.concatenate([history[1:], [F(amax)]]).astype(F)
    top = history.max() if recipe.policy.history_rule == "max" else history[-1]
    if not np.isfinite(top) or top <= 0:
        return history, scale_inv
    with np.errstate(over="ignore"):
        scale = F(recipe.element.max * 2.0**-recipe.policy.margin) / top
    return history, F(1) / min(scale, np.finfo(F).max)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("rule", ["max", "most_recent"])
def test_steps_follow_the_rule(library, rule):
    make = array_of(library)
    recipe = DelayedScaling(amax_history_len=3, margin=1).with_policy(history_rule=rule)
    state = breccia.delayed_init(recipe, make(F([1])))
    assert type(state[0]) is type(make(F([1])))
    expected = np.zeros(3, F), F(1)
    for amax in AMAXES:
        state = breccia.delayed_update(*state, make(F(amax)), recipe)
        expected = reference(*expected, amax, recipe)
        for got, wanted in zip(state, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(got), wanted)
    assert np.asarray(state[1]).shape == ()


@given(st.lists(st.floats(0, width=32, allow_nan=False), min_size=1, max_size=8), st.integers(0, 8))
def test_any_amax(amaxes, margin):
    recipe = DelayedScaling("E5M2", amax_history_len=4, margin=margin)
    state, expected = breccia.delayed_init(recipe), (np.zeros(4, F), F(1))
    for amax in amaxes:
        state = breccia.delayed_update(*state, F(amax), recipe)
        expected = reference(*expected, amax, recipe)
    np.testing.assert_array_equal(state[0], expected[0])
    assert state[1] == expected[1]


def test_a_step_casts_with_the_scale_of_the_steps_before():
    recipe = DelayedScaling(amax_history_len=2)
    x = np.linspace(-896, 896, 64, dtype=F).reshape(4, 16)
    history, scale = breccia.delayed_init(recipe)
    first = breccia.cast(x, recipe, scale=scale)
    assert float(breccia.dequantize(first).max()) == 448, "the first scale is 1, and 896 saturates"
    history, scale = breccia.delayed_update(history, scale, breccia.amax(x), recipe)
    assert float(breccia.dequantize(breccia.cast(x, recipe, scale=scale)).max()) == 896
    assert history.tolist() == [0, 896]


RECIPE = DelayedScaling(amax_history_len=4)


def step(x, history, scale):
    st = breccia.cast(x, RECIPE, scale=scale)
    return breccia.dequantize(st), *breccia.delayed_update(history, scale, breccia.amax(x), RECIPE)


def steps(make, run):
    state = breccia.delayed_init(RECIPE, make(F([0])))
    out = []
    for i in range(3):
        y, *state = run(make(np.random.default_rng(i).standard_normal((8, 32)).astype(F) * (i + 1)), *state)
        out += [np.asarray(y), *map(np.asarray, state)]
    return out


@pytest.mark.parametrize("library", LIBRARIES)
def test_compiled_steps_equal_eager_ones(library):
    make = array_of(library)
    for got, wanted in zip(steps(make, breccia.compile(step)), steps(np.asarray, step), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_steps_under_jit_and_scan():
    jax = pytest.importorskip("jax")
    wanted = steps(np.asarray, step)
    for got, value in zip(steps(jax.numpy.asarray, jax.jit(step)), wanted, strict=True):
        np.testing.assert_array_equal(got, value)
    xs = np.stack([np.random.default_rng(i).standard_normal((8, 32)).astype(F) * (i + 1) for i in range(3)])

    def body(state, x):
        y, *state = step(x, *state)
        return tuple(state), y

    like = jax.numpy.zeros(1)
    state, ys = jax.lax.scan(body, breccia.delayed_init(RECIPE, like), xs)
    np.testing.assert_array_equal(state[0], wanted[-2])
    np.testing.assert_array_equal(ys[-1], wanted[-3])


def test_steps_under_torch_compile():
    torch = pytest.importorskip("torch")
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for got, value in zip(steps(torch.tensor, compiled), steps(np.asarray, step), strict=True):
        np.testing.assert_array_equal(got, value)


def test_a_power_of_two_scale():
    recipe = Recipe(
        formats.float8_e4m3fn, (Level(formats.float8_e8m0fnu),), policy=Policy("delayed", "ceil", history=2, margin=1)
    )
    _, scale = breccia.delayed_update(*breccia.delayed_init(recipe), F(449), recipe)
    assert scale == 4


def test_what_has_no_history_is_refused():
    with pytest.raises(breccia.RecipeError, match="delayed scaling needs"):
        breccia.delayed_init(recipes.float8_tensor)
    with pytest.raises(breccia.RecipeError, match="exactly one"):
        breccia.delayed_init(recipes.mxfp8_e4m3.with_policy(amax="delayed"))
    with pytest.raises(breccia.DTypeError, match="give an instance"):
        breccia.delayed_init(DelayedScaling)
    recipe = DelayedScaling(amax_history_len=4)
    with pytest.raises(breccia.ShapeError, match=r"history is .* make it with delayed_init"):
        breccia.delayed_update(np.zeros(3, F), F(1), F(1), recipe)
