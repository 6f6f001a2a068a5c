"""Tiled kernels in languages like C: OpenCL, and others that have work-groups with memory of their own.

    kernel = CKernel(op, "gemm_0", OPENCL, Tables(OPENCL), scratch_bytes=32 << 10)
    kernel.text()

A target brings a `Dialect`, which says how its language spells things, and a prelude that defines what printed kernels
call. examples/target_plugin is such a target.
"""

from __future__ import annotations

from breccia.codegen.c.dialect import Dialect
from breccia.codegen.c.kernel import CKernel
from breccia.codegen.c.tables import Tables

__all__ = ["CKernel", "Dialect", "Tables"]
