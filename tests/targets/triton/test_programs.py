"""Whole functions through `breccia.compile` for Triton, in its interpreter, against the array functions of NumPy's
target and against the meaning of the IR."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.ir.dialect import parse_module  # noqa: E402
from breccia.ir.functions import BINARY, COMPARE, LOGIC, REDUCE, TRUTH, UNARY  # noqa: E402
from breccia.ir.interpreter import interpret  # noqa: E402
from breccia.ir.interpreter.values import array_dtype  # noqa: E402
from breccia.recipes import all_recipes  # noqa: E402
from breccia.scaling import DelayedScaling  # noqa: E402
from breccia.target import find  # noqa: E402
from breccia.tensor import ScaledTensor  # noqa: E402
from breccia.testing.conformance import callable_for, lower  # noqa: E402
from tests.targets.triton import interpreter  # noqa: E402

pytestmark = [
    interpreter.needed(),
    pytest.mark.filterwarnings("ignore::breccia.frontend.compile.FallbackWarning"),  # sizes that become numbers
]

RECIPES = all_recipes()
FP8, BLOCKS, MX = RECIPES["float8_1x128"], RECIPES["float8_128x128"], RECIPES["mxfp8_e4m3"]
TARGET = "triton:sm_90"


@pytest.fixture(autouse=True)
def no_disk_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRECCIA_CACHE", "0")


def random(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def coarse(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Any:
    """Halves of at most 2: sums of products of them are exact."""
    return (torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)) / 2).to(dtype)


def flat(results: Any) -> list[Any]:
    """All arrays of a result, parts of scaled tensors among them."""
    if isinstance(results, tuple | list):
        return [array for result in results for array in flat(result)]
    return [results.codes(), *results._side_arrays()] if isinstance(results, ScaledTensor) else [results]


def both(function: Callable[..., Any], *args: Any) -> tuple[list[Any], list[Any]]:
    """Arrays that a function gives as kernels, and as array functions."""
    found = flat(breccia.compile(function, target=TARGET)(*args))
    wanted = flat(breccia.compile(function, target="numpy")(*args))
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in wanted]
    return found, wanted


def check_equal(function: Callable[..., Any], *args: Any) -> None:
    found, wanted = both(function, *args)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(words(a), words(b)), f"{(words(a) != words(b)).sum()} of {a.numel()} words differ"


def check_close(function: Callable[..., Any], *args: Any, tolerance: float = 2e-6) -> None:
    """Equal to `tolerance` of the largest value; bf16 and f16 to their last place."""
    found, wanted = both(function, *args)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype.is_floating_point, "codes are compared after decoding"
        unit = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(a.dtype, 0.0)
        scale = float(b.double().abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a.double(), b.double(), rtol=2 * unit + tolerance, atol=tolerance * scale)


def check_codes(function: Callable[..., Any], *args: Any, part: float = 0.01) -> None:
    """Scaled tensors after sums: but for `part` of them, which another order of the sum flips, codes are equal."""
    found = breccia.compile(function, target=TARGET)(*args)
    wanted = breccia.compile(function, target="numpy")(*args)
    differ = (found.data != wanted.data).sum().item()
    assert differ <= part * found.data.numel(), f"{differ} of {found.data.numel()} codes differ"
    torch.testing.assert_close(found.scale.float(), wanted.scale.float(), rtol=1e-6, atol=0)


def words(a: Any) -> Any:
    """The bits of an array, with one NaN."""
    if a.dtype.is_floating_point:
        a = torch.where(torch.isnan(a), torch.full_like(a, float("nan")), a)
    return a.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()])


def kernels_of(function: Callable[..., Any], *args: Any) -> int:
    return breccia.compile(function, target=TARGET).lower(*args).source().count("rt.Kernel(")


# -- casts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["float8_1x128", "mxfp4", "uint4_g32_f16", "nf4", "mxfp6_e2m3"])
def test_casts_of_each_input(name: str, dtype: Any) -> None:
    check_equal(lambda x: breccia.cast(x, RECIPES[name]), random(9, 192, dtype=dtype))


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_bfloat16(name: str, axis: int) -> None:
    check_equal(lambda x: breccia.cast(x, RECIPES[name], axis=axis), random(34, 96, dtype=torch.bfloat16) * 3)


@pytest.mark.parametrize("name", ["float8_1x128", "mxfp8_e4m3", "int4_g32_f16"])
def test_values_that_are_no_numbers(name: str) -> None:
    x = random(4, 256)
    x[0, 0], x[1, 1], x[2, 2], x[3] = float("nan"), float("inf"), -float("inf"), 0
    check_equal(lambda x: breccia.cast(x, RECIPES[name]), x)


@pytest.mark.parametrize("name", ["float8_1x128", "mxfp8_e4m3", "mxfp4"])
def test_rows_and_columns_are_cast_by_one_kernel(name: str) -> None:
    def cast(x: Any) -> Any:
        return breccia.cast(x, RECIPES[name]), breccia.cast(x, RECIPES[name], axis=0)

    check_equal(cast, random(64, 256))
    check_equal(cast, random(37, 160))
    assert kernels_of(cast, random(64, 256)) == kernels_of(cast, random(37, 160)) == 1


def test_nvfp4_takes_the_scale_of_the_whole_tensor_first() -> None:
    check_equal(lambda x: breccia.cast(x, RECIPES["nvfp4"]), random(70, 272))
    assert kernels_of(lambda x: breccia.cast(x, RECIPES["nvfp4"]), random(70, 272)) >= 2


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "uint4_g128_bf16", "mxfp6_e3m2"])
def test_dequantize_and_requantize(name: str) -> None:
    st = breccia.cast(random(7, 192), RECIPES[name])
    check_equal(breccia.dequantize, st)
    check_equal(lambda q: breccia.requantize(q, recipes.mxfp4), st)


def test_static_scales_are_those_given() -> None:
    recipe = recipes.float8_tensor.with_policy(amax="static")
    check_equal(lambda x, s: breccia.cast(x, recipe, scale=s), random(9, 80), torch.tensor(0.015625))
    check_equal(lambda x, s: breccia.cast(x, recipe, scale=s), random(9, 80), torch.tensor(0.0123))


@pytest.mark.parametrize("name", ["float8_1x128", "mxfp4", "nvfp4", "int4_g32_f16", "uint4_g32_f16"])
def test_stochastic_rounding_takes_the_same_random_numbers(name: str) -> None:
    recipe = RECIPES[name].with_policy(rounding="stochastic")
    check_equal(lambda x, seed: breccia.cast(x, recipe, seed=seed), random(34, 192), np.asarray(77))


@pytest.mark.parametrize("rule", ["max", "most_recent"])
@pytest.mark.parametrize("length", [1, 4])
def test_a_step_of_delayed_scaling(length: int, rule: str) -> None:
    recipe = DelayedScaling(amax_history_len=length).with_policy(history_rule=rule)

    def step(x: Any, history: Any, scale: Any) -> Any:
        return breccia.cast(x, recipe, scale=scale), breccia.delayed_update(history, scale, breccia.amax(x), recipe)

    history, scale = breccia.delayed_init(recipe, like=torch.zeros(1))
    for seed in range(2):
        x = random(9, 80, seed=seed) * (5 - seed)
        check_equal(step, x, history, scale)
        _, (history, scale) = step(x, history, scale)


# -- fused functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 37])
def test_rms_norm_and_cast_are_one_kernel(rows: int) -> None:
    def function(x: Any, gain: Any) -> Any:
        return breccia.cast(breccia.rms_norm(x, gain), FP8)

    check_codes(function, random(rows, 384, dtype=torch.bfloat16), random(384, seed=1))
    assert kernels_of(function, random(rows, 384), random(384)) == 1


def test_layer_norm() -> None:
    check_close(breccia.layer_norm, random(13, 200), random(200, seed=1), random(200, seed=2), tolerance=1e-5)
    check_close(breccia.rms_norm, random(13, 200, dtype=torch.float16), random(200, seed=1))


def test_softmax() -> None:
    check_close(breccia.softmax, random(5, 100) * 8)
    check_close(breccia.softmax, random(3, 1))
    masked = random(3, 7)
    masked[:, 2:] = -float("inf")
    check_close(breccia.softmax, masked)


@pytest.mark.parametrize("rows", [1, 33])
def test_swiglu_and_cast(rows: int) -> None:
    def of_two(gate: Any, up: Any) -> Any:
        return breccia.cast(breccia.silu(gate) * up, MX)

    def of_halves(x: Any) -> Any:
        return breccia.cast(breccia.silu(x[:, :256]) * x[:, 256:], MX)

    gate, up = random(rows, 256, dtype=torch.bfloat16), random(rows, 256, seed=1, dtype=torch.bfloat16)
    check_codes(of_two, gate, up)
    check_codes(of_halves, torch.cat([gate, up], 1))
    assert kernels_of(of_two, gate, up) == kernels_of(of_halves, torch.cat([gate, up], 1)) == 1


@pytest.mark.parametrize("name", ["float8_1x128", "mxfp8_e4m3", "nvfp4", "uint4_g32_f16"])
def test_products_with_bias_and_activation(name: str) -> None:
    weight = breccia.cast(random(160, 72, seed=1), RECIPES[name], axis=0)

    def function(x: Any, w: Any, bias: Any) -> Any:
        return breccia.astype(breccia.silu(breccia.matmul(x, w) + bias), "bfloat16")

    bias = random(72, seed=2)
    check_close(function, random(37, 160, dtype=torch.bfloat16), weight, bias, tolerance=1e-5)
    check_close(function, breccia.cast(random(37, 160), RECIPES[name]), weight, bias, tolerance=1e-3)


def test_a_product_and_the_cast_of_its_result() -> None:
    def function(x: Any, w: Any, bias: Any) -> Any:
        return breccia.cast(breccia.relu(breccia.matmul(breccia.cast(x, FP8), w) + bias), FP8)

    weight = breccia.cast(coarse(256, 256, seed=1), BLOCKS, axis=0)
    check_codes(function, coarse(40, 256), weight, coarse(256, seed=2))


@pytest.mark.parametrize("rows", [1, 17, 130])
def test_exact_products_have_equal_bits(rows: int) -> None:
    weight = breccia.cast(coarse(320, 96, seed=1), BLOCKS, axis=0)
    check_close(breccia.matmul, breccia.cast(coarse(rows, 320), FP8), weight)
    check_equal(breccia.matmul, coarse(rows, 320, dtype=torch.bfloat16), coarse(320, 96, seed=1, dtype=torch.bfloat16))
    check_equal(breccia.matmul, coarse(rows, 320), coarse(320, 96, seed=1))


OFFSETS = {"usual": [0, 5, 5, 21, 37], "first and last rows are of no group": [3, 4, 20, 20, 30], "none": [0] * 5}


@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS)
@pytest.mark.parametrize("given", ["plain", "scaled"])
def test_groups_of_rows(offsets: list[int], given: str) -> None:
    x, w = coarse(37, 160), coarse(4, 48, 160, seed=1)
    if given == "scaled":
        x, w = breccia.cast(x, MX), breccia.cast(w, MX)
    check_equal(
        lambda x, w, o: breccia.grouped_matmul(x, w.transpose(0, 2, 1) if given == "scaled" else w.transpose(1, 2), o),
        x, w, torch.tensor(offsets, dtype=torch.int32),
    )  # fmt: skip


def test_tables_may_have_gaps() -> None:
    offsets = torch.tensor([n for offset in OFFSETS["usual"] for n in (offset, 10**6)], dtype=torch.int64)[::2]
    check_equal(breccia.grouped_matmul, coarse(37, 160), coarse(4, 160, 48, seed=1), offsets)


@pytest.mark.parametrize("counts", [[5, 0, 9, 1], [9, 9, 9, 9], [0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("given", ["plain", "scaled"])
def test_counted_rows_of_groups(counts: list[int], given: str) -> None:
    x, w = coarse(4, 9, 160), coarse(4, 48, 160, seed=1)
    if given == "scaled":
        x, w = breccia.cast(x, MX), breccia.cast(w, MX)
    check_equal(
        lambda x, w, c: breccia.grouped_matmul(x, w.transpose(0, 2, 1) if given == "scaled" else w.transpose(1, 2), c),
        x, w, torch.tensor(counts, dtype=torch.int32),
    )  # fmt: skip


# -- shapes and strides ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float8_1x128", "mxfp4"])
def test_batch_axes(name: str) -> None:
    x = coarse(2, 3, 5, 128)
    check_equal(lambda x: breccia.cast(x, RECIPES[name]), x)
    check_equal(breccia.matmul, x, coarse(128, 40, seed=1))
    check_equal(breccia.matmul, x, coarse(2, 3, 128, 8, seed=1))
    check_equal(breccia.matmul, x, coarse(2, 1, 128, 8, seed=1))


def strided(x: Any) -> dict[str, Any]:
    """One array of values in several places."""
    wide = torch.zeros(x.shape[0] * 2, x.shape[1] * 3 + 1, dtype=x.dtype)
    wide[::2, 1::3] = x
    return {"transposed": x.T.contiguous().T, "sliced": wide[::2, 1::3], "rows": torch.cat([x, x], 1)[:, : x.shape[1]]}


@pytest.mark.parametrize("place", ["transposed", "sliced", "rows"])
def test_strides(place: str) -> None:
    x = strided(coarse(37, 192))[place]
    assert not x.is_contiguous()
    w = breccia.cast(strided(coarse(192, 48, seed=1))[place], MX, axis=0)
    check_equal(lambda x: breccia.cast(x, MX), x)
    check_equal(lambda x: breccia.cast(x.T, MX), x)
    check_equal(breccia.matmul, x, w)
    check_equal(lambda x: (x[:, 7:90] + 1, breccia.amax(x[3:])), x)


def test_weights_stored_by_rows() -> None:
    x, w = breccia.cast(coarse(37, 256), MX), breccia.cast(coarse(48, 256, seed=1), MX)
    check_equal(lambda x, w: breccia.matmul(x, w.T), x, w)


def test_views_between_kernels() -> None:
    check_equal(lambda x: breccia.transpose(x + 1, (1, 0, 2)).reshape(3, -1), random(4, 3, 8))
    check_equal(lambda x, y: breccia.concat([x * 2, y], axis=0), random(4, 8), random(3, 8))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "amax"])
def test_reductions(name: str, axis: int | None) -> None:
    function = getattr(breccia, name)
    x = coarse(19, 72)
    (check_close if name == "mean" else check_equal)(lambda x: function(x, axis=axis), x)
    check_close(lambda x: function(x, axis=axis), random(19, 72, dtype=torch.bfloat16), tolerance=1e-5)
    x[5, 7] = float("nan")
    check_equal(lambda x: function(x, axis=axis), x) if name != "mean" else None


# -- every function of the IR ------------------------------------------------------------------------------------------

EXACT = {
    "neg", "abs", "sqrt", "rsqrt", "reciprocal", "square", "relu", "floor", "not", "isnan", "stop_gradient", "add",
    "sub", "mul", "div", "max", "min", "straight_through", *COMPARE, *LOGIC,
}  # fmt: skip
INF, NAN = float("inf"), float("nan")
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, INF, -INF, NAN, 1e-30, -1e-38, 3e38, 65504.0)


def called(text: str, args: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What a traced function gives as a kernel, and what it means."""
    module = parse_module(text)
    target = find(TARGET)
    call = callable_for(lower(module, target)[0], target)
    with np.errstate(all="ignore"):
        (found,), (wanted,) = call(args), interpret(module, list(args))
    return found, np.asarray(wanted)


