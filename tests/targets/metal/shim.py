"""Emitted Metal kernels compiled by a C++ compiler, and run on NumPy arrays: see `shim.h`.

`Kernel` takes the place of `breccia.targets.metal.launch.Kernel`. The first call of one compiles all kernels that are
not compiled yet, some at a time, since that costs less than one by one; what was compiled is kept on disk.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from breccia.codegen.names import entry_name
from breccia.target import Target, find
from breccia.targets.metal.emit import IMPORT

HEADER = Path(__file__).with_name("shim.h")
AT_ONCE = 40
"""Kernels of one translation unit."""
FAULTS = (
    "", "reads or writes outside of a buffer", "some threads end where others wait at a barrier",
    "lanes of a simdgroup wait at different places", "needs a larger stack",
    "takes a scalar for an array, or an array for a scalar",
)  # fmt: skip
DTYPES: dict[str, Any] = {
    "float": np.float32, "bfloat16_t": ml_dtypes.bfloat16, "float16_t": np.float16, "bool": np.bool_,
    "int32_t": np.int32, "int64_t": np.int64, "uint8_t": np.uint8,
}  # fmt: skip
ATTRIBUTES = (
    ("uint", "thread_index_in_threadgroup"), ("uint", "simdgroup_index_in_threadgroup"),
    ("uint", "thread_index_in_simdgroup"), ("uint3", "threadgroup_position_in_grid"),
)  # fmt: skip
THREADS = 128


@cache
def compiler() -> tuple[str, ...]:
    """The command of a C++ compiler: $CXX, g++, clang++, or the one that pip installs; skips without one."""
    given = os.environ.get("CXX", "").split()
    for command in (given, ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return tuple(command)
    if find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++")
    pytest.skip("no C++ compiler: set CXX, or pip install ziglang")


@cache
def folder() -> Path:
    """Where compiled kernels are kept."""
    found = Path(os.environ.get("BRECCIA_SHIM_CACHE") or Path(tempfile.gettempdir()) / f"breccia-shim-{os.getuid()}")
    found.mkdir(parents=True, exist_ok=True)
    return found


@dataclass
class Kernel:
    """A kernel of emitted text, with the fields of `launch.Kernel`."""

    name: str
    inputs: tuple[str, ...]
    types: tuple[str, ...]
    outputs: tuple[str, ...]
    dtypes: tuple[str, ...]
    header: str
    body: str
    fill: float | None = None
    sizes: int = 0
    reversed: bool = False
    run: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        text = "\0".join([self.name, str(self.types), str(self.dtypes), self.header, self.body])
        self.key = "k" + hashlib.sha256(text.encode()).hexdigest()[:16]
        _WAITING[self.key] = self

    def call(self, programs: int, arrays: Sequence[Any], shapes: Sequence[Any], sizes: Sequence[int] = ()) -> Any:
        """The results, as `launch.Kernel.call` gives them."""
        assert len(arrays) == len(self.inputs) and len(sizes) == self.sizes  # noqa: PT018
        run = function_of(self)
        given = [np.asarray(a) for a in arrays]
        for array, kind in zip(given, self.types, strict=True):
            assert array.dtype == DTYPES[kind], f"{self.name}: {array.dtype} where {kind} is declared"
        given += [np.array(sizes, np.int32)] * (self.sizes > 0)
        outs: list[np.ndarray] = []
        for shape, kind in zip(shapes, self.dtypes, strict=True):
            made = np.empty(tuple(shape), DTYPES[kind])
            made.view(np.uint8).fill(0xFF) if made.size and made.ndim else None
            if self.fill is not None:
                made[...] = self.fill
            outs.append(made)
        pointers = [a.__array_interface__["data"][0] for a in (*given, *outs)]
        counts = [_reach(a) for a in (*given, *outs)]
        ranks = [(ctypes.c_int * max(a.ndim, 1))(*a.shape) for a in given]
        steps = [(ctypes.c_int64 * max(a.ndim, 1))(*(s // a.itemsize for s in a.strides)) for a in given]
        fault = run(
            (ctypes.c_void_p * len(pointers))(*pointers), (ctypes.c_int64 * len(counts))(*counts),
            (ctypes.c_void_p * max(len(given), 1))(*map(ctypes.addressof, ranks)),
            (ctypes.c_void_p * max(len(given), 1))(*map(ctypes.addressof, steps)),
            (ctypes.c_int * max(len(given), 1))(*(a.ndim for a in given)),
            programs, THREADS, self.reversed,
        )  # fmt: skip
        assert fault == 0, f"kernel {self.name} {FAULTS[fault]}:\n{self.body}"
        return tuple(outs)


def _reach(array: np.ndarray) -> int:
    """How many entries lie between the first and the last of an array, both counted."""
    if not array.size:
        return 0
    return 1 + sum((n - 1) * s // array.itemsize for n, s in zip(array.shape, array.strides, strict=True))


_WAITING: dict[str, Kernel] = {}
_FOUND: dict[str, Any] = {}


def function_of(kernel: Kernel) -> Any:
    """The compiled function, made now if it has to be."""
    if kernel.key not in _FOUND:
        compile_waiting()
    return _FOUND[kernel.key]


def compile_waiting() -> None:
    """Compile every kernel that is not compiled yet."""
    kernels = [k for key, k in sorted(_WAITING.items()) if key not in _FOUND]
    _WAITING.clear()
    parts = [kernels[i : i + AT_ONCE] for i in range(0, len(kernels), AT_ONCE)]
    with ThreadPoolExecutor(2) as pool:
        for part, library in zip(parts, pool.map(_library, parts), strict=True):
            for kernel in part:
                _FOUND[kernel.key] = getattr(library, f"run_{kernel.key}")


def _library(kernels: Sequence[Kernel]) -> ctypes.CDLL:
    """A shared library of some kernels, from disk or made now."""
    text = "\n".join(["#include <shim.h>", *map(unit, kernels)])
    return build(text)


def build(text: str, *flags: str) -> ctypes.CDLL:
    """A shared library of C++ text that includes the shim."""
    command = [*compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-w", f"-I{HEADER.parent}",
               *flags]  # fmt: skip
    key = hashlib.sha256("\0".join([text, HEADER.read_text(), *command]).encode()).hexdigest()[:24]
    path = folder() / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as place:
            source, made = Path(place) / "kernels.cpp", Path(place) / "kernels.so"
            source.write_text(text)
            done = subprocess.run(
                [*command, str(source), "-o", str(made), "-lm"], check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, f"the shim does not compile:\n{done.stderr[:6000]}"
            made.replace(path)
    return ctypes.CDLL(str(path))


def unit(kernel: Kernel) -> str:
    """One kernel as C++: its text as it is, in a namespace, after parameters as MLX would declare them."""
    key = kernel.key
    given = [*zip(kernel.inputs, kernel.types, strict=True), *([("sizes", "int32_t")] if kernel.sizes else [])]
    results = list(zip(kernel.outputs, kernel.dtypes, strict=True))
    parameters, arguments = list[str](), list[str]()
    for i, (name, kind) in enumerate(given):
        parameters += [
            f"shim::buffer<const {kind}> {name}",
            f"const int* {name}_shape",
            f"const int64_t* {name}_strides",
        ]
        arguments += [
            f"{{(const {kind}*)call.data[{i}], call.counts[{i}], call.ranks[{i}] == 0}}",
            f"call.shapes[{i}]",
            f"call.strides[{i}]",
        ]
    for i, (name, kind) in enumerate(results, len(given)):
        parameters.append(f"shim::buffer<{kind}> {name}")
        arguments.append(f"{{({kind}*)call.data[{i}], call.counts[{i}]}}")
    parameters += [f"{kind} {name}" for kind, name in ATTRIBUTES]
    arguments += ["thread", f"thread / {32}u", f"thread % {32}u", "uint3{program, 0, 0}"]
    return f"""
