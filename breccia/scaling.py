"""breccia 0.1's recipe classes. Each is a `Recipe`; the parameters keep their names, defaults and order.

New code can write the named recipes of `breccia.recipes` or a `Recipe` of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from breccia import formats
from breccia.errors import RecipeError
from breccia.formats import Format
from breccia.layouts import BlockLayout, PerBlockK, PerBlockMN, PerTensor
from breccia.recipes import Level, Policy, Recipe, ZeroPoint

Fp8Format = Literal["E4M3", "E5M2"]
_FP8: dict[str, Format] = {"E4M3": formats.float8_e4m3fn, "E5M2": formats.float8_e5m2}
_SCALES: dict[str, Format] = {"fp16": formats.float16, "bf16": formats.bfloat16, "fp32": formats.float32}


class ScalingRecipe(Recipe):
    """Base of 0.1's recipes.

    Invariants: `parameters` are the constructor's arguments by name; `name` is the class's and decides nothing.
    """

    name: ClassVar[str] = ""  # type: ignore[misc] # 0.1 has it on the class, Recipe on the instance
    parameters: dict[str, Any]

    def _fill(self, parameters: dict[str, Any], **parts: Any) -> None:
        object.__setattr__(self, "parameters", parameters)
        for key, value in parameters.items():
            object.__setattr__(self, key, value)
        Recipe.__init__(self, **parts, name=type(self).name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.parameters.values())

    @property
    def layout(self) -> BlockLayout:
        """0.1's descriptor of how scales cover data, for blocks along the last axis."""
        raise NotImplementedError


class DelayedScaling(ScalingRecipe):
    """FP8 per tensor, scaled by the largest amax of the last `amax_history_len` steps times 2**margin.

    The steps are `delayed_init` and `delayed_update`; scales are computed as TransformerEngine computes them. `cast`
    without a scale uses the tensor's own amax, a history of one. Raises RecipeError for a history shorter than 1 or a
    negative margin.

    >>> DelayedScaling(margin=1).policy.margin
    1
    """

    name: ClassVar[str] = "delayed"
    fp8_format: Fp8Format
    amax_history_len: int
    margin: int

    def __init__(self, fp8_format: Fp8Format = "E4M3", amax_history_len: int = 16, margin: int = 0) -> None:
        element = _fp8(fp8_format)
        _integer(amax_history_len, "amax_history_len", 1)
        _integer(margin, "margin", 0)
        self._fill(
            {"fp8_format": fp8_format, "amax_history_len": amax_history_len, "margin": margin},
            element=element,
            levels=(Level(formats.float32),),
            policy=Policy(amax="delayed", history=amax_history_len, margin=margin, division="inverse"),
        )

    @property
    def layout(self) -> PerTensor:
        return PerTensor()


class Float8CurrentScaling(ScalingRecipe):
    """FP8 with one scale for the tensor, from its own amax."""

    name: ClassVar[str] = "current"
    fp8_format: Fp8Format

    def __init__(self, fp8_format: Fp8Format = "E4M3") -> None:
        self._fill({"fp8_format": fp8_format}, element=_fp8(fp8_format), levels=(Level(formats.float32),))

    @property
    def layout(self) -> PerTensor:
        return PerTensor()


class Float8BlockScaling(ScalingRecipe):
    """FP8 with a float32 scale for each `block_k` elements along one axis."""

    name: ClassVar[str] = "block"
    fp8_format: Fp8Format
    block_k: int

    def __init__(self, fp8_format: Fp8Format = "E4M3", block_k: int = 128) -> None:
        element = _fp8(fp8_format)
        _integer(block_k, "block_k", 1)
        self._fill(
            {"fp8_format": fp8_format, "block_k": block_k},
            element=element,
            levels=(Level(formats.float32, (1, block_k)),),
        )

    @property
    def layout(self) -> PerBlockK:
        return PerBlockK(self.block_k)


