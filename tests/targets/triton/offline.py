"""Compiling emitted kernels for GPUs that are not there, and what their machine code says.

    results = compiled("sm_90", {"gemm": text})     # in a process of its own, with a timeout
    results["gemm"].kernels[0].instructions         # {"wgmma.mma_async...": 8}

The emitted function itself runs, on tensors of the host and through a driver that launches nothing: so what is compiled
is what a device would be given, views and specialization included. `python -m tests.targets.triton.offline sm_90` reads
programs as JSON and answers line by line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROWS = 256
"""The size that stands for every symbol."""
_INSTRUCTION = re.compile(
    r"\b(wgmma\.mma_async[\w.:]*|tcgen05\.mma\.[\w.:]*|mma\.sync[\w.:]*|v_mfma_\w+|v_wmma_\w+|v_dot\w+)"
)
_USAGE = re.compile(r"(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


@dataclass(frozen=True)
class Kernel:
    """What machine code of one kernel takes. spills: bytes on NVIDIA, registers on AMD; shared: bytes; serialized: the
    compiler says that Hopper's matrix instructions wait for each other.
    """

    name: str
    registers: int
    spills: int
    shared: int
    instructions: dict[str, int] = field(default_factory=dict[str, int])
    serialized: bool = False

    def has(self, *parts: str) -> bool:
        """True if there is one instruction whose name holds all of `parts`."""
        return any(all(part in name for part in parts) for name in self.instructions)


@dataclass(frozen=True)
class Result:
    """What became of one program: its kernels, or why they could not be compiled."""

    name: str
    kernels: tuple[Kernel, ...]
    error: str
    refused: bool
    seconds: float

    @property
    def failed(self) -> bool:
        return bool(self.error) and not self.refused


def table(results: Mapping[str, Mapping[str, Result]]) -> str:
    """One line for each kernel of each program of each architecture."""
    lines = [f"{'arch':9}{'program':26}{'kernel':22}{'regs':>5}{'spills':>8}{'shared':>8}  instructions"]
    for arch, programs in results.items():
        for name, result in programs.items():
            if result.error:
                lines.append(f"{arch:9}{name:26}{'refused' if result.refused else 'FAILED'}: {result.error[:300]}")
            for k in result.kernels:
                kinds = " ".join(f"{v} {i}" for i, v in sorted(k.instructions.items()))
                lines.append(f"{arch:9}{name:26}{k.name:22}{k.registers:5}{k.spills:8}{k.shared:8}  {kinds}")
    return "\n".join(lines)


def compiled(arch: str, programs: Mapping[str, str], timeout: float = 300) -> dict[str, Result]:
    """Results of traced programs, compiled for `arch` in one process; one that hangs fails, and all after it."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory(prefix="breccia-offline-") as folder:
        environment |= {
            "TRITON_CACHE_DIR": folder, "TRITON_ALWAYS_COMPILE": "1", "TRITON_DUMP_PTXAS_LOG": "1",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }  # fmt: skip
        output, error = Path(folder) / "out", Path(folder) / "err"
        late = ""
        with output.open("w") as out, error.open("w") as err:
            try:
                subprocess.run(
                    [sys.executable, "-m", "tests.targets.triton.offline", arch], input=json.dumps(dict(programs)),
                    stdout=out, stderr=err, env=environment, text=True, check=False, timeout=timeout,
                    cwd=Path(__file__).parents[3],
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                late = f"not done after {timeout} s"
        found = {r.name: r for r in map(_read, output.read_text().splitlines()) if r is not None}
        why = late or f"the process ended: {error.read_text()[-2000:]}"
    return {name: found.get(name) or Result(name, (), why, refused=False, seconds=0) for name in programs}


def _read(line: str) -> Result | None:
    if not line.startswith('{"name"'):
        return None
    entry = json.loads(line)
    return Result(**{**entry, "kernels": tuple(Kernel(**k) for k in entry["kernels"])})


# -- in the process ----------------------------------------------------------------------------------------------------


class _Utils:
    """A driver's functions: every binary loads."""

    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 2, 0, 0, 1024

    def unload_module(self, _: Any) -> None: ...

    def get_device_properties(self, _: Any) -> dict[str, int]:
        return {"max_shared_mem": 1 << 20}

    def fill_tma_descriptor(self, *_: Any) -> str:
        return "descriptor"

    fill_tma_descriptor_tiled = fill_tma_descriptor


class _Launcher:
    """Launches nothing."""

    def __init__(self, source: Any, metadata: Any) -> None: ...

    def __call__(self, *args: Any) -> None: ...


def _driver(arch: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if arch.startswith("sm_"):
        target = GPUTarget("cuda", int(arch[3:]), 32)
    else:
        target = GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)

    class Driver:
        utils, launcher_cls = _Utils(), _Launcher

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int = 0) -> int:
            return 0

        def get_current_target(self) -> Any:
            return target

        def map_python_to_cpp_type(self, kind: str) -> str:
            return kind

    return Driver()


