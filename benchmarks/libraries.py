"""`breccia.cast` on PyTorch, JAX and MLX against what people use there: `python -m benchmarks.libraries`.

Options: --libraries torch jax mlx, --size 4096, --runs 7, --old FOLDER (breccia 0.1.3, unpacked from its wheel, for the
comparison with it). Each library has a process of its own, where all cases take turns; medians are compared, as the
peer's time over breccia's. Every result is waited for. A cast here is amax, scales, encoding and packing.
"""

# What the peers annotate is narrower than what they take.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _machine

Run = Callable[[], object]
OVERHEAD_BAR = 60.0
OLD_BAR = 50.0
OLD_CASES = {"MXFP8BlockScaling": 1024, "NVFP4BlockScaling": 4096}
"""0.1.3's recipes and the sizes to compare at: its MXFP8 takes more than 24 GiB for 4096x4096."""
PACKAGES = {"torch": ("torch", "torchao"), "jax": ("jax",), "mlx": ("mlx",)}


@dataclass
class Case:
    """Breccia and a peer, on the same array. Invariant: both callables return finished results."""

    name: str
    ours: Run
    peer: Run
    peer_name: str
    bar: float | None


# -- torch -------------------------------------------------------------------------------------------------------------


def torch_cases(x: np.ndarray) -> list[Case]:
    import logging
    import warnings

    import torch

    logging.disable(logging.WARNING)  # torchao's, on import, about kernels for other machines
    warnings.simplefilter("ignore")
    from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor
    from torchao.quantization import Float8Tensor, Int8Tensor, IntxUnpackedToInt8Tensor
    from torchao.quantization.granularity import PerBlock, PerRow, PerTensor

    import breccia
    from breccia import recipes

    t = torch.from_numpy(x)
    mode = mx_tensor.ScaleCalculationMode.RCEIL

    def mx(element: Any) -> Run:
        return lambda: mx_tensor.to_mx(t, element, 32, mode)

    def nvfp4() -> object:
        return nvfp4_tensor.nvfp4_quantize(t, 16, nvfp4_tensor.per_tensor_amax_to_scale(t.abs().max()))

    def float8(granularity: Any) -> Run:
        return lambda: Float8Tensor.from_hp(t, granularity=granularity)

    def intx(block: int) -> Run:
        return lambda: IntxUnpackedToInt8Tensor.from_hp(t, (1, block), torch.int4)

    peers: list[tuple[str, Run, str, float | None]] = [
        ("float8_tensor", lambda: t.to(torch.float8_e4m3fn), ".to(float8_e4m3fn)", 0.5),
        ("float8_tensor", float8(PerTensor()), "torchao Float8Tensor", 1.0),
        ("float8_row", float8(PerRow()), "torchao Float8Tensor", 1.0),
        ("float8_1x128", float8(PerBlock([1, 128])), "torchao Float8Tensor", 1.0),
        ("float8_128x128", float8(PerBlock([128, 128])), "torchao Float8Tensor", 1.0),
        ("mxfp8_e4m3", mx(torch.float8_e4m3fn), "torchao to_mx", 1.0),
        ("mxfp8_e5m2", mx(torch.float8_e5m2), "torchao to_mx", 1.0),
        ("mxfp6_e2m3", mx("fp6_e2m3"), "torchao to_mx", 1.0),
        ("mxfp6_e3m2", mx("fp6_e3m2"), "torchao to_mx", 1.0),
        ("mxfp4", mx(torch.float4_e2m1fn_x2), "torchao to_mx", 1.0),
        ("nvfp4", nvfp4, "torchao nvfp4_quantize", 1.0),
        ("int8_row", lambda: Int8Tensor.from_hp(t, PerRow()), "torchao Int8Tensor", 1.0),
        ("int4_g128_f32", intx(128), "torchao Intx (int8 storage)", 1.0),
    ]
    found = recipes.all_recipes()
    return [Case(name, lambda r=found[name]: breccia.cast(t, r), peer, what, bar) for name, peer, what, bar in peers]