def values(dtype: str, seed: int = 0) -> np.ndarray:
    """[16, 40]: every pair of special values along with `seed` of 0 and 1, and usual ones."""
    rng = np.random.default_rng(seed)
    special = np.array(SPECIAL, np.float32)
    pairs = np.repeat(special, len(special)) if seed else np.tile(special, len(special))
    usual = rng.standard_normal(640 - len(pairs)).astype(np.float32) * np.float32(3)
    with np.errstate(all="ignore"):
        return np.concatenate([pairs, usual]).reshape(16, 40).astype(array_dtype(parse_type(dtype)))


def parse_type(dtype: str) -> Any:
    module = parse_module(f"func.func @f(%x : !breccia.tensor<[1], {dtype}>) {{ func.return }}")
    return next(iter(module.ops)).args[0].type.dtype


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference in units of the wanted value's last place; infinite where only one is a number."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    bits, least = {"float32": (23, -126), "bfloat16": (7, -126), "float16": (10, -14)}[wanted.dtype.name]
    with np.errstate(all="ignore"):
        unit = np.exp2(np.maximum(np.floor(np.log2(np.abs(b))), least) - bits)
        off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b) / unit)
    return float(np.max(np.where(np.isnan(off), np.inf, off)))


def converted(name: str, of: str, source: str, to: str) -> str:
    """The line that converts a value; one that does nothing where the dtypes are equal, as IR has no copies."""
    return f"{name} = breccia.convert {of} : {to}"


