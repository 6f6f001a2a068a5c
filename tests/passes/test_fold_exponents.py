"""`fold-exponents`: products of short blocks as FP8 ones, and exact where exponents lie too far apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

import breccia
from breccia import recipes
from breccia.errors import DTypeError, PassError, TraceError
from breccia.ir.capabilities import Capabilities, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.interpreter import interpret
from breccia.ir.interpreter.values import ScaledValue
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import QuantizeOp
from breccia.ir.pipeline import Pipeline
from breccia.ir.rewriting import functions, kernels
from breccia.passes import LAID_OUT, TRACED, default_pipeline, find
from breccia.target import find as find_target
from breccia.tensor import ScaledTensor
from breccia.testing.validate import validate_pipeline

HOPPER = find_target("triton:sm_90").capabilities
ALWAYS = replace(HOPPER, name="test:always", decode_rows=1)
"""Folds however few the rows."""
BOTH = ("fold-exponents", "fold-exponents-bounded")
FORMATS = {
    "mxfp8": "f8E4M3FN, f8E8M0FNU per [1, 32]",
    "mxfp4": "f4E2M1FN, f8E8M0FNU per [1, 32]",
    "mxfp6": "f6E2M3FN, f8E8M0FNU per [1, 32]",
    "mxfp6_wide": "f6E3M2FN, f8E8M0FNU per [1, 32]",
    "1x128": "f8E4M3FN, f32 per [1, 128]",
    "nvfp4": "f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]",
    "mxint8": "i8, f8E8M0FNU per [1, 32]",
    "mxfp8_e5m2": "f8E5M2, f8E8M0FNU per [1, 32]",
    "int4": "i4, f32 per [1, 32]",
}


BLOCKS = "!breccia.scaled<[{M}, {N}], bf16, #breccia.recipe<f8E4M3FN, f32 per [1, 128]>>"


def product(
    left: str, right: str, *, accuracy: str = "exact", M: str = "M", K: int = 160, N: int = 40, bare: bool = False,
    cast: bool = False,
) -> ModuleOp:  # fmt: skip
    """x [M, K] times the transpose of w [N, K], with a bias, silu and a rounding after it, and perhaps a cast.

    bare: the product in f32 is the result.
    """
    recipes_of = zip((f"{M}, {K}", f"{N}, {K}"), (left, right), strict=True)
    x, w = (f"!breccia.scaled<[{shape}], bf16, #breccia.recipe<{FORMATS[name]}>>" for shape, name in recipes_of)
    out, result, last = "%r", f"!breccia.tensor<[{M}, {N}], bf16>", ""
    if bare:
        out, result = "%y", f"!breccia.tensor<[{M}, {N}], f32>"
    if cast:
        out, result = "%q", BLOCKS.format(M=M, N=N)
        last = "%q = breccia.quantize %r policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [1, 128]>"
    return parse_module(f"""
