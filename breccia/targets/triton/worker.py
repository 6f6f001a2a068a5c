"""A process that builds or measures emitted code: `python -m breccia.targets.triton.worker build|measure`.

Each line of standard input is a request in JSON, and each is answered by one line:

    build     {"source", "entry", "inputs", "arch", "scratch"} -> {"failed"}
    measure   {"source", "entry", "inputs", "wanted", "device", "runs", "graph"} -> {"failed", "microseconds", "graph"}

`inputs` and `wanted` are files that `timing.store` wrote: what the function takes, and what it should give (empty for
no comparison). Building touches no GPU: tensors are shapes without memory, and what is compiled stays in Triton's
cache, where the measuring process finds it. A result is timed once two calls, over memory that held NaN, give equal
bits that are those wanted, but for rounding. `failed` says why not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from breccia.errors import UnsupportedError
from breccia.targets.triton import launch, timing

Tensors = tuple[torch.Tensor, ...]
SMALL_US = 50.0
"""Calls that are quicker are timed in CUDA graphs."""
FLOAT_ERROR = 4e-3
"""Relative error (Frobenius) that another order of sums makes in results of 16 bits, with a margin."""
DIFFERENT_CODES = 1e-2
"""Share of codes of 8 bits and fewer that another order of sums may round to a neighbour."""
POISON = 255
"""In every byte: NaN in float32, bf16, e4m3 and e8m0."""


class _WrongError(Exception):
    """A result that may not be used; the message says why."""


# -- building ----------------------------------------------------------------------------------------------------------


class Built(launch.Kernel):
    """A kernel that is compiled instead of launched, for a device that need not be there."""

    scratch = 0
    """Bytes of shared memory that the device has; 0 for no limit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.call = self.build

    def build(self, programs: int, *args: Any) -> None:
        """Compile for tensors without memory, as `Kernel.prepare` would for those of a device."""
        if not programs:
            return
        tensors, sizes = list(args[: len(self.pointers)]), args[len(self.pointers) :]
        for i in self.boxes:
            tensors[i] = launch._descriptors().aligned(tensors[i])
        for i in self.columns:
            if tensors[i].stride(0) != 1 < tensors[i].shape[0]:
                tensors[i] = launch.columns(tuple(tensors[i].shape), tensors[i].dtype, tensors[i])
        self._check(tensors)
        strides = self._strides(tensors)
        made = launch._Specialized(self, tensors, sizes, strides, constant=True)
        kind = launch._descriptors().GluonASTSource if self.boxes else ASTSource
        source = kind(self.fn, made.signature, made.constants, made.attributes)
        compiled: Any = triton.compile(source, target=gpu_target(self.target), options=dict(self.options))
        if 0 < self.scratch < compiled.metadata.shared:
            raise _WrongError(
                f"kernel {self.fn.__name__} needs {compiled.metadata.shared} bytes of shared memory, and {self.target} "
                f"has {self.scratch}"
            )


def gpu_target(arch: str) -> GPUTarget:
    """An architecture as Triton's compiler calls it."""
    if arch.startswith("sm_"):
        return GPUTarget("cuda", int(arch[3:]), 32)
    return GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Compile every kernel of emitted source for the tensors of a call."""
    setattr(launch, "Kernel", Built)  # noqa: B010 - for all modules that this process loads: it launches nothing
    Built.scratch = request["scratch"]
    tensors = torch.load(request["inputs"], map_location="meta")
    launch.launch(request["source"], request["entry"])(*tensors)
    return {"failed": ""}


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Check the results of emitted source, then time it."""
    device = torch.device(request["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    inputs = _loaded(request["inputs"], str(device))
    function = launch.launch(request["source"], request["entry"])
    check(lambda: function(*inputs), _loaded(request["wanted"], str(device)) if request["wanted"] else None)
    graph, took = request["graph"], 0.0
    if not graph:
        took = timing.microseconds(lambda: function(*inputs), device, request["runs"])
        graph = graph is None and device.type == "cuda" and took < SMALL_US
    if graph:
        size = sum(t.numel() * t.element_size() for t in inputs)
        sets = [inputs, *(tuple(map(_copied, inputs)) for _ in range(timing.rotations(size) - 1))]
        calls = [lambda given=given: function(*given) for given in sets]
        took = timing.graph_microseconds(calls, device, replays=max(7, request["runs"] // 2))
    return {"failed": "", "microseconds": took, "graph": graph}


@lru_cache(maxsize=2)
def _loaded(file: str, device: str) -> Tensors:
    """The tensors of a file, on a device; the last ones are kept, since all requests of a search are about them."""
    return tuple(torch.load(file, map_location=device))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same strides elsewhere."""
    if not tensor.numel():
        return tensor
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,)).clone().as_strided(tensor.shape, tensor.stride())


def check(call: Callable[[], Any], wanted: Sequence[torch.Tensor] | None) -> None:
    """Raise _WrongError unless two calls give equal bits, which are those wanted but for rounding."""
    found = _parts(call())
    blocks = [
        torch.full((t.numel() * t.element_size(),), POISON, dtype=torch.uint8, device=t.device)
        for t in found for _ in range(2)
    ]  # fmt: skip
    del blocks  # results of the next call are likely to lie there
    first, second = _parts(call()), _parts(call())
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        if different := int((_bytes(one) != _bytes(other)).sum()):
            raise _WrongError(f"result {number}: {different} bytes differ from one call to the next")
    for number, (one, right) in enumerate(zip(first, wanted or first, strict=True)):
        _compare(one, right, f"result {number}")


def _compare(found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise _WrongError(f"{what}: {found.dtype}{tuple(found.shape)}, not {wanted.dtype}{tuple(wanted.shape)}")
    if not found.numel():
        return
    if found.dtype.itemsize == 1:
        share = float((_bytes(found) != _bytes(wanted)).double().mean())
        if share > DIFFERENT_CODES:
            raise _WrongError(f"{what}: {share:.1%} of the codes differ; at most {DIFFERENT_CODES:.0%} may")
        return
    if not found.dtype.is_floating_point:
        if not torch.equal(found, wanted):
            raise _WrongError(f"{what}: integers differ")
        return
    one, right = found.double(), wanted.double()
    usual = torch.isfinite(right)
    if not bool(torch.isfinite(one[usual]).all()):
        raise _WrongError(f"{what}: NaN or infinity where there should be none")
    if not torch.allclose(one[~usual], right[~usual], equal_nan=True):
        raise _WrongError(f"{what}: NaN or infinity is missing, or another one")
    difference = torch.linalg.norm(one[usual] - right[usual])
    error = float(difference / torch.linalg.norm(right[usual]).clamp(min=1e-300))
    if not error <= FLOAT_ERROR:
        raise _WrongError(f"{what}: relative error {error:.2e} against the default schedule; at most {FLOAT_ERROR:.0e}")


def _parts(result: Any) -> Tensors:
    return result if isinstance(result, tuple) else (result,)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


# -- the process -------------------------------------------------------------------------------------------------------


def main(kind: str) -> None:
    """Answer requests until there are no more. What compilers print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    work = {"build": build, "measure": measure}[kind]
    for line in sys.stdin:
        try:
            answer = work(json.loads(line))
        except (_WrongError, UnsupportedError) as error:
            answer = {"failed": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises is why this one failed
            answer = {"failed": f"{type(error).__name__}: {str(error).strip()[-400:]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
