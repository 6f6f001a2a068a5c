"""bitsandbytes: 4-bit weights (NF4 and its own "fp4"), with or without double quantization.

theirs -> ours: absmax is the scale and multiplies. Two codes a byte, the *high* nibble first, of the tensor flattened
row by row, shape (values / 2, 1); blocks of `blocksize` run over the flattened tensor too. quant_map is the codebook.
Doubly quantized absmax are codes of nested_quant_map times nested_absmax of their 256, plus nested_offset: they become
float32 scales, computed as bitsandbytes does, and are not quantized again on the way back.

Source: bitsandbytes 0.50, functional.py (QuantState).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array
from breccia.bridges._common import (
    HostArray,
    Parts,
    Shape,
    Tensors,
    cannot_hold,
    entries,
    flag,
    given_back,
    host,
    level_dtypes,
    recipe_of,
    requantize_to,
    same_blocks,
)
from breccia.errors import BrecciaError, FormatError, UnsupportedError
from breccia.formats import Format
from breccia.recipes import Block
from breccia.tensor import ScaledTensor

PEER = "bitsandbytes"
_STATE = "quant_state.bitsandbytes__"


def from_bitsandbytes(tensors: Tensors, quant_state: Any = None, *, dtype: Any = None) -> ScaledTensor:
    """The weight of its tensors.

    tensors: `weight`, and as in a checkpoint `absmax`, `quant_map`, `quant_state.bitsandbytes__nf4` and, if doubly
    quantized, `nested_absmax` and `nested_quant_map`, with or without `weight.` before them. quant_state: in place of
    all but `weight`, a live `bitsandbytes.functional.QuantState`. dtype: logical dtype; by default the one it came
    from.

    Raises FormatError for tensors that are missing or do not fit; UnsupportedError where blocks of the flattened tensor
    are no blocks of its rows.
    """
    given = {name.removeprefix("weight."): x for name, x in tensors.items()}
    if quant_state is not None:
        given |= {name.rpartition("weight.")[2]: x for name, x in quant_state.as_dict(packed=True).items()}
    parts = Parts(PEER, given, ("bias",))
    weight = parts.take("weight")
    state = _state(parts)
    shape = tuple(int(n) for n in state["shape"])
    size = int(state["blocksize"])
    absmax = _absmax(parts, state)
    element = _codebook(host(parts.take("quant_map")).astype(np.float32), state["quant_type"])
    parts.done()
    octets = host(weight).view(np.uint8).reshape(-1)
    count = entries(shape)
    if octets.size != -(-count // 2) or absmax.size != -(-count // size):
        wanted = f"{-(-count // 2)} bytes and {-(-count // size)} absmax"
        raise FormatError(
            f"{PEER}: a {shape} weight in blocks of {size} takes {wanted}; got {octets.size} and {absmax.size}"
        )
    codes = np.stack([octets >> np.uint8(4), octets & np.uint8(15)], -1).reshape(-1)[:count].reshape(shape)
    block, grid = _block(shape, size)
    recipe = recipe_of(element, (formats.float32, block))
    scale = given_back(absmax.reshape(grid), weight)
    return ScaledTensor(given_back(codes, weight), scale, recipe, shape=shape, dtype=dtype or state["dtype"])


def to_bitsandbytes(st: ScaledTensor) -> dict[str, Array]:
    """`weight` and `weight.*` as in a checkpoint, not doubly quantized, of an NF4 tensor with float32 scales.

    Raises UnsupportedError for other recipes, and for rows that do not fill whole blocks, saying how to go on.

    >>> from breccia import cast, recipes
    >>> made = to_bitsandbytes(cast(np.ones((4, 64), np.float32), recipes.nf4))
    >>> made["weight"].shape, made["weight.absmax"].tolist()
    ((128, 1), [1.0, 1.0, 1.0, 1.0])
    """
    element = st.recipe.element
    holds = "codebooks of 4 bits with float32 scales per block of the flattened tensor, of 64 to 4096 values"
    size = entries(tuple(n or m for n, m in zip(st.recipe.blocks(st.ndim)[-1], st.shape, strict=True)))
    fits = element.kind == "codebook" and element.bits == 4 and level_dtypes(st) == (formats.float32,)
    try:
        fits = fits and same_blocks(st, _block(st.shape, size)[0]) and st.recipe.offset is None
    except BrecciaError:
        fits = False
    if not fits or size not in (64, 128, 256, 512, 1024, 2048, 4096):
        raise cannot_hold(PEER, st, holds, requantize_to("nf4"))
    codes = host(st.codes()).reshape(-1)
    codes = np.concatenate([codes, np.zeros(codes.size % 2, np.uint8)]).reshape(-1, 2)
    kind = "nf4" if element == formats.nf4 else "fp4"
    state = {"quant_type": kind, "blocksize": size, "dtype": st.dtype.name, "shape": list(st.shape)}
    made = {
        "weight": codes[:, :1] << np.uint8(4) | codes[:, 1:],
        "weight.absmax": host(st.scale).reshape(-1),
        "weight.quant_map": np.asarray(element.codebook, np.float32),
        f"weight.{_STATE}{kind}": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
    return {name: given_back(x, st.data) for name, x in made.items()}


def _state(parts: Parts) -> dict[str, Any]:
    for kind in ("nf4", "fp4"):
        packed = parts.maybe(_STATE + kind)
        if packed is None:
            continue
        try:
            made = json.loads(host(packed).view(np.uint8).tobytes())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{PEER}: {_STATE}{kind} is no JSON: {str(error)[:100]}") from None
        missing = {"quant_type", "blocksize", "dtype", "shape"} - set(made if isinstance(made, dict) else ())
        if missing or not isinstance(made["shape"], list) or not isinstance(made["blocksize"], int):
            raise FormatError(f"{PEER}: {_STATE}{kind} must say quant_type, blocksize, dtype and shape")
        if made["blocksize"] < 1:
            raise FormatError(f"{PEER}: a blocksize of {made['blocksize']}")
        return made
    raise FormatError(f"{PEER}: there is no tensor {_STATE}nf4 or {_STATE}fp4; 8-bit weights cannot be read")


def _absmax(parts: Parts, state: dict[str, Any]) -> HostArray:
    absmax = host(parts.take("absmax")).reshape(-1)
    if not parts.has("nested_absmax"):
        return absmax.astype(np.float32)
    outer = host(parts.take("nested_absmax")).astype(np.float32).reshape(-1)
    book = host(parts.take("nested_quant_map")).astype(np.float32).reshape(-1)
    size, offset = int(flag(state, "nested_blocksize", 256)), np.float32(flag(state, "nested_offset", 0.0))
    if absmax.dtype != np.uint8 or book.size != 256 or outer.size != -(-absmax.size // size):
        raise FormatError(f"{PEER}: absmax that are doubly quantized must be uint8, with one nested_absmax for {size}")
    return book[absmax] * np.repeat(outer, size)[: absmax.size] + offset


def _codebook(values: HostArray, kind: str) -> Format:
    if values.size != 16:
        raise FormatError(f"{PEER}: quant_map must have 16 values, got {values.size}")
    book = tuple(map(float, values.reshape(-1)))
    return (
        formats.nf4
        if book == formats.nf4.codebook
        else Format(f"bnb_{kind}", f"bnb_{kind}", "codebook", 4, codebook=book)
    )


def _block(shape: Shape, size: int) -> tuple[Block, Shape]:
    """(block, grid) of runs of `size` values of a tensor flattened row by row."""
    width = shape[-1] if shape else 1
    if width % size == 0 or len(shape) == 1:
        return (1, size) if len(shape) > 1 else (size,), (*shape[:-1], -(-width // size))
    if len(shape) == 2 and size % width == 0:
        return (size // width, width), (-(-shape[0] * width // size), 1)
    raise UnsupportedError(
        f"{PEER}: blocks of {size} values of the flattened tensor cross the rows of shape {shape}, which have {width}: "
        "they are no blocks of a matrix. Decode it with bitsandbytes.functional.dequantize_4bit, and cast again"
    )
