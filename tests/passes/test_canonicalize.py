"""Exact simplification: constants as the interpreter computes them, and nothing that drops a rounding."""

from __future__ import annotations

import itertools

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.ir.functions import BINARY, COMPARE, LOGIC, UNARY
from breccia.ir.ops import BinaryOp, ConvertOp, FullOp, QuantizeOp, UnaryOp
from breccia.passes._fold_values import _FOLDED_BINARY, _FOLDED_UNARY
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import lowered, parsed, passes

NUMBERS = ("0.0", "-0.0", "1.0", "-1.0", "0.1", "3.0", "1.0e-45", "3.4028234663852886e+38", "inf", "-inf", "nan")


def count(module: ModuleOp, kind: type) -> int:
    return sum(isinstance(op, kind) for op in module.walk())


def validated(text: str) -> ModuleOp:
    return validate_pipeline(parsed(text), passes(["canonicalize"]), sizes=[{"M": 3}], kinds=("normal",))


@pytest.mark.parametrize("fn", [f for f in BINARY if f not in LOGIC])
def test_constants_fold_to_what_the_interpreter_computes(fn: str) -> None:
    """Every pair of special values: bit-equal, or left alone."""
    dtype = "i1" if fn in COMPARE else "f32"
    lines, results = list[str](), list[str]()
    for i, (a, b) in enumerate(itertools.product(NUMBERS, NUMBERS)):
        lines += [f"%a{i} = breccia.full {a} [] : f32", f"%b{i} = breccia.full {b} [] : f32"]
        lines.append(f"%c{i} = breccia.binary {fn} %a{i}, %b{i}")
        results.append(f"%c{i}")
    types = ", ".join([f"!breccia.tensor<[], {dtype}>"] * len(results))
    body = "\n  ".join(lines)
    text = f"func.func @f() -> ({types}) {{\n  {body}\n  func.return {', '.join(results)} : {types}\n}}"
    module = validated(text)
    assert (count(module, BinaryOp) == 0) == (fn in _FOLDED_BINARY)


@pytest.mark.parametrize("fn", [f for f in UNARY if f != "not"])
def test_unary_constants(fn: str) -> None:
    """`not` takes truth values: see below."""
    dtype = "i1" if fn == "isnan" else "f32"
    lines = [
        f"%a{i} = breccia.full {a} [1, 1] : f32\n  %c{i} = breccia.unary {fn} %a{i}" for i, a in enumerate(NUMBERS)
    ]
    types = ", ".join([f"!breccia.tensor<[1, 1], {dtype}>"] * len(NUMBERS))
    results = ", ".join(f"%c{i}" for i in range(len(NUMBERS)))
    body = "\n  ".join(lines)
    module = validated(f"func.func @f() -> ({types}) {{\n  {body}\n  func.return {results} : {types}\n}}")
    assert (count(module, UnaryOp) == 0) == (fn in _FOLDED_UNARY)


def test_truth_values() -> None:
    module = validated("""
func.func @f(%x: !breccia.tensor<[M], f32>) -> (!breccia.tensor<[], i1>, !breccia.tensor<[M], i1>) {
  %t = breccia.full 1.0 [] : i1
  %f = breccia.full 0.0 [] : i1
  %n = breccia.unary not %t
  %o = breccia.binary or %n, %t
  %i = breccia.unary isnan %x
  %j = breccia.binary and %i, %t
  %k = breccia.binary or %j, %f
  func.return %o, %k : !breccia.tensor<[], i1>, !breccia.tensor<[M], i1>
}""")
    assert count(module, BinaryOp) == 0
    assert count(module, UnaryOp) == 1, "isnan alone is left"


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "f32"])
def test_conversions_of_constants(dtype: str) -> None:
    lines = [
        f"%a{i} = breccia.full {a} [] : f32\n  %c{i} = breccia.convert %a{i} : {dtype}" for i, a in enumerate(NUMBERS)
    ]
    types = ", ".join([f"!breccia.tensor<[], {dtype}>"] * len(NUMBERS))
    results = ", ".join(f"%c{i}" for i in range(len(NUMBERS)))
    body = "\n  ".join(lines)
    module = validated(f"func.func @f() -> ({types}) {{\n  {body}\n  func.return {results} : {types}\n}}")
    assert count(module, ConvertOp) == 0
    assert count(module, FullOp) == len(NUMBERS)


NARROW = ["bf16", "f16", "f8E4M3FN", "f8E4M3FNUZ", "f8E5M2", "f8E5M2FNUZ", "f6E2M3FN", "f6E3M2FN", "f4E2M1FN",
          "i4", "ui4", "i8", "ui8"]  # fmt: skip


@pytest.mark.parametrize(("narrow", "wide"), [(n, w) for n in NARROW for w in ("f32", "bf16", "f16") if n != w])
def test_widening_and_back_is_bit_equal_or_stays(narrow: str, wide: str) -> None:
    text = (
        f"func.func @f(%x: !breccia.tensor<[M, 64], {narrow}>) -> !breccia.tensor<[M, 64], {narrow}> {{\n"
        f"  %a = breccia.convert %x : {wide}\n  %b = breccia.convert %a : {narrow}\n"
        f"  func.return %b : !breccia.tensor<[M, 64], {narrow}>\n}}"
    )
    module = validate_pipeline(parsed(text), passes(["canonicalize"]), sizes=[{"M": 16}])
    if narrow in ("f8E4M3FN", "f8E5M2"):
        assert count(module, ConvertOp) == 2, "more than one code for NaN"


@pytest.mark.parametrize("narrow", ["bf16", "f16"])
def test_roundings_stay(narrow: str) -> None:
    text = (
        "func.func @f(%x: !breccia.tensor<[M], f32>) -> !breccia.tensor<[M], f32> {\n"
        f"  %a = breccia.convert %x : {narrow}\n  %b = breccia.convert %a : f32\n"
        "  func.return %b : !breccia.tensor<[M], f32>\n}"
    )
    assert count(lowered(text, ["canonicalize"]), ConvertOp) == 2


def test_encoding_and_decoding_stay() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[M, 64], f32, #row> {
  %a = breccia.quantize %x policy #exact to #row
  %b = breccia.dequantize %a
  %c = breccia.quantize %b policy #exact to #row
  func.return %c : !breccia.scaled<[M, 64], f32, #row>
}"""
    assert count(lowered(text, ["canonicalize"]), QuantizeOp) == 2


def test_kernels_that_pass_an_operand_on() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>) {
  %y, %z = breccia.kernel "rowwise_0" in (%x) out (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>)
    body (%x) { %n = unary neg %x yield %x, %n }
  func.return %y, %z : !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>
}"""
    module = validated(text)
    last = next(op for op in module.walk() if op.name == "func.return")
    assert last.operands[0].name_hint == "x"


def test_long_chains_fold_in_one_go() -> None:
    turns = "\n".join(f"  %t{i + 1} = breccia.transpose %t{i} [1, 0]" for i in range(400))
    text = (
        f"func.func @f(%t0: !breccia.tensor<[8, 8], f32>) -> !breccia.tensor<[8, 8], f32> {{\n{turns}\n"
        "  func.return %t400 : !breccia.tensor<[8, 8], f32>\n}"
    )
    module = lowered(text, ["canonicalize"])
    assert [op.name for op in module.walk()] == ["builtin.module", "func.func", "func.return"]
