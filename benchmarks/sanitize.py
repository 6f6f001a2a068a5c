"""Emitted kernels at odd shapes, once each, for compute-sanitizer: `python -m benchmarks.sanitize --all`.

--all runs this script by itself, then under memcheck (accesses out of bounds, in global and shared memory) and
racecheck (hazards in shared memory), and keeps their summaries. Without it the kernels run in this process, which one
may put under any tool: `compute-sanitizer --tool memcheck python -m benchmarks.sanitize`. Arrays are made and results
are checked on the host, so that little else than emitted kernels runs on the GPU.
On `--device cpu` kernels run in Triton's interpreter, to try the script. Not a benchmark of speed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import torch

import breccia
from benchmarks import _gpu, _machine, gemm, quantize
from breccia import recipes
from breccia.tensor import ScaledTensor, flatten, unflatten

TOOLS = ("memcheck", "racecheck")
PLACES = ("/usr/local/cuda*/bin/compute-sanitizer", "/usr/local/cuda*/compute-sanitizer/compute-sanitizer")
SUMMARY = re.compile(r"^=+ *(.*(?:SUMMARY|Error|Race|Invalid|not supported|Target application).*)$", re.MULTILINE)
SECONDS = 250
"""After which a tool is stopped."""
RIGHT = "are right"
N, K = 300, 576
Function = Callable[..., Any]
Case = Callable[["Bench"], str]
"""A function that runs kernels and says how right they are; it raises where they are not."""


class Bench:
    """Runs functions as kernels on one device.

    Invariants: `kernels` counts the kernels of what was run last.
    """

    def __init__(self, device: str) -> None:
        self.device, self.kernels = device, 0
        if device == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
            from tests.targets.triton import interpreter

            interpreter.patch()
            self.target = "triton:sm_89"  # those of sm_90 are in Gluon, which is not interpreted
        else:
            from breccia.targets.triton import launch

            self.target = f"triton:{launch.device_arch(device)}"

    def run(self, function: Function, *args: Any, dynamic: bool = True) -> Any:
        """The result of a compiled function, on the host; `dynamic` as `breccia.compile` takes it."""
        given = [self.moved(a, self.device) for a in args]
        lowered = breccia.compile(function, target=self.target, dynamic=dynamic).lower(*given)
        self.kernels = lowered.source().count("rt.Kernel(")
        result = lowered.compile()(*given)
        _wait(self.device)
        return self.moved(result, "cpu")

    def moved(self, value: Any, device: str) -> Any:
        if not isinstance(value, ScaledTensor):
            return value.to(device)
        arrays, static = flatten(value)
        return unflatten(static, [a.to(device) for a in arrays])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


# -- kernels -----------------------------------------------------------------------------------------------------------


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16()


def encoded(x: torch.Tensor, name: str) -> Any:
    return x if name == "bf16" else breccia.cast(x, recipes.find(name))


def product(left: str, right: str, rows: int, columns: int = N, *, form: str = "W[N,K]", apart: bool = False) -> Case:
    """A product against the float64 product of the decoded; `apart`: of sizes for which operands are decoded first."""

    def case(bench: Bench) -> str:
        a, axis = encoded(normal(rows, K), left), -1 if form == "W[N,K]" else 0
        w = breccia.cast(normal(*((columns, K) if axis else (K, columns))), recipes.find(right), axis=axis)
        wanted = gemm.values(a) @ (gemm.values(w).t() if axis else gemm.values(w))
        function = gemm.transposed_product if axis else gemm.product
        found = bench.run(function, a, w, dynamic=not apart)
        if apart and bench.kernels < 2 and bench.device != "cpu":  # sm_89 has no need to turn weights
            raise _gpu.MismatchError("one kernel: another path than the one to test")
        return f"error {_gpu.check(found, wanted, gemm.BAR, 'product'):.1e}"

    return case


def grouped(bench: Bench) -> str:
    """Of five groups, the first, the third and the last have no rows; two rows have no group."""
    borders = [0, 0, 37, 37, 128, 128]

    def multiply(a: Any, w: Any, offsets: Any) -> Any:
        return breccia.grouped_matmul(a, breccia.transpose(w, (0, 2, 1)), offsets, out_dtype=torch.bfloat16)

    a, w = encoded(normal(130, K), "float8_1x128"), encoded(normal(5, N, K), "float8_128x128")
    wanted = torch.zeros(130, N, dtype=torch.float64)
    for e, weight in enumerate(gemm.values(w)):
        rows = slice(borders[e], borders[e + 1])
        wanted[rows] = gemm.values(a)[rows] @ weight.t()
    found = bench.run(multiply, a, w, torch.tensor(borders, dtype=torch.int32))
    return f"error {_gpu.check(found, wanted, gemm.BAR, 'grouped product'):.1e}"


def counted(bench: Bench) -> str:
    """Five groups have room for 37 rows; all, none, one, or some of them count."""
    counts = [37, 0, 1, 20, 37]

    def multiply(a: Any, w: Any, counts: Any) -> Any:
        return breccia.grouped_matmul(a, breccia.transpose(w, (0, 2, 1)), counts, out_dtype=torch.bfloat16)

    a, w = encoded(normal(5, 37, K), "float8_1x128"), encoded(normal(5, N, K), "float8_128x128")
    wanted = gemm.values(a) @ gemm.values(w).mT
    for e, count in enumerate(counts):
        wanted[e, count:] = 0
    found = bench.run(multiply, a, w, torch.tensor(counts, dtype=torch.int32))
    return f"error {_gpu.check(found, wanted, gemm.BAR, 'grouped product'):.1e}"


def cast(name: str, axis: int = -1) -> Case:
    """A cast, whose bits are NumPy's."""

    def case(bench: Bench) -> str:
        recipe, x = recipes.find(name), normal(37, 300)
        found = bench.run(lambda x: breccia.cast(x, recipe, axis), x)
        _gpu.check_equal(found, breccia.cast(_gpu.on_host(x), recipe, axis), name)
        return "bits equal"

    return case


