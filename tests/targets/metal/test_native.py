"""Products of MLX's own quantized weights: the weight is used as it lies, and MLX's product is taken where it means the
same, bit for bit.
"""

from __future__ import annotations

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")

import breccia  # noqa: E402
from breccia import formats, numerics, recipes  # noqa: E402
from breccia.formats import Format  # noqa: E402
from breccia.recipes import Level, Offset, Recipe  # noqa: E402
from breccia.targets.metal import launch  # noqa: E402
from breccia.tensor import ScaledTensor  # noqa: E402

pytestmark = [
    pytest.mark.skipif(launch.is_available(), reason="this machine has Metal"),
    pytest.mark.filterwarnings("ignore::breccia.frontend.compile.FallbackWarning"),
]
E8M0, E4M3, E2M1 = formats.float8_e8m0fnu, formats.float8_e4m3fn, formats.float4_e2m1fn
MODES: dict[str, tuple[Recipe, int, int]] = {
    "mxfp4": (recipes.mxfp4, 32, 4),
    "mxfp8": (recipes.mxfp8_e4m3, 32, 8),
    "nvfp4": (Recipe(E2M1, (Level(E4M3, (1, 16)),)), 16, 4),
}
"""Modes of MLX: the recipe that means the same, the group, and bits."""


@breccia.compile(target="metal:apple")
def product(x, w):
    return breccia.matmul(x, w.T)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [1, 7])
def test_a_weight_of_mlx_is_multiplied_by_mlx(mode: str, rows: int) -> None:
    recipe, group, bits = MODES[mode]
    x = mx.random.normal((rows, 256), key=mx.random.key(1))
    words, scales = mx.quantize(
        mx.random.normal((48, 256), key=mx.random.key(0)), group_size=group, bits=bits, mode=mode
    )
    weight = ScaledTensor(words.view(mx.uint8), scales, recipe, shape=(48, 256))
    wanted = mx.quantized_matmul(x, words, scales, group_size=group, bits=bits, mode=mode)
    assert mx.array_equal(product(x, weight), wanted)
    assert "note: gemm_0 multiplies by the library's own product" in product.lower(x, weight).explain()


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_affine_weights_of_mlx(bits: int, group: int) -> None:
    x = mx.random.normal((5, 256), key=mx.random.key(1))
    words, scales, biases = mx.quantize(mx.random.normal((48, 256), key=mx.random.key(0)), group_size=group, bits=bits)
    element = formats.uint4 if bits == 4 else formats.uint8
    recipe = Recipe(element, (Level(formats.float32, (1, group)),), None, Offset(formats.float32))
    weight = ScaledTensor(words.view(mx.uint8), scales, recipe, shape=(48, 256), offset=biases)
    assert mx.array_equal(
        product(x, weight), mx.quantized_matmul(x, words, scales, biases, group_size=group, bits=bits)
    )
    decoded = mx.dequantize(words, scales, biases, group_size=group, bits=bits)
    assert np.array_equal(np.array(weight.dequantize()), np.array(decoded))


@pytest.mark.parametrize("mode", MODES)
def test_every_scale_and_element_means_the_same(mode: str) -> None:
    """Column by column, so that one NaN is not met by other columns."""
    recipe, group, bits = MODES[mode]
    element, scale = recipe.element, recipe.innermost.dtype
    size = max(group, 1 << bits)
    codes = np.tile((np.arange(size) % (1 << bits)).astype(np.uint8), (256, 1))
    scales = np.repeat(np.arange(256, dtype=np.uint8)[:, None], size // group, 1)
    for code in sorted({*range(min(1 << bits, 16)), 126 % (1 << bits), 127 % (1 << bits), (1 << bits) - 1}):
        one = np.where(codes == code, codes, 0)
        weight = ScaledTensor(mx.array(_packed(one, element)), mx.array(scales), recipe, shape=one.shape)
        x = mx.array((np.arange(size) == code).astype(np.float32)[None])
        found = np.array(product(x, weight))[0]
        with np.errstate(all="ignore"):
            wanted = numerics.decode(one[:, code], element) * numerics.decode(scales[:, 0], scale)
        assert np.array_equal(found, wanted, equal_nan=True), f"code {code}"


def _packed(codes: np.ndarray, element: Format) -> np.ndarray:
    return numerics.pack(codes, element) if element.bits == 4 else codes


def test_weights_that_mlx_does_not_mean_are_decoded() -> None:
    """Another block, a partial block, other bytes than whole words, and blocks of several rows."""
    rng = np.random.default_rng(0)
    for recipe, k in (
        (Recipe(E2M1, (Level(E8M0, (1, 64)),), policy=recipes.mxfp4.policy), 256), (recipes.mxfp4, 272),
        (recipes.mxfp8_e4m3, 33), (recipes.find("float8_128x128"), 256), (recipes.nvfp4, 40),
    ):  # fmt: skip
        weight = breccia.cast(rng.standard_normal((24, k)).astype(np.float32), recipe).to("mlx")
        x = mx.array(rng.standard_normal((3, k)).astype(np.float32))
        wanted = np.array(x) @ np.array(weight.dequantize()).T
        assert np.allclose(np.array(product(x, weight)), wanted, rtol=1e-4, atol=1e-4), recipe


def test_arrays_of_numpy_have_no_such_product() -> None:
    """The same text runs on NumPy, in two steps."""
    rng = np.random.default_rng(0)
    weight = breccia.cast(rng.standard_normal((24, 64)).astype(np.float32), recipes.mxfp4)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    assert np.allclose(product(x, weight), x @ weight.dequantize().T, rtol=1e-5, atol=1e-5)
    empty = product(mx.zeros((0, 64)), weight.to("mlx"))
    assert empty.shape == (0, 24)
