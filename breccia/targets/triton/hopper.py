"""What emitted code uses of Gluon for Hopper, under one name each: Triton renamed its copies between 3.6 and 3.9."""

from __future__ import annotations

from typing import Any

from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

__all__ = [
    "async_load",
    "async_store",
    "fence_async_shared",
    "mbarrier",
    "store_wait",
    "warpgroup_mma",
    "warpgroup_mma_wait",
]
_tma: Any = tma
store_wait = _tma.store_wait
async_load: Any = _tma.async_load if hasattr(tma, "async_load") else _tma.async_copy_global_to_shared
"""(descriptor, place, barrier, shared memory): a box arrives, and says so."""
async_store: Any = _tma.async_store if hasattr(tma, "async_store") else _tma.async_copy_shared_to_global
"""(descriptor, place, shared memory): a box leaves."""
