"""Layouts: in which order elements or scales lie in memory, and how a grid of scales covers a tensor.

Two families. A `MemoryLayout` is a bijection from logical index to storage offset plus the value of padding: what
hardware wants. A `BlockLayout` says which elements share a scale, as breccia 0.1 spelled it (`PerTensor`,
`PerBlockK` ...). On disk and at the API everything is canonical: row-major, sub-byte codes packed with the first
code in the lowest bits.

Formulas: cuBLAS 128x4 (docs.nvidia.com/cuda/nvmath-python), DeepGEMM `utils/layout.hpp`, aiter `ops/shuffle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from breccia.errors import RecipeError, ShapeError
from breccia.recipes import Block, Recipe, grid_shape

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Base of all layouts."""

    name: ClassVar[str] = ""

    def validate(self, data: Any, scale: Any) -> None:
        """Raise ShapeError unless `scale` has the shape that this layout needs for `data`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how scales cover data")


# -- how scales cover data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockLayout(Layout):
    """Which elements share one scale. The last block of an axis may be partial."""

    def block(self, rank: int) -> Block:
        """The block of this layout for a tensor of `rank` axes."""
        raise NotImplementedError

    def scale_shape(self, shape: Shape) -> Shape:
        """The shape of the scales of a tensor of `shape`."""
        return grid_shape(shape, self.block(len(shape)))

    def validate(self, data: Any, scale: Any) -> None:
        shape, found = tuple(data.shape), tuple(scale.shape)
        expected = self.scale_shape(shape)
        if found != expected:
            raise ShapeError(f"{self.name}: scale.shape must be {expected} for data of shape {shape}, got {found}")

    def _needs_matrix(self, rank: int) -> None:
        if rank < 2:
            raise ShapeError(f"{type(self).__name__} requires data.ndim >= 2, got ndim={rank}; use PerBlock for rank 1")


@dataclass(frozen=True)
class PerTensor(BlockLayout):
    """One scale for the whole tensor."""

    name: ClassVar[str] = "per_tensor"

    def block(self, rank: int) -> Block:
        return (None,) * rank

    def scale_shape(self, shape: Shape) -> Shape:  # noqa: ARG002 # one scale, whatever the shape
        return ()


@dataclass(frozen=True)
class PerBlockK(BlockLayout):
    """One scale for each `block_size` elements of the last axis."""

    name: ClassVar[str] = "per_block_k"
    block_size: int = 128

    def __post_init__(self) -> None:
        _positive(self.block_size, "PerBlockK.block_size")

    def block(self, rank: int) -> Block:
        self._needs_matrix(rank)
        return (1,) * (rank - 1) + (self.block_size,)


@dataclass(frozen=True)
class PerChannel(BlockLayout):
    """One scale for each row: `(..., M, 1)`; `(M,)` is accepted by `validate`."""

    name: ClassVar[str] = "per_channel"

    def block(self, rank: int) -> Block:
        self._needs_matrix(rank)
        return (1,) * (rank - 1) + (None,)

    def validate(self, data: Any, scale: Any) -> None:
        if len(data.shape) != 2 or tuple(scale.shape) != (data.shape[0],):
            super().validate(data, scale)


@dataclass(frozen=True)
class PerBlockMN(BlockLayout):
    """One scale for each `block_m` x `block_n` elements of the last two axes."""

    name: ClassVar[str] = "per_block_mn"
    block_m: int = 1
    block_n: int = 32

    def __post_init__(self) -> None:
        _positive(self.block_m, "PerBlockMN.block_m")
        _positive(self.block_n, "PerBlockMN.block_n")

    def block(self, rank: int) -> Block:
        self._needs_matrix(rank)
        return (1,) * (rank - 2) + (self.block_m, self.block_n)


@dataclass(frozen=True)
class PerBlock(BlockLayout):
    """One scale for each block of any shape: one entry for each axis, None for the whole axis."""

    name: ClassVar[str] = "per_block"
    sizes: Block = (32,)

    def block(self, rank: int) -> Block:
        if rank != len(self.sizes):
            raise ShapeError(f"PerBlock{self.sizes} is for rank {len(self.sizes)}, not for rank {rank}")
        return self.sizes


def _positive(value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"{what} must be > 0, got {value!r}; allowed: an integer of at least 1")


def of_recipe(recipe: Recipe, rank: int) -> BlockLayout:
    """How the innermost scales of `recipe` cover a tensor of `rank` axes, in 0.1's words where they suffice.

    >>> from breccia import recipes
    >>> of_recipe(recipes.float8_1x128, 2), of_recipe(recipes.mxfp4.along(0, 2), 2)
    (PerBlockK(block_size=128), PerBlockMN(block_m=32, block_n=1))
    """
    if recipe.innermost.block is None:
        return PerTensor()
    block = recipe.innermost.resolve(rank)
    leading = all(size == 1 for size in block[:-2])
    if rank < 2 or not leading:
        return PerBlock(block)
    m, n = block[-2:]
    if m == 1:
        return PerChannel() if n is None else PerBlockK(n)
    return PerBlock(block) if m is None or n is None else PerBlockMN(m, n)


# -- order in memory ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryLayout(Layout):
    """A bijection from logical index to storage offset, and what lies in the places that no index maps to.

    Invariants: `index` is one to one on a logical shape and stays below the product of `shape`; it uses only
    `+ * // %`, so that coordinates may be integers, arrays or symbols. Matrices are the last two axes; `pack` and
    `unpack` pass leading axes through.
    """

    pad_value: int = 0

    def shape(self, logical: Shape) -> Shape:
        """The storage shape of a matrix of shape `logical`."""
        raise NotImplementedError

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        """The storage offset, in entries, of (row, column)."""
        raise NotImplementedError

    def pack(self, x: Any) -> Any:
        """A NumPy array `(..., rows, columns)` in this layout's order, padding filled with `pad_value`."""
        import numpy as np

        *lead, rows, columns = _matrix(x.shape)
        storage = self.shape((rows, columns))
        out = np.full((*lead, _size(storage)), self.pad_value, x.dtype)
        offsets = self.index(np.arange(rows)[:, None], np.arange(columns)[None, :], (rows, columns))
        out[..., offsets.reshape(-1)] = x.reshape(*lead, -1)
        return out.reshape(*lead, *storage)

    def unpack(self, packed: Any, logical: Shape) -> Any:
        """Inverse of `pack` for a tensor of shape `logical`; raises ShapeError if `packed` has another shape."""
        import numpy as np

        *lead, rows, columns = _matrix(logical)
        expected = (*lead, *self.shape((rows, columns)))
        if tuple(packed.shape) != expected:
            raise ShapeError(f"{self.name}: {logical} is stored as {expected}, not {tuple(packed.shape)}")
        offsets = self.index(np.arange(rows)[:, None], np.arange(columns)[None, :], (rows, columns))
        flat = packed.reshape(*lead, -1)
        return flat[..., offsets.reshape(-1)].reshape(logical)


