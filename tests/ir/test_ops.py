"""What each op's verifier refuses: the message names the operand, the shape, and what is wanted."""

from __future__ import annotations

import pytest
from xdsl.utils.exceptions import ParseError

from breccia.ir.dialect import parse_module
from breccia.ir.ops import WHOLE_TENSOR_OPS
from breccia.ir.tile_ops import TILE_OPS

ARGS = {
    "x": "!breccia.tensor<[M, 64], f32>",
    "h": "!breccia.tensor<[M, 64], bf16>",
    "i": "!breccia.tensor<[4], i32>",
    "c": "!breccia.tensor<[M, 64], i1>",
    "b": "!breccia.tensor<[M, 32], ui8>",
    "e": "!breccia.tensor<[M, 64], f8E4M3FN>",
    "s": "!breccia.tensor<[M, 2], f32>",
    "v": "!breccia.tensor<[8], f32>",
    "k": "!breccia.tensor<[3, 64, 8], f32>",
    "q": "!breccia.scaled<[M, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [1, 32]>>",
    "t": "!breccia.scaled<[M, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [1, all]>>",
}
RECIPE = "policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [1, 32]>"
Q = ARGS["q"]

CASES = {
    "full": [("full 1.0 [M, -1] : f32", "sizes cannot be negative")],
    "iota": [("iota axis 2 start 0 [M, 4] : i32", "iota: axis 2 is out of range for a tensor of rank 2")],
    "unary": [
        ("unary neg %h", "unary neg: the operand is .*bf16>; elementwise ops take f32, f64, i1, i32 or i64"),
        ("unary neg %q", "a !breccia.tensor is wanted; dequantize it first"),
        ("unary foo %x", "unknown function 'foo'; known: neg"),
        ("unary neg", "breccia.unary has 0 operands; it takes 1"),
    ],
    "binary": [
        ("binary add %x, %s", r"shapes \[M, 64\] and \[M, 2\] do not broadcast: axis 1 has 2 and 64"),
        ("binary add %x, %i", "dtypes f32 and i32 differ; convert one of them first"),
        ("binary and %x, %x", "takes truth values"),
    ],
    "select": [("select %x, %x, %x", r"takes \(i1, T, T\), not \(f32, f32, f32\)")],
    "convert": [("convert %q : f32", "dequantize it first")],
    "reduce": [
        ("reduce sum %x axis [2]", "axis 2 is out of range"),
        ("reduce mean %x axis [1]", "unknown function 'mean'; known: sum, max, min, amax"),
    ],
    "broadcast": [("broadcast %x to [M, 65]", "do(es)? not broadcast")],
    "transpose": [("transpose %x [0, 0]", r"\[0, 0\] is no permutation of the axes")],
    "reshape": [
        ("reshape %x to [M, 65]", "hold different numbers of elements"),
        ("reshape %q to [M, 2, 32]", "would regroup axes that blocks of"),
    ],
    "slice": [
        ("slice %x axis 1 from 0 to 65", "0 to 65 is out of range on axis 1"),
        ("slice %q axis 1 from 0 to 40", "40 on axis 1 of .* cuts a block of 32; slice at multiples of 32"),
    ],
    "concat": [
        ("concat %x, %s axis 0", "operand 1 is .* does not continue"),
        ("concat %q, %t axis 0", "requantize one"),
        ("concat %t, %t axis 1", "span axis 1; requantize after joining"),
    ],
    "quantize": [
        (f"quantize %q {RECIPE}", "a !breccia.tensor is wanted"),
        (f"quantize %i {RECIPE}", "it takes f16, bf16, f32 or f64"),
        (f"quantize %x, %s {RECIPE}", "takes 0 scales and 0 seed after the values, 1 are given"),
        (f"quantize %x, %x given [0] {RECIPE}", r"scale of level 0 is .* needs .*\[M, 2\], f32"),
        (f"quantize %x, %s given [1] {RECIPE}", "level 1 does not exist"),
    ],
    "dequantize": [("dequantize %x", "a !breccia.scaled is wanted; quantize it first")],
    "scales": [("scales %x", "a !breccia.scaled is wanted; quantize it first")],
    "matmul": [
        ("matmul %x, %x", r"shape mismatch: a is \[M, 64\] and b is \[M, 64\]; the last axis of a \(64\)"),
        ("matmul %v, %x", "need two axes each"),
        ("matmul %q, %k place_a #breccia.place<operand, operand>", "place_a is .* has 1 levels of scales"),
        ("matmul %q, %k accuracy low", "unknown function 'low'; known: exact, bounded"),
    ],
    "grouped_matmul": [
        ("grouped_matmul %x, %x, %i", r"takes x \[T, K\] and w \[E, K, N\]"),
        ("grouped_matmul %x, %k, %v", r"offsets is .*; \[4\] of i32 or i64 is wanted"),
        ("grouped_matmul %x, %k, %v each 2", r"counts is .*; \[3\] of i32 or i64 is wanted"),
    ],
    "assemble": [
        (f"assemble %e, %e as {Q}", "scale0 is .* needs"),
        (f"assemble %e, %s, %s as {Q}", "has components elements, scale0; 3 are given"),
    ],
    "parts": [("parts %x", "a !breccia.scaled is wanted")],
    "convert_layout": [("convert_layout %x to #breccia.layout<elements = row_major>", "a !breccia.scaled is wanted")],
    "scale_from_amax": [(f"scale_from_amax %x {RECIPE} level 1", "level 1; f32 and a level below 1")],
    "history_update": [("history_update %v, %x", "takes a history .* and one amax")],
    "amax_from_history": [
        ("amax_from_history mean %v", "unknown function 'mean'; known: max, most_recent"),
        ("amax_from_history max %x", r"takes a history \[length\] of f32"),
    ],
    "dot": [
        ("dot nn %x, %x", r"contracted tile axes differ: \[M, 64\] and \[M, 64\]"),
        ("dot xx %x, %x", "unknown form 'xx'; known: nn, nt, tn, tt"),
        ("dot nt %c, %c", "takes floats or element formats"),
    ],
    "dot_scaled": [("dot_scaled nt %e, %x, %e, %s block 32", r"scales of a are .* needs \[M, 2\]")],
    "expand": [("expand %s axis 1 by 16 to 64", "64 elements in blocks of 16 need 4")],
    "unpack": [
        ("unpack %b order packed4 size 66 : ui4", r"packed as packed4 is .*\[M, 33\]"),
        ("unpack %b order row_major size 64 : ui4", "'row_major' is no packed layout; known: packed4, packed6"),
    ],
    "pack": [("pack %e order packed4", "packs codes of 4 bits, not f8E4M3FN")],
    "unswizzle": [("unswizzle %x order swizzle_128x4 to [128, 4]", "is not how swizzle_128x4 stores")],
    "mask": [("mask %x axis 3 valid 4 value 0.0", "axis 3 is out of range")],
    "encode": [
        (f"encode %x, %s {RECIPE}", "takes 0 scales and 0 seed after the values"),
        (f"encode %x, %i {RECIPE}".replace("<>", "<rounding = stochastic>"), "needs origin and extent"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "match"), [pytest.param(*c, id=f"{n}-{i}") for n in CASES for i, c in enumerate(CASES[n])]
)
def test_messages(line: str, match: str) -> None:
    args = ", ".join(f"%{name} : {type_}" for name, type_ in ARGS.items())
    results = "%y, %z" if line.startswith("parts") else "%y"
    text = f"func.func @f({args}) {{\n  {results} = breccia.{line}\n  func.return\n}}"
    with pytest.raises(ParseError, match=match):
        parse_module(text)


def test_every_op_is_tested() -> None:
    names = {op.name.removeprefix("breccia.") for op in (*WHOLE_TENSOR_OPS, *TILE_OPS)} - {"yield"}
    assert names == set(CASES)
