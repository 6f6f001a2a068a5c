"""Emitted Triton helpers equal the definitions of breccia.numerics, to the bit, in Triton's interpreter."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from breccia import formats, numerics
from breccia.arrays import namespace
from breccia.errors import UnsupportedError
from breccia.formats import Format
from breccia.numerics.bit_encode import bit_encode
from breccia.numerics.quantize import Components
from breccia.numerics.scale_rules import outer_scales
from breccia.numerics.scale_rules import scale_from_amax as scale_definition
from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint, all_recipes
from breccia.targets.triton import _casts, _division, _quantize, _quantize_writer, _scales
from breccia.targets.triton._casts import Library
from tests.targets.triton import helpers, interpreter

interpreter.patch()

XP = namespace(np.zeros(1, np.float32))
RECIPES = all_recipes()
NARROW = [f for f in formats.ALL if f.bits <= 8]
FLOATS8 = [formats.float8_e4m3fn, formats.float8_e5m2, formats.float8_e4m3fnuz, formats.float8_e5m2fnuz]
ML = {f.name: np.dtype(getattr(ml_dtypes, f.name)) for f in FLOATS8}


def every_bfloat16() -> np.ndarray:
    return (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)


def hard_values(fmt: Format, count: int = 1 << 14) -> np.ndarray:
    """Every value and every tie of a format with its neighbours in float32, random bits, and random magnitudes."""
    rng = np.random.default_rng(1)
    values = np.array([fmt.decode_code(c) for c in range(1 << fmt.bits)], np.float64)
    values = np.unique(values[np.isfinite(values)])
    ties = np.concatenate([values, (values[1:] + values[:-1]) / 2, values[-1:] * 1.03125, values[-1:] * 2])
    with np.errstate(over="ignore"):
        bits = ties.astype(np.float32).view(np.uint32)
    near = np.concatenate([bits, bits + 1, bits - 1, bits ^ np.uint32(1 << 31)]).view(np.float32)
    wild = rng.integers(0, 1 << 32, count, np.uint32).view(np.float32)
    usual = (rng.standard_normal(count) * np.exp2(rng.integers(-12, 12, count))).astype(np.float32)
    return np.concatenate([every_bfloat16(), near, wild, usual * np.float32(min(1.0, fmt.max))])


def padded(x: np.ndarray) -> np.ndarray:
    size = 1 << (len(x) - 1).bit_length()
    return np.concatenate([x, np.zeros(size - len(x), x.dtype)])


@pytest.mark.parametrize("overflow", ["saturate", "nan"])
@pytest.mark.parametrize("rounding", ["rne", "ties_away", "ties_zero", "stochastic"])
@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_encoding_is_the_definition(fmt: Format, rounding: str, overflow: str) -> None:
    x = padded(hard_values(fmt))
    random = np.random.default_rng(2).integers(0, 1 << 32, x.shape, np.uint32)
    with np.errstate(all="ignore"):
        expected = bit_encode(XP, x, fmt, rounding, overflow, random)
    library = Library()
    function = _casts.encode(library, fmt, rounding, overflow)
    inputs = [x, random] if rounding == "stochastic" else [x]
    (codes,) = helpers.run(library, function, inputs, [(x.shape, np.uint8)])
    wrong = codes != expected
    assert not wrong.any(), (x[wrong][:5], codes[wrong][:5], expected[wrong][:5])
    if rounding == "rne":
        number = ~np.isnan(x)
        library = Library()
        function = _casts.encode_number(library, fmt, rounding, overflow)
        (codes,) = helpers.run(library, function, inputs, [(x.shape, np.uint8)])
        np.testing.assert_array_equal(codes[number], expected[number])


@pytest.mark.parametrize("fmt", FLOATS8, ids=lambda f: f.name)
def test_typed_tiles_and_conversions_in_hardware_are_the_definition(fmt: Format) -> None:
    x = padded(hard_values(fmt))
    with np.errstate(all="ignore"):
        expected = bit_encode(XP, x, fmt, "rne", "saturate", None)
    only = frozenset({fmt.mlir})
    for native, exact in ((only, frozenset()), (only, only), (frozenset(), only)):
        library = Library(native, exact)
        function = _casts.encode(library, fmt)
        dtype = ML[fmt.name] if native else np.uint8
        (codes,) = helpers.run(library, function, [x], [(x.shape, dtype)])
        found = codes.view(np.uint8)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_decoding_is_the_definition_and_exact_in_narrow_types(fmt: Format) -> None:
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    expected = numerics.decode(codes, fmt)
    for to, dtype in (("f32", np.float32), ("bf16", ml_dtypes.bfloat16), ("f16", np.float16)):
        for native in (frozenset(), frozenset({fmt.mlir})):
            if native and fmt.name not in ML:
                continue
            library = Library(native)
            try:
                function = _casts.decode(library, fmt, to)
            except UnsupportedError:
                with np.errstate(all="ignore"):
                    narrow = expected.astype(dtype).astype(np.float32)
                assert not np.array_equal(narrow, expected, equal_nan=True)
                continue
            given = codes.view(ML[fmt.name]) if native else codes
            (values,) = helpers.run(library, function, [given], [(codes.shape, dtype)])
            back = values.astype(np.float32)
            same = (back.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(back) & np.isnan(expected))
            assert same.all(), (fmt.name, to, codes[~same])


def test_packing_and_unpacking_four_bits() -> None:
    codes = np.random.default_rng(3).integers(0, 16, (8, 32)).astype(np.uint8)
    library = Library()
    (packed,) = helpers.run(library, _casts.pack4(library), [codes], [((8, 16), np.uint8)])
    np.testing.assert_array_equal(packed, numerics.pack(codes, formats.float4_e2m1fn))
    library = Library()
    (again,) = helpers.run(library, _casts.unpack4(library), [packed], [((8, 32), np.uint8)])
    np.testing.assert_array_equal(again, codes)


# -- scales ------------------------------------------------------------------------------------------------------------

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def positive_values() -> np.ndarray:
    """Magnitudes of every kind, with NaN and infinity."""
    rng = np.random.default_rng(4)
    wild = rng.integers(0, 0x7F800001, 1 << 13, np.uint32).view(np.float32)
    usual = np.abs(rng.standard_normal(1 << 13)).astype(np.float32) * np.float32(8)
    edges = np.array([0, 1, 2, 3, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000], np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        powers = (2.0 ** np.arange(-149, 128)[:, None] * [1, 1.75, 6, 7, 7.5, 448]).astype(np.float32).reshape(-1)
    return padded(np.concatenate([wild, usual, powers, edges]))


def word(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


POLICIES = [
    Policy(),
    Policy(division="reciprocal"),
    Policy(division="inverse"),
    Policy(scale="floor"),
    Policy(scale="ceil"),
    Policy(scale="even"),
    Policy(zero_scale="zero"),
    Policy(zero_scale="smallest", scale_min=2.0**-6),
    Policy(amax_min=1e-4, max=7.5),
    Policy(amax="delayed", margin=3),
    Policy(amax="delayed", margin=2, division="inverse"),
    Policy(amax="delayed", margin=9, scale="ceil", max=0.75),
    Policy(scale="even", max=1e-39),
    Policy(max=2.0**127),
]
SCALES = [formats.float32, formats.float16, formats.bfloat16, *FLOATS8, formats.float8_e8m0fnu]
ELEMENTS = [formats.float8_e4m3fn, formats.float4_e2m1fn, formats.int8, formats.mxint8, formats.nf4]


@pytest.mark.parametrize("dtype", SCALES, ids=lambda f: f.name)
def test_scales_are_the_definition(dtype: Format) -> None:
    amax = positive_values()
    rng = np.random.default_rng(5)
    outer = np.exp2(rng.uniform(-40, 40, amax.shape)).astype(np.float32)
    wild = rng.integers(0, 1 << 32, 512, np.uint32).view(np.float32)
    outer[:512] = np.where(np.isfinite(wild), wild, np.float32(-1.0))
    for i, policy in enumerate(POLICIES):
        if dtype.is_power_of_two and policy.scale == "exact":
            continue
        element = ELEMENTS[i % len(ELEMENTS)]
        for levels in ((Level(dtype, (1, 16)),), (Level(formats.float32), Level(dtype, (1, 16)))):
            recipe = Recipe(element, levels, policy=policy)
            library = Library()
            function = _scales.scale_from_amax(library, recipe, policy, len(levels) - 1)
            stored = STORED.get(dtype.name, np.uint8)
            inputs = [amax, outer] if len(levels) > 1 else [amax]
            (found,) = helpers.run(library, function, inputs, [(amax.shape, stored)])
            with np.errstate(all="ignore"):
                expected = scale_definition(amax, element, dtype, policy, outer if len(levels) > 1 else None)
            wrong = word(found) != word(expected)
            assert not wrong.any(), (policy, len(levels), amax[wrong][:4], found[wrong][:4], expected[wrong][:4])


@pytest.mark.parametrize("dtype", SCALES, ids=lambda f: f.name)
def test_outer_scales_are_the_definition(dtype: Format) -> None:
    amax = positive_values()
    for policy in POLICIES:
        recipe = Recipe(formats.float4_e2m1fn, (Level(dtype), Level(formats.float8_e4m3fn, (1, 16))), policy=policy)
        library = Library()
        function = _scales.scale_from_amax(library, recipe, policy, 0)
        (found,) = helpers.run(library, function, [amax], [(amax.shape, STORED.get(dtype.name, np.uint8))])
        with np.errstate(all="ignore"):
            expected = outer_scales(amax, recipe)
        np.testing.assert_array_equal(word(found), word(expected))


# -- tiles -------------------------------------------------------------------------------------------------------------

SHAPES = {1: (512,), 2: (16, 512), 3: (2, 16, 256)}


def inputs_of(shape: tuple[int, ...], seed: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(shape).astype(np.float32)
    wild = rng.integers(0, 1 << 32, shape, np.uint32).view(np.float32)
    finite = np.where(np.isfinite(wild), wild, np.float32(3.4e38))
    mixed = (normal * np.exp2(rng.integers(-140, 120, (*shape[:-1], shape[-1] // 16)).repeat(16, -1))).astype(
        np.float32
    )
    ties = (rng.integers(-96, 97, shape) / 8).astype(np.float32)
    holes = normal.copy()
    holes.reshape(-1)[::97] = np.nan
    holes.reshape(-1)[5::131] = -np.inf
    holes[..., : shape[-1] // 4] = -0.0
    holes[..., : shape[-1] // 8] = 0.0
    tiny = rng.integers(-40, 41, shape).astype(np.float32) * np.float32(1e-45)
    return {
        "normal": normal,
        "wild": wild,
        "finite": finite,
        "mixed": mixed,
        "ties": ties,
        "holes": holes,
        "tiny": tiny,
    }


def components(parts: Components, recipe: Recipe, given: int) -> list[np.ndarray]:
    extra = [a for a in (parts.zero_point, parts.offset) if a is not None]
    names = _quantize_writer.results(recipe, given)
    scales = [parts.scales[int(n[5:])] for n in names if n.startswith("scale")]
    return [parts.elements, *scales, *extra]


def full(array: np.ndarray, rank: int) -> np.ndarray:
    """Scales with one axis for each of the tile's."""
    return array.reshape((1,) * rank) if array.ndim != rank else array


