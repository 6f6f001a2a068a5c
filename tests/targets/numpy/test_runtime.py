"""What emitted code calls has the interpreter's meaning."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects.builtin import i1, i32, i64

from breccia import formats, numerics, recipes
from breccia.ir.interpreter.arithmetic import convert, reduce
from breccia.ir.interpreter.values import Mode
from breccia.ir.types import dtype_of
from breccia.targets.numpy import runtime as rt

SPECIAL = np.float32([0.0, -0.0, 0.5, 1.5, -2.5, 3e9, -3e9, 1e20, np.inf, -np.inf, np.nan, 1e-42, 65520.0, 3.4e38])
TYPES = {"f64": dtype_of(formats.float64), "f32": dtype_of(formats.float32), "f16": dtype_of(formats.float16),
         "bf16": dtype_of(formats.bfloat16), "i1": i1, "i32": i32, "i64": i64}  # fmt: skip
NUMPY = {"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i1": np.bool_,
         "i32": np.int32, "i64": np.int64}  # fmt: skip


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", TYPES)
def test_convert(source: str, target: str) -> None:
    with np.errstate(all="ignore"):
        x = SPECIAL.astype(NUMPY[source])
        found, wanted = rt.convert(np, x, target), convert(x, TYPES[source], TYPES[target], Mode())
    assert found.dtype == wanted.dtype == NUMPY[target]
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("fn", ["sum", "max", "min", "amax"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_reductions(fn: str, shape: tuple[int, int], dtype: type) -> None:
    x = np.arange(-5, -5 + shape[0] * shape[1]).reshape(shape).astype(dtype)
    for axes in ((0,), (1,), (0, 1)):
        found, wanted = getattr(rt, fn)(np, x, axes), reduce(fn, x, axes, Mode())
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("fn", ["max", "min", "amax"])
def test_nan_wins(fn: str) -> None:
    assert np.isnan(getattr(rt, fn)(np, np.float32([[1.0, np.nan, 3.0]]), (1,)))


@pytest.mark.parametrize("name", recipes.all_recipes())
def test_quantize_gives_the_components_in_order(name: str) -> None:
    recipe = recipes.find(name)
    x = np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32)
    wanted = numerics.quantize(x, recipe)
    found = rt.quantize(np, x, recipe)
    expected = [wanted.elements, *wanted.scales, *(p for p in (wanted.zero_point, wanted.offset) if p is not None)]
    assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]
    given = rt.quantize(np, x, recipe, given=wanted.scales[:1])
    assert len(given) == len(found) - 1


def test_stochastic_rounding_belongs_to_elements_and_not_to_tiles() -> None:
    recipe = recipes.find("float8_row").with_policy(rounding="stochastic")
    x = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    seed = np.array(7, np.int64)
    whole, _ = rt.quantize(np, x, recipe, seed=seed, origin=(0, 0), extent=(6, 40))
    for start in (0, 2, 4):
        tile, _ = rt.quantize(np, x[start : start + 2], recipe, seed=seed, origin=(start, 0), extent=(6, 40))
        assert np.array_equal(tile, whole[start : start + 2])


def test_recipes_spelled_out_are_the_named_ones() -> None:
    assert rt.recipe("float4_e2m1fn", (("float32", None), ("float8_e4m3fn", (1, 16)))) == recipes.find("nvfp4")
    spelled = rt.recipe("uint4", (("float16", (1, 32)),), zero_point="uint4")
    assert spelled == recipes.find("uint4_g32_f16")


def test_expand_store_and_iota() -> None:
    assert rt.expand(np, np.float32([[1, 2]]), 1, 3, 5).tolist() == [[1, 1, 1, 2, 2]]
    assert rt.expand(np, np.float32([[1], [2]]), 1, 3, 2).tolist() == [[1, 1], [2, 2]]
    target = np.zeros((2, 3), np.float32)
    rt.store(np, target, rt.at[0:1, :], np.float32([[1, 2, 3]]))
    rt.store(np, target, rt.at[0:1, 1:], np.float32([[5, 5]]), "add")
    rt.store(np, target, rt.at[0:1, :], np.float32([[4, 4, 9]]), "max")
    assert target.tolist() == [[4, 7, 9], [0, 0, 0]]
    assert rt.iota(np, 3, 4, 1, 2, "i32").tolist() == [[3, 4, 5, 6]]
    with pytest.raises(KeyError, match="mean"):
        rt.store(np, target, rt.at[:], target, "mean")


def test_histories_roll_with_the_newest_last() -> None:
    history = np.float32([3.0, 5.0, 1.0])
    rolled = rt.history_update(np, history, np.float32([4.0]))
    assert rolled.tolist() == [5.0, 1.0, 4.0]
    assert rt.amax_from_history(np, rolled, "max").tolist() == [5.0]
    assert rt.amax_from_history(np, rolled, "most_recent").tolist() == [4.0]
    assert history.tolist() == [3.0, 5.0, 1.0]


def test_quiet_functions_give_ieee_results_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = rt.quiet(lambda x: (x / 0, np.exp(x * 1000)))(np.float32([1.0, -1.0, 0.0]))
    assert [float(v) for v in out[0][:2]] == [np.inf, -np.inf]
    assert np.isnan(out[0][2])
