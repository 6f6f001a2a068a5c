"""Quickstart: cast, look inside, decode, multiply, compile, and see what the compiler did.

python examples/01_quickstart.py            # on NumPy
python examples/01_quickstart.py torch      # the same lines on PyTorch, JAX or MLX: numpy, torch, jax, mlx
"""

from __future__ import annotations

import sys

import numpy as np

import breccia
from breccia import recipes


def main(library: str = "numpy") -> None:
    rng = np.random.default_rng(0)
    x_numpy = rng.standard_normal((4, 256), dtype=np.float32)
    w_numpy = rng.standard_normal((256, 64), dtype=np.float32)

    # A tensor of any library works, and results stay in that library, on its device.
    x, w_float = array(x_numpy, library), array(w_numpy, library)

    # 1. Cast. A recipe says how values are stored: here 8-bit floats with one power-of-two scale for 32 of them. The
    #    weight is contracted along its first axis, so its blocks run along that axis.
    w = breccia.cast(w_float, recipes.mxfp8_e4m3, axis=0)
    print(w)
    print(f"{w.nbytes} bytes instead of {w_numpy.nbytes}: {w.bits_per_value} bits per value")

    # 2. Look inside: codes and scales are ordinary arrays of the library.
    print("codes ", type(w.data).__module__.partition(".")[0], tuple(w.data.shape), w.data.dtype)
    print("scales", tuple(w.scale.shape), w.scale.dtype)

    # 3. Decode, and see how large the error is.
    error = np.abs(np.asarray(w.dequantize()) - w_numpy).max() / np.abs(w_numpy).max()
    print(f"largest error relative to the largest weight: {error:.4f}")

    # 4. Multiply. Scaled tensors and plain arrays mix.
    y = np.asarray(breccia.matmul(x, w))
    print(f"cosine with the product in float32: {cosine(y, x_numpy @ w_numpy):.6f}")

    # 5. Every library gives the same bytes.
    assert w.to("numpy") == breccia.cast(w_numpy, recipes.mxfp8_e4m3, axis=0)

    # 6. Compile a function. The activation is quantized too; its rounding is part of the program.
    @breccia.compile
    def layer(x, w):
        st = breccia.cast(breccia.rms_norm(x), recipes.mxfp8_e4m3)
        return breccia.silu(breccia.matmul(st, w))

    print(f"compiled: {tuple(layer(x, w).shape)}")
    print(layer.lower(x, w).explain())


def array(x: np.ndarray, library: str):
    """`x` as the library's own array."""
    if library == "torch":
        import torch

        return torch.from_numpy(x)
    if library == "jax":
        import jax.numpy as jnp

        return jnp.asarray(x)
    if library == "mlx":
        import mlx.core as mx

        return mx.array(x)
    return x


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


if __name__ == "__main__":
    main(*sys.argv[1:])