def norm(bench: Bench) -> str:
    """A norm and a cast in one, nearly as NumPy's target has it: sums are taken in another order."""

    def function(x: Any, weight: Any) -> Any:
        return breccia.cast(breccia.rms_norm(x, weight), recipes.float8_1x128)

    args = normal(37, 300), normal(300)
    found, wanted = bench.run(function, *args), breccia.compile(function, target="numpy")(*args)
    values, others = (st.dequantize("float32") for st in (found, wanted))
    return f"error {_gpu.check(values, others, quantize.FUSED_TOLERANCE, 'rms_norm, cast'):.1e}"


PAIRS = [
    ("float8_1x128", "float8_128x128"), ("mxfp8_e4m3", "mxfp8_e4m3"), ("nvfp4", "nvfp4"), ("bf16", "uint4_g128_f16"),
    ("mxfp6_e2m3", "mxfp6_e2m3"),
]  # fmt: skip
CASTS = [
    ("float8_1x128", -1), ("mxfp4", -1), ("nvfp4", -1), ("mxfp6_e3m2", -1), ("float8_128x128", -1), ("mxfp8_e4m3", 0),
    ("mxfp4", 0),
]  # fmt: skip
CASES: dict[str, Case] = {
    **{f"cast {name} 37x300, axis {axis}": cast(name, axis) for name, axis in CASTS},
    "rms_norm and cast 37x300": norm,
    **{f"{a} x {b} {rows}x{N}x{K}": product(a, b, rows) for a, b in PAIRS for rows in (1, 7, 130)},
    f"float8_1x128 x float8_128x128 130x{N}x{K}, W[K,N]": product(*PAIRS[0], 130, form="W[K,N]"),
    "grouped float8_1x128 x float8_128x128, empty groups": grouped,
    "grouped float8_1x128 x float8_128x128, counted rows": counted,
    f"bf16 x mxfp4 520x530x{K}, decoded first": product("bf16", "mxfp4", 520, 530, apart=True),
    f"nvfp4 x nvfp4 520x530x{K}, decoded first": product("nvfp4", "nvfp4", 520, 530, apart=True),
    f"float8_1x128 x float8_128x128 520x530x{K}, W[K,N]": product(*PAIRS[0], 520, 530, form="W[K,N]", apart=True),
}