def torch_overhead() -> float:
    """Microseconds of an eager cast of 16x256."""
    import torch

    import breccia
    from breccia import recipes

    x = torch.randn(16, 256)
    return min(_microseconds(lambda: breccia.cast(x, recipes.float8_tensor)) for _ in range(5))


# -- jax ---------------------------------------------------------------------------------------------------------------


def jax_cases(x: np.ndarray) -> list[Case]:
    import jax
    import jax.numpy as jnp

    import breccia
    from breccia import recipes

    a = jnp.asarray(x)
    cases: list[Case] = []
    found = recipes.all_recipes()
    # Of integers a conversion is no peer: it drops fractions, and is a copy but for that.
    for name, element, bar in (
        ("float8_tensor", "float8_e4m3fn", 0.5), ("float8_row", "float8_e4m3fn", None),
        ("float8_1x128", "float8_e4m3fn", None), ("mxfp8_e4m3", "float8_e4m3fn", None),
        ("mxfp4", "float4_e2m1fn", 0.5), ("nvfp4", "float4_e2m1fn", 0.5), ("int8_row", "float8_e4m3fn", None),
        ("int4_g128_f32", "float8_e4m3fn", None),
    ):  # fmt: skip
        cast = jax.jit(lambda v, r=found[name]: breccia.cast(v, r))
        astype = jax.jit(lambda v, e=element: v.astype(e))
        cases.append(
            Case(
                name,
                lambda cast=cast: jax.block_until_ready(cast(a)),
                lambda astype=astype: jax.block_until_ready(astype(a)),
                f"jitted astype({element})",
                bar,
            )
        )
    return cases


# -- mlx ---------------------------------------------------------------------------------------------------------------


def mlx_cases(x: np.ndarray) -> list[Case]:
    import mlx.core as mx

    import breccia
    from breccia import formats, recipes
    from breccia.recipes import Level, Recipe

    a = mx.array(x)
    nvfp4_one_level = Recipe(formats.float4_e2m1fn, (Level(formats.float8_e4m3fn, (1, 16)),))

    def ours(recipe: Recipe) -> Run:
        def run() -> object:
            st = breccia.cast(a, recipe)
            mx.eval(st.data, *st.scales, *(z for z in (st.zero_point,) if z is not None))
            return st

        return run

    def peer(mode: str, **options: Any) -> Run:
        def run() -> object:
            made = mx.quantize(a, mode=mode, **options)
            mx.eval(*made)
            return made

        return run

    return [
        Case("mxfp4", ours(recipes.mxfp4), peer("mxfp4"), "mx.quantize mxfp4", 1.0),
        Case("mxfp8_e4m3", ours(recipes.mxfp8_e4m3), peer("mxfp8"), "mx.quantize mxfp8", None),
        Case("nvfp4", ours(recipes.nvfp4), peer("nvfp4"), "mx.quantize nvfp4 (one level)", 1.0),
        Case("nvfp4, one level", ours(nvfp4_one_level), peer("nvfp4"), "mx.quantize nvfp4 (one level)", 1.0),
        Case("uint4_g64_f32", ours(recipes.uint4_g64_f32), peer("affine"), "mx.quantize affine", None),
    ]


# -- breccia 0.1.3 -----------------------------------------------------------------------------------------------------

OLD = """
import sys, time, json, statistics
import numpy as np
sys.path.insert(0, sys.argv[1])
library, cases = sys.argv[2], json.loads(sys.argv[3])
import breccia
array, wait = np.asarray, lambda st: st
if library == "torch":
    import torch; array = torch.from_numpy
elif library == "jax":
    import jax; array = jax.numpy.asarray
    wait = lambda st: jax.block_until_ready((st.data, st.scale))
elif library == "mlx":
    import mlx.core as mx; array = mx.array
    wait = lambda st: mx.eval(st.data, st.scale)
out = {}
for name, size in cases.items():
    recipe = getattr(breccia, name)()
    x = array(np.random.default_rng(0).standard_normal((size, size)).astype(np.float32))
    times = []
    for turn in range(3):
        start = time.perf_counter()
        wait(breccia.cast(x, recipe))
        times.append(time.perf_counter() - start)
    out[name] = 1e3 * statistics.median(times[1:])
print(json.dumps(out))
"""


