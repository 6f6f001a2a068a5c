"""How accurate a product is, for every recipe: `python -m benchmarks.accuracy`.

Two questions, on N(0, 1) data, 512 x 1024 times 1024 x 256:
  what the recipe costs    cosine and relative error against the float32 product of the original operands
  what we add ourselves    relative error against the float64 product of the *decoded* operands; the bar is 1e-6
and the snippet of the first release, whose cosine against float32 must reach 0.9993.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import breccia
from benchmarks import _machine

BAR_ERROR, BAR_COSINE = 1e-6, 0.9993


def relative_error(found: Any, wanted: Any) -> float:
    """Frobenius norm of the difference over that of `wanted`."""
    difference = np.asarray(found, np.float64) - np.asarray(wanted, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(wanted, np.float64)))


def cosine(a: Any, b: Any) -> float:
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def snippet() -> float:
    """Cosine of the quick start's product against float32."""
    rng = np.random.default_rng(0)
    a, w = rng.standard_normal((16, 256), np.float32), rng.standard_normal((256, 128), np.float32)
    left = breccia.cast(a, breccia.Float8CurrentScaling())
    right = breccia.cast(w, breccia.Float8BlockScaling(block_k=128))
    return cosine(breccia.matmul(left, right), a @ w)


def main() -> None:
    rng = np.random.default_rng(1)
    a, w = rng.standard_normal((512, 1024), np.float32), rng.standard_normal((1024, 256), np.float32)
    plain = a.astype(np.float64) @ w.astype(np.float64)
    lines = [
        "accuracy of a product, 512 x 1024 times 1024 x 256, both sides cast, N(0, 1)",
        _machine.describe("numpy", "ml_dtypes"),
        "",
        f"{'recipe':26}{'bits':>8}{'cosine':>11}{'rel. error':>12}{'ours, against float64 of the decoded':>40}",
    ]
    worst = 0.0
    for name, recipe in breccia.all_recipes().items():
        left, right = breccia.cast(a, recipe), breccia.cast(w, recipe, axis=0)
        found = breccia.matmul(left, right)
        decoded = left.dequantize().astype(np.float64) @ right.dequantize().astype(np.float64)
        ours = relative_error(found, decoded)
        worst = max(worst, ours)
        loss = f"{cosine(found, plain):11.6f}{relative_error(found, plain):12.5f}"
        lines.append(f"{name:26}{right.bits_per_value:8.3f}{loss}{ours:40.2e}")
    quick = snippet()
    held = worst <= BAR_ERROR and quick >= BAR_COSINE
    lines += [
        "",
        f"largest error of our own: {worst:.2e} (at most {BAR_ERROR:.0e})",
        f"cosine of the quick start: {quick:.6f} (at least {BAR_COSINE})",
        "held" if held else "MISSED",
    ]
    _machine.write("accuracy", "\n".join(lines))
    if not held:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