class MXFP8BlockScaling(ScalingRecipe):
    """OCP MXFP8: FP8 with an E8M0 scale for each 32 elements, scale rule `ceil`."""

    name: ClassVar[str] = "mxfp8"
    fp8_format: Fp8Format
    block_size: int

    def __init__(self, fp8_format: Fp8Format = "E4M3", block_size: int = 32) -> None:
        element = _fp8(fp8_format)
        _fixed(block_size, 32, "MXFP8 block_size is fixed at 32 by the OCP MX spec")
        self._fill(
            {"fp8_format": fp8_format, "block_size": block_size},
            element=element,
            levels=(Level(formats.float8_e8m0fnu, (1, 32)),),
            policy=Policy(scale="ceil", zero_scale="smallest"),
        )

    @property
    def layout(self) -> PerBlockMN:
        return PerBlockMN(1, 32)


class NVFP4BlockScaling(ScalingRecipe):
    """NVFP4: E2M1 with an E4M3 scale for each 16 elements and a float32 scale for the tensor (0.1 had only the
    former).
    """

    name: ClassVar[str] = "nvfp4"
    fp4_format: str
    block_size: int
    scale_format: str

    def __init__(self, fp4_format: str = "E2M1", block_size: int = 16, scale_format: str = "E4M3") -> None:
        _fixed(fp4_format, "E2M1", "NVFP4 fp4_format is fixed at 'E2M1'")
        _fixed(block_size, 16, "NVFP4 block_size is fixed at 16")
        _fixed(scale_format, "E4M3", "NVFP4 scale_format is fixed at 'E4M3'")
        self._fill(
            {"fp4_format": fp4_format, "block_size": block_size, "scale_format": scale_format},
            element=formats.float4_e2m1fn,
            levels=(Level(formats.float32), Level(formats.float8_e4m3fn, (1, 16))),
        )

    @property
    def layout(self) -> PerBlockMN:
        return PerBlockMN(1, 16)


class INT4Scaling(ScalingRecipe):
    """INT4 with a scale for each `group_size` elements; symmetric (-7 to 7), or with a zero point (0 to 15).

    signed: left out, it follows `symmetric`. Raises RecipeError for signed=True with symmetric=False.

    >>> INT4Scaling(symmetric=False).signed
    False
    """

    name: ClassVar[str] = "int4"
    group_size: int
    signed: bool
    scale_dtype: str
    symmetric: bool

    def __init__(
        self, group_size: int = 128, signed: bool | None = None, scale_dtype: str = "fp16", symmetric: bool = True
    ) -> None:
        _integer(group_size, "group_size", 1)
        if scale_dtype not in _SCALES:
            raise RecipeError(f"scale_dtype must be one of 'fp16', 'bf16', 'fp32', got {scale_dtype!r}")
        if signed and not symmetric:
            raise RecipeError(
                "asymmetric INT4 (symmetric=False) stores codes 0 to 15 and needs signed=False; leave signed out"
            )
        signed = symmetric if signed is None else signed
        self._fill(
            {"group_size": group_size, "signed": signed, "scale_dtype": scale_dtype, "symmetric": symmetric},
            element=formats.int4 if signed else formats.uint4,
            levels=(Level(_SCALES[scale_dtype], (1, group_size)),),
            zero_point=None if symmetric else ZeroPoint(formats.uint4),
        )

    @property
    def layout(self) -> PerBlockK:
        return PerBlockK(self.group_size)


def _fp8(name: object) -> Format:
    if not isinstance(name, str) or name not in _FP8:
        raise RecipeError(f"fp8_format must be 'E4M3' or 'E5M2', got {name!r}")
    return _FP8[name]


def _integer(value: object, what: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecipeError(f"{what} must be an integer of at least {least}, got {value!r}")


def _fixed(value: object, only: object, message: str) -> None:
    if isinstance(value, bool) or value != only:
        raise RecipeError(f"{message}, got {value!r}")