def old_times(folder: str, library: str) -> dict[str, float]:
    """Milliseconds of 0.1.3's casts; the same program also runs this version."""
    command = [sys.executable, "-c", OLD, folder, library, json.dumps(OLD_CASES)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout)


# -- measuring ---------------------------------------------------------------------------------------------------------


def _microseconds(function: Run, calls: int = 2000) -> float:
    for _ in range(calls // 10):
        function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return 1e6 * (time.perf_counter() - start) / calls


def measure(library: str, size: int, runs: int) -> list[str]:
    """The lines of one library's table; the last one is a JSON list of the bars missed."""
    x = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    cases = {"torch": torch_cases, "jax": jax_cases, "mlx": mlx_cases}[library](x)
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in cases]
    for turn in range(runs + 1):
        for case, kept in zip(cases, times, strict=True):
            for function, values in zip((case.ours, case.peer), kept, strict=True):
                start = time.perf_counter()
                result = function()
                elapsed = 1e3 * (time.perf_counter() - start)
                del result
                if turn:
                    values.append(elapsed)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES[library])
    lines = [f"{versions}", f"{'recipe':20}{'cast':>9}{'peer':>9}{'x speed':>9}{'bar':>6}  peer"]
    missed: list[str] = []
    for case, (ours, peer) in zip(cases, times, strict=True):
        mine, theirs = statistics.median(ours), statistics.median(peer)
        lines.append(f"{case.name:20}{mine:9.2f}{theirs:9.2f}{theirs / mine:9.2f}{case.bar or '':>6}  {case.peer_name}")
        if case.bar is not None and theirs / mine < case.bar:
            missed.append(f"{library} {case.name} against {case.peer_name}")
    if library == "torch":
        overhead = torch_overhead()
        lines.append(f"eager cast of 16x256 float32 to float8_tensor: {overhead:.1f} us (bar: {OVERHEAD_BAR:g})")
        if overhead > OVERHEAD_BAR:
            missed.append("torch overhead")
    return [*lines, json.dumps(missed)]


def compare_old(folder: str, libraries: list[str]) -> tuple[list[str], list[str]]:
    """Lines about 0.1.3, and the bars missed."""
    here = str(Path(__file__).resolve().parents[1])
    lines = [
        "against breccia 0.1.3, float32, eager, median of 2",
        f"{'':20}{'cast':>9}{'0.1.3':>9}{'x speed':>9}{'bar':>6}",
    ]
    missed: list[str] = []
    for library in libraries:
        now, then = old_times(here, library), old_times(folder, library)
        for name, size in OLD_CASES.items():
            ratio = then[name] / now[name]
            label = f"{library} {name[:5]} {size}"
            lines.append(f"{label:20}{now[name]:9.2f}{then[name]:9.2f}{ratio:9.1f}{OLD_BAR:6g}")
            if ratio < OLD_BAR:
                missed.append(f"{label} against 0.1.3")
    return lines, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", nargs="+", default=["torch", "jax", "mlx"], choices=list(PACKAGES))
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--old", help="folder with breccia 0.1.3 in it")
    parser.add_argument("--only", choices=list(PACKAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print("\n".join(measure(options.only, options.size, options.runs)))
        return
    title = f"breccia.cast of {options.size}x{options.size} float32 (Gaussian), ms, median of {options.runs}; "
    lines = [title + "x speed: the peer's time over breccia's", _machine.describe("numpy", "ml_dtypes")]
    missed: list[str] = []
    for library in options.libraries:
        command = [sys.executable, "-m", "benchmarks.libraries", "--only", library]
        command += ["--size", str(options.size), "--runs", str(options.runs)]
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout.splitlines()
        lines += ["", *out[:-1]]
        missed += json.loads(out[-1])
    if options.old:
        old, late = compare_old(options.old, ["numpy", *options.libraries])
        lines, missed = [*lines, "", *old], missed + late
    lines += ["", f"bars: {'held' if not missed else 'MISSED by ' + ', '.join(missed)}"]
    _machine.write("libraries", "\n".join(lines))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
