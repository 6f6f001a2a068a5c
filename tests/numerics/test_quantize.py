"""Whole tensors against the oracle of fractions, and what the policy says about special values."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from breccia import formats, recipes
from breccia.errors import DTypeError, FormatError, RecipeError, ShapeError, UnsupportedError
from breccia.numerics import (
    block_amax,
    decode,
    delayed_scale,
    dequantize,
    finite_amax,
    outer_scales,
    quantize,
    scale_from_amax,
    update_history,
)
from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint
from tests.numerics import oracle

ALL = recipes.all_recipes()
SMALL = {name: r for name, r in ALL.items() if "_g" not in name or name.endswith(("g32_f16", "g64_bf16", "g32_f32"))}
MX = {
    f"{name}-{rule}": ALL[name].with_policy(scale=rule)
    for name in ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8")
    for rule in ("floor", "even")
}
MORE = {
    **MX,
    "ties_away": recipes.mxfp4.with_policy(rounding="ties_away"),
    "ties_zero": recipes.mxfp4.with_policy(rounding="ties_zero"),
    "float32 powers of two": recipes.float8_1x128.with_policy(scale="ceil"),
}


def special_values(seed: int) -> np.ndarray:
    """(7, 150): ties, subnormals, zeros, huge and tiny rows, spread of 2**40."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((7, 150)).astype(np.float32)
    x[1] = rng.integers(-24, 25, 150) / 4  # ties of E2M1 and of integers
    x[2] *= np.float32(2.0) ** rng.integers(-20, 20, 150)
    x[3] *= np.float32(1e-42)
    x[4, :40] = 0
    x[4, 3] = -0.0
    x[4, 60] = np.float32(2.0**-126)
    x[5] *= np.float32(5e37)
    x[6] = x[0].astype(ml_dtypes.bfloat16).astype(np.float32)
    return x


def check_against_oracle(x: np.ndarray, recipe: Recipe) -> None:
    got, want = quantize(x, recipe), oracle.quantize(x, recipe)
    for level, array, table in zip(recipe.levels, got.scales, want.scales, strict=True):
        values = decode(array, level.dtype).reshape(list(array.shape) or [1] * x.ndim)
        for where, s in table.items():
            assert float(values[where]) == pytest.approx(
                float("nan") if s is None else float(s), rel=0, abs=0, nan_ok=True
            )
    for index, code in want.codes.items():
        assert code == -1 or got.elements[index] == code, (index, float(x[index]), code, int(got.elements[index]))
    np.testing.assert_array_equal(dequantize(got, recipe).astype(np.float64), oracle.dequantize(want, recipe, x.shape))


@pytest.mark.parametrize("name", SMALL)
def test_every_recipe_equals_the_oracle(name):
    # 5e37 times a block of NVFP4 overflows no float32; the oracle saturates where hardware gives infinity.
    check_against_oracle(special_values(5), SMALL[name])


@pytest.mark.parametrize("name", MORE)
def test_every_rule_equals_the_oracle(name):
    check_against_oracle(special_values(6), MORE[name])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "float8_128x128", "uint4_g32_f16", "float8_row"])
def test_any_axis_of_a_tensor_of_rank_3(name, axis):
    x = np.random.default_rng(7).standard_normal((3, 17, 33)).astype(np.float32)
    check_against_oracle(x, ALL[name].along(axis, 3))


