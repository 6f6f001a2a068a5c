"""Sizes to expect: they are said on functions, print, and are found from every op inside."""

from __future__ import annotations

from xdsl.dialects.func import FuncOp

from breccia.ir import dims
from breccia.ir.dialect import parse_module
from breccia.ir.dims import Sym
from breccia.ir.hints import TYPICAL, expected, set_typical, typical_sizes
from breccia.ir.printer import print_module
from breccia.ir.rewriting import functions, kernels

X = "!breccia.tensor<[M, 4], f32>"
TEXT = f"""
func.func @f(%x : {X}) -> {X} {{
  %y = breccia.kernel "k" in (%x) out ({X}) body (%x) {{ %n = unary neg %x  yield %n }}
  func.return %y : {X}
}}"""


def function() -> FuncOp:
    return next(functions(parse_module(TEXT)))


def test_said_on_the_function_and_read_back() -> None:
    module = parse_module(TEXT)
    set_typical(next(functions(module)), {"N": 64, "M": 4096})
    text = print_module(module)
    assert f'{TYPICAL} = "M=4096 N=64"' in text
    again = parse_module(text)
    assert typical_sizes(next(functions(again))) == {"M": 4096, "N": 64}


def test_every_op_inside_knows_them() -> None:
    module = parse_module(TEXT)
    set_typical(next(functions(module)), {"M": 16})
    (kernel,) = kernels(module)
    assert typical_sizes(kernel) == typical_sizes(next(iter(kernel.body.block.ops))) == {"M": 16}


def test_nothing_is_known_unless_it_is_said() -> None:
    f = function()
    assert typical_sizes(f) == {}
    set_typical(f, {})
    assert TYPICAL not in f.attributes
    assert typical_sizes(parse_module(TEXT)) == {}, "a module is no function"


def test_expected_sizes_are_numbers_where_all_symbols_are_known() -> None:
    sizes = {"M": 40}
    assert expected(7, {}) == 7
    assert expected(Sym("M"), sizes) == 40
    assert expected(dims.ceildiv(Sym("M"), 32), sizes) == 2
    assert expected(Sym("N"), sizes) is None
    assert expected(dims.add(Sym("M"), Sym("N")), sizes) is None