func.func @f(%x: {x}, %w: {w}, %b: !breccia.tensor<[{N}], f32>) -> {result} attributes {{breccia.typical = "M=1024"}} {{
  %t = breccia.transpose %w [1, 0]
  %y = breccia.matmul %x, %t accuracy {accuracy}
  %z = breccia.binary add %y, %b
  %s = breccia.unary silu %z
  %r = breccia.convert %s : bf16
  {last}
  func.return {out} : {result}
}}""")


def after(module: ModuleOp, *names: str, target: Capabilities = ALWAYS) -> ModuleOp:
    set_target(module, target)
    Pipeline([find(n)() for n in names]).run(module)
    return module


def folds(module: ModuleOp) -> int:
    return sum(isinstance(op, QuantizeOp) for op in module.walk())


def values(st: ScaledTensor) -> ScaledValue:
    """A tensor of one byte an element as the interpreter takes it."""
    return ScaledValue(np.asarray(st.data).view(np.uint8), (np.asarray(st.scales[0]).view(np.uint8),), None, None)


@pytest.mark.parametrize("pair", [("mxfp4", "mxfp4"), ("1x128", "mxfp4"), ("mxfp6", "mxfp4"), ("mxfp6_wide", "mxfp6")])
def test_nothing_is_lost(pair: tuple[str, str]) -> None:
    module = product(*pair)
    set_target(module, ALWAYS)
    folded = validate_pipeline(module, [find(n)() for n in BOTH], sizes=[{"M": 5}, {"M": 33}])
    assert folds(folded) == 1 + (pair[0] != "1x128")


@pytest.mark.parametrize("pair", [("mxfp4", "mxfp4"), ("1x128", "mxfp4")])
def test_all_passes_hold_their_contracts(pair: tuple[str, str]) -> None:
    module = product(*pair)
    set_target(module, ALWAYS)
    lowered = validate_pipeline(module, default_pipeline(ALWAYS), sizes=[{"M": 37}], kinds=("normal", "exact"))
    assert [k for k in kernels(lowered) if k.schedule and "keep" in dict(k.schedule.data)]


@pytest.mark.parametrize("pair", [("mxfp8", "mxfp8"), ("mxfp8", "mxfp4"), ("1x128", "mxfp8")])
def test_8_bits_are_folded_where_a_loss_is_allowed(pair: tuple[str, str]) -> None:
    assert folds(after(product(*pair), *BOTH)) == 0
    assert folds(after(product(*pair, accuracy="bounded"), *BOTH)) == 1 + (pair[0] != "1x128")


@pytest.mark.parametrize("pair", [("nvfp4", "nvfp4"), ("mxint8", "mxfp4"), ("mxfp8_e5m2", "mxfp4"), ("int4", "mxfp4")])
def test_what_does_not_fit_stays(pair: tuple[str, str]) -> None:
    assert folds(after(product(*pair, accuracy="bounded"), *BOTH)) == 0


def test_small_products_and_other_targets_stay() -> None:
    assert folds(after(product("mxfp4", "mxfp4", M="64"), *BOTH, target=HOPPER)) == 0
    for name in ("triton:sm_80", "triton:sm_100", "triton:gfx942", "numpy"):
        target = replace(find_target(name).capabilities, decode_rows=1)
        assert folds(after(product("mxfp4", "mxfp4"), *BOTH, target=target)) == 0, name


def spread_rows(rng: np.random.Generator, rows: int, depth: int) -> np.ndarray:
    """Normal numbers; row r has every 50th entry 2**r times as large."""
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    x[:, ::50] *= 2.0 ** np.arange(rows, dtype=np.float32)[:, None]
    return x


def test_bounded_rows_are_close_and_others_exact() -> None:
    """The declared bound, entry by entry; rows that would break it have the bits of the exact product."""
    rng = np.random.default_rng(0)
    x = breccia.cast(spread_rows(rng, 24, 320), recipes.mxfp8_e4m3)
    w = breccia.cast(rng.standard_normal((40, 320)).astype(np.float32), recipes.mxfp8_e4m3)
    bias = np.zeros(40, np.float32)
    module = product("mxfp8", "mxfp8", accuracy="bounded", M="24", K=320, bare=True)
    exact = product("mxfp8", "mxfp8", M="24", K=320, bare=True)
    (wanted,) = interpret(exact, [values(x), values(w), bias], wide=True)
    (found,) = interpret(after(module, *BOTH), [values(x), values(w), bias], wide=True)
    block = np.repeat(np.asarray(x.scales[0], np.float32), 32, axis=1) * 448
    bound = (
        2.0**-9.8 * block @ np.abs(w.dequantize().T)
        + 2.0**-9.8 * np.abs(x.dequantize()) @ (np.repeat(np.asarray(w.scales[0], np.float32), 32, axis=1) * 448).T
    )
    assert (np.abs(found - wanted) <= bound).all()
    same = (found == wanted).all(axis=1)
    assert same[12:].all()  # 2**12 apart
    assert not same[4:8].all()  # folded, with elements that are subnormal now


def test_poisoned_rows_are_exact() -> None:
    rng = np.random.default_rng(1)
    x = breccia.cast(rng.standard_normal((4, 160)).astype(np.float32), recipes.mxfp8_e4m3)
    w = breccia.cast(rng.standard_normal((40, 160)).astype(np.float32), recipes.mxfp8_e4m3)
    left, right = values(x), values(w)
    left.codes[1, 3] = 0x7F  # NaN
    left.scales[0][2, :] = 0  # 2**-127
    module = after(product("mxfp8", "mxfp8", accuracy="bounded", M="4"), *BOTH)
    bias = np.zeros(40, np.float32)
    (found,) = interpret(module, [left, right, bias])
    (wanted,) = interpret(product("mxfp8", "mxfp8", M="4"), [left, right, bias])
    assert np.isnan(found[1].astype(np.float32)).all()
    np.testing.assert_allclose(
        found[[0, 2, 3]].astype(np.float32), wanted[[0, 2, 3]].astype(np.float32), rtol=2e-2, atol=1e-6
    )


def test_rows_of_zeros_are_folded() -> None:
    """Padding has the smallest scale there is, which says nothing of its values."""
    x = np.random.default_rng(2).standard_normal((4, 160)).astype(np.float32)
    x[:, 32:64] = 0
    st = breccia.cast(x, recipes.mxfp8_e4m3)
    module = product("mxfp8", "mxfp8", accuracy="bounded", M="4")
    after(module, *BOTH)
    function = next(functions(module))
    lost = next(op for op in function.body.block.ops if op.results and op.results[0].name_hint == "x_lost")
    function.body.block.last_op.operands[0] = lost.results[0]  # type: ignore[union-attr]
    function.update_function_type()
    w = breccia.cast(np.ones((40, 160), np.float32), recipes.mxfp8_e4m3)
    assert not interpret(module, [values(st), values(w), np.zeros(40, np.float32)])[0].any()


# -- where the choice goes ---------------------------------------------------------------------------------------------


def guarded(module: ModuleOp) -> tuple[KernelOp, KernelOp]:
    """The quick product's kernel, and the exact one's."""
    gemms = [k for k in kernels(module) if k.kernel_name.startswith("gemm")]
    assert len(gemms) == 2
    return gemms[0], gemms[1]


def test_what_follows_is_in_both_kernels() -> None:
    quick, exact = guarded(after(product("mxfp4", "mxfp4"), *TRACED, *LAID_OUT))
    for kernel in (quick, exact):
        assert any(op.name == "breccia.unary" for op in kernel.body.walk())
        assert str(kernel.outs[0].type) == "!breccia.tensor<[M, 40], bf16>"
    assert quick.outs[0] in exact.args


def test_codes_are_chosen_as_values() -> None:
    """A quantization after a guarded product is a kernel of its own."""
    lowered = after(product("mxfp4", "mxfp4", N=128, cast=True), *TRACED, *LAID_OUT)
    _, exact = guarded(lowered)
    assert not any(isinstance(op, QuantizeOp) for op in exact.body.walk())
    assert any(isinstance(op, QuantizeOp) for k in kernels(lowered)[-1:] for op in k.body.walk())


def test_a_choice_between_other_things_is_told() -> None:
    text = """
