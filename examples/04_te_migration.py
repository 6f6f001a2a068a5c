"""From TransformerEngine's tensors to files that need no TransformerEngine, and to other formats.

Runs with PyTorch alone: where TransformerEngine is not installed, a stand-in with its attributes takes the place of the
tensor that `te.Linear` would hold.

    python examples/04_te_migration.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import breccia


def tensor_of_te() -> Any:
    """An MXFP8Tensor of a weight of (96, 160), its scales padded to 128 x 8 as TransformerEngine pads them."""
    st = breccia.cast(torch.randn(96, 160), breccia.recipes.mxfp8_e4m3)
    try:
        return breccia.to_transformer_engine(st)
    except breccia.UnsupportedError as error:
        print(f"a stand-in is used: {str(error).partition(';')[0]}")
    scales = torch.zeros(128, 8, dtype=torch.uint8)
    scales[:96, :5] = st.scale
    stand_in = type("MXFP8Tensor", (SimpleNamespace,), {})
    return stand_in(
        _rowwise_data=st.data, _rowwise_scale_inv=scales, _columnwise_data=None, _columnwise_scale_inv=None,
        _fp8_dtype=SimpleNamespace(name="kFloat8E4M3"), _with_gemm_swizzled_scales=False, _dtype=torch.bfloat16,
    )  # fmt: skip


def main() -> None:
    st = breccia.from_transformer_engine(tensor_of_te())
    print(st)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.safetensors"
        breccia.save_safetensors({"layer.weight": st}, path)
        again = breccia.load_safetensors(path)["layer.weight"]
        print(f"{path.stat().st_size} bytes in the file; the same bits: {again == st}")
    tensors, scheme = breccia.to_compressed_tensors(st)
    print(f"compressed-tensors: {scheme['format']}, {', '.join(tensors)}")
    print(f"ModelOpt: {', '.join(breccia.to_modelopt(st))}")
    try:
        breccia.to_gguf(st)
    except breccia.UnsupportedError as error:
        print(f"GGUF: {error}")


if __name__ == "__main__":
    main()
