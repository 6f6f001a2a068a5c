"""Kernels: what becomes of one layer on each architecture that there is a target for, read on any machine.

python examples/03_kernels.py               # a table, and the kernels for an H100
python examples/03_kernels.py sm_100        # those for a B200; neither needs a GPU or Triton

With an NVIDIA or AMD GPU, PyTorch and Triton, the layer runs there too, and is compared with NumPy.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec

import numpy as np

import breccia
from breccia import recipes
from breccia.target import find


@breccia.compile
def layer(x, w):
    """Activations are normalized, scaled and encoded in one kernel, and multiplied in another."""
    h = breccia.cast(breccia.rms_norm(x), recipes.mxfp8_e4m3)
    return breccia.silu(breccia.matmul(h, w))


def main(architecture: str = "sm_90") -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((48, 512), dtype=np.float32)
    w = breccia.cast(rng.standard_normal((512, 256), dtype=np.float32), recipes.mxfp8_e4m3, axis=0)

    # 1. The same function for every architecture: what they can do is data, so that lowering needs no device.
    for name in find(f"triton:{architecture}").full_names:
        lowered = layer.lower(x, w, target=name)
        scales = re.findall(r"[ab] level \d .*?: (\w+),", lowered.explain())
        product = "dot_scaled" if "tl.dot_scaled(" in lowered.source() else "dot"
        print(f"{name:16} scales at {' and '.join(scales):20} {product}")

    # 2. Why, and the code: Python that can be read, changed and stepped through.
    lowered = layer.lower(x, w, target=f"triton:{architecture}")
    print(lowered.explain())
    print(lowered.source())

    # 3. Run it, where there is a GPU. Nothing else has to be said: the tensors lie there.
    if not on_gpu():
        print("no GPU with PyTorch and Triton: kernels were written, and not run")
        return
    import torch

    y = layer(torch.from_numpy(x).cuda(), w.to("torch", device="cuda"))
    error = np.abs(y.cpu().numpy() - layer(x, w)).max()
    print(f"on {torch.cuda.get_device_name()}: largest difference from NumPy {error:.1e}")


def on_gpu() -> bool:
    if find_spec("torch") is None or find_spec("triton") is None:
        return False
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main(*sys.argv[1:])
