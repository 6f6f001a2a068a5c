"""Time of a GPU: what tuning and the benchmarks measure with, and the tensors that a measuring process is handed.

Large calls: events around each call, 256 MB written before it (which empties the L2 cache) and a short spinning kernel,
under which the host has time to launch; the median of several. So it is time of the device. Small ones: a CUDA graph
that goes through several sets of tensors. In the host's memory, where kernels are interpreted, the host's clock.
"""

# PyTorch's annotations lack some of what is called here.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from breccia.errors import UnsupportedError

Call = Callable[[], Any]
FLUSHED_BYTES = 256 << 20
SPIN_CYCLES = 200_000
ROTATED_BYTES = 200 << 20
"""Bytes of tensors that no L2 cache holds."""
MOST_ROTATIONS = 10


def triton_family() -> str:
    """The version of Triton without its last part, such as "3.6": versions of one family make the same code."""
    return ".".join(triton.__version__.split(".")[:2])


def device_name(tensor: torch.Tensor) -> str:
    """The name of the GPU that a tensor lies on; empty in the host's memory."""
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else ""


def usable_device() -> tuple[str, str]:
    """(the current GPU, its architecture); raises UnsupportedError where PyTorch sees none."""
    from breccia.targets.triton.launch import device_arch

    if not torch.cuda.is_available():
        raise UnsupportedError(
            f"schedules are measured on a GPU, and PyTorch {torch.__version__} sees none here; run this on a machine "
            "with an NVIDIA or AMD GPU and a PyTorch built for it"
        )
    place = f"cuda:{torch.cuda.current_device()}"
    return place, device_arch(place)


def missing(arch: str) -> str:
    """What this machine lacks to run kernels for an architecture; empty where it can, in Triton's interpreter too."""
    from breccia.targets.triton.launch import device_arch

    if triton.knobs.runtime.interpret:
        return ""
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no GPU"
    found = device_arch("cuda")
    return "" if found == arch else f"the GPU of this machine is {found}"


# -- time --------------------------------------------------------------------------------------------------------------


def microseconds(call: Call, device: str | torch.device, runs: int = 20) -> float:
    """Median time of a call; see the top of this file. It has run before, so nothing is compiled here."""
    if torch.device(device).type != "cuda":
        return clocked(call, runs)
    for _ in range(3):
        call()
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)
    pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(runs)]
    for start, end in pairs:
        flushed.zero_()
        torch.cuda._sleep(SPIN_CYCLES)
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return 1e3 * statistics.median(start.elapsed_time(end) for start, end in pairs)


def graph_microseconds(calls: Sequence[Call], device: str | torch.device, rounds: int = 2, replays: int = 7) -> float:
    """Time of one call, from replays of a graph that goes `rounds` times through all `calls`."""
    if torch.device(device).type != "cuda":
        return clocked(lambda: [call() for call in calls], replays) / len(calls)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    graph.replay()
    times: list[float] = []
    for _ in range(replays):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return 1e3 * statistics.median(times) / (rounds * len(calls))


def clocked(call: Call, runs: int) -> float:
    """Median time of a call by the host's clock."""
    times: list[float] = []
    call()
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def rotations(nbytes: int) -> int:
    """How many sets of tensors of this size the L2 cache cannot hold: 2 to 10.

    >>> rotations(1 << 20), rotations(50 << 20), rotations(1 << 30)
    (10, 4, 2)
    """
    return max(2, min(MOST_ROTATIONS, -(-ROTATED_BYTES // max(1, nbytes))))


# -- tensors for another process ---------------------------------------------------------------------------------------


def store(file: Path, tensors: Sequence[torch.Tensor]) -> None:
    """Write tensors with their strides, of which kernels are compiled for some; `torch.load` reads them onto a device.

    Only what lies between a tensor's first and last entry is written, so that a slice does not bring its whole along.
    """
    torch.save([_as_it_lies(tensor) for tensor in tensors], file)


def _as_it_lies(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    if not tensor.numel():
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.as_strided((span,), (1,)).cpu().clone()
    return flat.as_strided(tensor.shape, tensor.stride())
