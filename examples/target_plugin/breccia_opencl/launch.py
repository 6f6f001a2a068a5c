"""Emitted source to a function on NumPy arrays; the only file that imports pyopencl."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyopencl as cl

from breccia.codegen.names import entry_name
from breccia.errors import UnsupportedError

LANES = 32
"""Work-items of a group."""
OPTIONS = [f"-DLANES={LANES}", "-cl-fp32-correctly-rounded-divide-sqrt"]
FLOATS = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
DTYPES = {**FLOATS, "i1": np.bool_, "i32": np.int32, "i64": np.int64}
PRELUDE = Path(__file__).with_name("prelude.cl")


@cache
def _queue() -> cl.CommandQueue:
    return cl.CommandQueue(cl.create_some_context(interactive=False))


def missing() -> str:
    """Why kernels cannot run here; empty where they can."""
    try:
        device = _queue().device
    except cl.Error as error:
        return f"OpenCL finds no device: {error}"
    needed = cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT | cl.device_fp_config.DENORM
    exact = device.single_fp_config & needed == needed
    return "" if exact else f"{device.name} rounds quotients or subnormals its own way"


def launch(source: str, entry: str) -> Callable[..., Any]:
    """The function called `entry` of emitted `source`."""
    if lacking := missing():
        raise UnsupportedError(f"opencl: {lacking}; install an OpenCL driver, such as pocl-binary-distribution")
    return _module(source)[entry_name(entry)]


@lru_cache(maxsize=256)
def _module(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "<breccia opencl>", "exec"), names)
    return names


def build(kernels: str) -> cl.Program:
    """The program of emitted kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.CompilerWarning)  # what a driver prints of code that it takes
        return cl.Program(_queue().context, PRELUDE.read_text(encoding="utf-8") + kernels).build(OPTIONS)


def full(shape: tuple[int, ...], number: float, dtype: str) -> np.ndarray[Any, Any]:
    """An array of one number; codes are bytes."""
    return np.full(shape, number, DTYPES.get(dtype, np.uint8))


def run(
    program: cl.Program, name: str, groups: int, given: Sequence[Any], made: Sequence[Any], sizes: Sequence[int]
) -> None:
    """Run a kernel in so many work-groups: on arrays that it reads, arrays that it writes, and sizes."""
    if groups == 0:
        return
    queue, flags = _queue(), cl.mem_flags
    arrays = [np.ascontiguousarray(a) for a in (*given, *made)]
    buffers = [cl.Buffer(queue.context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=_bytes(a)) for a in arrays]
    cl.Kernel(program, name)(queue, (groups * LANES,), (LANES,), *buffers, *map(np.int64, sizes))
    for array, buffer in zip(made, buffers[len(given) :], strict=True):
        if array.size:
            cl.enqueue_copy(queue, _bytes(array), buffer)


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8) if array.size else np.zeros(1, np.uint8)
