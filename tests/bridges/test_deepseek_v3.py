"""DeepSeek-V3's tensors, against its definition: each element times the scale of its 128x128."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from breccia import bridges, formats, recipes
from breccia.errors import DTypeError, FormatError, RecipeError, ShapeError, UnsupportedError
from breccia.scaling import Float8BlockScaling
from breccia.tensor import cast_array

RNG = np.random.default_rng(0)
SHAPES = [(256, 512), (192, 576), (1, 7), (130, 129)]


def tensors(shape: tuple[int, int], block: tuple[int, int] = (128, 128)) -> tuple[np.ndarray, np.ndarray]:
    data = RNG.standard_normal(shape).astype(ml_dtypes.float8_e4m3fn)
    grid = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    return data, (RNG.random(grid) + 0.5).astype(np.float32)


def by_definition(data: np.ndarray, scale: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    whole = np.repeat(np.repeat(scale, block[0], 0), block[1], 1)[: data.shape[0], : data.shape[1]]
    return data.astype(np.float32) * whole.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_decode_as_defined_and_come_back_bit_for_bit(shape):
    data, scale = tensors(shape)
    st = bridges.from_deepseek_v3(data, scale)
    np.testing.assert_array_equal(st.numpy(), by_definition(data, scale, (128, 128)))
    weight, inverse = bridges.to_deepseek_v3(st)
    assert (weight.dtype, weight.tobytes()) == (data.dtype, data.tobytes())
    assert (inverse.dtype, inverse.tobytes()) == (scale.dtype, scale.tobytes())


def test_the_scale_multiplies_whatever_its_name_says():
    st = bridges.from_deepseek_v3(np.full((1, 1), 56, np.uint8), np.full((1, 1), 4, np.float32))
    assert st.numpy().tolist() == [[4.0]]


@pytest.mark.parametrize("shape", [(5, 512), (3, 576)])
def test_activations_have_a_scale_for_each_1x128(shape):
    data, scale = tensors(shape, (1, 128))
    st = bridges.from_deepseek_v3(data, scale)
    assert st.recipe == Float8BlockScaling("E4M3", 128)
    np.testing.assert_array_equal(st.numpy(), by_definition(data, scale, (1, 128)))
    assert bridges.to_deepseek_v3(st)[1].tobytes() == scale.tobytes()


def test_rows_and_columns_of_a_square_weight_are_not_confused():
    data, scale = tensors((256, 256))
    st = bridges.from_deepseek_v3(data, scale)
    assert not np.array_equal(st.numpy(), by_definition(data, scale.T, (128, 128)))


def test_buffers_are_kept():
    data, scale = tensors((256, 512))
    st = bridges.from_deepseek_v3(data, scale)
    assert np.shares_memory(st.data, data)
    assert st.scale is scale or np.shares_memory(st.scale, scale)


def test_powers_of_two_become_e8m0_and_come_back():
    data, _ = tensors((192, 576))
    scale = np.exp2(RNG.integers(-127, 128, (2, 5))).astype(np.float32)
    scale[0, 0], scale[0, 1] = 2.0**-127, np.nan
    st = bridges.from_deepseek_v3(data, scale, ue8m0=True)
    assert st.recipe == recipes.float8_128x128_e8m0
    assert st.scale[0, :2].tolist() == [0, 255]
    np.testing.assert_array_equal(st.numpy(), bridges.from_deepseek_v3(data, scale).numpy())
    back = bridges.to_deepseek_v3(st, scale_dtype="float32")[1]
    np.testing.assert_array_equal(back, scale)
    stored = bridges.to_deepseek_v3(st)
    assert stored[1].dtype == ml_dtypes.float8_e8m0fnu
    assert bridges.from_deepseek_v3(*stored) == st


@pytest.mark.parametrize("value", [3.0, 0.0, -1.0, np.inf, 2.0**-128])
def test_other_scales_are_no_e8m0(value):
    with pytest.raises(FormatError, match=r"must be powers of two.*take them as float32"):
        bridges.from_deepseek_v3(np.zeros((1, 1), np.uint8), np.full((1, 1), value, np.float32), ue8m0=True)


def test_experts_may_lie_behind_each_other():
    data = RNG.standard_normal((3, 192, 256)).astype(ml_dtypes.float8_e4m3fn)
    scale = RNG.random((3, 2, 2)).astype(np.float32)
    values = bridges.from_deepseek_v3(data, scale).numpy()
    for i in range(3):
        np.testing.assert_array_equal(values[i], by_definition(data[i], scale[i], (128, 128)))


def test_torch_tensors_keep_their_memory_and_dtype():
    torch = pytest.importorskip("torch")
    weight, scale = torch.randn(192, 576).to(torch.float8_e4m3fn), torch.rand(2, 5)
    back, inverse = bridges.to_deepseek_v3(bridges.from_deepseek_v3(weight, scale))
    assert back.dtype is torch.float8_e4m3fn
    assert back.data_ptr() == weight.data_ptr()
    assert torch.equal(inverse, scale)
    powers = bridges.from_deepseek_v3(weight, torch.full((2, 5), 0.25), ue8m0=True)
    assert bridges.to_deepseek_v3(powers)[1].dtype is torch.float8_e8m0fnu


def test_what_it_cannot_hold_is_refused():
    x = np.ones((4, 256), np.float32)
    for recipe in (recipes.mxfp4, recipes.float8_tensor, recipes.float8_row, recipes.nvfp4, recipes.int8_row):
        with pytest.raises(UnsupportedError, match=r"DeepSeek-V3 holds .*breccia\.requantize"):
            bridges.to_deepseek_v3(cast_array(x, recipe))


@pytest.mark.parametrize(
    ("data", "scale", "error", "text"),
    [
        (np.zeros((4, 256), np.uint8), np.ones((3, 2), np.float32), ShapeError, r"\(1, 2\) .*128x128.*\(4, 2\)"),
        (np.zeros((4, 256), np.uint8), np.ones((1, 2), np.float16), DTypeError, "float32 or E8M0"),
        (np.zeros((4, 256), ml_dtypes.float8_e4m3fnuz), np.ones((1, 2), np.float32), DTypeError, "e4m3fnuz"),
        (np.zeros(4, np.uint8), np.ones(1, np.float32), ShapeError, "matrices"),
    ],
)
def test_tensors_that_do_not_fit(data, scale, error, text):
    with pytest.raises(error, match=text):
        bridges.from_deepseek_v3(data, scale)


def test_arguments_are_checked():
    data, scale = tensors((4, 256))
    with pytest.raises(RecipeError, match="block_k"):
        bridges.from_deepseek_v3(data, scale, block_k=0)
    with pytest.raises(RecipeError, match="fp8_format"):
        bridges.from_deepseek_v3(data, scale, fp8_format="E3M4")
    with pytest.raises(DTypeError, match="scale_dtype"):
        bridges.to_deepseek_v3(bridges.from_deepseek_v3(data, scale), scale_dtype="float16")
    assert bridges.from_deepseek_v3(data.astype(ml_dtypes.float8_e5m2), scale, fp8_format="E5M2").recipe.element == (
        formats.float8_e5m2
    )