#undef threadgroup
#define threadgroup static __attribute__((section("tg_{key}")))
extern "C" char __start_tg_{key}[] __attribute__((weak)), __stop_tg_{key}[] __attribute__((weak));
namespace {key} {{
{kernel.header}
inline void body({", ".join(parameters)}) {{
{kernel.body}
}}
struct Call {{
    void** data;
    int64_t* counts;
    const int** shapes;
    const int64_t** strides;
    const int* ranks;
}};
inline void thread_body(void* given, uint program, uint thread) {{
    Call& call = *(Call*)given;
    body({", ".join(arguments)});
}}
}}
extern "C" int run_{key}(void** data, int64_t* counts, const int** shapes, const int64_t** strides, const int* ranks,
                         int programs, int threads, int reversed) {{
    {key}::Call call{{data, counts, shapes, strides, ranks}};
    shim::body = {key}::thread_body;
    shim::arguments = &call;
    shim::threads = threads;
    shim::fault = shim::none;
    for (int n = 0; n < programs && !shim::fault; n++) {{
        for (char* at = __start_tg_{key}; at < __stop_tg_{key}; at++) *at = char(0xFF);
        shim::run_program(reversed ? programs - 1 - n : n, reversed);
    }}
    return shim::fault;
}}
"""


# -- a target that runs through it -------------------------------------------------------------------------------------


def loaded(source: str, *, backwards: bool = False) -> dict[str, Any]:
    """What emitted source defines, on NumPy arrays. backwards: threads and programs run in the other order."""
    assert source.startswith(IMPORT), "emitted text begins with its only import"

    def kernel(*args: Any, **kwargs: Any) -> Kernel:
        return Kernel(*args, **kwargs, reversed=backwards)

    rt = SimpleNamespace(
        Kernel=kernel, reshape=np.reshape, transpose=np.transpose, broadcast=np.broadcast_to,
        concat=np.concatenate, full=lambda shape, value, kind: np.full(shape, value, DTYPES[kind]),
    )  # fmt: skip
    namespace: dict[str, Any] = {"rt": rt}
    exec(compile(source.removeprefix(IMPORT), "<metal>", "exec"), namespace)
    return namespace


def launch(source: str, entry: str) -> Callable[..., Any]:
    """The function that emitted source defines. Its results are those of both orders of threads, which are equal."""
    forward, backward = (loaded(source, backwards=b)[entry_name(entry)] for b in (False, True))

    def call(*args: Any) -> Any:
        first, second = forward(*args), backward(*args)
        pairs = zip(*((r if isinstance(r, tuple) else (r,)) for r in (first, second)), strict=True)
        for a, b in pairs:
            same = np.ascontiguousarray(a).reshape(-1).view(np.uint8) == np.ascontiguousarray(b).reshape(-1).view(
                np.uint8
            )
            assert same.all(), "results depend on the order of threads: a race, or memory that is read before written"
        return first

    return call


def target(name: str = "metal:apple") -> Target:
    """The Metal target, run by the shim on NumPy arrays."""
    from dataclasses import replace

    from breccia.targets.metal.emit import emit

    return replace(find(name), emitter=emit, launcher=launch, arrays=("numpy",))
