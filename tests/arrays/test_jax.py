"""JAX's primitives: the arithmetic of IEEE float32 under XLA, blocks, packing, words, and what is refused."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from breccia.arrays import numpy as reference
from breccia.arrays import transfer
from breccia.errors import DTypeError, GradientError, UnsupportedError
from breccia.numerics.rounding import random_bits

jax = pytest.importorskip("jax")
jnp = jax.numpy
xp = pytest.importorskip("breccia.arrays.jax")

OPERATIONS = {"divide": np.divide, "multiply": np.multiply, "add": np.add}
SPECIAL_BITS = (
    0x00000000, 0x00000001, 0x00000002, 0x00000003, 0x003FFFFF, 0x00400000, 0x00400001, 0x007FFFFE, 0x007FFFFF,
    0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000, 0x0B800000, 0x0C000001, 0x1F800000, 0x20000001, 0x33800000,
    0x34000000, 0x3EAAAAAB, 0x3F000000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FFFFFFF, 0x40000000, 0x40490FDB,
    0x43E00000, 0x4B000000, 0x4B7FFFFF, 0x5F000000, 0x64800000, 0x64FFFFFF, 0x65000000, 0x7E800000, 0x7F000000,
    0x7F7FFFFE, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF,
)  # fmt: skip


def floats(bits) -> np.ndarray:
    return np.asarray(bits, np.uint32).view(np.float32)


def special_pairs() -> tuple[np.ndarray, np.ndarray]:
    values = [bits | sign for bits in SPECIAL_BITS for sign in (0, 0x80000000)]
    pairs = np.array(list(product(values, values)), np.uint32)
    return floats(np.ascontiguousarray(pairs[:, 0])), floats(np.ascontiguousarray(pairs[:, 1]))


def random_pairs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random bits; half of the pairs have exponents whose product or quotient is small, even subnormal."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 2**32, count, np.uint32) for _ in range(2))
    half = count // 2
    a[:half] &= 0x80FFFFFF
    b[:half] = (b[:half] & 0x80FFFFFF) + (rng.integers(0, 80, half, np.uint32) << 24)
    return floats(a), floats(b)


def assert_same_floats(found, expected) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan)
    words = [np.where(nan, np.float32(0), v).astype(np.float32).view(np.uint32) for v in (found, expected)]
    wrong = np.flatnonzero(words[0] != words[1])
    assert wrong.size == 0, f"{wrong.size} differ, the first at {wrong[0]}"


# -- arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("under_jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_arithmetic_is_ieee_on_all_pairs_of_special_values(name, under_jit):
    a, b = special_pairs()
    function = jax.jit(getattr(xp, name)) if under_jit else getattr(xp, name)
    with np.errstate(all="ignore"):
        assert_same_floats(function(jnp.asarray(a), jnp.asarray(b)), OPERATIONS[name](a, b))


@pytest.mark.parametrize("name", OPERATIONS)
def test_arithmetic_is_ieee_on_random_bits(name):
    a, b = random_pairs(5, 1 << 20)
    with np.errstate(all="ignore"):
        assert_same_floats(jax.jit(getattr(xp, name))(jnp.asarray(a), jnp.asarray(b)), OPERATIONS[name](a, b))


@pytest.mark.parametrize("constant", [448.0, 3.0, 6.0, 2688.0, 127.0, 1e-40, -7.0, 1e38])
@pytest.mark.parametrize("name", OPERATIONS)
def test_arithmetic_is_ieee_beside_a_constant(name, constant):
    """XLA multiplies by the reciprocal of a constant, or of one number for all, unless kept from it."""
    a, _ = random_pairs(6, 1 << 16)
    b = np.full((1,), constant, np.float32)
    with np.errstate(all="ignore"):
        expected = OPERATIONS[name](a, b)
    function = getattr(xp, name)
    assert_same_floats(jax.jit(lambda x: function(x, jnp.asarray(b)))(jnp.asarray(a)), expected)
    assert_same_floats(jax.jit(function)(jnp.asarray(a), jnp.asarray(b)), expected)


def test_steps_are_not_contracted_or_joined():
    """Neither a * b + c to one rounding, nor a / b / c to a / (b * c), nor a / (b / c) to a * c / b."""
    (a, b), (c, _) = random_pairs(7, 1 << 16), random_pairs(8, 1 << 16)
    with np.errstate(all="ignore"):
        expected = np.add(a * b, c), a / b / c, a / (b / c), a / b * b
    functions = (
        lambda a, b, c: xp.add(xp.multiply(a, b), c),
        lambda a, b, c: xp.divide(xp.divide(a, b), c),
        lambda a, b, c: xp.divide(a, xp.divide(b, c)),
        lambda a, b, c: xp.multiply(xp.divide(a, b), b),
    )
    given = [jnp.asarray(v) for v in (a, b, c)]
    for function, right in zip(functions, expected, strict=True):
        assert_same_floats(jax.jit(function)(*given), right)


def test_arithmetic_broadcasts():
    a, b = jnp.ones((3, 1), jnp.float32), jnp.full((1, 4), 3, jnp.float32)
    for name, function in OPERATIONS.items():
        assert_same_floats(getattr(xp, name)(a, b), function(np.asarray(a), np.asarray(b)))


def test_derivatives_of_arithmetic():
    a, b = jnp.float32(3), jnp.float32(2)
    assert [float(g) for g in jax.grad(xp.divide, (0, 1))(a, b)] == [0.5, -0.75]
    assert [float(g) for g in jax.grad(xp.multiply, (0, 1))(a, b)] == [2, 3]
    assert [float(g) for g in jax.grad(xp.add, (0, 1))(a, b)] == [1, 1]
    assert float(jax.grad(jax.grad(xp.divide, 1), 1)(a, b)) == 0.75
    assert float(jax.jvp(xp.multiply, (a, b), (jnp.float32(1), jnp.float32(10)))[1]) == 32


# -- dtypes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_widening_is_exact_for_all_16_bit_floats(dtype):
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(all="ignore"):
        assert_same_floats(jax.jit(xp.as_float32)(jnp.asarray(values)), values.astype(np.float32))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_narrowing_is_to_nearest_even_for_subnormals_too(name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    around = (np.abs(every).view(np.uint32)[:, None] & 0xFFFFE000) + np.arange(0, 0x4000, 0xFFF, dtype=np.uint32)
    random, _ = random_pairs(9, 1 << 18)
    values = np.concatenate([every, floats(around).reshape(-1), -floats(around).reshape(-1), random])
    with np.errstate(all="ignore"):
        expected = values.astype(dtype)
    found = np.asarray(jax.jit(lambda x: xp.convert(x, name))(jnp.asarray(values)))
    assert found.dtype == dtype
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
     "float8_e5m2fnuz", "float4_e2m1fn", "int4", "uint4"],
)  # fmt: skip
def test_narrow_and_whole_numbers_are_taken(dtype):
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    codes = np.arange(16 if dtype in ("int4", "uint4", "float4_e2m1fn") else 256, dtype=np.uint8)
    whole = dtype.startswith(("int", "uint", "bool"))
    values = codes.astype(numpy_dtype) if whole else codes.view(numpy_dtype)
    with np.errstate(all="ignore"):
        assert_same_floats(xp.as_float32(jnp.asarray(values)), values.astype(np.float32))


@pytest.mark.parametrize("dtype", ["int32", "uint32"])
def test_whole_numbers_round_to_nearest_even(dtype):
    values = np.random.default_rng(2).integers(0, 2**31 - 1, 4096).astype(dtype)
    assert_same_floats(xp.as_float32(jnp.asarray(values)), values.astype(np.float32))


def test_complex_is_refused():
    with pytest.raises(DTypeError, match=r"complex64.*allowed: float16.*take x.real"):
        xp.as_float32(jnp.ones(3, jnp.complex64))


def test_random_keys_are_refused():
    with pytest.raises(DTypeError, match=r"key<.*allowed: float16"):
        xp.as_float32(jax.random.key(0))


def test_float64_needs_x64():
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        xp.convert(jnp.ones(3, jnp.float32), "float64")
    with pytest.raises(UnsupportedError, match="float64 unless jax_enable_x64"):
        xp.from_numpy(np.ones(3))


def test_weak_types_are_float32():
    assert xp.dtype_name(xp.as_float32(jnp.asarray(1.5))) == "float32"
    assert xp.dtype_name(xp.where(jnp.asarray([True]), 1.0, 2.0)) == "float32"


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "offset", "strides"),
    [((2, 3, 5), 0, (15, 5, 1)), ((7,), 2**32 - 3, (1,)), ((3, 4), 2**40 + 5, (2**33 + 1, 2**31)), ((0, 4), 1, (4, 1))],
)
def test_flat_index_counts_in_64_bits(shape, offset, strides):
    found = xp.flat_index(shape, offset, strides, jnp.zeros(1))
    expected = reference.flat_index(shape, offset, strides, np.zeros(1))
    for a, b in zip(found, expected, strict=True):
        assert np.asarray(a).dtype == np.uint32
        assert np.array_equal(a, b)


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 17, -1, -(2**40)])
def test_seed_words(seed):
    like = jnp.zeros(1)
    expected = [int(w) for w in reference.seed_words(seed, np.zeros(1))]
    assert [int(w) for w in xp.seed_words(seed, like)] == expected
    if -(2**31) <= seed < 2**31:
        traced = jax.jit(lambda s: xp.seed_words(s, like))(jnp.asarray([seed], jnp.int32))
        assert [int(w) for w in traced] == expected


def test_random_bits_equal_numpy():
    index, zero = np.arange(1 << 12, dtype=np.uint64) * np.uint64(0x9E3779B97), np.zeros(1)
    expected = random_bits(reference, reference.seed_words(123, zero), reference.words(index))
    words = tuple(jnp.asarray(w) for w in reference.words(index))
    found = jax.jit(lambda w: random_bits(xp, xp.seed_words(123, w[0]), w))(words)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("places", [0, 1, 16, 31])
def test_shift_right_brings_zeros(places):
    words = np.array([0xFFFFFFFF, 0x80000000, 1, 0], np.uint32)
    assert np.array_equal(xp.shift_right(jnp.asarray(words), places), words >> np.uint32(places))


def test_python_numbers_take_the_dtype_of_the_array():
    words = jnp.asarray([5, 7], jnp.uint32)
    for found in (xp.where(words > 5, words, 0), xp.minimum(words, 6), xp.maximum(3, words)):
        assert found.dtype == jnp.uint32


def test_take_and_searchsorted_equal_numpy():
    table, index = np.linspace(-3, 3, 256).astype(np.float32), np.arange(256, dtype=np.uint8)
    assert np.array_equal(xp.take(table, jnp.asarray(index)), table)
    thresholds, x = np.array([-5, 0, 0, 9], np.int32), np.arange(-10, 12, dtype=np.int32)
    assert np.array_equal(xp.searchsorted(thresholds, jnp.asarray(x)), reference.searchsorted(thresholds, x))


# -- blocks and packing ------------------------------------------------------------------------------------------------

SHAPES = [(3, 5, 130), (7, 4100), (1,), (0, 4), (4, 0), (65, 33), (2, 31 * 33), (300, 2, 3)]


def blocks_of(rank: int):
    for before, last in ((1, None), (None, None), (1, 32), (1, 37), (128, 128), (32, 1)):
        yield ((1,) * rank + (before, last))[-rank:]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_reductions_equal_numpy(shape):
    rng = np.random.default_rng(4)
    x = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    finite = np.where(np.isfinite(x), x, np.float32(1e-42))
    for block in blocks_of(len(shape)):
        found = np.asarray(xp.block_amax_bits(jnp.asarray(x), block))
        assert found.dtype == np.uint32
        assert np.array_equal(found, reference.block_amax_bits(x, block)), block
        for a, b in zip(xp.block_range(jnp.asarray(finite), block), reference.block_range(finite, block), strict=True):
            assert np.array_equal(np.asarray(a).view(np.uint32), b.view(np.uint32)), block


@pytest.mark.parametrize("shape", [(3, 5, 130), (4, 257), (1,), (0, 4), (2, 64)], ids=str)
@pytest.mark.parametrize(("kind", "limit"), [("nibbles", 16), ("sixes", 64)])
def test_packing_equals_numpy_and_comes_back(kind, limit, shape):
    codes = np.random.default_rng(5).integers(0, limit, shape).astype(np.uint8)
    packed = getattr(xp, f"pack_{kind}")(jnp.asarray(codes))
    assert np.array_equal(packed, getattr(reference, f"pack_{kind}")(codes))
    assert np.array_equal(getattr(xp, f"unpack_{kind}")(packed, shape[-1]), codes)


@pytest.mark.parametrize("block", [(1, 32), (None, None), (4, 16), (2, 50)], ids=str)
def test_map_blocks_gives_every_element_its_block(block):
    x = np.arange(6 * 96, dtype=np.float32).reshape(6, 96)
    grid = np.random.default_rng(6).standard_normal(reference.block_amax_bits(x, block).shape).astype(np.float32)
    grid.reshape(-1)[0] = 1e-42
    expected = reference.map_blocks(reference.multiply, (x,), (grid,), block, "float32")
    found = jax.jit(lambda x, g: xp.map_blocks(xp.multiply, (x,), (g,), block, "float32"))(x, grid)
    assert_same_floats(found, expected)


# -- known values, devices, gradients ----------------------------------------------------------------------------------


def test_nothing_is_known_without_waiting():
    x = jnp.asarray([True])
    assert not xp.surely_none(x)
    assert not xp.surely_any(x)
    assert xp.any(x)


def test_any_is_refused_under_tracing():
    with pytest.raises(UnsupportedError, match="JAX is tracing; use nonfinite='poison'"):
        jax.jit(xp.any)(jnp.asarray([True]))


def test_values_are_refused_under_tracing():
    with pytest.raises(UnsupportedError, match="no values yet"):
        jax.jit(xp.to_numpy)(jnp.ones(2))


def test_devices():
    x = xp.from_numpy(np.ones((2, 3), np.float32), "cpu")
    assert xp.device(x) == jax.devices("cpu")[0]
    assert xp.device(xp.from_numpy(np.ones(2, np.float32), jax.devices("cpu")[0])) == jax.devices("cpu")[0]
    with pytest.raises(UnsupportedError, match=r"cannot reach the device 'cpu:99'.*it has "):
        xp.from_numpy(np.ones(2, np.float32), "cpu:99")
    with pytest.raises(UnsupportedError, match="cannot reach the device 'abacus'"):
        transfer(np.ones(2, np.float32), "jax", "abacus")


def test_arrays_come_back_as_they_were():
    for x in (np.ones((2, 3), np.float32).T, np.float32(3).reshape(()), np.zeros((0, 2), np.uint8)):
        there = xp.from_numpy(x)
        assert there.shape == x.shape
        assert np.array_equal(xp.to_numpy(there), x)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    def f(x):
        return (xp.straight_through(x, jnp.round(x)) ** 2).sum()

    x = jnp.asarray([1.4, 2.6], jnp.float32)
    for g in (jax.grad(f), jax.jit(jax.grad(f)), jax.grad(jax.jit(f)), jax.grad(jax.checkpoint(f))):
        assert g(x).tolist() == [2.0, 6.0]
    assert jax.vmap(jax.grad(f))(x[:, None]).tolist() == [[2.0], [6.0]]
    assert jax.jvp(f, (x,), (jnp.ones(2),))[1].item() == 8.0
    assert jax.hessian(f)(x).tolist() == [[2.0, 0.0], [0.0, 2.0]]
    stepped = jax.lax.scan(lambda c, _: (xp.straight_through(c, jnp.round(c)) * 2, None), x, None, length=3)[0]
    assert stepped.tolist() == [8.0, 24.0]


def test_straight_through_keeps_dtypes():
    x = jnp.asarray([1.5], jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: xp.straight_through(x, x.astype(jnp.float32)).sum())(x)
    assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)


def test_gradients_are_refused_where_there_are_none():
    def f(x):
        return xp.refuse_gradient(x, "use breccia.cast_ste").sum()

    x = jnp.ones(3)
    assert float(f(x)) == float(jax.jit(f)(x)) == 3
    for transformed in (jax.grad(f), jax.jit(jax.grad(f)), jax.grad(jax.jit(f)), jax.vmap(jax.grad(f))):
        with pytest.raises(GradientError, match="cast_ste"):
            transformed(x[None])
    with pytest.raises(GradientError, match="cast_ste"):
        jax.jvp(f, (x,), (x,))
    assert jax.grad(lambda x: f(jax.lax.stop_gradient(x)) * x.sum())(x).tolist() == [3.0, 3.0, 3.0]


def test_whole_numbers_have_no_gradient_to_refuse():
    assert jax.jit(lambda x: xp.refuse_gradient(x, "no"))(jnp.arange(3)).tolist() == [0, 1, 2]
