"""How each convention reads a weight, and what it says of it without reading its data.

The bridges do both. Those that keep buffers are run on views of the mapped file, which reads no page of them but
single numbers; those that repack are run on a few rows of zeros of the same dtypes, once for each kind of weight, and
the sizes that this leaves open are checked here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from breccia.bridges import bitsandbytes, gguf
from breccia.bridges._common import Parts, entries, recipe_of
from breccia.bridges.awq import from_awq
from breccia.bridges.compressed_tensors import from_compressed_tensors
from breccia.bridges.deepseek_v3 import from_deepseek_v3
from breccia.bridges.gpt_oss import from_gpt_oss
from breccia.bridges.gptq import from_gptq
from breccia.bridges.modelopt import from_modelopt
from breccia.checkpoint.config import QuantConfig
from breccia.checkpoint.groups import Group
from breccia.errors import FormatError, UnsupportedError
from breccia.formats import float32
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

HostArray = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Views = Mapping[str, HostArray]
"""The tensors of one weight by their part."""
_ROWS = 32
"""Rows of the stand-ins: a multiple of what one word of 32 bits holds, whatever the bits."""


class Given(NamedTuple):
    """What there is of a weight: its names, its tensors as views, and what the configuration says."""

    group: Group
    views: Views
    config: QuantConfig


class Meaning(NamedTuple):
    """What the tensors of a weight mean together."""

    recipe: Recipe
    shape: Shape


@dataclass(frozen=True)
class Convention:
    """`describe` tells what the tensors of a group mean, checking that they fit; `read` makes the tensor."""

    describe: Callable[[Given], Meaning]
    read: Callable[[Given], ScaledTensor]


def _said(st: ScaledTensor) -> Meaning:
    return Meaning(st.recipe, st.shape)


def _by_reading(read: Callable[[Given], ScaledTensor]) -> Convention:
    """A convention whose bridge keeps the buffers, so that reading costs nothing."""
    return Convention(lambda given: _said(read(given)), read)


def _deepseek_v3(given: Given) -> ScaledTensor:
    parts = Parts("DeepSeek-V3", given.views)
    data = parts.take("weight")
    part = "weight_scale_inv" if "weight_scale_inv" in given.views else "scale"
    scale = parts.take(part)
    parts.done()
    name = data.dtype.name
    if name not in ("float8_e4m3fn", "float8_e5m2"):
        raise FormatError(f"{given.group.parts['weight']} is {name}; beside {part} it must be FP8")
    fp8_format: Any = "E4M3" if name == "float8_e4m3fn" else "E5M2"
    return from_deepseek_v3(data, scale, block_k=given.config.block, fp8_format=fp8_format)


def _modelopt(given: Given) -> ScaledTensor:
    return from_modelopt(given.views, block_size=given.config.block, dtype="float32")


def _gpt_oss(given: Given) -> ScaledTensor:
    return from_gpt_oss(given.views["blocks"], given.views["scales"], dtype="float32")


# -- bridges that repack: described by a few rows of zeros -------------------------------------------------------------


Spec = tuple[tuple[str, str, Shape], ...]
"""(part, dtype, shape) of each tensor of a stand-in."""


def _spec(views: Views, shapes: Mapping[str, Shape]) -> Spec:
    return tuple((part, views[part].dtype.name, shapes[part]) for part in sorted(shapes))


def _zeros(spec: Spec) -> dict[str, HostArray]:
    return {part: np.zeros(shape, np.dtype(dtype)) for part, dtype, shape in spec}


def _matrices(group: Group, views: Views, *parts: str) -> None:
    for part in parts:
        if part not in views:
            raise FormatError(f"{group.name} has no {part}; it has {', '.join(sorted(views))}")
        if views[part].ndim != 2:
            raise FormatError(f"{group.parts[part]} must be a matrix, got shape {views[part].shape}")


def _gptq_arguments(config: QuantConfig) -> dict[str, Any]:
    """Arguments of `from_gptq`; refused without a configuration: zero points of the versions differ by one."""
    if config.method != "gptq":
        raise FormatError("GPTQ's weights need a config.json or quantize_config.json: version 1 and 2 look alike")
    known = {"gptq": 1, "gptq_v2": 2}
    version = config.fields.get("checkpoint_format") or "gptq"
    if not isinstance(version, str) or version not in known:
        raise UnsupportedError(f"{config.source}: checkpoint_format {version!r}; readable: gptq and gptq_v2")
    bits, group_size = config.integer("bits", default=4), config.integer("group_size", default=128)
    return {"bits": bits, "group_size": group_size, "version": known[version]}


@lru_cache(maxsize=512)
def _of_gptq(spec: Spec, bits: int, group_size: int, version: int) -> Meaning:
    return _said(from_gptq(_zeros(spec), bits=bits, group_size=group_size, version=version))


def _describe_gptq(given: Given) -> Meaning:
    group, views, config = given
    _matrices(group, views, "qweight", "qzeros", "scales")
    arguments = _gptq_arguments(config)
    bits, rows = arguments["bits"], _ROWS
    words, zeros, scales = (views[part].shape for part in ("qweight", "qzeros", "scales"))
    out = words[1]
    _same(group, "qzeros", zeros[1] * 32, out * bits, "bits")
    _same(group, "scales", scales[1], out, "columns")
    shapes: dict[str, Shape] = {
        "qweight": (words[0], rows), "qzeros": (zeros[0], rows * bits // 32), "scales": (scales[0], rows),
    }  # fmt: skip
    made = _of_gptq(_spec(views, shapes), **arguments)
    if "g_idx" in views:
        _same(group, "g_idx", entries(views["g_idx"].shape), made.shape[1], "entries")
    _nothing_else(group, {"qweight", "qzeros", "scales", "g_idx"})
    return Meaning(made.recipe, (out, made.shape[1]))


def _read_gptq(given: Given) -> ScaledTensor:
    return from_gptq(given.views, **_gptq_arguments(given.config))


def _awq_arguments(views: Views, config: QuantConfig) -> dict[str, Any]:
    groups = max(views["scales"].shape[0], 1)
    group = config.integer("group_size", "q_group_size", default=-(-views["qweight"].shape[0] // groups))
    bits = config.integer("bits", "w_bit", default=4)
    if bits != 4:
        raise UnsupportedError(f"{config.source}: AWQ with {bits} bits; readable: 4")
    return {"group_size": group, "version": str(config.fields.get("version") or "gemm")}


@lru_cache(maxsize=512)
def _of_awq(spec: Spec, group_size: int, version: str) -> Meaning:
    return _said(from_awq(_zeros(spec), group_size=group_size, version=version))


def _describe_awq(given: Given) -> Meaning:
    group, views, config = given
    _matrices(group, views, "qweight", "qzeros", "scales")
    words, zeros, scales = (views[part].shape for part in ("qweight", "qzeros", "scales"))
    _same(group, "qzeros", zeros[1], words[1], "columns")
    _same(group, "scales", scales[1], words[1] * 8, "columns")
    few = _ROWS // 8
    shapes: dict[str, Shape] = {
        "qweight": (words[0], few), "qzeros": (zeros[0], few), "scales": (scales[0], _ROWS),
    }  # fmt: skip
    made = _of_awq(_spec(views, shapes), **_awq_arguments(views, config))
    _nothing_else(group, {"qweight", "qzeros", "scales"})
    return Meaning(made.recipe, (words[1] * 8, made.shape[1]))


def _read_awq(given: Given) -> ScaledTensor:
    return from_awq(given.views, **_awq_arguments(given.views, given.config))


def _compressed_arguments(given: Given) -> Mapping[str, Any]:
    if given.config.method is None and "weight_global_scale" in given.views:  # NVFP4: the names alone say so
        return {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    return given.config.arguments(given.group.module)


@lru_cache(maxsize=512)
def _of_compressed(spec: Spec, columns: int, arguments: str) -> Meaning:
    views = _zeros(spec)
    if "weight_shape" in views:
        views["weight_shape"] = np.array([_ROWS, columns], np.int64)
    return _said(from_compressed_tensors(views, json.loads(arguments)))


def _describe_compressed(given: Given) -> Meaning:
    group, views, _ = given
    arguments = _compressed_arguments(given)
    if arguments.get("type", "int") == "float":
        return _said(from_compressed_tensors(views, arguments))
    elements = "weight_packed" if "weight_packed" in views else "weight"
    _matrices(group, views, elements)
    shape = views[elements].shape
    if elements == "weight_packed":
        if "weight_shape" not in views:
            raise FormatError(f"{group.name} has no weight_shape; it has {', '.join(sorted(views))}")
        shape = tuple(int(n) for n in views["weight_shape"].reshape(-1))
        if len(shape) != 2:
            raise FormatError(f"{group.parts['weight_shape']} must name two sizes, got {shape}")
    bits, rows = int(arguments.get("num_bits") or 8), shape[0]
    _same(group, elements, views[elements].shape[0], rows, "rows")
    shapes: dict[str, Shape] = {part: x.shape for part, x in views.items() if part != "weight_g_idx"}
    shapes[elements] = (_ROWS, views[elements].shape[1])
    if entries(shapes["weight_scale"]) > 1:
        _same(group, "weight_scale", shapes["weight_scale"][0], rows, "rows")
        shapes["weight_scale"] = (_ROWS, *shapes["weight_scale"][1:])
    if "weight_zero_point" in views:
        one_a_byte = views["weight_zero_point"].dtype == np.int8
        wanted = rows if one_a_byte else -(-rows * bits // 32)
        _same(group, "weight_zero_point", (*shapes["weight_zero_point"], 0)[0], wanted, "rows")
        few = _ROWS if one_a_byte else _ROWS * bits // 32
        shapes["weight_zero_point"] = (few, *shapes["weight_zero_point"][1:])
    made = _of_compressed(_spec(views, shapes), shape[1], json.dumps(arguments, sort_keys=True))
    return Meaning(made.recipe, shape)


def _read_compressed(given: Given) -> ScaledTensor:
    return from_compressed_tensors(given.views, _compressed_arguments(given))


def _describe_bitsandbytes(given: Given) -> Meaning:
    group, parts = given.group, Parts(bitsandbytes.PEER, given.views)
    state = bitsandbytes._state(parts)
    shape, size = tuple(int(n) for n in state["shape"]), int(state["blocksize"])
    weight, book = parts.take("weight"), np.asarray(parts.take("quant_map"), np.float32)
    _same(group, "weight", weight.nbytes, -(-entries(shape) // 2), "bytes")
    _same(group, "absmax", parts.take("absmax").size, -(-entries(shape) // size), "entries")
    for part in ("nested_absmax", "nested_quant_map"):
        parts.maybe(part)
    parts.done()
    block, _ = bitsandbytes._block(shape, size)
    return Meaning(recipe_of(bitsandbytes._codebook(book, state["quant_type"]), (float32, block)), shape)


def _read_bitsandbytes(given: Given) -> ScaledTensor:
    return bitsandbytes.from_bitsandbytes(given.views, dtype="float32")


def _same(group: Group, part: str, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise FormatError(
            f"{group.parts[part]} has {found} {what}; the other tensors of {group.name} call for {wanted}"
        )


def _nothing_else(group: Group, known: set[str]) -> None:
    left = sorted(name for part, name in group.parts.items() if part not in known)
    if left:
        raise FormatError(f"{', '.join(left)}: nothing is known of {'such a tensor' if len(left) == 1 else 'these'}")


CONVENTIONS: dict[str, Convention] = {
    "deepseek_v3": _by_reading(_deepseek_v3),
    "modelopt": _by_reading(_modelopt),
    "gpt_oss": _by_reading(_gpt_oss),
    "compressed_tensors": Convention(_describe_compressed, _read_compressed),
    "gptq": Convention(_describe_gptq, _read_gptq),
    "awq": Convention(_describe_awq, _read_awq),
    "bitsandbytes": Convention(_describe_bitsandbytes, _read_bitsandbytes),
}
"""The conventions of safetensors files, beside breccia's own and plain arrays."""


# -- GGUF --------------------------------------------------------------------------------------------------------------


def gguf_meaning(kind: str, shape: Shape, has_scale: bool) -> Meaning | None:
    """What a tensor of one of ggml's types means; None for types that no recipe holds."""
    found = gguf.KINDS.get(kind)
    if found is None:
        return None
    if has_scale:
        return Meaning(recipe_of(found.recipe.element, (float32, None), *_levels(found.recipe)), shape)
    return Meaning(found.recipe, shape)


def _levels(recipe: Recipe) -> list[Any]:
    return [(level.dtype, level.block) for level in recipe.levels]


def read_gguf(kind: str, views: Views) -> ScaledTensor | HostArray:
    """A tensor of a GGUF; of types that no recipe holds, its values in float32."""
    data, scale = views["weight"], views.get("scale")
    if kind in gguf.KINDS:
        return gguf.from_gguf(data, kind, scale=scale)
    return gguf.dequantize_gguf(data, kind)
