"""Text to IR and back: everything prints what it reads, and bad text gives an error with its line, never a crash."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import FileLineColLoc
from xdsl.utils.exceptions import ParseError, VerifyException

from breccia.ir.dialect import parse_module
from breccia.ir.printer import print_module
from breccia.ir.rewriting import show_location
from breccia.testing.validate import check_round_trip

DATA = sorted((Path(__file__).parent / "data").glob("*.mlir"))
X = "!breccia.tensor<[M, 4], f32>"


def body(line: str) -> str:
    return f"func.func @f(%x : {X}) -> {X} {{\n  {line}\n  func.return %y : {X}\n}}"


@pytest.mark.parametrize("file", DATA, ids=lambda f: f.stem)
def test_data_round_trips(file: Path) -> None:
    module = parse_module(file.read_text())
    check_round_trip(module)
    assert print_module(parse_module(print_module(module))) == print_module(module)


def test_locations_survive() -> None:
    text = body('%n = breccia.unary neg %x loc("model.py":7:4)\n  %y = breccia.unary abs %n loc("model.py":8:2)')
    again = parse_module(print_module(parse_module(text), locations=True))
    ops = [op for op in again.walk() if op.name == "breccia.unary"]
    assert [show_location(op) for op in ops] == ["model.py:7", "model.py:8"]
    first = ops[0].location
    assert isinstance(first, FileLineColLoc)
    assert first.column.data == 4


def test_locations_inside_of_kernels_survive() -> None:
    file = next(f for f in DATA if f.stem == "masked")
    text = file.read_text().replace("%d = dot nn %am, %bm", '%d = dot nn %am, %bm loc("model.py":3:1)')
    again = parse_module(print_module(parse_module(text), locations=True))
    assert [show_location(op) for op in again.walk() if op.name == "breccia.dot"] == ["model.py:3"]


def test_names_in_kernels_stay_apart() -> None:
    """A region argument takes its operand's name, numbered; values inside must not be given it again."""
    text = """func.func @f(%a : !breccia.tensor<[4], f32>) -> !breccia.tensor<[4], f32> {
  %e = breccia.unary neg %a
  %e_1 = breccia.unary neg %e
  %y = breccia.kernel "k" in (%e_1) out (!breccia.tensor<[4], f32>) body (%e_1) {
    %e = unary neg %e_1
    %e_2 = unary neg %e
    yield %e_2
  }
  func.return %y : !breccia.tensor<[4], f32>
}"""
    check_round_trip(parse_module(text))


BAD = {
    "truncated": ("func.func @f(%x : !breccia.tensor<[M, 4", "1:"),
    "truncated body": (body("%y = breccia.unary neg %x").rpartition("func.return")[0], "3:"),
    "unknown op": (body("%y = breccia.frobnicate %x"), "2:"),
    "unknown function": (body("%y = breccia.unary foo %x"), "2:"),
    "unknown attribute": (body("%y = breccia.quantize %x policy #breccia.polic<> to #breccia.r<>"), "2:"),
    "unknown alias": (body("%y = breccia.quantize %x policy #nope to #nope"), "2:"),
    "unknown format": (body("%y = breccia.quantize %x policy #breccia.policy<> to #breccia.recipe<f9>"), "2:"),
    "unknown policy field": (body("%y = breccia.quantize %x policy #breccia.policy<foo = bar> to #a"), "2:"),
    "block of zero": (
        body("%y = breccia.quantize %x policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [0, 1]>"), "2:",
    ),
    "no levels": (body("%y = breccia.quantize %x policy #breccia.policy<> to #breccia.recipe<f8E4M3FN>"), "2:"),
    "attribute of another kind": (body("%y = breccia.quantize %x policy 5 to 6"), "2:"),
    "unknown placement": (body("%y = breccia.matmul %x, %x place_a #breccia.place<foo>"), "2:"),
    "undefined value": (body("%y = breccia.binary add %x, %z"), "2:"),
    "name defined twice": (body("%y = breccia.unary neg %x\n  %y = breccia.unary neg %x"), "3:"),
    "type mismatch": (body("%y = breccia.full 1.0 [M, 4] : f16"), "3:"),
    "shape mismatch": (body("%y = breccia.matmul %x, %x"), "2:"),
    "too many operands": (body("%y = breccia.unary neg %x, %x"), "2:"),
    "negative size": (body("%y = breccia.full 1.0 [M, -4] : f32"), "2:"),
    "division by zero": (body("%y = breccia.full 1.0 [M floordiv 0, 4] : f32"), "2:"),
    "division of a division by zero": (body("%y = breccia.full 1.0 [ceildiv(M, 0), 4] : f32"), "2:"),
    "deep parentheses": ("func.func @f(%x : !breccia.tensor<[" + "(" * 1_000_000, "1:"),
    "deep calls": ("func.func @f(%x : !breccia.tensor<[" + "min(" * 1_000_000, "1:"),
    "deep modules": ("builtin.module {\n" * 1_000_000, ""),
    "deep attributes": ("builtin.module attributes {a = " + "[" * 1_000_000, "1:"),
    "a long sum": ("func.func @f(%x : !breccia.tensor<[" + "M+" * 100_000 + "M], f32>)", "1:"),
    "a string that is not closed": ('builtin.module attributes {a = "' + "a" * 100_000, "1:"),
    "a null character": ("func.func @f\x00", "1:"),
    "a broken character": ("func.func @f\udcff()", "1:"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_an_error_with_its_place(name: str) -> None:
    text, place = BAD[name]
    with pytest.raises(ParseError) as caught:
        parse_module(text, "file.mlir")
    assert str(caught.value).startswith(f"file.mlir:{place}")


GENERIC = {
    "missing property": '"breccia.unary"() : () -> ()',
    "property of another kind": '%x = "breccia.full"() <{value = 5, shape = 4, dtype = f32}> '
    ": () -> !breccia.tensor<[1], f32>",
    "wrong result": '%x = "breccia.full"() <{value = #breccia.number<1.0>, shape = #breccia.dims[1], dtype = f32}> '
    ": () -> !breccia.tensor<[2], f32>",
    "kernel without regions": '"breccia.kernel"() <{sym_name = "a"}> ({}, {}, {}, {}) : () -> ()',
}


@pytest.mark.parametrize("name", GENERIC)
def test_bad_generic_text_does_not_verify(name: str) -> None:
    with pytest.raises(VerifyException):
        parse_module(GENERIC[name])


@settings(max_examples=60)
@given(st.data())
def test_mangled_text_never_crashes(data: st.DataObject) -> None:
    """Cut, doubled and changed characters: read, or refused with ParseError or VerifyException."""
    text = data.draw(st.sampled_from([f.read_text() for f in DATA if f.stem in ("masked", "int4_zero_point")]))
    at = data.draw(st.integers(0, len(text) - 1))
    width = data.draw(st.integers(0, 12))
    new = data.draw(st.sampled_from(["", "(", ")", "[", "-1", "0", "M", "f32", "%a", "{", "}", ",", "4 4", "@", '"']))
    with suppress(ParseError, VerifyException):
        parse_module(text[:at] + new + text[at + width :])
