"""Each rule of each form, and the op that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdsl.utils.exceptions import VerifyException

from breccia.errors import PassError
from breccia.ir.dialect import parse_module
from breccia.ir.forms import FORMS, verify_form

R = "#breccia.recipe<f8E4M3FN, f32 per [1, 128]>"
Q = f"!breccia.scaled<[M, 256], f32, {R}>"
L = f"!breccia.scaled<[M, 256], f32, {R}, #breccia.layout<elements = row_major, scale0 = row_major>>"
X = "!breccia.tensor<[M, 256], f32>"


def function(arg: str, body: str, out: str) -> str:
    return f"func.func @f(%x : {arg}) -> {out} {{\n{body}\nfunc.return %y : {out}\n}}"


def kernel(arg: str, out: str, body: str) -> str:
    return function(arg, f'%y = breccia.kernel "k" in (%x) out ({out}) body (%x) {{ {body} }}', out)


TRACED = function(Q, "%y = breccia.dequantize %x", X)
PARTITIONED = kernel(Q, X, "%d = dequantize %x  yield %d")
LAID_OUT = kernel(L, X, "%d = dequantize %x  yield %d")
TILED = (Path(__file__).parent / "data" / "masked.mlir").read_text()


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("traced", TRACED),
        ("partitioned", PARTITIONED),
        ("partitioned", LAID_OUT),
        ("laid_out", LAID_OUT),
        ("tiled", TILED),
    ],
)
def test_forms_hold(form: str, text: str) -> None:
    verify_form(parse_module(text), form)


@pytest.mark.parametrize(
    ("form", "text", "match"),
    [
        ("traced", PARTITIONED, r'kernel "k" \(%y\): kernels are made by `partition`'),
        ("partitioned", TRACED, r"breccia.dequantize \(%y\) computes outside of a kernel; only views"),
        ("partitioned", TILED, "has a grid; kernels are tiled only in the tiled form"),
        ("laid_out", PARTITIONED, "argument 0 is .* which has no layout"),
        ("laid_out", kernel(X, Q, f"%q = quantize %x policy #breccia.policy<> to {R}  yield %q"), "result 0 of kernel"),
        ("tiled", PARTITIONED, "has no grid; every kernel is tiled"),
        ("tiled", function(Q, "%y = breccia.transpose %x [1, 0]",
                           "!breccia.scaled<[256, M], f32, #breccia.recipe<f8E4M3FN, f32 per [128, 1]>>"),
         "argument 0 is .* boundaries hold plain components"),
        ("tiled", function(X, "%y = breccia.unary neg %x", X), "only full and views may stand between kernels"),
        ("traced", function(X, "%y = breccia.mask %x axis 0 valid 3 value 0.0", X), "belongs inside a tiled kernel"),
        ("partitioned", kernel(X, X, "%d = mask %x axis 0 valid 3 value 0.0  yield %d"), "breccia.mask .* has no grid"),
    ],
)  # fmt: skip
def test_rules(form: str, text: str, match: str) -> None:
    with pytest.raises(VerifyException, match=match):
        verify_form(parse_module(text), form)


def test_a_scaled_op_in_a_tiled_kernel() -> None:
    text = TILED.replace("%e = unary exp %acc", "%e = unary exp %acc").replace(
        "yield %acc, %s", "%q = quantize %acc policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [1, 32]>\n"
        "      %u = dequantize %q\n      yield %u, %s")  # fmt: skip
    with pytest.raises(VerifyException, match=r"breccia.quantize .* scaled tensors are spelled out in components"):
        verify_form(parse_module(text), "tiled")


def test_locations_are_named() -> None:
    text = function(X, '%y = breccia.unary neg %x loc("user.py":12:0)', X)
    with pytest.raises(VerifyException, match=r"breccia.unary \(%y\) from user.py:12 computes"):
        verify_form(parse_module(text), "partitioned")


def test_unknown_forms() -> None:
    with pytest.raises(PassError, match="unknown form 'flat'; forms are traced, partitioned, laid_out, tiled"):
        verify_form(parse_module(TRACED), "flat")
    assert FORMS == ("traced", "partitioned", "laid_out", "tiled")
