"""Products of scaled tensors on NumPy against float32 BLAS on operands that are decoded already: `python -m
benchmarks.matmul`.

Every round times BLAS and then each recipe, so that a busy machine slows them alike; medians over rounds. What is
measured is the emitted function alone: decoding both operands, the product, and the scales that wait until after it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _machine
from breccia import formats, numerics
from breccia.ir.capabilities import set_target
from breccia.ir.dialect import parse_module
from breccia.ir.interpreter.values import ScaledValue
from breccia.ir.pipeline import Pipeline
from breccia.ir.types import scaled
from breccia.passes import default_pipeline
from breccia.recipes import Recipe, find
from breccia.target import find as find_target
from breccia.testing.validate import flatten_value

SIZE = 1024
ROUNDS = 31
BAR = 1.3
RECIPES = (
    "float8_tensor", "float8_row", "float8_1x128", "float8_128x128", "mxfp8_e4m3", "nvfp4",
    "int4_g128_f16", "uint4_g128_f16",
)  # fmt: skip
Call = Callable[[], Any]


def program(recipe: Recipe) -> Callable[..., Any]:
    """The emitted product of an activation and a weight whose blocks both run along k."""
    shape = (SIZE, SIZE)
    a, b = scaled(shape, formats.float32, recipe), scaled(shape, formats.float32, recipe.along(0, 2))
    out = f"!breccia.tensor<[{SIZE}, {SIZE}], f32>"
    module = parse_module(
        f"func.func @matmul(%a : {a}, %b : {b}) -> {out} {{ %y = breccia.matmul %a, %b  func.return %y : {out} }}"
    )
    target = find_target("numpy")
    set_target(module, target.capabilities)
    Pipeline(default_pipeline(target.capabilities)).run(module)
    return target.launch(target.emit(module), "matmul")


def components(x: Any, recipe: Recipe) -> list[Any]:
    """Stored components, as emitted code takes them."""
    parts = numerics.quantize(x, recipe)
    scales = tuple(s.reshape(1, 1) if s.ndim == 0 else s for s in parts.scales)
    value = ScaledValue(parts.elements, scales, parts.zero_point, parts.offset)
    return flatten_value(scaled((SIZE, SIZE), formats.float32, recipe), value)


def product(recipe: Recipe, a: Any, b: Any) -> tuple[Call, float]:
    """(the timed call, its largest error relative to float64 of the decoded operands)."""
    function, along_k = program(recipe), recipe.along(0, 2)
    arguments = [*components(a, recipe), *components(b, along_k)]
    decoded = (
        numerics.dequantize(numerics.quantize(x, r), r).astype(np.float64) for x, r in ((a, recipe), (b, along_k))
    )
    exact = np.matmul(*decoded)
    error = float(np.abs(function(*arguments) - exact).max() / np.abs(exact).max())
    return lambda: function(*arguments), error


def seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and keep the table; exits with 1 where a bar is missed."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE)).astype(np.float32) for _ in range(2))
    calls: dict[str, Call] = {"BLAS": lambda: np.matmul(a, b)}
    errors: dict[str, float] = {}
    for name in RECIPES:
        calls[name], errors[name] = product(find(name), a, b)
    calls["BLAS again"] = calls["BLAS"]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(seconds(call))
    yardstick = statistics.median([*times["BLAS"], *times["BLAS again"]])
    lines = [f"matmul {SIZE}^3, float32 results, ms: median, over BLAS (at most {BAR}), error relative to the largest"]
    lines += [_machine.describe("numpy"), ""]
    missed = 0
    for name, values in times.items():
        ratio = statistics.median(values) / yardstick
        missed += name in errors and ratio > BAR
        verdict = "" if name not in errors else f"{errors[name]:12.1e}  {'held' if ratio <= BAR else 'MISSED'}"
        lines.append(f"{name:18}{statistics.median(values) * 1e3:9.2f}{ratio:9.2f}{verdict}")
    _machine.write("matmul", "\n".join(lines))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