def check(
    recipe: Recipe, x: np.ndarray, given: tuple[np.ndarray, ...] = (), library: Library | None = None, seed: int = 77
) -> None:
    library = library or Library()
    shape, policy = x.shape, recipe.policy
    stochastic = policy.rounding == "stochastic"
    with np.errstate(all="ignore"):
        parts = numerics.quantize(x, recipe, scales=given or None, seed=seed if stochastic else None)
    function = _quantize.quantize(library, recipe, policy, shape, tuple(range(len(given))))
    expected = [full(a, len(shape)) for a in components(parts, recipe, len(given))]
    arrays = [x, *(full(a, len(shape)) for a in given)]
    scalars: tuple[int, ...] = ()
    if stochastic:
        arrays.append(np.arange(x.size, dtype=np.int64).reshape(shape))
        scalars = (0, seed)
    found = helpers.run(library, function, arrays, [(a.shape, a.dtype) for a in expected], scalars)
    for name, a, b in zip(_quantize_writer.results(recipe, len(given)), found, expected, strict=True):
        wrong = word(a) != word(b)
        assert not wrong.any(), (name, recipe, int(wrong.sum()), a[wrong][:5], b[wrong][:5])


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_quantizes_as_defined(name: str, rank: int) -> None:
    kinds = inputs_of(SHAPES[rank])
    for kind in kinds if rank == 2 else ("holes",):
        check(RECIPES[name], kinds[kind])
    if rank == 2:
        check(RECIPES[name], kinds["normal"].astype(ml_dtypes.bfloat16))
        check(RECIPES[name], kinds["holes"].astype(np.float16))


