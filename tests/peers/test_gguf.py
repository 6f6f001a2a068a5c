"""gguf: its quantizers, and its decoders, which must read what breccia encodes and packs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.formats import Format
from breccia.recipes import Level, Offset, Policy, Recipe
from breccia.tensor import cast_array
from tests.peers.compare import Case, Parts, because, check, load, need, parts, without_minus_zero

INT5 = Format("int5", "i5", "int", 5)
UINT5 = Format("uint5", "ui5", "int", 5, signed=False)
SCALE = Level(formats.float32, (1, 32))


@pytest.fixture(scope="module")
def peer() -> str:
    return need("gguf")


def blocks_of(name: str, x: np.ndarray) -> np.ndarray:
    """The bytes of each block of 32."""
    kind = load("gguf").GGMLQuantizationType[name]
    made = load("gguf.quants").quantize(np.asarray(x, np.float32), kind)
    return made.reshape(x.shape[0], x.shape[1] // 32, -1)


def halves(octets: np.ndarray) -> np.ndarray:
    """Codes of 4 bits: the low ones of 16 bytes, then the high ones."""
    return np.concatenate([octets & 15, octets >> 4], -1)


def half(octets: np.ndarray) -> np.ndarray:
    """float16 in two bytes, as float32."""
    return np.ascontiguousarray(octets).view(np.float16)[..., 0].astype(np.float32)


def mxfp4(x: np.ndarray) -> Parts:
    made = blocks_of("MXFP4", x)
    return {"scales": made[..., 0], "elements": halves(made[..., 1:])}


def q8_0(x: np.ndarray) -> Parts:
    made = blocks_of("Q8_0", x)
    return {"scales": half(made[..., :2]), "elements": made[..., 2:]}


def q4(x: np.ndarray, name: str) -> Parts:
    made = blocks_of(name, x)
    if name == "Q4_0":
        return {"scales": half(made[..., :2]), "elements": halves(made[..., 2:])}
    return {"scales": half(made[..., :2]), "offsets": half(made[..., 2:4]), "elements": halves(made[..., 4:])}


def q5(x: np.ndarray, name: str) -> Parts:
    made = blocks_of(name, x)
    sides = made[..., :-20]
    fifth = np.unpackbits(np.ascontiguousarray(made[..., -20:-16]), axis=-1, bitorder="little")
    out = {"scales": half(sides[..., :2]), "elements": halves(made[..., -16:]) | fifth << 4}
    return out if name == "Q5_0" else out | {"offsets": half(sides[..., 2:4])}


def in_float16(made: Parts) -> Parts:
    """Elements made by float32 scales, which are then stored in float16."""
    sides = made.keys() - {"elements"}
    return made | {name: made[name].astype(np.float16).astype(np.float32) for name in sides}


def rounded_after(x: np.ndarray, recipe: Recipe) -> Parts:
    return in_float16(parts(cast_array(x, recipe)))


def by_signed_largest(x: np.ndarray, recipe: Recipe) -> Parts:
    """Each block by -(its value of the largest magnitude), so that this value becomes the most negative code."""
    values = np.asarray(x, np.float32)
    blocks = values.reshape(x.shape[0], -1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    sign = np.where(np.signbit(largest), np.float32(1), np.float32(-1))
    made = parts(cast_array((blocks * sign).reshape(x.shape), recipe))
    made["scales"] = made["scales"] * sign[..., 0]
    bias = 1 << recipe.element.bits - 1
    return in_float16(made | {"elements": made["elements"] + bias & 2 * bias - 1})


AWAY = Policy(rounding="ties_away", zero_scale="zero")
Q8_0 = Recipe(formats.int8, (SCALE,), policy=AWAY)
Q4_0 = Recipe(formats.int4, (SCALE,), policy=Policy(rounding="ties_away", zero_scale="zero", max=8.0))
Q5_0 = Recipe(INT5, (SCALE,), policy=Policy(rounding="ties_away", zero_scale="zero", max=16.0))
Q4_1 = Recipe(formats.uint4, (SCALE,), offset=Offset(formats.float32), policy=AWAY)
Q5_1 = Recipe(UINT5, (SCALE,), offset=Offset(formats.float32), policy=AWAY)
FLOOR = recipes.mxfp4.with_policy(scale="floor", rounding="ties_zero")

AFTER = "scales stored in float16 after"
SIGNED = f"each block negated where its largest magnitude is positive, {AFTER}"


def fp4(x: np.ndarray, recipe: Recipe) -> Parts:
    return without_minus_zero(parts(cast_array(x, recipe)))


RECIPROCAL = "gguf multiplies by the reciprocal of the scale, rounded: a few quotients near ties differ"
HALF_UP = f"gguf rounds halves up, the recipe away from 0; {RECIPROCAL}"
OVERFLOW = "the reciprocal of the scale overflows in gguf"
INFINITY = "a block with infinity has a NaN scale here, an infinite one in gguf"
MXFP4_DIFFERS = {
    "subnormal": "the code of a scale below 2**-127 wraps to a large one in gguf",
    "huge": "log2 of the largest numbers is rounded up in gguf",
    **because("blocks with NaN or infinity have a NaN scale here, not in gguf", "nan", "inf"),
}
SYMMETRIC_DIFFERS = {
    **because(RECIPROCAL, "normal", "wide", "zeros", "huge", "nan"),
    "subnormal": OVERFLOW,
    "inf": f"{INFINITY}; {RECIPROCAL}",
}
SIGNED_DIFFERS = SYMMETRIC_DIFFERS | {"ties": HALF_UP}
SIGNLESS = "the sign of a smallest value that is 0"
OFFSET_DIFFERS = SIGNED_DIFFERS | {
    "ties": RECIPROCAL,
    "zeros": f"{SIGNLESS}; {RECIPROCAL}",
    "subnormal": f"{OVERFLOW}; {SIGNLESS}",
    "huge": "the range of a block overflows in gguf",
    "nan": f"offsets of NaN blocks, which decode to NaN alike; {RECIPROCAL}",
}

CASES = [
    Case("mxfp4", "quantize, MXFP4", FLOOR, mxfp4, MXFP4_DIFFERS, ours=fp4, note="-0 taken for +0"),
    Case("q8_0", "quantize, Q8_0", Q8_0, q8_0, SYMMETRIC_DIFFERS, ours=rounded_after, note=AFTER),
    Case("q4_0", "quantize, Q4_0", Q4_0, lambda x: q4(x, "Q4_0"), SIGNED_DIFFERS, ours=by_signed_largest, note=SIGNED),
    Case(
        "q5_0", "quantize, Q5_0", Q5_0, lambda x: q5(x, "Q5_0"), SYMMETRIC_DIFFERS, ours=by_signed_largest, note=SIGNED
    ),
    Case("q4_1", "quantize, Q4_1", Q4_1, lambda x: q4(x, "Q4_1"), OFFSET_DIFFERS, ours=rounded_after, note=AFTER),
    Case("q5_1", "quantize, Q5_1", Q5_1, lambda x: q5(x, "Q5_1"), OFFSET_DIFFERS, ours=rounded_after, note=AFTER),
]


@pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning", "ignore:overflow encountered:RuntimeWarning"
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_encoding(case: Case, peer: str, golden: Any) -> None:
    check(case, peer, golden)
