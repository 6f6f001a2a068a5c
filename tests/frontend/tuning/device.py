"""A device that is not there: tensors of the host count as its own."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

import breccia.arrays.torch as arrays
from breccia.frontend import keys, tables
from breccia.targets.triton import timing

DEVICE = "Fake GPU 80GB"
FAMILY = timing.triton_family()
SECTION = f"triton:sm_90, triton {FAMILY}, space 1"


def pretend(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """From now on, tensors lie on a GPU of that architecture; on none where it is empty."""
    monkeypatch.setattr(arrays, "architecture", lambda _: architecture)
    monkeypatch.setattr(timing, "device_name", lambda _: DEVICE if architecture else "")
    monkeypatch.setattr(keys, "_PLACES", {})  # which keeps the function it found
    tables.read.cache_clear()