@pytest.mark.parametrize("name", RECIPES)
def test_given_scales_as_a_static_or_a_two_pass_kernel_has_them(name: str) -> None:
    recipe = RECIPES[name]
    kinds = inputs_of((16, 512), seed=7)
    first = numerics.quantize(kinds["normal"], recipe)
    for kind in ("normal", "holes", "mixed", "ties", "finite"):
        check(recipe, kinds[kind], first.scales)
        if len(recipe.levels) > 1:
            check(recipe, kinds[kind], first.scales[:-1])


@pytest.mark.parametrize("scale", [1.0, 3.1e-39, 2.9e38, 1.5e-45, -0.75, np.inf, np.nan, 0.0])
def test_any_given_scale(scale: float) -> None:
    x = inputs_of((8, 64))["finite"]
    given = (np.float32(scale).reshape(()),)
    for name in ("float8_tensor", "float8_e5m2_tensor", "float8_e4m3fnuz_tensor"):
        for overflow in ("saturate", "nan"):
            for fused in (True, False):
                check(RECIPES[name].with_policy(overflow=overflow), x, given, Library(fused_division=fused))
    check(RECIPES["nvfp4"], x, given)


def laid(name: str, axis: int) -> Recipe:
    return RECIPES[name].along(axis, 2)


def odd_recipes() -> list[Recipe]:
    """Recipes without a name: other scale formats, several levels, offsets, signed zero points, other policies."""
    f32, f16, bf16, e8m0 = formats.float32, formats.float16, formats.bfloat16, formats.float8_e8m0fnu
    e4m3, e5m2, e2m1, e2m3 = formats.float8_e4m3fn, formats.float8_e5m2, formats.float4_e2m1fn, formats.float6_e2m3fn
    row = (1, 32)
    three = (Level(f32), Level(e8m0, (8, 128)), Level(e4m3, (1, 16)))
    return [
        Recipe(e2m1, three),
        Recipe(e2m1, (Level(f32, (8, None)), Level(f16, (4, 64)))),
        Recipe(e2m1, (Level(f32, (16, 128)), Level(e8m0, row)), policy=Policy(scale="even")),
        Recipe(e4m3, (Level(e8m0), Level(f32, row)), policy=Policy(scale="ceil")),
        Recipe(e4m3, (Level(f32, row),), policy=Policy(scale="ceil", scale_min=2.0**-126)),
        Recipe(e4m3, (Level(f32, (None, 128)),), policy=Policy(scale="even", scale_min=2.0**-120)),
        Recipe(formats.uint4, (Level(f16, row),), offset=Offset(f16)),
        Recipe(formats.uint8, (Level(f32, row),), offset=Offset(f32)),
        Recipe(formats.uint4, (Level(f32), Level(e4m3, row)), offset=Offset(bf16)),
        Recipe(formats.uint4, (Level(bf16, row),), offset=Offset(e4m3), policy=Policy(zero_scale="smallest")),
        Recipe(formats.int8, (Level(f32, row),), zero_point=ZeroPoint(formats.int8)),
        Recipe(formats.int4, (Level(f32), Level(e5m2, row)), zero_point=ZeroPoint(formats.int8)),
        Recipe(formats.uint4, (Level(e8m0, row),), zero_point=ZeroPoint(formats.uint4), policy=Policy(scale="ceil")),
        Recipe(formats.nf4, (Level(f32), Level(e4m3, row))),
        Recipe(e2m3, (Level(f32, row),), policy=Policy(scale="even")),
        laid("mxfp8_e4m3", 0),
        laid("nvfp4", 0),
        laid("uint4_g128_f16", 0),
        laid("float8_row", 0),
    ]


