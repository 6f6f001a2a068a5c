"""GPTQ: `qweight`, `qzeros`, `scales` and `g_idx` of AutoGPTQ and GPTQModel.

theirs -> ours: (code - zero) * scale. qweight is turned, (in * bits / 32, out): int32 words, codes along the input
axis, lowest bits first (3 bits: a stream across words). qzeros (groups, out * bits / 32) alike along the output axis;
version 1 ("gptq") stores zero - 1, modulo the range, version 2 ("gptq_v2") zero. scales are (groups, out). g_idx names
the group of each input; where it is not in order (desc_act), groups are no blocks of neighbours.

Source: AutoGPTQ and GPTQModel, nn_modules/qlinear.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from breccia.arrays import Array
from breccia.bridges._bits import octets_of, pack_stream, unpack_stream
from breccia.bridges._common import HostArray, Parts, Tensors, check_shape, given_back, host
from breccia.bridges._groups import assembled_groups, taken_apart
from breccia.errors import FormatError, ShapeError, UnsupportedError
from breccia.tensor import ScaledTensor

PEER = "GPTQ"
_WIDTHS = (2, 3, 4, 8)
_IGNORED = ("bias",)


def from_gptq(
    tensors: Tensors, *, bits: int = 4, group_size: int = 128, version: int = 1, dtype: Any = None
) -> ScaledTensor:
    """The weight, of shape (out, in), of GPTQ's tensors; every code, zero point and scale is kept.

    tensors: qweight, qzeros, scales and, if there is one, g_idx. bits, group_size: as in the config; a group_size of -1
    is the whole input. version: 1 for the checkpoint format "gptq", 2 for "gptq_v2". dtype: logical dtype; by default
    that of the scales.

    Raises FormatError for tensors that are missing or do not fit, UnsupportedError for activation order, which
    `from_gptq_ordered` reads.

    >>> words, ones = np.full((4, 8), 0x76543210, np.int32), np.ones((1, 8), np.float16)
    >>> tensors = {"qweight": words, "qzeros": np.full((1, 1), 0x11111111, np.int32), "scales": ones}
    >>> from_gptq(tensors, group_size=32).numpy()[0, :4].tolist()
    [-2.0, -1.0, 0.0, 1.0]
    """
    st, order = _read(tensors, bits, group_size, version, dtype)
    if order is not None:
        raise UnsupportedError(
            f"{PEER}: the inputs of this weight lie in activation order (desc_act): its groups are no blocks of "
            "neighbours. breccia.from_gptq_ordered gives the weight with its columns sorted by group, and "
            "their order"
        )
    return st


def from_gptq_ordered(
    tensors: Tensors, *, bits: int = 4, group_size: int = 128, version: int = 1, dtype: Any = None
) -> tuple[ScaledTensor, HostArray]:
    """(weight, order) of a weight in activation order: column i of `weight` is column `order[i]` of the model's.

    A layer computes `x[..., order] @ weight.T`. Otherwise as `from_gptq`.
    """
    st, order = _read(tensors, bits, group_size, version, dtype)
    return st, np.arange(st.shape[1]) if order is None else order


def to_gptq(
    st: ScaledTensor, *, version: int = 1, order: HostArray | None = None, group_size: int | None = None
) -> dict[str, Array]:
    """qweight, qzeros, scales and g_idx of a matrix (out, in) of 2, 3, 4 or 8 bits with float16 scales per group.

    version: as in `from_gptq`. order: of `from_gptq_ordered`, to write activation order again. group_size: checked
    against the tensor's if given. Signed elements are shifted to unsigned ones, which changes no value.

    Raises UnsupportedError for other tensors, ShapeError where codes do not fill whole words.
    """
    _check_version(version)
    codes, zeros, scales, group = taken_apart(st, PEER, _WIDTHS)
    bits, (out, inputs) = st.recipe.element.bits, st.shape
    if out * bits % 32 or inputs * bits % 32:
        raise ShapeError(f"{PEER} packs {bits}-bit codes in words of 32 bits, which {out} x {inputs} do not fill")
    if group_size is not None and group_size not in (group, -1 if group >= inputs else group):
        raise FormatError(f"{PEER}: the tensor has groups of {group}, not of {group_size}")
    groups = np.arange(inputs) // group
    if order is not None:
        if sorted(order) != list(range(inputs)):
            raise ShapeError(f"order must name each of the {inputs} inputs once")
        back = np.argsort(order)
        codes, groups = codes[:, back], groups[back]
    if version == 1:
        zeros = zeros - np.uint8(1) & np.uint8((1 << bits) - 1)
    made = {
        "qweight": np.ascontiguousarray(_words(codes, bits).T), "qzeros": _words(zeros, bits), "scales": scales,
        "g_idx": groups.astype(np.int32),
    }  # fmt: skip
    return {name: given_back(x, st.data) for name, x in made.items()}


def _read(
    tensors: Tensors, bits: int, group_size: int, version: int, dtype: Any
) -> tuple[ScaledTensor, HostArray | None]:
    _check_version(version)
    if bits not in _WIDTHS:
        raise UnsupportedError(f"{PEER}: codes of {bits!r} bits; allowed: {_WIDTHS}")
    parts = Parts(PEER, tensors, _IGNORED)
    words, packed, scales = host(parts.take("qweight")), host(parts.take("qzeros")), parts.take("scales")
    if words.ndim != 2 or words.dtype != np.int32 or words.shape[0] * 32 % bits:
        raise FormatError(f"{PEER}: qweight must be an int32 matrix, got {words.dtype} {words.shape}")
    inputs, out = words.shape[0] * 32 // bits, words.shape[1]
    group = inputs if group_size == -1 else group_size
    if isinstance(group, bool) or group < 1:
        raise FormatError(f"{PEER}: group_size must be positive, or -1 for the whole input; got {group_size!r}")
    count = -(-inputs // group)
    check_shape(tuple(scales.shape), (count, out), f"scales of {inputs} inputs in groups of {group}", PEER)
    check_shape(packed.shape, (count, out * bits // 32), "qzeros", PEER)
    codes = unpack_stream(octets_of(words.T), bits, inputs)
    zeros = unpack_stream(octets_of(packed), bits, out)
    if version == 1:
        zeros = zeros + np.uint8(1) & np.uint8((1 << bits) - 1)
    order = _order(parts.maybe("g_idx"), inputs, group)
    parts.done()
    if order is not None:
        codes = codes[:, order]
    return assembled_groups(codes, zeros, scales, bits, group, dtype), order


def _order(given: Array | None, inputs: int, group: int) -> HostArray | None:
    """The inputs sorted by group; None where they are. Raises FormatError for groups of another size."""
    if given is None:
        return None
    groups = host(given).astype(np.int64)
    check_shape(groups.shape, (inputs,), "g_idx", PEER)
    wanted = np.arange(inputs) // group
    if np.array_equal(groups, wanted):
        return None
    order = np.argsort(groups, kind="stable")
    if not np.array_equal(groups[order], wanted):
        raise FormatError(f"{PEER}: g_idx does not give each group {group} of the {inputs} inputs")
    return order


def _words(codes: HostArray, bits: int) -> HostArray:
    return pack_stream(np.ascontiguousarray(codes), bits, 4).view("<i4").astype(np.int32, copy=False)


def _check_version(version: int) -> None:
    if version not in (1, 2):
        raise FormatError(f"{PEER}: version must be 1 (checkpoint_format 'gptq') or 2 ('gptq_v2'), got {version!r}")
