"""Small checkpoints in every convention, written by the bridges, with the weights that they must be read as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import breccia
from breccia import ScaledTensor, recipes
from breccia.bridges.safetensors_file import write_file

NAMES = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
Files = tuple[dict[str, Any], dict[str, Any], dict[str, ScaledTensor]]
"""(stored tensors, quantization_config, the weights)."""


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def modules(recipe: breccia.Recipe, shape: tuple[int, ...] = (64, 256)) -> dict[str, ScaledTensor]:
    return {name: breccia.cast(values(shape, seed), recipe) for seed, name in enumerate(NAMES)}


def _stored(weights: dict[str, ScaledTensor], write: Callable[[ScaledTensor], dict[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{part}": x for name, st in weights.items() for part, x in write(st).items()}


def _plain(bf16: bool = True) -> dict[str, Any]:
    norm = values((256,), 7)
    return {
        "model.norm.weight": norm.astype(ml_dtypes.bfloat16) if bf16 else norm,
        "model.layers.0.mlp.input_scale": np.float32(3).reshape(()),
    }


def _made(weights: dict[str, ScaledTensor], stored: dict[str, Any], config: dict[str, Any]) -> Files:
    return stored | _plain(), config, {f"{name}.weight": st for name, st in weights.items()}


def deepseek() -> Files:
    weights = modules(recipes.float8_128x128, (192, 320))  # partial blocks
    stored = _stored(
        weights, lambda st: dict(zip(("weight", "weight_scale_inv"), breccia.to_deepseek_v3(st), strict=True))
    )
    return _made(weights, stored, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})


def compressed(recipe: breccia.Recipe) -> Callable[[], Files]:
    def make() -> Files:
        weights = modules(recipe)
        schemes = [breccia.to_compressed_tensors(st)[1] for st in weights.values()]
        groups = {"group_0": {"targets": ["Linear"], "weights": schemes[0]["weights"], "format": schemes[0]["format"]}}
        stored = _stored(weights, lambda st: breccia.to_compressed_tensors(st)[0])
        return _made(weights, stored, {"quant_method": "compressed-tensors", "config_groups": groups})

    return make


def modelopt(recipe: breccia.Recipe) -> Callable[[], Files]:
    def make() -> Files:
        weights = modules(recipe)
        return _made(weights, _stored(weights, breccia.to_modelopt), {"quant_method": "modelopt"})

    return make


def gptq(version: int) -> Callable[[], Files]:
    def make() -> Files:
        weights = modules(recipes.uint4_g32_f16)
        stored = _stored(weights, lambda st: breccia.to_gptq(st, version=version))
        form = "gptq" if version == 1 else "gptq_v2"
        config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": form}
        return _made(weights, stored, config)

    return make


def awq() -> Files:
    weights = modules(recipes.uint4_g128_f16)
    config = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    return _made(weights, _stored(weights, breccia.to_awq), config)


def bitsandbytes() -> Files:
    weights = modules(recipes.nf4)
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    return _made(weights, _stored(weights, breccia.to_bitsandbytes), config)


def gpt_oss() -> Files:
    """Fused experts, whose names have no `.weight`."""
    name = "model.layers.0.mlp.experts.gate_up_proj"
    st = breccia.cast(values((3, 16, 64)), recipes.mxfp4)
    blocks, scales = breccia.to_gpt_oss(st)
    stored = {f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": values((3, 16)), **_plain()}
    return stored, {"quant_method": "mxfp4"}, {name: st}


def fused_deepseek() -> Files:
    name = "model.layers.0.mlp.experts.down_proj"
    st = breccia.cast(values((3, 128, 256)), recipes.float8_128x128)
    data, scale = breccia.to_deepseek_v3(st)
    return {name: data, f"{name}_scale_inv": scale, **_plain()}, {"quant_method": "fp8"}, {name: st}


MODELS: dict[str, tuple[str, Callable[[], Files]]] = {
    "deepseek_v3": ("deepseek_v3", deepseek),
    "deepseek_v3 fused": ("deepseek_v3", fused_deepseek),
    "compressed_tensors int4": ("compressed_tensors", compressed(recipes.int4_g128_f16)),
    "compressed_tensors uint4": ("compressed_tensors", compressed(recipes.uint4_g32_f16)),
    "compressed_tensors nvfp4": ("compressed_tensors", compressed(recipes.nvfp4)),
    "compressed_tensors mxfp4": ("compressed_tensors", compressed(recipes.mxfp4)),
    "compressed_tensors fp8": ("compressed_tensors", compressed(recipes.float8_row)),
    "modelopt nvfp4": ("modelopt", modelopt(recipes.nvfp4)),
    "modelopt mxfp8": ("modelopt", modelopt(recipes.mxfp8_e4m3)),
    "modelopt fp8": ("modelopt", modelopt(recipes.float8_tensor)),
    "gptq": ("gptq", gptq(1)),
    "gptq_v2": ("gptq", gptq(2)),
    "awq": ("awq", awq),
    "bitsandbytes": ("bitsandbytes", bitsandbytes),
    "gpt_oss": ("gpt_oss", gpt_oss),
}
"""(convention, files) by a name."""


def write(folder: Path, stored: dict[str, Any], config: dict[str, Any] | None = None, shards: int = 1) -> Path:
    """A folder as Hugging Face has them; tensors go to shards in turn, so that scales are apart from elements."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": "tiny", "quantization_config": config}))
    if shards == 1:
        write_file(folder / "model.safetensors", stored)
        return folder
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    of = {tensor: names[i % shards] for i, tensor in enumerate(stored)}
    for name in names:
        write_file(folder / name, {t: x for t, x in stored.items() if of[t] == name})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": of}))
    return folder