func.func @f(%a: !breccia.tensor<[8, 8], f32>, %c: !breccia.tensor<[8, 1], i1>) -> !breccia.tensor<[8, 8], f32> {
  %y = breccia.kernel "rowwise_0" in (%a, %c) out (!breccia.tensor<[8, 8], f32>) body (%a, %c) {
    %s = unary silu %a
    %r = select %c, %s, %a {breccia.guard}
    yield %r }
  func.return %y : !breccia.tensor<[8, 8], f32>
}"""
    with pytest.raises(PassError, match="run it right after partition"):
        after(parse_module(text), "sink-guards")


# -- what users say ----------------------------------------------------------------------------------------------------


def weights(rows: int, depth: int, recipe: Any) -> ScaledTensor:
    return breccia.cast(np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float32), recipe)


def test_accuracy_is_said_by_the_function_or_the_product() -> None:
    x, w = weights(512, 128, recipes.mxfp8_e4m3), weights(640, 128, recipes.mxfp8_e4m3)

    def kernels_of(fn: Any, **options: Any) -> str:
        compiled: Any = breccia.compile(fn, target="triton:sm_90", **options)
        return compiled.lower(x, w).explain()

    plain = kernels_of(lambda x, w: breccia.matmul(x, w.T))
    assert "1 kernel" in plain
    assert "folded" not in plain
    for text in (
        kernels_of(lambda x, w: breccia.matmul(x, w.T), accuracy="bounded"),
        kernels_of(lambda x, w: breccia.matmul(x, w.T, accuracy="bounded")),
    ):
        assert "4 kernels" in text
        assert "exponents of a" in text
        assert "2**-9.8 of the largest value of their block of 32" in text
    assert "1 kernel" in kernels_of(lambda x, w: breccia.matmul(x, w.T, accuracy="exact"), accuracy="bounded")


def test_other_words_are_refused() -> None:
    with pytest.raises(TraceError, match="accuracy is 'low'; allowed: 'exact', 'bounded'"):
        breccia.compile(lambda x: x, accuracy="low")
    x = np.ones((2, 2), np.float32)
    with pytest.raises(DTypeError, match="accuracy is 'low'; allowed: 'exact', 'bounded'"):
        breccia.matmul(x, x, accuracy="low")


def test_numpy_has_nothing_to_fold() -> None:
    x, w = weights(512, 128, recipes.mxfp8_e4m3), weights(512, 128, recipes.mxfp8_e4m3)
    assert np.array_equal(breccia.matmul(x, w.T), breccia.matmul(x, w.T, accuracy="bounded"))


@pytest.mark.parametrize("turned", [False, True])
def test_weights_that_are_closed_over_are_folded_once(turned: bool) -> None:
    x, w = weights(512, 128, recipes.mxfp4), weights(640, 128, recipes.mxfp4)
    known = w.T if turned else w

    def multiply(x: Any) -> Any:
        return breccia.matmul(x, known if turned else known.T)

    source = breccia.compile(multiply, target="triton:sm_90").lower(x).source()
    main, prepare = source[source.index("\ndef multiply(") :].split("\ndef prepare(")
    assert "rowwise_1_1(" in prepare
    assert main.count("rowwise_") == 1
    assert "constant0_lost" in main.splitlines()[1]
