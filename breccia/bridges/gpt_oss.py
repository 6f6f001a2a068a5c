"""gpt-oss: the MXFP4 weights of experts, as `..._blocks` and `..._scales`.

theirs -> ours: scales are E8M0 codes that multiply, (experts, out, in / 32). Blocks are (experts, out, in / 32, 16)
bytes, two codes in each, low nibble first: our storage with the last two axes joined. Axes are ours; transformers'
`convert_moe_packed_tensors` turns what it decodes to (experts, in, out).

Source: transformers 5.23, integrations/mxfp4.py.
"""

from __future__ import annotations

from typing import Any

from breccia.arrays import Array, namespace
from breccia.bridges._common import as_bytes, cannot_hold, check_shape, requantize_to, same_blocks
from breccia.errors import FormatError
from breccia.recipes import mxfp4
from breccia.tensor import ScaledTensor

PEER = "gpt-oss"


def from_gpt_oss(blocks: Array, scales: Array, *, dtype: Any = "bfloat16") -> ScaledTensor:
    """The weight of shape (..., out, in) of `blocks`, uint8 (..., out, in / 32, 16), and `scales`, uint8
    (..., out, in / 32); both buffers are kept. dtype: logical dtype of the values.

    Raises FormatError for other shapes, DTypeError for other dtypes.

    >>> import numpy as np
    >>> st = from_gpt_oss(np.full((1, 2, 3, 16), 0x71, np.uint8), np.full((1, 2, 3), 128, np.uint8))
    >>> st.shape, st.recipe, st.numpy()[0, 0, :2].tolist()
    ((1, 2, 96), <recipe mxfp4>, [1.0, 12.0])
    """
    xp = namespace(blocks)
    blocks, scales = as_bytes(blocks, "blocks"), as_bytes(scales, "scales", "float8_e8m0fnu")
    shape = xp.shape(blocks)
    if len(shape) < 3 or shape[-1] != 16:
        raise FormatError(f"{PEER}: blocks must have shape (..., out, in / 32, 16), got {shape}")
    check_shape(xp.shape(scales), shape[:-1], "scales", PEER)
    data = xp.reshape(blocks, (*shape[:-2], shape[-2] * 16))
    return ScaledTensor(data, scales, mxfp4, shape=(*shape[:-2], shape[-2] * 32), dtype=dtype)


def to_gpt_oss(st: ScaledTensor) -> tuple[Array, Array]:
    """(blocks, scales) of an MXFP4 tensor whose last axis is a multiple of 32; no bit changes.

    Raises UnsupportedError for any other tensor, saying how to go on.

    >>> import numpy as np
    >>> from breccia import cast
    >>> tuple(x.shape for x in to_gpt_oss(cast(np.ones((4, 64), np.float32), mxfp4)))
    ((4, 2, 16), (4, 2))
    """
    if (st.recipe.element, st.recipe.innermost.dtype) != (mxfp4.element, mxfp4.innermost.dtype) or (
        not same_blocks(st, (1, 32)) or st.ndim < 2 or st.shape[-1] % 32
    ):
        raise cannot_hold(PEER, st, "MXFP4 with whole blocks of 32 along the last axis", requantize_to("mxfp4"))
    xp = namespace(st.data)
    return xp.reshape(st.data, (*st.shape[:-1], st.shape[-1] // 32, 16)), st.scale
