"""Recipes: what is needed to decode a block-scaled tensor, and the policy by which values were encoded.

    x[i] = (E(e[i]) - zero[i // block]) * s_innermost[i // block] * ... * s_outermost[i // block] + offset[i // block]

Each product is rounded to float32, innermost scale first; that is the whole meaning of a recipe. Blocks are given
for the trailing axes: `(1, 32)` on a tensor of rank 3 is `(1, 1, 32)`. An entry of None spans the whole axis, and a
block of None spans the whole tensor. The last block of an axis may be partial.

Nothing outside this file may branch on a recipe's name. To add a recipe, add one `_named` entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal

from breccia import formats
from breccia.errors import RecipeError, ShapeError
from breccia.formats import Format

Block = tuple[int | None, ...]
Amax = Literal["current", "delayed", "static"]
ScaleRule = Literal["exact", "floor", "ceil", "even"]
Division = Literal["divide", "reciprocal", "inverse"]
Rounding = Literal["rne", "ties_away", "ties_zero", "stochastic"]
Overflow = Literal["saturate", "nan"]
NonFinite = Literal["poison", "saturate", "error"]
ZeroScale = Literal["one", "smallest", "zero"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "amax": ("current", "delayed", "static"),
    "scale": ("exact", "floor", "ceil", "even"),
    "division": ("divide", "reciprocal", "inverse"),
    "rounding": ("rne", "ties_away", "ties_zero", "stochastic"),
    "overflow": ("saturate", "nan"),
    "nonfinite": ("poison", "saturate", "error"),
    "zero_scale": ("one", "smallest", "zero"),
}


@dataclass(frozen=True)
class Level:
    """One array of scales: `dtype` names the scale format, `block` the elements that share one scale."""

    dtype: Format
    block: Block | None = None

    def __post_init__(self) -> None:
        check_block(self.block, "Level.block")
        if self.dtype.kind == "codebook":
            raise RecipeError(f"a scale cannot be stored as {self.dtype.name}; use a float or integer format")

    def resolve(self, rank: int) -> Block:
        """The block for a tensor of `rank` axes: 1 for missing leading axes; surplus leading axes are dropped."""
        return resolve_block(self.block, rank)


@dataclass(frozen=True)
class ZeroPoint:
    """Integer subtracted from elements before scaling; one for each block of the innermost level."""

    dtype: Format

    def __post_init__(self) -> None:
        if self.dtype.kind != "int":
            raise RecipeError(f"a zero point is an integer, not {self.dtype.name}; a float one is an Offset")


@dataclass(frozen=True)
class Offset:
    """Float added after scaling (GGUF, MLX affine); one for each block of the innermost level."""

    dtype: Format

    def __post_init__(self) -> None:
        if self.dtype.kind != "float":
            raise RecipeError(f"an offset is a float, not {self.dtype.name}; an integer one is a ZeroPoint")


@dataclass(frozen=True)
class Policy:
    """How values are encoded. Decoding never needs it, so it is no part of a tensor's type.

    scale rules, for the innermost level, with amax the largest |x| of a block and m the value it is mapped to (`max`):
      exact     ((amax / m) / outer scales), every step rounded to float32, then to the scale's dtype, to nearest even
      floor     2**(floor(log2 amax) - floor(log2 m)): OCP MX v1.0; amax may overflow the element and saturates
      ceil      the smallest power of two not below amax / m ("RCEIL" of cuBLAS, TransformerEngine)
      even      floor, after amax is rounded to the element's mantissa bits, ties up (Quark, torchao EVEN)
    Powers of two are computed on integer bits, of amax / outer scales where there are outer levels. Outer levels are
    always exact: amax of the finite values / (m times the largest scale of every level inside). Scales beyond the range
    of their dtype saturate. With a zero point or an offset, the range of a block takes amax's place, and the number of
    codes less one takes m's. Elements are x / s rounded once, where s is the product of the stored scales in float32,
    innermost first.
    """

    amax: Amax = "current"
    scale: ScaleRule = "exact"
    division: Division = "divide"
    """`reciprocal`: amax times 1/m rounded to float32, as XLA and some kernels do; half of the scales differ by an
    ulp. `inverse`: 1 / (m / amax), both rounded and the inner one at most the largest float32, as TransformerEngine
    does, which multiplies by m / amax. Of the `exact` rule's first step alone."""
    rounding: Rounding = "rne"
    overflow: Overflow = "saturate"
    """What an element too large becomes: the largest finite one, or the format's infinity, else its NaN, else the
    largest."""
    nonfinite: NonFinite = "poison"
    """A block that holds NaN or Inf: `poison` gives it a NaN scale, so that it decodes to NaN and no other block does;
    `saturate` takes Inf for the largest finite float32 (NaN still poisons); `error` raises FormatError. Where all
    scales are given and the element has a NaN, that element alone becomes NaN."""
    zero_scale: ZeroScale = "one"
    """The scale of a block of zeros: 1, the smallest positive one (`scale_min`, else that of its format), or 0 (the
    smallest where there is no 0)."""
    max: float | None = None
    """The element value that amax is mapped to; None for the largest finite element. INT4 in torchao: 7.5."""
    scale_min: float | None = None
    """Scales below this are raised to it (after rounding); None for the smallest positive value of the scale's
    format."""
    amax_min: float | None = None
    """amax below this is raised to it, as DeepGEMM does at 1e-4; a block of zeros too."""
    history: int = 1024
    """Delayed scaling only: how many amax values are kept."""
    history_rule: Literal["max", "most_recent"] = "max"
    margin: int = 0
    """Delayed scaling only: scales are multiplied by 2**margin, so that amax may grow by that much before it
    saturates."""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise RecipeError(f"Policy.{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if isinstance(self.history, bool) or not isinstance(self.history, int) or self.history < 1:
            raise RecipeError(f"Policy.history is {self.history!r}; the amax history needs a length of at least 1")
        if isinstance(self.margin, bool) or not isinstance(self.margin, int) or self.margin < 0:
            raise RecipeError(f"Policy.margin is {self.margin!r}; it must be an integer of at least 0")
        for name in ("max", "scale_min", "amax_min"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise RecipeError(f"Policy.{name} is {value!r}; it must be positive and finite, or None")


_TOKENS: dict[tuple[Recipe, str], int] = {}
_RECIPES: list[Recipe] = []


def _token_of(recipe: Recipe) -> int:
    token = _TOKENS.setdefault((recipe, recipe.name), len(_RECIPES))
    if token == len(_RECIPES):
        _RECIPES.append(recipe)
    return token


def of_token(token: int) -> Recipe:
    """The recipe that a token of this process stands for."""
    return _RECIPES[token]


@dataclass(frozen=True)
class Recipe:
    """Everything needed to decode (`element`, `levels`, `zero_point`, `offset`), and the `policy` to encode.

    Invariants: levels run from outermost to innermost, and no block of a level is larger than the one outside it;
    power-of-two scale formats have a power-of-two scale rule. `name` is for people: equality ignores it.
    """

    element: Format
    levels: tuple[Level, ...]
    zero_point: ZeroPoint | None = None
    offset: Offset | None = None
    policy: Policy = field(default=Policy())
    name: str = field(default="", compare=False)
    equals: str = field(default="", compare=False)
    """Which library's encoder this equals bit for bit, and where it does not."""

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "_token", _token_of(self))

    @property
    def token(self) -> int:
        """A small integer that stands for this recipe in this process; equal recipes of one name share it."""
        return self._token  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_token"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "_token", _token_of(self))

    def _check(self) -> None:
        if not isinstance(self.element, Format):
            raise RecipeError(f"Recipe.element is {self.element!r}; give a format, such as formats.float8_e4m3fn")
        if not self.levels or not all(isinstance(level, Level) for level in self.levels):
            raise RecipeError("Recipe.levels needs at least one Level, outermost first")
        if self.innermost.dtype.is_power_of_two and self.policy.scale == "exact":
            raise RecipeError(
                f"scales of {self.innermost.dtype.name} are powers of two, so Policy.scale cannot be 'exact'; "
                "use 'ceil', 'floor' or 'even'"
            )
        for outer, inner in zip(self.levels, self.levels[1:], strict=False):
            _check_nested(outer.block, inner.block)

    def __repr__(self) -> str:
        return f"<recipe {self.name or self.describe()}>"

    @property
    def innermost(self) -> Level:
        return self.levels[-1]

    def blocks(self, rank: int) -> tuple[Block, ...]:
        """The block of every level for a tensor of `rank` axes, outermost first.

        >>> nvfp4.blocks(2)
        ((None, None), (1, 16))
        """
        return _blocks_of(self.token, rank)

    def along(self, axis: int, rank: int) -> Recipe:
        """This recipe with its last axis laid along `axis` of a tensor of `rank` axes; itself where nothing changes.

        >>> mxfp8_e4m3.along(0, 2).blocks(2)
        ((32, 1),)
        """
        return _along(self.token, normalize_axis(axis, rank), rank) or self

    def permuted(self, order: tuple[int, ...]) -> Recipe:
        """The recipe of a tensor whose axes are permuted: new axis i is old axis `order[i]`; itself where nothing
        changes.
        """
        rank = len(order)
        levels = tuple(
            level if moved == level.resolve(rank) else replace(level, block=moved)
            for level in self.levels
            for moved in [tuple(level.resolve(rank)[i] for i in order)]
        )
        return self.with_levels(levels)

    def with_levels(self, levels: tuple[Level, ...]) -> Recipe:
        """This recipe with other levels; a name says the blocks then, as in `mxfp4 32x1`."""
        if levels == self.levels:
            return self
        name = f"{self.name.partition(' ')[0]} {_block_text(levels[-1].block)}" if self.name else ""
        return self._changed(levels=levels, name=name)

    def with_policy(self, **changes: object) -> Recipe:
        """This recipe with some fields of its policy changed.

        >>> mxfp8_e4m3.with_policy(scale="floor").policy.scale
        'floor'
        """
        policy = replace(self.policy, **changes)  # type: ignore[arg-type]
        return self if policy == self.policy else self._changed(policy=policy, equals="")

    def _changed(self, **changes: Any) -> Recipe:
        """A plain Recipe with some parts changed, also where `self` is of a subclass with other parameters."""
        parts = {f.name: getattr(self, f.name) for f in fields(Recipe)}
        return Recipe(**{**parts, **changes})

    @property
    def decode_key(self) -> tuple[object, ...]:
        """What decides decoding: equal keys mean that the same bytes hold the same values."""
        return (self.element, self.levels, self.zero_point, self.offset)

    def describe(self) -> str:
        """One line for people, such as `float4_e2m1fn, float32 per tensor, float8_e4m3fn per 1x16`."""
        parts = [self.element.name]
        parts += [f"{level.dtype.name} per {_block_text(level.block)}" for level in self.levels]
        if self.zero_point:
            parts.append(f"zero point {self.zero_point.dtype.name}")
        if self.offset:
            parts.append(f"offset {self.offset.dtype.name}")
        return ", ".join(parts)


def check_block(block: Block | None, what: str = "block") -> None:
    """Raise RecipeError unless `block` is None or a tuple of positive ints and Nones."""
    if block is None:
        return
    if not isinstance(block, tuple) or not block:
        raise RecipeError(f"{what} is {block!r}; give a tuple such as (1, 32), or None for the whole tensor")
    for size in block:
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise RecipeError(
                f"{what} is {block!r}: {size!r} is not a block size; allowed: an integer of at least 1, or None"
            )


@lru_cache(maxsize=4096)
def _blocks_of(token: int, rank: int) -> tuple[Block, ...]:
    return tuple(level.resolve(rank) for level in of_token(token).levels)


@lru_cache(maxsize=4096)
def _along(token: int, axis: int, rank: int) -> Recipe | None:
    """The recipe laid along an axis; None where that changes nothing."""
    recipe = of_token(token)
    order = [*range(rank - 1)]
    order.insert(axis, rank - 1)
    laid = recipe.permuted(tuple(order))
    return None if laid is recipe else laid


def resolve_block(block: Block | None, rank: int) -> Block:
    """`block` with one entry for each of `rank` axes."""
    if block is None:
        return (None,) * rank
    return (1,) * (rank - len(block)) + block if len(block) <= rank else block[len(block) - rank :]


def normalize_axis(axis: int, rank: int) -> int:
    """The axis counted from the front; ShapeError if a tensor of `rank` axes has no such axis."""
    if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
        raise ShapeError(f"axis {axis!r} is out of range for a tensor of rank {rank}; allowed: {-rank} to {rank - 1}")
    return axis % rank


def _block_text(block: Block | None) -> str:
    return "tensor" if block is None else "x".join("all" if b is None else str(b) for b in block)


def _check_nested(outer: Block | None, inner: Block | None) -> None:
    rank = max(len(outer or ()), len(inner or ()), 1)
    for big, small in zip(resolve_block(outer, rank), resolve_block(inner, rank), strict=True):
        if big is not None and (small is None or big % small):
            raise RecipeError(
                f"levels run from outermost to innermost: a block of {_block_text(inner)} does not fit a whole number "
                f"of times into {_block_text(outer)}"
            )


_NAMED: dict[str, Recipe] = {}


# What is said of equality is measured by tests/peers, and listed with all exceptions in docs/peers.md.
_TORCHAO_FP8 = "torchao 0.18 Float8Tensor.from_hp on float32, except blocks of zeros or with infinity"
_TORCHAO_MX = "torchao 0.18 to_mx in mode RCEIL, except blocks with infinity or scales of 2**-127"
_MXFP8 = f"ModelOpt 0.47 MXFP8QTensor.quantize, except blocks with NaN or infinity; {_TORCHAO_MX}"
_NVFP4 = (
    "ModelOpt 0.47 NVFP4QTensor.quantize, except -0, NaN, infinity and block scales below 2**-10; torchao 0.18 "
    "nvfp4_quantize with Policy(scale_min=2**-6, zero_scale='smallest'), except some ties, NaN, infinity and tensors "
    "of tiny values"
)
_CT = "compressed-tensors 0.20 calculate_qparams and quantize on float32, except blocks of zeros or with infinity"
_CT_ASYMMETRIC = f"{_CT}, and ties, which it rounds after adding the zero point"
_BITSANDBYTES = (
    "bitsandbytes 0.50 quantize_4bit with Policy(zero_scale='zero'), except blocks with infinity or amax below 2**-126"
)


def _named(name: str, recipe: Recipe, equals: str = "") -> Recipe:
    recipe = replace(recipe, name=name, equals=equals)
    _NAMED[name] = recipe
    return recipe


_F32 = Level(formats.float32)
_F32_ROW = Level(formats.float32, (1, None))
_MX = Level(formats.float8_e8m0fnu, (1, 32))
_CEIL = Policy(scale="ceil", zero_scale="smallest")

float8_tensor = _named("float8_tensor", Recipe(formats.float8_e4m3fn, (_F32,)), _TORCHAO_FP8)
float8_e5m2_tensor = _named("float8_e5m2_tensor", Recipe(formats.float8_e5m2, (_F32,)), _TORCHAO_FP8)
float8_e4m3fnuz_tensor = _named("float8_e4m3fnuz_tensor", Recipe(formats.float8_e4m3fnuz, (_F32,)))
float8_e5m2fnuz_tensor = _named("float8_e5m2fnuz_tensor", Recipe(formats.float8_e5m2fnuz, (_F32,)))
float8_row = _named("float8_row", Recipe(formats.float8_e4m3fn, (_F32_ROW,)), _TORCHAO_FP8)
float8_1x128 = _named("float8_1x128", Recipe(formats.float8_e4m3fn, (Level(formats.float32, (1, 128)),)), _TORCHAO_FP8)
float8_128x128 = _named(
    "float8_128x128", Recipe(formats.float8_e4m3fn, (Level(formats.float32, (128, 128)),)), _TORCHAO_FP8
)
float8_1x128_e8m0 = _named(
    "float8_1x128_e8m0", Recipe(formats.float8_e4m3fn, (Level(formats.float8_e8m0fnu, (1, 128)),), policy=_CEIL)
)
float8_128x128_e8m0 = _named(
    "float8_128x128_e8m0", Recipe(formats.float8_e4m3fn, (Level(formats.float8_e8m0fnu, (128, 128)),), policy=_CEIL)
)
mxfp8_e4m3 = _named("mxfp8_e4m3", Recipe(formats.float8_e4m3fn, (_MX,), policy=_CEIL), _MXFP8)
mxfp8_e5m2 = _named("mxfp8_e5m2", Recipe(formats.float8_e5m2, (_MX,), policy=_CEIL), _TORCHAO_MX)
mxfp6_e2m3 = _named("mxfp6_e2m3", Recipe(formats.float6_e2m3fn, (_MX,), policy=_CEIL), _TORCHAO_MX)
mxfp6_e3m2 = _named("mxfp6_e3m2", Recipe(formats.float6_e3m2fn, (_MX,), policy=_CEIL), _TORCHAO_MX)
mxfp4 = _named("mxfp4", Recipe(formats.float4_e2m1fn, (_MX,), policy=_CEIL), _TORCHAO_MX)
mxint8 = _named("mxint8", Recipe(formats.mxint8, (_MX,), policy=_CEIL))
nvfp4 = _named("nvfp4", Recipe(formats.float4_e2m1fn, (_F32, Level(formats.float8_e4m3fn, (1, 16)))), _NVFP4)
nvfp4_16x16 = _named("nvfp4_16x16", Recipe(formats.float4_e2m1fn, (_F32, Level(formats.float8_e4m3fn, (16, 16)))))
int8_row = _named("int8_row", Recipe(formats.int8, (_F32_ROW,), policy=Policy(max=127.5)), _CT)


def _int4(block: int, scale: Format) -> Recipe:
    recipe = Recipe(formats.int4, (Level(scale, (1, block)),), policy=Policy(max=7.5))
    return _named(f"int4_g{block}_{scale.mlir}", recipe, _CT if scale == formats.float32 else "")


def _uint4(block: int, scale: Format) -> Recipe:
    recipe = Recipe(formats.uint4, (Level(scale, (1, block)),), zero_point=ZeroPoint(formats.uint4))
    return _named(f"uint4_g{block}_{scale.mlir}", recipe, _CT_ASYMMETRIC if scale == formats.float32 else "")


int4_g32_f16, uint4_g32_f16 = _int4(32, formats.float16), _uint4(32, formats.float16)
int4_g32_bf16, uint4_g32_bf16 = _int4(32, formats.bfloat16), _uint4(32, formats.bfloat16)
int4_g32_f32, uint4_g32_f32 = _int4(32, formats.float32), _uint4(32, formats.float32)
int4_g64_f16, uint4_g64_f16 = _int4(64, formats.float16), _uint4(64, formats.float16)
int4_g64_bf16, uint4_g64_bf16 = _int4(64, formats.bfloat16), _uint4(64, formats.bfloat16)
int4_g64_f32, uint4_g64_f32 = _int4(64, formats.float32), _uint4(64, formats.float32)
int4_g128_f16, uint4_g128_f16 = _int4(128, formats.float16), _uint4(128, formats.float16)
int4_g128_bf16, uint4_g128_bf16 = _int4(128, formats.bfloat16), _uint4(128, formats.bfloat16)
int4_g128_f32, uint4_g128_f32 = _int4(128, formats.float32), _uint4(128, formats.float32)
nf4 = _named("nf4", Recipe(formats.nf4, (Level(formats.float32, (1, 64)),)), _BITSANDBYTES)


def all_recipes() -> dict[str, Recipe]:
    """Every named recipe by name."""
    return dict(_NAMED)


def find(name: str) -> Recipe:
    """The recipe called `name`; raises RecipeError listing the known ones."""
    try:
        return _NAMED[name]
    except KeyError:
        raise RecipeError(f"unknown recipe {name!r}; known recipes: {', '.join(_NAMED)}") from None


def spelled(
    element: str,
    levels: Sequence[tuple[str, Block | None]],
    zero_point: str | None = None,
    offset: str | None = None,
    **policy: Any,
) -> Recipe:
    """A recipe spelled out by the names of its formats, as emitted code holds it.

    >>> spelled("float8_e4m3fn", (("float32", (1, 128)),)).levels[0].block
    (1, 128)
    """
    return Recipe(
        formats.find(element),
        tuple(Level(formats.find(dtype), block) for dtype, block in levels),
        None if zero_point is None else ZeroPoint(formats.find(zero_point)),
        None if offset is None else Offset(formats.find(offset)),
        Policy(**policy),
    )


def grid_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """How many blocks lie along each axis; the last one of an axis may be partial.

    >>> grid_shape((4, 576), (1, 128))
    (4, 5)
    """
    return tuple(1 if width is None else -(-size // width) for size, width in zip(shape, block, strict=True))
