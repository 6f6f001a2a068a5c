"""Running emitted helper functions in Triton's interpreter: a file, a kernel around them, NumPy in and out."""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from breccia.targets.triton._casts import Library

_FOLDER = tempfile.TemporaryDirectory(prefix="breccia-triton-tests-")
_NUMBER = itertools.count()


@cache
def load(text: str) -> Any:
    """The module of an emitted file; `@triton.jit` needs a real one."""
    name = f"emitted_{next(_NUMBER)}"
    path = Path(_FOLDER.name) / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def offsets(shape: tuple[int, ...]) -> str:
    """Row-major offsets of a tile as a Triton expression."""
    if not shape:
        return "0"
    parts = []
    step = 1
    for axis in reversed(range(len(shape))):
        index = ", ".join(":" if i == axis else "None" for i in range(len(shape)))
        parts.append(f"tl.arange(0, {shape[axis]})[{index}] * {step}")
        step *= shape[axis]
    return " + ".join(reversed(parts))


def kernel_text(
    library: Library, function: str, inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], scalars: int = 0
) -> str:
    """A file with the library and a kernel that loads whole tiles, calls `function` and stores what it returns.

    Outputs are stored as raw words: uint8 tiles for typed ones.
    """
    names = [f"a{i}" for i in range(len(inputs))]
    pointers = (
        [f"{n}_ptr" for n in names] + [f"s{i}" for i in range(scalars)] + [f"o{i}_ptr" for i in range(len(outputs))]
    )
    lines = ["import triton", "import triton.language as tl", "", *library.texts, "@triton.jit"]
    lines.append(f"def kernel({', '.join(pointers)}):")
    lines += [f"    {n} = tl.load({n}_ptr + {offsets(shape)})" for n, shape in zip(names, inputs, strict=True)]
    arguments = [*names[:1], *names[1 : len(names)]]
    results = ", ".join(f"r{i}" for i in range(len(outputs)))
    if scalars:
        arguments = [*names[:-1], *(f"s{i}" for i in range(scalars)), names[-1]]
    lines.append(f"    {results} = {function}({', '.join(arguments)})")
    for i, shape in enumerate(outputs):
        lines.append(f"    tl.store(o{i}_ptr + {offsets(shape)}, tl.reshape(r{i}, {shape!r}))")
    return "\n".join(lines) + "\n"


def tensor(array: np.ndarray) -> Any:
    """A torch tensor of the same bits."""
    import torch

    array = np.ascontiguousarray(array)
    named = {
        np.dtype(ml_dtypes.bfloat16): torch.bfloat16,
        np.dtype(ml_dtypes.float8_e4m3fn): torch.float8_e4m3fn,
        np.dtype(ml_dtypes.float8_e5m2): torch.float8_e5m2,
        np.dtype(ml_dtypes.float8_e4m3fnuz): torch.float8_e4m3fnuz,
        np.dtype(ml_dtypes.float8_e5m2fnuz): torch.float8_e5m2fnuz,
    }
    if array.dtype in named:
        return torch.from_numpy(array.view(f"u{array.dtype.itemsize}")).view(named[array.dtype])
    return torch.from_numpy(array.copy())


def run(
    library: Library, function: str, inputs: list[np.ndarray], outputs: list[tuple[tuple[int, ...], Any]],
    scalars: tuple[int, ...] = (),
) -> list[np.ndarray]:  # fmt: skip
    """What `function` returns for these tiles, as NumPy arrays of the given shapes and dtypes."""
    import torch

    text = kernel_text(library, function, [a.shape for a in inputs], [shape for shape, _ in outputs], len(scalars))
    module = load(text)
    made = [tensor(np.zeros(shape, dtype)) for shape, dtype in outputs]
    with np.errstate(all="ignore"):
        module.kernel[(1,)](*(tensor(a) for a in inputs), *scalars, *made)
    return [
        m.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[m.element_size()]).numpy().view(dtype)
        for m, (_, dtype) in zip(made, outputs, strict=True)
    ]