@pytest.mark.parametrize("number", range(len(odd_recipes())))
def test_recipes_without_a_name(number: int) -> None:
    recipe = odd_recipes()[number]
    shape = (128, 128) if recipe.name.startswith("uint4_g128") else (32, 256)
    kinds = inputs_of(shape, seed=8)
    for x in kinds.values():
        check(recipe, x)
    first = numerics.quantize(kinds["normal"], recipe)
    check(recipe, kinds["mixed"], first.scales)
    if len(recipe.levels) > 1:
        check(recipe, kinds["mixed"], first.scales[:-1])


CHANGES = [
    {"rounding": "ties_away"},
    {"rounding": "ties_zero"},
    {"rounding": "stochastic"},
    {"overflow": "nan", "max": 3.0},
    {"nonfinite": "saturate"},
    {"zero_scale": "zero"},
    {"zero_scale": "one"},
    {"zero_scale": "smallest", "scale_min": 2.0**-6},
    {"amax_min": 1e-4, "max": 5.0},
    {"scale": "floor"},
    {"scale": "even"},
    {"scale": "ceil", "overflow": "nan"},
    {"division": "reciprocal"},
    {"division": "inverse", "amax": "delayed", "margin": 2},
]
VARIED = ["float8_tensor", "float8_e5m2_tensor", "float8_e4m3fnuz_tensor", "mxfp8_e5m2", "mxfp4", "mxint8", "nvfp4",
          "int8_row", "int4_g32_f16", "uint4_g32_bf16", "nf4", "mxfp6_e3m2"]  # fmt: skip


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_every_policy(name: str, number: int) -> None:
    recipe = RECIPES[name].with_policy(**CHANGES[number])
    kinds = inputs_of((8, 128), seed=9)
    for kind in ("holes", "mixed", "wild"):
        check(recipe, kinds[kind])


