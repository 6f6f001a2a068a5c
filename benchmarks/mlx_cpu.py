"""What `target="metal:apple"` runs where MLX has no Metal, against `mx.quantized_matmul`.

`python -m benchmarks.mlx_cpu`; options: --seconds 3, --quick (a small weight). Products of float32 activations [M, K]
and weights of MLX's own packing, kept as [N, K]: the compiled product, and MLX's own call on the same arrays, take
turns. Times are the least of all turns, as what else runs on a machine only adds to them. Where the program leaves the
product to MLX, `ratio` is the compiled time over MLX's, and at most 1.05; elsewhere there is no bar: the weight is
decoded, and the peer is `mx.quantized_matmul` of MLX's format of as many bits. A wrong result fails the run, a missed
speed does not.
"""

# What the peers annotate is narrower than what they take.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

import breccia
from benchmarks import _machine
from breccia import formats, recipes
from breccia.recipes import Level, Offset, Recipe
from breccia.targets.metal import launch
from breccia.tensor import ScaledTensor

BAR = 1.05
ROWS = {2048: (1, 16), 4096: (1,)}
"""Rows of the activation, by the rows and columns of the weight."""
LEAST = 15
"""Turns at least."""
Array = Any


@dataclass(frozen=True)
class Case:
    """A weight for breccia and for MLX. peer: MLX's product of x; same: both hold the same values."""

    name: str
    weight: ScaledTensor
    peer: Callable[[Array], Array]
    same: bool


def cases(n: int, k: int) -> list[Case]:
    """Weights that MLX multiplies itself, and some that it does not."""
    values = mx.random.normal((n, k), key=mx.random.key(0))
    found: list[Case] = []
    peers: dict[str, Callable[[Array], Array]] = {}
    modes = {
        "mxfp4": (recipes.mxfp4, 32, 4), "mxfp8": (recipes.mxfp8_e4m3, 32, 8),
        "nvfp4": (Recipe(formats.float4_e2m1fn, (Level(formats.float8_e4m3fn, (1, 16)),)), 16, 4),
    }  # fmt: skip
    for mode, (recipe, group, bits) in modes.items():
        words, scales = mx.quantize(values, group_size=group, bits=bits, mode=mode)[:2]
        peers[mode] = _peer(words, scales, None, group, bits, mode)
        weight = ScaledTensor(words.view(mx.uint8), scales, recipe, shape=(n, k))
        found.append(Case(f"{mode} of MLX", weight, peers[mode], same=True))
    words, scales, biases = _three(mx.quantize(values, group_size=64, bits=4))
    peers["affine"] = _peer(words, scales, biases, 64, 4, "affine")
    affine = Recipe(formats.uint4, (Level(formats.float32, (1, 64)),), None, Offset(formats.float32))
    weight = ScaledTensor(words.view(mx.uint8), scales, affine, shape=(n, k), offset=biases)
    found.append(Case("affine of MLX, 4 bits by 64", weight, peers["affine"], same=True))
    for name, peer in (
        ("float8_128x128", "mxfp8"), ("mxfp6_e2m3", "mxfp8"), ("uint4_g64_f32", "affine"), ("nf4", "affine"),
    ):  # fmt: skip
        weight = breccia.cast(values, recipes.find(name))
        found.append(Case(f"{name}, decoded", weight, peers[peer], same=False))
    return found


def _three(parts: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    words, scales, biases = parts
    return words, scales, biases


def _peer(words: Array, scales: Array, biases: Array, group: int, bits: int, mode: str) -> Callable[[Array], Array]:
    return lambda x: mx.quantized_matmul(x, words, scales, biases, group_size=group, bits=bits, mode=mode)


def product(x: Array, w: Any) -> Array:
    """A weight kept as [n, k]."""
    return breccia.matmul(x, w.T)


def measure(case: Case, rows: int, k: int, seconds: float) -> tuple[float, float, int]:
    """Least milliseconds of the compiled product and of the peer, and turns; raises where the result is wrong."""
    x = mx.random.normal((rows, k), key=mx.random.key(1))
    compiled = breccia.compile(product, target="metal:apple")
    found, wanted = np.array(compiled(x, case.weight)), np.array(x) @ np.array(case.weight.dequantize()).T
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if error > 1e-5 or (case.same and not mx.array_equal(mx.array(found), case.peer(x))):
        raise SystemExit(f"{case.name}, {rows} rows: off by {error:.1e} of the largest, or not what MLX gives")
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < LEAST or time.perf_counter() < end:
        for run, kept in zip((lambda: compiled(x, case.weight), lambda: case.peer(x)), times, strict=True):
            start = time.perf_counter()
            mx.eval(run())
            kept.append(time.perf_counter() - start)
    return min(times[0]) * 1e3, min(times[1]) * 1e3, len(times[0])


def table(sizes: dict[int, tuple[int, ...]], seconds: float) -> str:
    """The results as text."""
    lines = [
        "float32 [M, N] times weights kept as [N, N], compiled for metal:apple, run without Metal; ms, least of turns",
        _machine.describe("mlx", "numpy"), "",
        f"{'weight':28}{'N':>6}{'M':>4}{'breccia':>10}{'MLX':>10}{'ratio':>8}{'turns':>7}{'bar':>7}",
    ]  # fmt: skip
    missed = 0
    for size, case, rows in ((n, c, m) for n, counts in sizes.items() for c in cases(n, n) for m in counts):
        ours, theirs, turns = measure(case, rows, size, seconds)
        missed += case.same and ours / theirs > BAR
        bar = f"{BAR:.2f}" if case.same else ""
        lines.append(
            f"{case.name:28}{size:6}{rows:4}{ours:10.3f}{theirs:10.3f}{ours / theirs:8.3f}{turns:7}{bar:>7}".rstrip()
        )
    return "\n".join([*lines, "", f"{missed} bars missed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if launch.is_available():
        raise SystemExit("this machine has Metal: the program would run as kernels; measure those instead")
    warnings.simplefilter("ignore")
    mx.set_default_device(mx.cpu)
    text = table({512: (1,)} if options.quick else ROWS, options.seconds)
    print(text) if options.quick else _machine.write("mlx_cpu", text)


if __name__ == "__main__":
    main()