@contextlib.contextmanager
def _without_device(arch: str, made: list[Kernel]) -> Generator[None]:
    """Emitted functions compile for `arch` when they are called on tensors of the host; `made` gets what they need."""
    import triton
    from triton.runtime import driver

    from breccia.targets.triton import launch as rt

    really = triton.compile

    def compile(source: Any, **options: Any) -> Any:
        log = io.StringIO()
        with contextlib.redirect_stdout(log):
            kernel = really(source, **options)
        made.append(_described(kernel, log.getvalue()))
        return kernel

    driver.set_active(_driver(arch))
    triton.compile = compile
    rt._gpu, rt._on = lambda tensor: 0, lambda device: contextlib.nullcontext()
    rt._multiprocessors = lambda device: 132
    rt._stream_of, rt._current_device = lambda: lambda device: 0, lambda: None
    yield
    triton.compile = really


def _described(kernel: Any, log: str) -> Kernel:
    text = kernel.asm["ptx"] if "ptx" in kernel.asm else kernel.asm["amdgcn"]
    if "ptx" in kernel.asm:
        usage = _USAGE.search(log)
        spills, registers = (int(usage[1]), int(usage[2])) if usage else (-1, -1)
    else:
        count = {n: int(v) for n, v in re.findall(r"\.([sv]gpr(?:_spill)?_count):\s+(\d+)", text)}
        registers, spills = count["vgpr_count"], count["vgpr_spill_count"] + count["sgpr_spill_count"]
    return Kernel(
        kernel.metadata.name, registers, spills, kernel.metadata.shared, dict(Counter(_INSTRUCTION.findall(text))),
        "serialized" in log,
    )  # fmt: skip


def _run(name: str, text: str, arch: str, made: list[Kernel]) -> Result:
    """Lower, emit, and call one program."""
    from breccia.errors import UnsupportedError
    from breccia.ir.interpreter import public_function
    from breccia.target import find
    from tests.targets.triton.programs import lowered

    made.clear()
    start, error, refused = time.monotonic(), "", False
    try:
        module = lowered(text, arch)
        target, function = find(f"triton:{arch}"), public_function(module)
        call = target.launch(target.emit(module), function.sym_name.data, "torch")
        call(*map(_argument, function.args))
    except UnsupportedError as caught:
        error, refused = str(caught), True
    except Exception as caught:  # noqa: BLE001 - whatever a compiler raises is a finding
        error = f"{type(caught).__name__}: {str(caught)[-1500:]}"
    return Result(name, tuple(made), error, refused, round(time.monotonic() - start, 2))


def _argument(value: Any) -> Any:
    """A tensor of zeros of an argument's type."""
    import torch

    from breccia.ir import dims
    from breccia.targets.triton import launch as rt
    from breccia.targets.triton.emit import host_dtype

    sizes = {s: ROWS for d in value.type.shape for s in dims.symbols(d)}
    shape = [dims.evaluate(d, sizes) for d in value.type.shape]
    return torch.zeros(shape, dtype=getattr(rt, host_dtype(value.type)))


def main(arch: str) -> None:
    """Answer one line of JSON for each program on standard input."""
    programs: dict[str, str] = json.load(sys.stdin)
    made: list[Kernel] = []
    with _without_device(arch, made):
        for name, text in programs.items():
            print(json.dumps(asdict(_run(name, text, arch, made))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