@pytest.mark.parametrize("name", ALL)
def test_a_nan_or_infinity_poisons_its_block_and_no_other(name):
    recipe = ALL[name]
    x = np.random.default_rng(8).standard_normal((4, 300)).astype(np.float32)
    clean = dequantize(quantize(x, recipe), recipe)
    for bad in (np.nan, np.inf, -np.inf):
        y = x.copy()
        y[1, 5] = bad
        hit = np.zeros(x.shape, bool)
        block = recipe.blocks(2)[-1]
        hit[tuple(slice(0, n) if b is None else slice(i // b * b, i // b * b + b)
                  for i, b, n in zip((1, 5), block, x.shape, strict=True))] = True  # fmt: skip
        got = dequantize(quantize(y, recipe), recipe)
        assert np.array_equal(np.isnan(got), hit)
        if len(recipe.levels) == 1 and not hit.all():
            assert np.array_equal(got[~hit], clean[~hit])


def test_infinity_saturates_if_the_policy_says_so_and_nan_still_poisons():
    recipe = recipes.mxfp8_e4m3.with_policy(nonfinite="saturate")
    x = np.ones((2, 64), np.float32)
    x[0, 0], x[0, 1], x[1, 0] = np.inf, -np.inf, np.nan
    got = dequantize(quantize(x, recipe), recipe)
    assert got[0, 0] == -got[0, 1] == 448 * 2.0**119 or np.isinf(got[0, 0])
    assert np.isnan(got[1, :32]).all()
    assert (got[:, 32:] == 1).all()


def test_nonfinite_error_names_shape_recipe_and_the_way_on():
    for recipe in (recipes.mxfp4, recipes.uint4_g32_f16):
        with pytest.raises(FormatError, match=r"\(1, 3\).*nonfinite='error'.*poison"):
            quantize([[1.0, np.nan, 2.0]], recipe.with_policy(nonfinite="error"))


@pytest.mark.parametrize(("rule", "codes"), [("one", 127), ("smallest", 0), ("zero", 0)])
def test_zero_blocks_of_e8m0(rule, codes):
    parts = quantize(np.zeros((1, 32), np.float32), recipes.mxfp4.with_policy(zero_scale=rule))
    assert parts.scales[0].tolist() == [[codes]]
    assert not parts.elements.any()


@pytest.mark.parametrize(("rule", "scale"), [("one", 1.0), ("smallest", 2.0**-149), ("zero", 0.0)])
def test_zero_blocks_of_float32(rule, scale):
    recipe = recipes.float8_row.with_policy(zero_scale=rule)
    parts = quantize(np.array([[0.0, -0.0]], np.float32), recipe)
    assert parts.scales[0].tolist() == [[scale]]
    assert parts.elements.tolist() == [[0, 0x80]]
    assert not dequantize(parts, recipe).any()


def test_zero_blocks_have_scale_min_where_it_is_the_smallest():
    recipe = recipes.nvfp4.with_policy(zero_scale="smallest", scale_min=2.0**-6)
    parts = quantize(np.zeros((1, 16), np.float32), recipe)
    assert parts.scales[1].tolist() == [[formats.float8_e4m3fn.bias - 6 << 3]]


def test_an_all_zero_nvfp4_tensor_has_finite_scales():
    parts = quantize(np.zeros((2, 32), np.float32), recipes.nvfp4)
    assert float(parts.scales[0]) == 1
    assert not dequantize(parts, recipes.nvfp4).any()


@pytest.mark.parametrize("exponent", range(-149, -100, 3))
def test_tiny_amax_gives_golden_scales_without_wrap(exponent):
    x = np.full((1, 32), 2.0**exponent, np.float32)
    parts = quantize(x, recipes.mxfp8_e4m3)
    # The smallest power of two not below amax / 448, no smaller than 2**-127.
    assert int(parts.scales[0][0, 0]) == max(exponent - 8, -127) + 127
    assert dequantize(parts, recipes.mxfp8_e4m3)[0, 0] == pytest.approx(2.0**exponent, abs=2.0**-137)


@pytest.mark.parametrize("name", ALL)
def test_the_largest_float32_does_not_wrap_or_become_nan(name):
    recipe = ALL[name]
    x = np.full((1, 64), np.finfo(np.float32).max, np.float32)
    x[0, 1] = -x[0, 1]
    got = dequantize(quantize(x, recipe), recipe)
    assert not np.isnan(got).any()
    if recipe.zero_point is None or recipe.innermost.dtype.max > 1e9:  # a float16 scale saturates
        assert got[0, 0] > 1e5
        assert got[0, 1] < -1e5


def test_exactly_the_ceil_threshold_by_bits_where_log2_is_wrong():
    amax = np.float32(448 * (1 + 2.0**-23) * 2.0**-20)
    assert int(scale_from_amax(amax, formats.float8_e4m3fn, formats.float8_e8m0fnu, Policy(scale="ceil"))) == 108
    amax = np.float32(448 * 2.0**-20)
    assert int(scale_from_amax(amax, formats.float8_e4m3fn, formats.float8_e8m0fnu, Policy(scale="ceil"))) == 107


def test_every_e8m0_code_is_reached_by_ceil():
    amax = (np.float64(448) * 2.0 ** np.arange(-127, 120)).astype(np.float32)
    got = scale_from_amax(amax, formats.float8_e4m3fn, formats.float8_e8m0fnu, Policy(scale="ceil"))
    assert got.tolist() == list(range(247))


def test_amax_min_scale_min_max_margin_and_reciprocal():
    e4m3, f32 = formats.float8_e4m3fn, formats.float32
    assert float(scale_from_amax(0.0, e4m3, f32, Policy(amax_min=1e-4))) == np.float32(1e-4) / np.float32(448)
    assert float(scale_from_amax(1e-3, e4m3, f32, Policy(scale_min=0.5))) == 0.5
    assert float(scale_from_amax(15.0, formats.int4, f32, Policy(max=7.5))) == 2
    assert float(scale_from_amax(448.0, e4m3, f32, Policy(amax="delayed", margin=3))) == 8
    amax = np.random.default_rng(0).random(1000).astype(np.float32)
    got = scale_from_amax(amax, e4m3, f32, Policy(division="reciprocal"))
    assert np.array_equal(got, amax * np.float32(1 / 448))
    assert not np.array_equal(got, amax / np.float32(448))


def test_delayed_scaling_from_a_history():
    recipe = Recipe(
        formats.float8_e4m3fn, (Level(formats.float32),), policy=Policy(amax="delayed", history=3, margin=1)
    )
    history = np.array([1.0, 896.0, 448.0], np.float32)
    assert float(delayed_scale(history, recipe)) == 4
    assert float(delayed_scale(history, recipe.with_policy(history_rule="most_recent"))) == 2
    assert update_history(history, 7.0).tolist() == [896, 448, 7]


def test_outer_scales_ignore_values_that_are_not_finite():
    x = np.array([[1.0, np.nan, -np.inf, 3.0]], np.float32)
    assert float(finite_amax(x, None)[0, 0]) == 3
    assert np.isnan(block_amax(x, (1, 2))[0, 0])
    assert float(quantize(x, recipes.nvfp4).scales[0]) == np.float32(3) / np.float32(2688)


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_16x16", "mxfp4", "float8_row", "uint4_g32_f16"])
def test_a_tile_encodes_as_it_does_inside_its_tensor(name):
    recipe = ALL[name].with_policy(rounding="stochastic")
    x = np.random.default_rng(9).standard_normal((64, 128)).astype(np.float32)
    whole = quantize(x, recipe, seed=11)
    rows, columns = slice(16, 48), slice(32, 128) if name != "float8_row" else slice(0, 128)
    outer = (outer_scales(finite_amax(x, None).reshape(()), recipe),) if len(recipe.levels) == 2 else None
    tile = quantize(x[rows, columns], recipe, scales=outer, seed=11, index_offset=(16 * 128 + columns.start, (128, 1)))
    assert np.array_equal(tile.elements, whole.elements[rows, columns])
    index = (np.arange(64)[rows, None] * 128 + np.arange(128)[None, columns]).astype(np.uint64)
    again = quantize(x[rows, columns], recipe, scales=outer, seed=11, index_offset=index)
    assert np.array_equal(again.elements, tile.elements)


def test_stochastic_rounding_is_reproducible_and_unbiased():
    recipe = recipes.mxfp4.with_policy(rounding="stochastic")
    x = np.full((64, 512), 0.7, np.float32)
    x[:, ::32] = 6
    a, b = quantize(x, recipe, seed=1), quantize(x, recipe, seed=2)
    assert np.array_equal(a.elements, quantize(x, recipe, seed=1).elements)
    assert not np.array_equal(a.elements, b.elements)
    values = dequantize(a, recipe)[x < 1]
    assert abs(values.mean() - 0.7) < 0.01
    with pytest.raises(RecipeError, match="seed"):
        quantize(x, recipe)


def test_given_scales_are_kept_and_wrong_ones_refused():
    x = np.array([[1.0, 1000.0]], np.float32)
    static = recipes.float8_tensor.with_policy(amax="static")
    parts = quantize(x, static, scales=(np.float32(0.5),))
    assert dequantize(parts, static).tolist() == [[1, 224]]
    with pytest.raises(ShapeError, match=r"needed: \(\)"):
        quantize(x, static, scales=(np.ones((1, 2), np.float32),))
    with pytest.raises(RecipeError, match="2 levels; give the 1 outer ones or all 2"):
        quantize(x, recipes.nvfp4, scales=(np.float32(1), np.zeros((1, 1), np.uint8), np.float32(1)))


def test_nan_under_given_scales_stays_alone_where_the_element_has_nan():
    x = np.array([[np.nan, np.inf, 2.0]], np.float32)
    got = dequantize(quantize(x, recipes.float8_tensor, scales=(np.float32(1),)), recipes.float8_tensor)
    assert np.isnan(got[0, :2]).all()
    assert got[0, 2] == 2
    recipe = recipes.int4_g32_f32
    got = quantize(np.concatenate([x, np.ones((1, 3))]), recipe, scales=(np.ones((2, 1), np.float32),))
    assert np.isnan(got.scales[0][0, 0])
    assert got.scales[0][1, 0] == 1


def test_offset_recipes_round_trip():
    recipe = Recipe(formats.uint4, (Level(formats.float32, (1, 32)),), offset=Offset(formats.float32))
    x = np.random.default_rng(10).uniform(10, 11, (4, 64)).astype(np.float32)
    parts = quantize(x, recipe)
    assert parts.offset is not None
    assert np.abs(dequantize(parts, recipe) - x).max() <= (1 / 15) / 2 * 1.001
    signed = replace(recipe, element=formats.int4)
    with pytest.raises(UnsupportedError, match="unsigned"):
        quantize(x, signed)
    with pytest.raises(UnsupportedError, match="integer elements"):
        quantize(x, replace(recipe, element=formats.float4_e2m1fn))
    with pytest.raises(UnsupportedError, match="decoded, not encoded"):
        quantize(x, replace(recipe, zero_point=ZeroPoint(formats.uint4)))


def test_asymmetric_range_includes_zero():
    recipe = recipes.uint4_g32_f32
    x = np.random.default_rng(11).uniform(10, 11, (1, 32)).astype(np.float32)
    got = dequantize(quantize(x, recipe), recipe)
    assert np.linalg.norm(got - x) / np.linalg.norm(x) < 0.05
    x[0, 0] = 0
    assert dequantize(quantize(x, recipe), recipe)[0, 0] == 0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0,), (1,), (2, 0, 4), (1, 1, 1), (7,), (2, 3, 5, 33)])
