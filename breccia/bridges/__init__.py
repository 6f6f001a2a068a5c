"""Bridges: tensors of other libraries and checkpoint formats, taken as `ScaledTensor`s and given back.

One file for each foreign format; its first lines say, "theirs -> ours", which way scales go, in which order codes are
packed and how axes lie. A bridge moves bits: it never quantizes anew. What a format cannot hold is an error that says
what it can, and how to go on.

Weights are of shape (..., out, in), as `torch.nn.Linear` has them, whatever the axes of the file; blocks run along the
last axis. Results belong to the library of the arrays given, and lie on their device. A library is imported when a
function needs it, so `import breccia.bridges` imports none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from breccia.bridges.awq import from_awq, to_awq
    from breccia.bridges.bitsandbytes import from_bitsandbytes, to_bitsandbytes
    from breccia.bridges.compressed_tensors import from_compressed_tensors, to_compressed_tensors
    from breccia.bridges.deepseek_v3 import from_deepseek_v3, to_deepseek_v3
    from breccia.bridges.dlpack import from_dlpack, to_dlpack
    from breccia.bridges.gguf import from_gguf, to_gguf
    from breccia.bridges.gpt_oss import from_gpt_oss, to_gpt_oss
    from breccia.bridges.gptq import from_gptq, from_gptq_ordered, to_gptq
    from breccia.bridges.hqq import from_hqq, to_hqq
    from breccia.bridges.mlx import from_mlx, to_mlx
    from breccia.bridges.modelopt import from_modelopt, to_modelopt
    from breccia.bridges.quark import from_quark, to_quark
    from breccia.bridges.safetensors import load_safetensors, save_safetensors
    from breccia.bridges.torchao import from_torchao, to_torchao
    from breccia.bridges.transformer_engine import from_transformer_engine, to_transformer_engine

# Kept equal to the imports above, which are for type checkers alone, by tests/bridges/test_names.py.
_HOMES = {
    "safetensors": "save_safetensors load_safetensors",
    "deepseek_v3": "from_deepseek_v3 to_deepseek_v3",
    "torchao": "from_torchao to_torchao",
    "transformer_engine": "from_transformer_engine to_transformer_engine",
    "compressed_tensors": "from_compressed_tensors to_compressed_tensors",
    "gpt_oss": "from_gpt_oss to_gpt_oss",
    "modelopt": "from_modelopt to_modelopt",
    "gguf": "from_gguf to_gguf",
    "mlx": "from_mlx to_mlx",
    "gptq": "from_gptq from_gptq_ordered to_gptq",
    "awq": "from_awq to_awq",
    "bitsandbytes": "from_bitsandbytes to_bitsandbytes",
    "hqq": "from_hqq to_hqq",
    "quark": "from_quark to_quark",
    "dlpack": "to_dlpack from_dlpack",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - grouped by format
    "save_safetensors", "load_safetensors", "from_deepseek_v3", "to_deepseek_v3", "from_torchao", "to_torchao",
    "from_transformer_engine", "to_transformer_engine", "from_compressed_tensors", "to_compressed_tensors",
    "from_gpt_oss", "to_gpt_oss", "from_modelopt", "to_modelopt", "from_gguf", "to_gguf", "from_mlx", "to_mlx",
    "from_gptq", "from_gptq_ordered", "to_gptq", "from_awq", "to_awq", "from_bitsandbytes", "to_bitsandbytes",
    "from_hqq", "to_hqq", "from_quark", "to_quark", "to_dlpack", "from_dlpack",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Load a bridge on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'breccia.bridges' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value: object = getattr(import_module(f"breccia.bridges.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
