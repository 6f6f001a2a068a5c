"""Whole casts in few operations equal the general way, and step aside where they do not apply."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia import DelayedScaling, recipes  # noqa: E402
from breccia.arrays import torch_quantize  # noqa: E402

ALL = recipes.all_recipes()
COVERED = [
    "float8_tensor", "float8_e5m2_tensor", "float8_e4m3fnuz_tensor", "float8_row", "float8_1x128", "float8_128x128",
    "float8_128x128_e8m0", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8", "int8_row",
    "int4_g128_f32", "nvfp4", "nvfp4_16x16",
]  # fmt: skip
SHAPES = [(256, 512), (1024, 1024), (3, 256, 1024), (2048, 768)]


def data(shape):
    rng = np.random.default_rng(len(shape))
    return (rng.standard_normal(shape) * np.exp(4 * rng.standard_normal((*shape[:-1], 1)))).astype(np.float32)


@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_numpy(name, shape):
    x = data(shape)
    x.reshape(-1)[:9] = [1e-42, -1e-42, -0.0, 0.0, 448, 464, 1.5, 2.5, -3.5]
    made = torch_quantize.quantize(torch.from_numpy(x), ALL[name])
    assert made is not None
    expected = breccia.cast(x, ALL[name])
    np.testing.assert_array_equal(made[0].numpy(), expected.codes().view(np.uint8))
    np.testing.assert_array_equal(made[1][-1].numpy(), expected.scale)
    np.testing.assert_array_equal(made[1][0].numpy(), expected.scales[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", COVERED)
def test_equals_numpy_from_half_precision(name, dtype):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1024, 1024))).to(getattr(torch, dtype))
    made = torch_quantize.quantize(x, ALL[name])
    assert made is not None
    codes, (*_, scales) = made
    expected = breccia.cast(x.float().numpy(), ALL[name])
    np.testing.assert_array_equal(codes.numpy(), expected.codes().view(np.uint8))
    np.testing.assert_array_equal(scales.numpy(), expected.scale)


@pytest.mark.parametrize("value", [0.0, 1e-30, 3.4e38, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("shape", [(2, 128), (1024, 1024)], ids=str)
@pytest.mark.parametrize("name", ["float8_tensor", "float8_row", "mxfp8_e4m3"])
def test_unusual_blocks_go_the_general_way(name, shape, value):
    x = np.ones(shape, np.float32)
    x[-1, :] = value
    quick = torch_quantize.quantize(torch.from_numpy(x), ALL[name])
    assert (quick is None) == (not abs(value) < 1e38 or name != "float8_tensor")
    got, expected = breccia.cast(torch.from_numpy(x), ALL[name]), breccia.cast(x, ALL[name])
    np.testing.assert_array_equal(got.data.numpy(), expected.data)
    np.testing.assert_array_equal(got.scale.numpy(), expected.scale)


@pytest.mark.parametrize(
    "recipe",
    [
        ALL["nvfp4"].with_policy(scale_min=2.0**-6), ALL["uint4_g128_f32"], ALL["int4_g128_f16"], ALL["nf4"],
        DelayedScaling(margin=1),
        ALL["mxfp8_e4m3"].with_policy(scale="floor"), ALL["float8_tensor"].with_policy(division="reciprocal"),
        ALL["float8_tensor"].with_policy(rounding="stochastic"), ALL["float8_tensor"].with_policy(amax_min=1.0),
        ALL["float8_tensor"].with_policy(max=240.0), ALL["float8_tensor"].with_policy(scale_min=1.0),
    ],
    ids=repr,
)  # fmt: skip
def test_other_recipes_go_the_general_way(recipe):
    assert torch_quantize.quantize(torch.ones(256, 256), recipe) is None


@pytest.mark.parametrize(
    "x", [torch.ones(4, 96)[:, ::2], torch.ones(4, 33), torch.ones(0, 32), torch.ones(4, 32).double()]
)
def test_other_tensors_go_the_general_way(x):
    assert torch_quantize.quantize(x, ALL["mxfp8_e4m3"]) is None


def test_a_flushing_host_changes_nothing():
    x = data((64, 256))
    x[0, :64] = np.float32(1e-40) * np.arange(64)
    x[0, 64] = 2.0**-59
    recipe = ALL["float8_e5m2_tensor"]
    expected = breccia.cast(x, recipe)
    assert torch.set_flush_denormal(True)
    try:
        made = torch_quantize.quantize(torch.from_numpy(x), recipe)
    finally:
        torch.set_flush_denormal(False)
    assert made is not None
    codes, (scale,) = made
    np.testing.assert_array_equal(codes.numpy(), expected.data)
    assert scale == expected.scale
