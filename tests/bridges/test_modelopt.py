"""ModelOpt: its tensors classes quantize and decode on the CPU; bits and values are ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_modelopt, to_modelopt
from breccia.bridges._common import recipe_of
from breccia.errors import FormatError, UnsupportedError
from breccia.tensor import cast_array
from tests.peers.compare import load, need

X = (np.random.default_rng(0).standard_normal((64, 96)) * 3).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def peer() -> str:
    return need("nvidia-modelopt", "torch")


def qtensor() -> Any:
    return load("modelopt.torch.quantization.qtensor")


def weight() -> Any:
    import torch

    return torch.from_numpy(X.copy())


def comes_back(tensors: dict[str, Any], st: Any) -> None:
    back = to_modelopt(st)
    assert set(back) == set(tensors)
    for name, x in tensors.items():
        assert back[name].dtype == x.dtype
        assert back[name].numel() == x.numel()
        assert back[name].reshape(-1).tolist() == x.reshape(-1).tolist()


def test_nvfp4():
    import torch

    outer = torch.tensor(2.0**-8)  # exact, so that the order of products does not matter
    made, scales, _ = qtensor().NVFP4QTensor.quantize(weight(), 16, weights_scaling_factor_2=outer)
    tensors = {"weight": made._quantized_data, "weight_scale": scales, "weight_scale_2": outer}
    st = from_modelopt({**tensors, "input_scale": torch.ones(())}, dtype="float32")
    assert st.recipe == recipes.nvfp4
    theirs = made.dequantize(torch.float32, scale=scales, double_scale=outer, block_sizes={-1: 16})
    np.testing.assert_array_equal(st.numpy(), theirs.numpy())
    comes_back(tensors, st)


def test_nvfp4_of_experts_has_an_outer_scale_for_each():
    parts = [cast_array(X * n, recipes.nvfp4) for n in (1, 100)]
    outer = np.array([st.scales[0] for st in parts])
    tensors = {
        "weight": np.stack([st.data for st in parts]), "weight_scale_2": outer,
        "weight_scale": np.stack([st.scale for st in parts]).view(np.dtype("float8_e4m3fn")),
    }  # fmt: skip
    st = from_modelopt(tensors, dtype="float32")
    assert st.recipe.blocks(3)[0] == (1, None, None)
    for i in range(2):
        np.testing.assert_array_equal(st.numpy()[i], parts[i].numpy())


def test_mxfp4():
    import torch

    made, scales = qtensor().MXFP4QTensor.quantize(weight(), 32)
    tensors = {"weight": made._quantized_data, "weight_scale": scales.reshape(64, -1)}
    st = from_modelopt(tensors, dtype="float32")
    assert st.recipe == recipes.mxfp4
    theirs = made.dequantize(torch.float32, scale=scales, block_sizes={-1: 32})
    np.testing.assert_array_equal(st.numpy(), theirs.numpy())
    comes_back(tensors, st)


def test_mxfp8():
    import torch

    made, scales = qtensor().MXFP8QTensor.quantize(weight())
    tensors = {"weight": made._quantized_data, "weight_scale": scales}
    st = from_modelopt(tensors, dtype="float32")
    assert st.recipe == recipes.mxfp8_e4m3
    np.testing.assert_array_equal(st.numpy(), made.dequantize(torch.float32, scale=scales).numpy())
    comes_back(tensors, st)


@pytest.mark.parametrize("name", ["float8_tensor", "float8_row", "float8_128x128"])
def test_fp8(name):
    """As `to_quantized_weight` has it: codes times weight_scale, whose shape says what it covers."""
    import torch

    scale = {
        "float8_tensor": torch.tensor(0.25), "float8_row": torch.rand(192) + 0.5, "float8_128x128": torch.rand(2, 3) + 1
    }[name]  # fmt: skip
    data = torch.randn(192, 384).to(torch.float8_e4m3fn)
    st = from_modelopt({"weight": data, "weight_scale": scale}, dtype="float32")
    assert st.recipe == recipes.find(name)
    whole = {
        "float8_tensor": lambda: scale, "float8_row": lambda: scale[:, None],
        "float8_128x128": lambda: scale.repeat_interleave(128, 0)[:192].repeat_interleave(128, 1),
    }[name]()  # fmt: skip
    np.testing.assert_array_equal(st.numpy(), (data.float() * whole).numpy())
    comes_back({"weight": data, "weight_scale": scale}, st)
    if name == "float8_128x128":
        assert from_modelopt({"weight": data, "weight_scale": scale.reshape(2, 1, 3, 1)}, dtype="float32") == st


def test_int8():
    rng = np.random.default_rng(1)
    data, scale = rng.integers(-128, 128, (8, 32)).astype(np.int8), rng.random(8).astype(np.float32)
    st = from_modelopt({"weight": data, "weight_scale": scale}, dtype="float32")
    np.testing.assert_array_equal(st.numpy(), data * scale[:, None])
    back = to_modelopt(st)
    assert (back["weight"].tobytes(), back["weight_scale"].tobytes()) == (data.tobytes(), scale.tobytes())


FP4 = {
    "weight": np.zeros((2, 16), np.uint8), "weight_scale": np.ones((2, 2), np.dtype("float8_e4m3fn")),
    "weight_scale_2": np.ones((), np.float32),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight_scale": None}, FormatError, "there is no tensor 'weight_scale'"),
        ({"weight_scale_2": None}, FormatError, "NVFP4 needs weight_scale_2"),
        ({"pre_quant_scale": np.ones(32)}, FormatError, "does not know the tensor pre_quant_scale"),
        ({"weight_scale_2": np.ones(2, np.float32)}, FormatError, "one for each expert"),
        ({"weight_scale": np.zeros((2, 1), np.uint8)}, FormatError, "weight_scale_2 belongs to NVFP4"),
        ({"weight_scale": np.ones((2, 1), np.float32), "weight_scale_2": None}, UnsupportedError, "Export INT4"),
        ({"weight": np.zeros((2, 16), np.int8), "weight_scale": np.ones((3, 1), np.float32), "weight_scale_2": None},
         FormatError, r"must be one number, \(2,\) \(rows\) or \(1, 1\)"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(change, error, text):
    with pytest.raises(error, match=text):
        from_modelopt({name: x for name, x in (FP4 | change).items() if x is not None})


@pytest.mark.parametrize(
    ("recipe", "columns"),
    [
        (recipes.mxfp6_e2m3, 64), (recipes.nvfp4, 24), (recipes.int4_g32_f16, 64), (recipes.float8_1x128, 256),
        (recipes.float8_128x128_e8m0, 256), (recipes.nvfp4_16x16, 64), (recipes.nf4, 64),
        (recipe_of(formats.int8, (formats.float32, None)), 64),
    ],
    ids=repr,
)  # fmt: skip
def test_what_it_cannot_hold_is_refused(recipe, columns):
    with pytest.raises(UnsupportedError, match=r"ModelOpt holds.*breccia\.requantize"):
        to_modelopt(cast_array(np.ones((16, columns), np.float32), recipe))