@pytest.mark.parametrize("name", RECIPES)
def test_full_divisions_and_hardware_conversions_give_the_same(name: str) -> None:
    kinds = inputs_of((8, 512), seed=10)
    check(RECIPES[name], kinds["mixed"], library=Library(fused_division=False))
    exact = frozenset({"f8E4M3FN", "f8E5M2"})
    for kind in ("normal", "holes", "mixed", "wild"):
        check(RECIPES[name], kinds[kind], library=Library(frozenset(), exact))


@pytest.mark.parametrize("name", ["float8_1x128", "float8_e5m2_tensor", "mxfp8_e4m3", "float8_e4m3fnuz_tensor"])
@pytest.mark.parametrize("exact", [False, True])
def test_elements_are_typed_where_the_architecture_multiplies_them(name: str, exact: bool) -> None:
    recipe = RECIPES[name]
    x = inputs_of((8, 256))["holes"]
    only = frozenset({recipe.element.mlir})
    library = Library(only, only if exact else frozenset())
    parts = numerics.quantize(x, recipe)
    function = _quantize.quantize(library, recipe, recipe.policy, x.shape)
    scale = full(parts.scales[0], 2)
    outputs = [(x.shape, ML[recipe.element.name]), (scale.shape, scale.dtype)]
    found = helpers.run(library, function, [x], outputs)
    np.testing.assert_array_equal(found[0].view(np.uint8), parts.elements)
    np.testing.assert_array_equal(word(found[1]), word(scale))


def test_all_bfloat16_values_in_blocks_of_their_own_size() -> None:
    x = every_bfloat16().reshape(1024, 64)
    shuffled = np.random.default_rng(11).permutation(every_bfloat16()).reshape(1024, 64)
    for name in ("mxfp4", "nvfp4", "mxfp8_e4m3", "float8_1x128", "nf4", "int4_g32_f16"):
        for values in (x, shuffled):
            check(RECIPES[name], (values.view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16))


# -- division ----------------------------------------------------------------------------------------------------------


def quotient_text(library: Library) -> str:
    """A function with the steps of `_Quantize._divided`, which returns the quotient itself."""
    lines = [
        "factor, divisor, inverse, more = " + _division.divisor(library, nan=True) + "(scale)",
        *_division.QUOTIENT,
    ]
    body = "\n".join(lines).replace("LIMIT", "1048576.0 * divisor").replace("NAN", "") + "\nreturn quotient, x"
    return library.define("_quotient", "x, scale", "x / scale, and its sign.", body)


