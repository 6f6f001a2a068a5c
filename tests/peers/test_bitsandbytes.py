"""bitsandbytes: NF4 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.recipes import Level, Recipe
from tests.peers.compare import Case, Parts, check, load, need
from tests.peers.torch_arrays import array_of, to_torch


@pytest.fixture(scope="module")
def peer() -> str:
    return need("bitsandbytes", "torch")


def nf4(size: int) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        packed, state = load("bitsandbytes.functional").quantize_4bit(to_torch(x), blocksize=size, quant_type="nf4")
        octets = packed.numpy().reshape(x.shape[0], -1)
        elements = np.stack([octets >> 4, octets & 15], -1).reshape(x.shape)
        return {"scales": array_of(state.absmax), "elements": elements}

    return run


def wide(size: int) -> Recipe:
    return Recipe(formats.nf4, (Level(formats.float32, (1, size)),), policy=recipes.nf4.policy)


DIFFERS = {
    "subnormal": "the reciprocal of the scale overflows in bitsandbytes",
    "inf": "a block with infinity has a NaN scale here, an infinite one in bitsandbytes",
}

CASES = [
    Case("nf4", "quantize_4bit, nf4, blocks of 64", recipes.nf4.with_policy(zero_scale="zero"), nf4(64), DIFFERS),
    Case("nf4_128", "quantize_4bit, nf4, blocks of 128", wide(128).with_policy(zero_scale="zero"), nf4(128), DIFFERS),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_encoding(case: Case, peer: str, golden: Any) -> None:
    check(case, peer, golden)
