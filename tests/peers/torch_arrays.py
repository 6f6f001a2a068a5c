"""Between NumPy and PyTorch, bit for bit, with the dtypes that only one of them has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np


def to_torch(x: np.ndarray) -> Any:
    """A PyTorch tensor of the same dtype, copied."""
    import torch

    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def codes_of(tensor: Any) -> np.ndarray:
    """The bytes of a tensor of one-byte entries."""
    import torch

    return tensor.contiguous().view(torch.uint8).numpy()


def nibbles_of(tensor: Any) -> np.ndarray:
    """Two codes for each byte, the low one first."""
    packed = codes_of(tensor)
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


def array_of(tensor: Any) -> np.ndarray:
    """A NumPy array of the same bits; bfloat16 as ml_dtypes has it."""
    import torch

    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.contiguous().numpy()