def check_function(fn: str, text: str, args: Sequence[np.ndarray], ulp: float) -> None:
    found, wanted = called(text, args)
    assert found.dtype == wanted.dtype
    if wanted.dtype.kind in "bi":
        assert np.array_equal(found, wanted)
    elif fn in EXACT:
        assert distance(found, wanted) == 0
        assert np.array_equal(np.signbit(found[found == 0]), np.signbit(wanted[found == 0]))
    else:
        assert distance(found, wanted) <= ulp


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fn", UNARY)
def test_unary_functions(fn: str, dtype: str) -> None:
    x = values(dtype)
    kind, given = dtype, x
    if fn == "not":
        kind, given = "i1", x.astype(np.float32) > 0
    if fn in ("sin", "cos", "gelu_tanh"):  # of huge values they are not what anyone asks for
        given = np.where(np.abs(x.astype(np.float32)) < 1e10, x, np.ones_like(x))
    out = "i1" if fn in TRUTH else kind
    wide = "i1" if fn == "not" else "f32"
    text = f"""
func.func @f(%x : !breccia.tensor<[16, 40], {kind}>) -> !breccia.tensor<[16, 40], {out}> {{
  {converted("%a", "%x", kind, wide)}
  %b = breccia.unary {fn} %a
  {converted("%y", "%b", "i1" if fn in TRUTH else wide, out)}
  func.return %y : !breccia.tensor<[16, 40], {out}>
}}"""
    if fn in ("gelu", "gelu_tanh"):  # (1 + erf) and (1 + tanh) cancel: their error is one of x
        found, wanted = called(text, [given])
        some, x = np.isfinite(wanted.astype(np.float32)), given.astype(np.float64)
        unit = np.finfo(wanted.dtype).eps if dtype != "bf16" else 2**-7
        error = np.abs(found.astype(np.float64)[some] - wanted.astype(np.float64)[some])
        assert np.array_equal(some, np.isfinite(found.astype(np.float32)))
        assert np.all(error <= 2.0**-22 * np.abs(x[some]) + unit * np.abs(wanted.astype(np.float64)[some]))
        return
    check_function(fn, text, [given], {"f32": 16, "bf16": 1, "f16": 1}[dtype])


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fn", BINARY)
def test_binary_functions(fn: str, dtype: str) -> None:
    x, y = values(dtype), values(dtype, 1)
    kind = dtype
    if fn in LOGIC:
        kind, x, y = "i1", x.astype(np.float32) > 0, y.astype(np.float32) > 1
    if fn == "pow":
        x, y = np.abs(x), np.clip(y.astype(np.float32), -4, 4).astype(y.dtype)
    out = "i1" if fn in COMPARE else kind
    wide = "i1" if fn in LOGIC else "f32"
    text = f"""
func.func @f(%x : !breccia.tensor<[16, 40], {kind}>, %y : !breccia.tensor<[16, 40], {kind}>)
    -> !breccia.tensor<[16, 40], {out}> {{
  {converted("%a", "%x", kind, wide)}
  {converted("%b", "%y", kind, wide)}
  %c = breccia.binary {fn} %a, %b
  {converted("%z", "%c", "i1" if fn in COMPARE else wide, out)}
  func.return %z : !breccia.tensor<[16, 40], {out}>
}}"""
    check_function(fn, text, [x, y], {"f32": 64, "bf16": 1, "f16": 1}[dtype])


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "i32"])
@pytest.mark.parametrize("fn", REDUCE)
def test_reduce_functions(fn: str, dtype: str) -> None:
    x = np.clip(np.nan_to_num(values("f32")), -8, 8).round().astype(array_dtype(parse_type(dtype)))
    wide = dtype if dtype == "i32" else "f32"
    text = f"""
func.func @f(%x : !breccia.tensor<[16, 40], {dtype}>) -> !breccia.tensor<[16, 1], {dtype}> {{
  {converted("%a", "%x", dtype, wide)}
  %b = breccia.reduce {fn} %a axis [1]
  {converted("%y", "%b", wide, dtype)}
  func.return %y : !breccia.tensor<[16, 1], {dtype}>
}}"""
    found, wanted = called(text, [x])
    assert np.array_equal(found, wanted)


CONVERSIONS = [
    ("f32", "bf16"), ("f32", "f16"), ("bf16", "f32"), ("f16", "bf16"), ("f32", "i32"), ("i32", "f32"), ("i32", "bf16"),
    ("bf16", "i32"), ("f32", "i1"), ("i1", "f32"), ("i1", "bf16"), ("i32", "i64"), ("i64", "i32"), ("i64", "f16"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "to"), CONVERSIONS)
def test_conversions(source: str, to: str) -> None:
    with np.errstate(all="ignore"):
        x = values("f32") * 100
        x = np.nan_to_num(x) > 0 if source == "i1" else x
        x = np.clip(np.nan_to_num(x), -1e9, 1e9) if source[0] == "i" and source != "i1" else x
        x = x.astype(array_dtype(parse_type(source)))
    text = f"""
func.func @f(%x : !breccia.tensor<[16, 40], {source}>) -> !breccia.tensor<[16, 40], {to}> {{
  %y = breccia.convert %x : {to}
  func.return %y : !breccia.tensor<[16, 40], {to}>
}}"""
    found, wanted = called(text, [x])
    assert found.dtype == wanted.dtype
    assert np.array_equal(found.astype(np.float64), wanted.astype(np.float64), equal_nan=True)