def run_cases(device: str, only: Sequence[str]) -> bool:
    """One line for each kernel; False where one is wrong."""
    torch.manual_seed(0)
    bench = Bench(device)
    print(f"breccia {breccia.__version__}, target {bench.target}", flush=True)
    chosen = {name: case for name, case in CASES.items() if not only or any(part in name for part in only)}
    failed: list[str] = []
    for name, case in chosen.items():
        began = time.perf_counter()
        try:
            said = f"{case(bench)}, {bench.kernels} kernels"
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises belongs into its line
            failed.append(name)
            said = f"FAILED: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
        print(f"  {name:60}{said:32}{time.perf_counter() - began:6.1f} s", flush=True)
    print(f"FAILED: {'; '.join(failed)}" if failed else f"all {len(chosen)} {RIGHT}", flush=True)
    return not failed


# -- under the tools ---------------------------------------------------------------------------------------------------


def sanitizer() -> str | None:
    """The path of compute-sanitizer, if it is installed."""
    found = shutil.which("compute-sanitizer")
    return found or next((path for place in PLACES for path in sorted(glob(place), reverse=True)), None)  # noqa: PTH207


def run_under(tool: str | None, program: str, only: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether this script and a tool, or no tool, found nothing; and the lines to keep."""
    prefix = (
        [program, "--tool", tool, "--target-processes", "application-only", "--error-exitcode", "3"] if tool else []
    )
    command = [*prefix, sys.executable, "-m", "benchmarks.sanitize", *(["--only", *only] if only else [])]
    # Every array is an allocation of its own, whose bounds are known to the tool.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    output, code = _output(command, environment)
    print(output, file=sys.stderr, flush=True)
    summaries = [line.strip() for line in SUMMARY.findall(output)]
    own = [line for line in output.splitlines() if line and not line.startswith("=")]
    right = code == 0 and own[-1:] != [] and own[-1].endswith(RIGHT)
    lines = ["", f"{tool or 'no tool'}: exit code {code}, {time.perf_counter() - began:.0f} s"]
    lines += [f"  {line}" for line in dict.fromkeys(summaries)][-40:] or ["  no summary"] * bool(tool)
    lines += [f"  {line}" for line in (own[-1:] if right and tool else own[-60:])]
    return right and (tool is None or any("SUMMARY: 0 " in line for line in summaries)), lines


def _output(command: Sequence[str], environment: dict[str, str]) -> tuple[str, int | None]:
    """What a command prints, and its exit code; None where it took too long, and it and its children were killed."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        cwd=Path(__file__).parents[1], start_new_session=True,
    )  # fmt: skip
    try:
        return process.communicate(timeout=SECONDS)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0] + f"\nstopped after {SECONDS} s", None


def run_all(only: Sequence[str]) -> bool:
    """This script alone, which also fills Triton's cache, and under each tool; False where anything was found."""
    name, program = torch.cuda.get_device_name(), sanitizer()
    if program is None:
        print(f"no compute-sanitizer on the PATH or at {' or '.join(PLACES)}")
        return False
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    lines = [
        "emitted kernels under compute-sanitizer; every result is checked",
        _machine.describe("numpy", "torch", "triton"),
        f"{name}, {(re.findall('(?i)version.*', version) or [version.strip()])[0]}",
    ]
    clean = True
    for tool in (None, *TOOLS):
        right, more = run_under(tool, program, only)
        clean, lines = clean and right, lines + more
    lines += ["", "nothing found" if clean else "FAILED"]
    if only:
        print("\n".join(lines))
    else:
        _machine.write(f"sanitize-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}", "\n".join(lines))
    return clean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--all", action="store_true", help="run under memcheck and racecheck, and keep what they say")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="kernels whose name contains one of these"
    )
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU: nothing to run here")
        return
    if not (run_all(given.only) if given.all else run_cases(given.device, given.only)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
