"""How a function is taken apart: what is saved and where, sizes, constants, locations, and whole programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia.autodiff import Saved, differentiate
from breccia.errors import GradientError
from breccia.ir.forms import verify_form
from breccia.ir.interpreter import CONSTANTS_KEY, interpret
from breccia.ir.rewriting import functions
from breccia.passes import TRACED
from tests.autodiff.differences import check, function, gradients
from tests.passes.examples import ATTENTION, LAYER_NORM, lost_locations, number_locations, parsed, passes, text_of

SILU_GATE = function(
    {"x": "[M, 4]", "g": "[M, 4]"}, "  %s = breccia.unary silu %g\n  %y = breccia.binary mul %x, %s", "[M, 4]"
)


def in_float32(text: str) -> str:
    return text.replace("bf16", "f32")


def test_layer_norm() -> None:
    rng = np.random.default_rng(0)
    arguments = [rng.standard_normal((2, 3, 24)), rng.standard_normal(24), rng.standard_normal(24)]
    check(in_float32(LAYER_NORM), arguments, tolerance=1e-5)


def test_attention() -> None:
    rng = np.random.default_rng(0)
    arguments = [rng.standard_normal((2, n, 5, 16)) for n in (3, 1, 1)]
    check(in_float32(ATTENTION), arguments, tolerance=1e-5)


def test_what_is_saved() -> None:
    made = differentiate(parsed(SILU_GATE, None), [0, 1])
    assert (made.count, made.arguments, made.results) == (1, (0, 1), (0,))
    assert made.saved == (Saved("result", 1), Saved("argument", 0), Saved("argument", 1))
    assert len(interpret(made.forward, [np.ones((2, 4), np.float32)] * 2)) == 2


def test_a_result_is_saved_where_it_is() -> None:
    made = differentiate(parsed(function({"x": "[M]"}, "  %y = breccia.unary exp %x", "[M]"), None), [0])
    assert made.saved == (Saved("result", 0),)
    assert len(interpret(made.forward, [np.ones(2, np.float32)])) == 1


def test_only_what_is_wanted_is_computed() -> None:
    made = differentiate(parsed(SILU_GATE, None), [0])
    text = text_of(made.backward)
    assert "sigmoid" not in text
    assert made.saved == (Saved("result", 1),)


def test_the_module_stays() -> None:
    module = parsed(SILU_GATE, None)
    before = text_of(module)
    differentiate(module, [0, 1])
    assert text_of(module) == before


def test_constants_are_made_again() -> None:
    body = "  %c = breccia.full 3.0 [] : f32\n  %y = breccia.binary mul %x, %c"
    made = differentiate(parsed(function({"x": "[M]"}, body, "[M]"), None), [0])
    assert made.saved == ()
    assert "full 3.0" in text_of(made.backward)


def test_sizes_that_gradients_do_not_tell_are_taken_from_arguments() -> None:
    text = function({"x": "[M, 4]"}, "  %y = breccia.reduce sum %x axis [0]", "[1, 4]")
    made = differentiate(parsed(text, None), [0])
    assert made.saved == (Saved("argument", 0),)
    check(text, [np.ones((3, 4))])


def test_zeros_where_no_result_depends() -> None:
    text = function({"x": "[M, 4]", "z": "[N]"}, "  %y = breccia.unary exp %x", "[M, 4]")
    made = differentiate(parsed(text, None), [0, 1])
    found = gradients(made, [np.ones((2, 4)), np.ones(3)], [np.ones((2, 4))])
    assert found[1].tolist() == [0, 0, 0]


def test_an_argument_that_is_returned() -> None:
    made = differentiate(parsed("func.func @f(%x: !breccia.tensor<[M], f16>) -> !breccia.tensor<[M], f16> {\n"
                                "  func.return %x : !breccia.tensor<[M], f16>\n}", None), [0])  # fmt: skip
    (found,) = gradients(made, [np.ones(2, np.float16)], [np.float16([2, 3])], wide=False)
    assert (found.dtype, found.tolist()) == (np.float16, [2, 3])


def test_constants_keep_their_places() -> None:
    text = SILU_GATE.replace(" {\n", " attributes {breccia.constants = #breccia.ints[0, 1]} {\n", 1)
    made = differentiate(parsed(text, None), [1])
    (forward,), (backward,) = functions(made.forward), functions(made.backward)
    assert forward.attributes[CONSTANTS_KEY].data == (0,)
    assert made.saved == (Saved("argument", 0), Saved("argument", 1))
    assert backward.attributes[CONSTANTS_KEY].data == (1,)


def test_lines_stay() -> None:
    module = parsed(in_float32(LAYER_NORM), None)
    number_locations(module)
    made = differentiate(module, [0, 1, 2])
    assert lost_locations(made.forward) == []
    assert lost_locations(made.backward) == []


@pytest.mark.parametrize("program", [LAYER_NORM, ATTENTION, SILU_GATE])
def test_passes_keep_the_gradients(program: str) -> None:
    """The backward function is in traced form, and every pass on that form keeps its contract on it."""
    from breccia.testing.validate import validate_pipeline

    made = differentiate(parsed(program, "numpy"), [0, 1])
    for module in (made.forward, made.backward):
        verify_form(module, "traced")
        validate_pipeline(module, passes(TRACED), sizes=[{"M": 5, "S": 7}])


def test_one_function_only() -> None:
    with pytest.raises(GradientError, match="a module of 2 functions"):
        differentiate(parsed(SILU_GATE + SILU_GATE.replace("@f", "@g"), None), [0])


def test_states_of_scaling_are_constants() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M, 64], f32>, %h: !breccia.tensor<[16], f32>)
    -> (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[16], f32>) {
  %a = breccia.amax_from_history max %h
  %r = breccia.reshape %a to [1, 1]
  %s = breccia.scale_from_amax %r policy #breccia.policy<amax = delayed, history = 16> to #tensor level 0
  %q = breccia.quantize %x, %s given [0] policy #breccia.policy<amax = delayed, history = 16> to #tensor
  %y = breccia.dequantize %q
  %n = breccia.reduce amax %x axis [0, 1]
  %g = breccia.history_update %h, %n
  func.return %y, %g : !breccia.tensor<[M, 64], f32>, !breccia.tensor<[16], f32>
}"""
    made = differentiate(parsed(text, None), [0])
    x: Any = np.full((1, 64), 2.0, np.float32)
    x[0, 0] = 9
    upstream = [np.ones((1, 64), np.float32), np.ones(16, np.float32)]
    (found,) = gradients(made, [x, np.full(16, 4, np.float32)], upstream, wide=False)
    assert found[0, :2].tolist() == [0.0, 1.0]
