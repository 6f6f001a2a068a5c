"""Whole `cast` and `dequantize` on NumPy against ml_dtypes: `python -m benchmarks.cast [--size 4096] [--runs 7]`.

The yardstick for `cast` is `x.astype(float8_e4m3fn)` alone; a cast here is amax, scales, encoding and packing. The
yardstick for `dequantize` is `codes.view(float8_e4m3fn).astype(float32)`. Yardsticks are measured first and last;
all cases take turns in one process and one thread, and medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable

import ml_dtypes
import numpy as np

from benchmarks import _machine
from breccia import recipes
from breccia.tensor import cast_array

BARS = {
    "float8_tensor": 1.2, "float8_row": 1.2, "float8_1x128": 1.2, "mxfp8_e4m3": 1.2, "nvfp4": 0.8, "int4_g128_f16": 0.8,
    "float8_128x128": None, "mxfp4": None, "mxfp6_e2m3": None, "uint4_g128_f16": None, "int8_row": None, "nf4": None,
}  # fmt: skip
"""Least speed of `cast` relative to the yardstick; None is reported only. Those with a bar also have DEQUANTIZE_BAR."""
DEQUANTIZE_BAR = 3.0
MEMORY_BAR = 3.0


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = function()
    elapsed = time.perf_counter() - start
    del result
    return 1e3 * elapsed


def peak_bytes(function: Callable[[], object]) -> int:
    """Most bytes allocated at a time, the result included."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((options.size, options.size)).astype(np.float32)
    tensors = {name: cast_array(x, recipes.find(name)) for name in BARS}
    codes = tensors["float8_tensor"].data.view(ml_dtypes.float8_e4m3fn)
    cases: dict[str, Callable[[], object]] = {
        "astype first": lambda: x.astype(ml_dtypes.float8_e4m3fn),
        "decode first": lambda: codes.astype(np.float32),
    }
    for name in BARS:
        cases[f"cast {name}"] = lambda name=name: cast_array(x, recipes.find(name))
        cases[f"dequantize {name}"] = lambda name=name: tensors[name].dequantize()
    cases["astype last"] = cases["astype first"]
    cases["decode last"] = cases["decode first"]
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(options.runs + 1):
        for name, function in cases.items():
            elapsed = milliseconds(function)
            if turn:
                times[name].append(elapsed)
    report(x, times, options.runs)


def report(x: np.ndarray, times: dict[str, list[float]], runs: int) -> None:
    middle = {name: statistics.median(values) for name, values in times.items()}
    astype = statistics.median(times["astype first"] + times["astype last"])
    decode = statistics.median(times["decode first"] + times["decode last"])
    yardsticks = (
        f"yardsticks, first and last: astype(float8_e4m3fn) {middle['astype first']:.1f} {middle['astype last']:.1f}, "
        f"view(float8_e4m3fn).astype(float32) {middle['decode first']:.1f} {middle['decode last']:.1f}"
    )
    lines = [
        f"cast of {x.shape[0]}x{x.shape[1]} float32 (Gaussian), ms, median of {runs}; one process, one thread",
        _machine.describe("numpy", "ml_dtypes"),
        yardsticks,
        "",
        f"{'recipe':20}{'cast':>9}{'x speed':>9}{'bar':>6}{'dequant.':>10}{'x speed':>9}{'bar':>6}{'peak/input':>12}",
    ]
    missed: list[str] = []
    for name, bar in BARS.items():
        cast, back = middle[f"cast {name}"], middle[f"dequantize {name}"]
        memory = peak_bytes(lambda name=name: cast_array(x, recipes.find(name))) / x.nbytes
        speed, back_speed = astype / cast, decode / back
        least = "" if bar is None else f"{DEQUANTIZE_BAR:.1f}"
        lines.append(
            f"{name:20}{cast:9.1f}{speed:9.2f}{'' if bar is None else bar:>6}"
            f"{back:10.1f}{back_speed:9.2f}{least:>6}{memory:12.2f}"
        )
        if bar is not None and (speed < bar or back_speed < DEQUANTIZE_BAR):
            missed.append(name)
        if memory >= MEMORY_BAR:
            missed.append(f"{name} (memory)")
    lines += [
        "",
        f"bars: {'held' if not missed else 'MISSED by ' + ', '.join(missed)}; memory bar: under {MEMORY_BAR:g} x input",
    ]
    _machine.write("cast", "\n".join(lines))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