def test_empty_small_and_ragged_shapes_work(name, shape):
    x = np.random.default_rng(12).standard_normal(shape).astype(np.float32)
    got = dequantize(quantize(x, ALL[name]), ALL[name], shape)
    assert got.shape == shape
    assert np.allclose(got, x, atol=0.6)


@pytest.mark.parametrize("name", ["float8_128x128", "nvfp4", "uint4_g32_f16", "nf4"])
def test_strides_do_not_change_bits(name):
    big = np.random.default_rng(13).standard_normal((64, 300)).astype(np.float32)
    for view in (big[::-1], big[:, ::-2], big.T, big[3:40:2, 7:260], np.asfortranarray(big)):
        a, b = quantize(view, ALL[name]), quantize(np.ascontiguousarray(view), ALL[name])
        assert np.array_equal(a.elements, b.elements)
        assert all(np.array_equal(s, t) for s, t in zip(a.scales, b.scales, strict=True))


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "int8", "int64", "bool", ">f4", ">f2", ">i4", "float8_e4m3fn", "uint8"]
)
def test_other_dtypes_are_taken_to_float32_first(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    x = np.array([[0, 1, 2, 3, 100]]).astype(kind)
    a, b = quantize(x, recipes.mxfp8_e4m3), quantize(x.astype(np.float32), recipes.mxfp8_e4m3)
    assert np.array_equal(a.elements, b.elements)


def test_float64_is_rounded_to_float32_first():
    x = np.array([[1.0625 + 2.0**-40, 448.0]])
    assert quantize(x, recipes.float8_tensor).elements[0, 0] == 56
    assert np.isnan(dequantize(quantize([[1e300, 1.0]], recipes.mxfp4), recipes.mxfp4)).all()


@pytest.mark.parametrize("x", [np.ones((2, 2), complex), np.array([["a"]]), np.array([[None]], object)])
def test_other_kinds_are_refused(x):
    with pytest.raises(DTypeError, match=r"cannot quantize .* allowed: float16, bfloat16, float32"):
        quantize(x, recipes.mxfp4)


def test_rank_0_is_refused():
    with pytest.raises(ShapeError, match="rank 0"):
        quantize(np.float32(3), recipes.mxfp4)


def test_an_integer_scale_cannot_say_nan():
    recipe = Recipe(formats.int4, (Level(formats.float16), Level(formats.uint8, (1, 16))))
    x = np.ones((1, 32), np.float32)
    assert np.allclose(dequantize(quantize(x, recipe), recipe), 1, atol=1e-3)
    x[0, 0] = np.nan
    with pytest.raises(FormatError, match="uint8 cannot say so"):
        quantize(x, recipe)


def test_levels_of_three_and_power_of_two_rules_under_an_outer_scale():
    e4m3, f32, e8m0 = formats.float8_e4m3fn, formats.float32, formats.float8_e8m0fnu
    x = np.random.default_rng(14).standard_normal((32, 256)).astype(np.float32)
    three = Recipe(formats.float4_e2m1fn, (Level(f32), Level(e4m3, (16, 64)), Level(e4m3, (1, 16))))
    two = Recipe(formats.float4_e2m1fn, (Level(f32), Level(e8m0, (1, 16))), policy=Policy(scale="ceil"))
    for recipe in (three, two):
        got = dequantize(quantize(x, recipe), recipe)
        assert np.linalg.norm(got - x) / np.linalg.norm(x) < 0.13


_FLUSH = """
import ctypes, mmap, numpy as np
from breccia import recipes
from breccia.tensor import cast_array
x = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
x[::2] *= np.float32(1e-37); x[::3] *= np.float32(1e-4)
names = ("mxfp8_e4m3", "mxfp4", "nvfp4", "float8_row", "float8_tensor", "int4_g32_f32", "uint4_g32_f32", "nf4")
want = [cast_array(x, recipes.find(n)) for n in names]
values = [st.numpy().view(np.uint32).copy() for st in want]
code = bytes.fromhex("c74424f8c09f00000fae5424f8c3")  # mov dword [rsp-8], 0x9fc0; ldmxcsr [rsp-8]; ret
page = mmap.mmap(-1, 4096, prot=7); page.write(code)
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
assert (np.array([2.0**-126], np.float32) * np.float32(0.5)).view(np.uint32)[0] == 0, "the host does not flush"
for n, st, v in zip(names, want, values):
    again = cast_array(x, recipes.find(n))
    assert again.codes().tobytes() == st.codes().tobytes(), n
    assert all(a.tobytes() == b.tobytes() for a, b in zip(again.scales, st.scales)), n
    assert np.array_equal(again.numpy().view(np.uint32), v), n
print("golden")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="switches the flush mode with x86-64 machine code")
def test_golden_bits_on_a_host_that_flushes_subnormals():
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("switches the flush mode with x86-64 machine code")
    done = subprocess.run([sys.executable, "-c", _FLUSH], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "golden", done.stderr
