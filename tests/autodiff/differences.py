"""Backward functions against finite differences, both interpreted in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from breccia.autodiff import Differentiated, differentiate
from breccia.ir.interpreter import interpret
from tests.passes.examples import parsed

F32 = "!breccia.tensor<{}, f32>"
STEP = 1e-5


def function(arguments: dict[str, str], body: str, result: str) -> str:
    """A function of f32 arrays, `name: shape`, that returns %y of shape `result` (or of a whole type)."""
    given = ", ".join(f"%{n}: {t if t.startswith('!') else F32.format(t)}" for n, t in arguments.items())
    type_ = result if result.startswith("!") else F32.format(result)
    return f"func.func @f({given}) -> {type_} {{\n{body}\n  func.return %y : {type_}\n}}"


def gradients(
    made: Differentiated, arguments: Sequence[Any], upstream: Sequence[Any], *, wide: bool = True
) -> list[Any]:
    """What the backward function gives, after the forward one."""
    results = interpret(made.forward, arguments, wide=wide)
    return interpret(made.backward, made.backward_arguments(arguments, results, upstream), wide=wide)


def check(text: str, arguments: Sequence[Any], wanted: Sequence[int] | None = None, tolerance: float = 1e-6) -> None:
    """Hold the gradients of every wanted argument (all by default) to central differences of a random weighting."""
    module = parsed(text, None)
    wanted = range(len(arguments)) if wanted is None else wanted
    made = differentiate(module, list(wanted))
    rng = np.random.default_rng(3)
    plain = interpret(module, arguments, wide=True)
    upstream = [rng.standard_normal(np.shape(plain[i])) for i in made.results]
    forward = interpret(made.forward, arguments, wide=True)
    for i in range(made.count):
        np.testing.assert_array_equal(forward[i], plain[i])

    def loss(values: Sequence[Any]) -> float:
        out = interpret(module, values, wide=True)
        return float(sum(np.sum(out[i] * u) for i, u in zip(made.results, upstream, strict=True)))

    for index, found in zip(wanted, gradients(made, arguments, upstream), strict=True):
        x = np.asarray(arguments[index], np.float64)
        expected = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            moved = [x.copy(), x.copy()]
            moved[0][place] += STEP
            moved[1][place] -= STEP
            up, down = (loss([*arguments[:index], m, *arguments[index + 1 :]]) for m in moved)
            expected[place] = (up - down) / (2 * STEP)
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=f"argument {index}")