def adversarial_pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, scale) whose quotients lie as near as can be to the middle between two float32, and random ones.

    For a middle m, an odd number of 25 bits, and a scale b of 24 bits, x = round(m * b) is the nearest one to it.
    """
    rng = np.random.default_rng(seed)
    b = rng.integers(1 << 23, 1 << 24, count)
    b[: count // 8] = (1 << 24) - rng.integers(1, 64, count // 8)
    b[count // 8 : count // 4] = (1 << 23) + rng.integers(0, 64, count // 8)
    m = rng.integers(1 << 23, 1 << 24, count) * 2 + 1
    m[::4] = (1 << 24) + 2 * rng.integers(0, 64, len(m[::4])) + 1
    product = m * b
    places = np.maximum(np.floor(np.log2(product.astype(np.float64))).astype(np.int64) - 23, 0)
    x = (product + (1 << (places - 1))) >> places
    x[1::3] += rng.integers(-2, 3, len(x[1::3]))
    e = rng.integers(-60, 60, count)
    d = rng.integers(-18, 18, count)
    return np.ldexp(x, e + d - 23).astype(np.float32), np.ldexp(b, e - 23).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_quotients_by_fused_steps_are_rounded_to_nearest(seed: int) -> None:
    count = 1 << 18
    rng = np.random.default_rng(seed + 100)
    hard = adversarial_pairs(count, seed)
    scale = rng.integers(0, 0x7F800000, count, np.uint32).view(np.float32)  # of every exponent, subnormal ones too
    ratio = np.exp2(rng.uniform(-20, 18, count)) * rng.choice([-1, 1], count)
    with np.errstate(over="ignore"):
        wild = (scale * ratio).astype(np.float32), scale
    for x, s in (hard, wild):
        library = Library()
        found, _ = helpers.run(library, quotient_text(library), [x, s], [(x.shape, np.float32)] * 2)
        with np.errstate(all="ignore"):
            expected = np.abs(x / s)
        usable = (expected < 1e6) & (expected > 2.0**-30) & (s != 0)
        assert usable.mean() > 0.9
        wrong = usable & (found != expected)
        assert not wrong.any(), (x[wrong][:3], s[wrong][:3], found[wrong][:3], expected[wrong][:3])


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_a_kernel_cannot_do_is_refused_when_text_is_made() -> None:
    recipe = RECIPES["mxfp4"]
    strict = recipe.with_policy(nonfinite="error")
    with pytest.raises(UnsupportedError, match="cannot raise; use nonfinite='poison'"):
        _quantize.quantize(Library(), strict, strict.policy, (8, 64))
    three = Recipe(formats.float8_e4m3fn, (Level(formats.float32, (1, 96)),))
    with pytest.raises(UnsupportedError, match="cuts blocks"):
        _quantize.quantize(Library(), three, three.policy, (8, 256))
    whole = Recipe(formats.float8_e4m3fn, (Level(formats.int8, (1, 32)),))
    with pytest.raises(UnsupportedError, match="cannot say NaN"):
        _quantize.quantize(Library(), whole, whole.policy, (8, 64))
    with pytest.raises(UnsupportedError, match="cannot hold every value"):
        _casts.decode(Library(), formats.float8_e8m0fnu, "f16")


def test_a_name_stands_for_one_text() -> None:
    library = Library()
    first = library.define("_f", "x", "One.", "return x")
    assert library.define("_f", "x", "One.", "return x") == first
    assert library.define("_f", "x", "Two.", "return -x") == "_f_2"
    assert len(library.texts) == 2
    with pytest.raises(UnsupportedError, match="two different"):
        library.add("_f", "something else")


def test_the_interpreter_casts_and_fuses_right_with_the_patch() -> None:
    rng = np.random.default_rng(12)
    x, y, z = (rng.standard_normal(4096).astype(np.float32) for _ in range(3))
    z[::2] = -(x * y)[::2]
    exact = np.array([np.float32(float(a) * float(b) + float(c)) for a, b, c in zip(x, y, z, strict=True)])
    fused = interpreter.fused(x, y, z)
    assert (fused != exact).sum() < 8  # float64 rounds twice in a few cases
    library = Library()
    name = library.define("_fma", "x, y, z", "One rounding.", "return tl.fma(x, y, z)")
    (found,) = helpers.run(library, name, [x, y, z], [(x.shape, np.float32)])
    np.testing.assert_array_equal(found, fused)
    library = Library()
    name = library.define("_cast", "x", "A cast.", "return x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)")
    values = np.array([464.0, 500.0, np.inf, np.nan, -127.97, 2.0**-10 * 1.01], np.float32)
    (codes,) = helpers.run(library, name, [padded(values)], [((8,), np.uint8)])
    assert codes[:6].tolist() == [0x7E, 0x7E, 0x7E, 0x7F, 0xF0, 0x01]
