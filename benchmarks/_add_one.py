"""One small Triton kernel, to see what a launch costs. Triton reads a kernel's source from its file."""

# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

import triton
import triton.language as tl


@triton.jit
def add_one(x_ptr, y_ptr, n):
    """y = x + 1."""
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n) + 1.0, mask=i < n)
