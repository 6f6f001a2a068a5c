"""AWQ: `qweight`, `qzeros` and `scales` of AutoAWQ, version "gemm".

theirs -> ours: (code - zero) * scale; zeros are stored as they are, not less one. qweight is turned, (in, out / 8): in
each int32 word, nibble i (the lowest first) is column 0, 2, 4, 6, 1, 3, 5, 7 of eight along the *output* axis. qzeros
(groups, out / 8) alike; scales (groups, out).

Source: AutoAWQ 88e4c76, awq/utils/packing_utils.py and modules/linear/gemm.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from breccia.arrays import Array
from breccia.bridges._bits import pack_words, unpack_words
from breccia.bridges._common import Parts, Tensors, check_shape, given_back, host
from breccia.bridges._groups import assembled_groups, taken_apart
from breccia.errors import FormatError, ShapeError, UnsupportedError
from breccia.tensor import ScaledTensor

PEER = "AWQ"
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column each nibble of a word is, the lowest nibble first."""


def from_awq(tensors: Tensors, *, group_size: int = 128, version: str = "gemm", dtype: Any = None) -> ScaledTensor:
    """The weight, of shape (out, in), of AWQ's tensors; every code, zero point and scale is kept.

    tensors: qweight, qzeros and scales. group_size: as in the config; -1 is the whole input. dtype: logical dtype; by
    default that of the scales. Raises FormatError for tensors that are missing or do not fit, UnsupportedError for
    another version.

    >>> words, ones = np.full((32, 1), 0x75316420, np.int32), np.ones((1, 8), np.float16)
    >>> from_awq({"qweight": words, "qzeros": words[:1] * 0, "scales": ones}, group_size=32).numpy()[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    if version.lower() != "gemm":
        raise UnsupportedError(f"{PEER}: version {version!r} packs in another order; 'gemm' alone can be read")
    parts = Parts(PEER, tensors, ("bias",))
    words, packed, scales = host(parts.take("qweight")), host(parts.take("qzeros")), parts.take("scales")
    parts.done()
    if words.ndim != 2 or words.dtype != np.int32:
        raise FormatError(f"{PEER}: qweight must be an int32 matrix, got {words.dtype} {words.shape}")
    inputs, out = words.shape[0], words.shape[1] * 8
    group = inputs if group_size == -1 else group_size
    if isinstance(group, bool) or group < 1:
        raise FormatError(f"{PEER}: group_size must be positive, or -1 for the whole input; got {group_size!r}")
    count = -(-inputs // group)
    check_shape(tuple(scales.shape), (count, out), f"scales of {inputs} inputs in groups of {group}", PEER)
    check_shape(packed.shape, (count, out // 8), "qzeros", PEER)
    codes = np.ascontiguousarray(unpack_words(words, 4, ORDER).T)
    return assembled_groups(codes, unpack_words(packed, 4, ORDER), scales, 4, group, dtype)


def to_awq(st: ScaledTensor) -> dict[str, Array]:
    """qweight, qzeros and scales of a matrix (out, in) of 4 bits with float16 scales per group.

    Signed elements are shifted to unsigned ones, which changes no value. Raises UnsupportedError for other tensors,
    ShapeError where the outputs are no multiple of 8.

    >>> from breccia import cast, recipes
    >>> {k: v.shape for k, v in to_awq(cast(np.ones((16, 64), np.float32), recipes.uint4_g32_f16)).items()}
    {'qweight': (64, 2), 'qzeros': (2, 2), 'scales': (2, 16)}
    """
    codes, zeros, scales, _ = taken_apart(st, PEER, (4,))
    if st.shape[0] % 8:
        raise ShapeError(f"{PEER} packs eight outputs in a word; {st.shape[0]} are no multiple of 8")
    made = {
        "qweight": pack_words(np.ascontiguousarray(codes.T), 4, ORDER), "qzeros": pack_words(zeros, 4, ORDER),
        "scales": scales,
    }  # fmt: skip
    return {name: given_back(x, st.data) for name, x in made.items()}
