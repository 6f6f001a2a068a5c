"""Forward and backward functions of a layer, lowered: array code is run, kernels for other targets are printed."""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia import training
from breccia.autodiff import differentiate
from breccia.ir.capabilities import set_target
from breccia.ir.pipeline import Pipeline
from breccia.passes import default_pipeline
from breccia.target import find
from breccia.testing.conformance import compare
from tests.passes.examples import parsed

LAYER = """
func.func @layer(%x: !breccia.tensor<[M, 256], bf16>, %w: !breccia.tensor<[256, 128], bf16>,
                 %b: !breccia.tensor<[128], bf16>) -> !breccia.tensor<[M, 128], bf16> {
  %p = breccia.matmul %x, %w
  %f = breccia.convert %b : f32
  %s = breccia.binary add %p, %f
  %g = breccia.unary silu %s
  %y = breccia.convert %g : bf16
  func.return %y : !breccia.tensor<[M, 128], bf16>
}
"""
RECIPES = {"plain": None, **training.named()}


def halves(recipe: str, text: str = LAYER) -> list[tuple[str, ModuleOp]]:
    made = differentiate(parsed(text, None), [0, 1, 2], RECIPES[recipe])
    return [("layer", made.forward), ("layer_backward", made.backward)]


def emitted(module: ModuleOp, target: str) -> str:
    found, lowered = find(target), module.clone()
    set_target(lowered, found.capabilities)
    Pipeline(default_pipeline(found.capabilities)).run(lowered)
    return found.emit(lowered)


@pytest.mark.parametrize("kind", ["normal", "exact"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_emitted_array_code_is_what_the_functions_mean(recipe: str, kind: str) -> None:
    for name, module in halves(recipe):
        function = find("numpy").launch(emitted(module, "numpy"), name)

        def call(arguments: Any, function: Any = function) -> list[Any]:
            out = function(*arguments)
            return list(out) if isinstance(out, tuple) else [out]

        outcome, detail = compare(module, call, {"M": 37}, kind, strict=False)
        assert outcome != "FAILED", f"{name}: {detail}"


@pytest.mark.parametrize("target", ["triton:sm_90", "triton:sm_100", "pallas:v6e", "metal"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_target_has_kernels_for_both(recipe: str, target: str) -> None:
    """The gradient of the bias is a sum over M, which kernels have to know."""
    for name, module in halves(recipe, LAYER.replace("[M, ", "[64, ")):
        assert name in emitted(module, target)