def _matrix(shape: Shape) -> Shape:
    if len(shape) < 2:
        raise ShapeError(f"a memory layout orders matrices; {tuple(shape)} has rank {len(shape)}, at least 2 is needed")
    return tuple(shape)


def _size(shape: Shape) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class RowMajor(MemoryLayout):
    """Last axis fastest: the canonical order."""

    name: ClassVar[str] = "row_major"

    def shape(self, logical: Shape) -> Shape:
        return logical

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        return row * logical[1] + column


@dataclass(frozen=True)
class Packed4(MemoryLayout):
    """Canonical 4-bit storage: two codes a byte along the last axis, the first in the low nibble; odd lengths padded.

    `index` counts nibbles.
    """

    name: ClassVar[str] = "packed4"

    def shape(self, logical: Shape) -> Shape:
        return (logical[0], -(-logical[1] // 2))

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        return row * _round_up(logical[1], 2) + column

    def pack(self, x: Any) -> Any:
        from breccia.arrays import numpy as primitives

        _matrix(x.shape)
        return primitives.pack_nibbles(x)

    def unpack(self, packed: Any, logical: Shape) -> Any:
        from breccia.arrays import numpy as primitives

        expected = (*_matrix(logical)[:-1], -(-logical[-1] // 2))
        if tuple(packed.shape) != expected:
            raise ShapeError(f"{self.name}: {logical} is stored as {expected}, not {tuple(packed.shape)}")
        return primitives.unpack_nibbles(packed, logical[-1])


@dataclass(frozen=True)
class Swizzle128x4(MemoryLayout):
    """Scales as tcgen05 and cuBLAS want them: tiles of 128 rows x 4 columns, 512 bytes each, rows r, r+32, r+64,
    r+96 of a tile side by side. Rows are padded to 128, columns to 4.
    """

    name: ClassVar[str] = "swizzle_128x4"

    def shape(self, logical: Shape) -> Shape:
        return (32 * -(-logical[0] // 128), 16 * -(-logical[1] // 4))

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        tiles = -(-logical[1] // 4)
        tile = (row // 128) * tiles + column // 4
        return tile * 512 + (row % 32) * 16 + ((row % 128) // 32) * 4 + column % 4


@dataclass(frozen=True)
class MnMajor(MemoryLayout):
    """First axis fastest, padded to `align`: float32 scales of DeepGEMM on Hopper (4 floats are TMA's 16 bytes)."""

    name: ClassVar[str] = "mn_major"
    align: int = 4

    def __post_init__(self) -> None:
        _positive(self.align, "MnMajor.align")

    def shape(self, logical: Shape) -> Shape:
        return (logical[1], _round_up(logical[0], self.align))

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        return column * _round_up(logical[0], self.align) + row


@dataclass(frozen=True)
class PackedUe8m0x4(MemoryLayout):
    """Four E8M0 codes along K in one 32-bit word, the first in its lowest byte; words first axis fastest, padded to
    `align` (DeepGEMM on Blackwell). Storage is bytes `(ceil(columns / 4), rows, 4)`; view as int32 for the kernel.
    """

    name: ClassVar[str] = "packed_ue8m0x4"
    align: int = 4

    def __post_init__(self) -> None:
        _positive(self.align, "PackedUe8m0x4.align")

    def shape(self, logical: Shape) -> Shape:
        return (-(-logical[1] // 4), _round_up(logical[0], self.align), 4)

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        return ((column // 4) * _round_up(logical[0], self.align) + row) * 4 + column % 4


@dataclass(frozen=True)
class Cdna4Shuffle(MemoryLayout):
    """E8M0 scales for gfx950's scaled MFMA (aiter `shuffle_scale`): rows padded to 256, columns to 8."""

    name: ClassVar[str] = "cdna4_shuffle"

    def shape(self, logical: Shape) -> Shape:
        return (_round_up(logical[0], 256), _round_up(logical[1], 8))

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        tile = (row // 32) * (_round_up(logical[1], 8) // 8) + column // 8
        return tile * 256 + (column % 4) * 64 + (row % 16) * 4 + ((column % 8) // 4) * 2 + (row % 32) // 16


@dataclass(frozen=True)
class Cdna4Weight(MemoryLayout):
    """One-byte weights for gfx950 (aiter `shuffle_weight`, layout 16x16): rows padded to 16, columns (bytes) to 32."""

    name: ClassVar[str] = "cdna4_weight"

    def shape(self, logical: Shape) -> Shape:
        return (_round_up(logical[0], 16), _round_up(logical[1], 32))

    def index(self, row: Any, column: Any, logical: Shape) -> Any:
        tile = (row // 16) * (_round_up(logical[1], 32) // 32) + column // 32
        return tile * 512 + ((column % 32) // 16) * 256 + (row % 16) * 16 + column % 16


row_major = RowMajor()
packed4 = Packed4()
swizzle_128x4 = Swizzle128x4()
mn_major = MnMajor()
packed_ue8m0x4 = PackedUe8m0x4()
cdna4_shuffle = Cdna4Shuffle()
cdna4_weight = Cdna4Weight()

MEMORY_LAYOUTS: tuple[MemoryLayout, ...] = (
    row_major, packed4, swizzle_128x4, mn_major, packed_ue8m0x4, cdna4_shuffle, cdna4_weight,
)  # fmt: skip
