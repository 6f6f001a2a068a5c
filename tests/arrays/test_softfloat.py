"""Integer arithmetic against the hardware's, which is trusted where it keeps subnormals."""

from __future__ import annotations

import numpy as np
import pytest

from breccia.arrays import softfloat

SPECIAL = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 2**-126, 2**-127, 3.4e38, -3.4e38, 1, 1.5], np.float32
)


def operands() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 1 << 32, (2, 1 << 18), dtype=np.uint32).view(np.float32)
    tiny = rng.integers(0, 1 << 25, (2, 1 << 16), dtype=np.uint32).view(np.float32)
    near = rng.standard_normal((2, 1 << 16)).astype(np.float32)
    first = [a, tiny[0], tiny[0], near[0], np.repeat(SPECIAL, SPECIAL.size), -near[0]]
    second = [b, tiny[1], near[1], near[1], np.tile(SPECIAL, SPECIAL.size), near[0] * np.float32(1 + 2**-20)]
    return np.concatenate(first), np.concatenate(second)


@pytest.mark.parametrize(("soft", "hard"), [
    (softfloat.multiply, np.multiply), (softfloat.divide, np.divide), (softfloat.add, np.add),
])  # fmt: skip
def test_same_bits_as_the_hardware(soft, hard):
    a, b = operands()
    with np.errstate(all="ignore"):
        want = hard(a, b)
        got = soft(a, b)
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got.view(np.uint32)[~nan], want.view(np.uint32)[~nan])


def test_operands_broadcast():
    a, b = np.ones((4, 1), np.float32), np.full((1, 3), 2, np.float32)
    for soft in (softfloat.multiply, softfloat.divide, softfloat.add):
        assert soft(a, b).shape == (4, 3)


def test_this_host_keeps_subnormals():
    assert not softfloat.host_flushes()
