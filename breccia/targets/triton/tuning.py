"""What of Triton's schedules is tuned: the hooks of `breccia.target.Tuning`. Light: each imports what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breccia.target import Entries, Tuning

if TYPE_CHECKING:
    from breccia.ir.capabilities import Capabilities
    from breccia.ir.kernel import KernelOp

SPACE = 1
"""Raise it whenever an entry of a schedule gets another meaning: tables that were made before are then not read."""


def _version() -> str:
    from breccia.targets.triton.timing import triton_family

    return f"triton {triton_family()}, space {SPACE}"


def _candidates(kernel: KernelOp, capabilities: Capabilities) -> Sequence[Entries]:
    from breccia.targets.triton.space import candidates

    return candidates(kernel, capabilities)


def _refusal(kernel: KernelOp, capabilities: Capabilities, entries: Entries) -> str:
    from breccia.targets.triton.space import refusal

    return refusal(kernel, capabilities, entries)


def _device(array: Any) -> str:
    from breccia.targets.triton.timing import device_name

    return device_name(array)


def _place() -> tuple[str, str]:
    from breccia.targets.triton.timing import usable_device

    return usable_device()


def _store(file: Path, tensors: Sequence[Any]) -> None:
    from breccia.targets.triton.timing import store

    store(file, tensors)


TUNING = Tuning(
    version=_version,
    candidates=_candidates,
    refusal=_refusal,
    device=_device,
    place=_place,
    store=_store,
    worker="breccia.targets.triton.worker",
    tables=Path(__file__).parent / "tables",
)
