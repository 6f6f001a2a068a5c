"""Element and scale formats as data.

A format says how one code (a bit pattern) is read as a number. Nothing here computes on arrays: `decode_code` is the
definition, one code at a time, and `numerics` is the fast way to the same values.

Sources: OCP MX v1.0 (E8M0, FP8, FP6, FP4, MXINT8), OCP OFP8 v1.0 (E4M3FN, E5M2), ml_dtypes (spelling, FNUZ), QLoRA
(NF4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from breccia.errors import FormatError

Kind = Literal["float", "int", "codebook"]
NanCode = Literal["none", "all_ones", "ieee", "negative_zero"]


@dataclass(frozen=True)
class Format:
    """How one code is read as a number.

    Invariants: a `float` has the sign (if any) in its top bit, then exponent, then mantissa; an `int` is two's
    complement if signed and its value is `code / 2**fraction_bits`; a `codebook` has `2**bits` values.
    """

    name: str
    """Spelled as in ml_dtypes where ml_dtypes has it."""
    mlir: str
    """Spelled as in MLIR where MLIR has it; else a breccia keyword."""
    kind: Kind
    bits: int
    signed: bool = True
    exponent_bits: int = 0
    mantissa_bits: int = 0
    bias: int = 0
    nan: NanCode = "none"
    """`all_ones`: exponent and mantissa all ones; `ieee`: exponent all ones and mantissa not 0; `negative_zero`: the
    code of -0."""
    infinity: bool = False
    zero: bool = True
    """False for E8M0 alone: its code 0 is 2**-127."""
    fraction_bits: int = 0
    codebook: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 64:
            raise FormatError(f"format {self.name!r} has {self.bits!r} bits; allowed: 1 to 64")
        if self.kind == "int" and self.bits > 16:
            raise FormatError(f"integer format {self.name!r} has {self.bits} bits; allowed: 1 to 16")
        width = self.signed + self.exponent_bits + self.mantissa_bits
        if self.kind == "float" and width != self.bits:
            raise FormatError(
                f"format {self.name!r} has {self.bits} bits, but sign, exponent and mantissa take {width}"
            )
        if self.kind == "codebook" and len(self.codebook) != 1 << self.bits:
            raise FormatError(
                f"codebook {self.name!r} of {self.bits} bits needs {1 << self.bits} values, got {len(self.codebook)}"
            )

    def __repr__(self) -> str:
        return f"<format {self.name}>"

    @property
    def is_power_of_two(self) -> bool:
        """True where every value is a power of two (E8M0)."""
        return self.kind == "float" and self.mantissa_bits == 0

    @property
    def has_nan(self) -> bool:
        return self.nan != "none"

    @property
    def has_negative_zero(self) -> bool:
        return self.kind == "float" and self.signed and self.nan != "negative_zero"

    @cached_property
    def nan_code(self) -> int | None:
        """The code written for NaN: quiet, positive where the format has a choice; None where it has no NaN."""
        if self.nan == "none":
            return None
        if self.nan == "negative_zero":
            return 1 << (self.bits - 1)
        magnitude = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        if self.nan == "all_ones":
            return magnitude
        return (magnitude >> self.mantissa_bits << self.mantissa_bits) | (1 << (self.mantissa_bits - 1))

    @cached_property
    def infinity_code(self) -> int | None:
        """The code of +Inf; None where the format has none."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits if self.infinity else None

    @cached_property
    def max_code(self) -> int:
        """The code of the largest finite value."""
        if self.kind == "codebook":
            return max(range(len(self.codebook)), key=self.codebook.__getitem__)
        if self.kind == "int":
            return (1 << (self.bits - self.signed)) - 1
        magnitude = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        if self.nan == "ieee":
            return (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1
        return magnitude - (self.nan == "all_ones")

    @cached_property
    def max(self) -> float:
        """The largest finite value."""
        return self.decode_code(self.max_code)

    @cached_property
    def min(self) -> float:
        """The smallest (most negative) finite value."""
        if self.kind == "codebook":
            return min(self.codebook)
        if self.kind == "int":
            return -float(1 << (self.bits - 1)) / (1 << self.fraction_bits) if self.signed else 0.0
        return -self.max if self.signed else self.smallest_positive

    @property
    def emax(self) -> int:
        """Exponent of the largest finite value: 8 for E4M3FN, 2 for E2M1, 0 for MXINT8 (OCP MX v1.0, table 1)."""
        from math import frexp

        return frexp(self.max)[1] - 1

    @property
    def smallest_normal(self) -> float:
        if self.kind != "float":
            return self.smallest_positive
        return 2.0 ** (1 - self.bias) if self.zero else 2.0 ** (-self.bias)

    @property
    def smallest_positive(self) -> float:
        """The smallest value above zero (a subnormal where the format has them)."""
        if self.kind == "codebook":
            return min(v for v in self.codebook if v > 0)
        if self.kind == "int":
            return 1.0 / (1 << self.fraction_bits)
        return 2.0 ** (1 - self.bias - self.mantissa_bits) if self.zero else 2.0 ** (-self.bias)

    def decode_code(self, code: int) -> float:
        """The number that `code` stands for: the definition that everything else is tested against.

        >>> float4_e2m1fn.decode_code(0b0111)
        6.0
        """
        if not 0 <= code < (1 << self.bits):
            raise FormatError(f"code {code} is outside {self.name}, whose codes are 0 to {(1 << self.bits) - 1}")
        if self.kind == "codebook":
            return self.codebook[code]
        if self.kind == "int":
            value = code - (1 << self.bits) if self.signed and code >> (self.bits - 1) else code
            return value / (1 << self.fraction_bits)
        sign = -1.0 if self.signed and code >> (self.bits - 1) else 1.0
        magnitude_bits = self.exponent_bits + self.mantissa_bits
        magnitude = code & ((1 << magnitude_bits) - 1)
        if self._is_nan(sign, magnitude):
            return float("nan")
        exponent, mantissa = magnitude >> self.mantissa_bits, magnitude & ((1 << self.mantissa_bits) - 1)
        if self.infinity and exponent == (1 << self.exponent_bits) - 1:
            return sign * float("inf")
        if exponent == 0 and self.zero:
            return sign * mantissa * 2.0 ** (1 - self.bias - self.mantissa_bits)
        return sign * (1 + mantissa / (1 << self.mantissa_bits)) * 2.0 ** (exponent - self.bias)

    def _is_nan(self, sign: float, magnitude: int) -> bool:
        if self.nan == "negative_zero":
            return sign < 0 and magnitude == 0
        if self.nan == "all_ones":
            return magnitude == (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        if self.nan == "ieee":
            exponent = magnitude >> self.mantissa_bits
            return exponent == (1 << self.exponent_bits) - 1 and magnitude & ((1 << self.mantissa_bits) - 1) != 0
        return False


def _float(name: str, mlir: str, exponent: int, mantissa: int, bias: int, **kwargs: object) -> Format:
    signed = bool(kwargs.pop("signed", True))
    return Format(
        name, mlir, "float", exponent + mantissa + signed, signed, exponent, mantissa, bias,
        **kwargs,  # type: ignore[arg-type]
    )  # fmt: skip


float64 = _float("float64", "f64", 11, 52, 1023, nan="ieee", infinity=True)
float32 = _float("float32", "f32", 8, 23, 127, nan="ieee", infinity=True)
bfloat16 = _float("bfloat16", "bf16", 8, 7, 127, nan="ieee", infinity=True)
float16 = _float("float16", "f16", 5, 10, 15, nan="ieee", infinity=True)
float8_e4m3fn = _float("float8_e4m3fn", "f8E4M3FN", 4, 3, 7, nan="all_ones")
float8_e4m3fnuz = _float("float8_e4m3fnuz", "f8E4M3FNUZ", 4, 3, 8, nan="negative_zero")
float8_e5m2 = _float("float8_e5m2", "f8E5M2", 5, 2, 15, nan="ieee", infinity=True)
float8_e5m2fnuz = _float("float8_e5m2fnuz", "f8E5M2FNUZ", 5, 2, 16, nan="negative_zero")
float8_e8m0fnu = _float("float8_e8m0fnu", "f8E8M0FNU", 8, 0, 127, signed=False, nan="all_ones", zero=False)
float6_e2m3fn = _float("float6_e2m3fn", "f6E2M3FN", 2, 3, 1)
float6_e3m2fn = _float("float6_e3m2fn", "f6E3M2FN", 3, 2, 3)
float4_e2m1fn = _float("float4_e2m1fn", "f4E2M1FN", 2, 1, 1)
int4 = Format("int4", "i4", "int", 4)
uint4 = Format("uint4", "ui4", "int", 4, signed=False)
int8 = Format("int8", "i8", "int", 8)
uint8 = Format("uint8", "ui8", "int", 8, signed=False)
mxint8 = Format("mxint8", "mxint8", "int", 8, fraction_bits=6)
"""OCP MXINT8: two's complement with an implicit scale of 2**-6."""
nf4 = Format(
    "nf4", "nf4", "codebook", 4,
    codebook=(
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
)  # fmt: skip
"""NormalFloat4 (QLoRA, Dettmers et al. 2023, appendix E), as float32 values."""

ALL: tuple[Format, ...] = (
    float64, float32, bfloat16, float16,
    float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, float8_e5m2fnuz, float8_e8m0fnu,
    float6_e2m3fn, float6_e3m2fn, float4_e2m1fn,
    int4, uint4, int8, uint8, mxint8, nf4,
)  # fmt: skip
_BY_NAME = {f.name: f for f in ALL} | {f.mlir: f for f in ALL}


def find(name: str) -> Format:
    """The format called `name`, in ml_dtypes' or MLIR's spelling.

    Raises FormatError for an unknown name, listing the known ones.

    >>> find("f4E2M1FN").max
    6.0
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        known = ", ".join(f.name for f in ALL)
        raise FormatError(f"unknown format {name!r}; known formats: {known}") from None
