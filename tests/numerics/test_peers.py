"""Bit for bit against the libraries that `Recipe.equals` names; each test skips, saying so, without its library."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest

from breccia import recipes
from breccia.tensor import cast_array

ALL = recipes.all_recipes()


def gaussian_rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((256, 1024)) * 10.0 ** rng.standard_normal((256, 1))).astype(np.float32)


DATA = {
    "float32": gaussian_rows(),
    "bfloat16": gaussian_rows().astype(ml_dtypes.bfloat16).astype(np.float32),
    "ties": np.random.default_rng(1).integers(-48, 49, (256, 1024)).astype(np.float32) / 8,
}


def torchao(module: str):
    pytest.importorskip("torch")
    pytest.importorskip("torchao")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"torchao.{module}")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("rule", "mode"), [("floor", "FLOOR"), ("ceil", "RCEIL"), ("even", "EVEN")])
@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp4"])
def test_mx_equals_torchao(name, rule, mode, data):
    module = torchao("prototype.mx_formats.mx_tensor")
    import torch

    element = {"mxfp8_e4m3": torch.float8_e4m3fn, "mxfp8_e5m2": torch.float8_e5m2, "mxfp4": torch.float4_e2m1fn_x2}[
        name
    ]
    scale, elements = module.to_mx(torch.from_numpy(DATA[data]), element, 32, module.ScaleCalculationMode[mode])
    got = cast_array(DATA[data], ALL[name].with_policy(scale=rule))
    assert np.array_equal(scale.view(torch.uint8).numpy().reshape(got.scale.shape), got.scale)
    assert np.array_equal(elements.view(torch.uint8).numpy().reshape(got.data.shape), got.data)


@pytest.mark.parametrize("data", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["float8_tensor", "float8_row", "float8_1x128", "float8_128x128"])
def test_float8_equals_torchao(name, data):
    quantization = torchao("quantization")
    granularity = torchao("quantization.granularity")
    import torch

    kinds = {
        "float8_tensor": granularity.PerTensor(),
        "float8_row": granularity.PerRow(),
        "float8_1x128": granularity.PerBlock([1, 128]),
        "float8_128x128": granularity.PerBlock([128, 128]),
    }
    want = quantization.Float8Tensor.from_hp(torch.from_numpy(DATA[data]), granularity=kinds[name])
    got = cast_array(DATA[data], ALL[name])
    assert np.array_equal(want.scale.numpy().reshape(got.scale.shape), got.scale)
    assert np.array_equal(want.qdata.view(torch.uint8).numpy(), got.data)


@pytest.mark.parametrize("data", DATA)
def test_nvfp4_equals_torchao_but_for_ties(data):
    module = torchao("prototype.mx_formats.nvfp4_tensor")
    import torch

    x = torch.from_numpy(DATA[data])
    outer = module.per_tensor_amax_to_scale(x.abs().max())
    scale, elements = module.nvfp4_quantize(x, 16, outer)
    got = cast_array(DATA[data], recipes.nvfp4.with_policy(scale_min=2.0**-6))
    assert float(outer) == float(got.scales[0])
    assert np.array_equal(scale.view(torch.uint8).numpy().reshape(got.scale.shape), got.scale)
    different = np.mean(elements.view(torch.uint8).numpy().reshape(got.data.shape) != got.data)
    assert different <= {"float32": 0, "bfloat16": 0.01, "ties": 0.1}[data]


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_equals_compressed_tensors(block, symmetric):
    pytest.importorskip("compressed_tensors")
    torch = pytest.importorskip("torch")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    x = torch.from_numpy(DATA["float32"])
    args = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=block)
    blocks = x.reshape(256, -1, block)
    scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
    want = quantize(x, scale, zero, args, dtype=torch.int8).numpy()
    got = cast_array(DATA["float32"], ALL[f"{'int4' if symmetric else 'uint4'}_g{block}_f32"])
    codes = got.codes().astype(np.int8)
    assert np.array_equal(scale.numpy(), got.scale)
    if symmetric:
        assert np.array_equal(want, np.where(codes > 7, codes - 16, codes))
    else:
        assert np.array_equal(want + 8, codes)
        assert np.array_equal(zero.numpy() + 8, got.zero_point)


def test_int8_rows_equal_compressed_tensors():
    pytest.importorskip("compressed_tensors")
    torch = pytest.importorskip("torch")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    x = torch.from_numpy(DATA["float32"])
    args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    scale, zero = calculate_qparams(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), args)
    got = cast_array(DATA["float32"], recipes.int8_row)
    assert np.array_equal(scale.numpy(), got.scale)
    assert np.array_equal(quantize(x, scale, zero, args, dtype=torch.int8).numpy(), got.data)


@pytest.mark.parametrize("data", DATA)
def test_gguf_mxfp4_is_floor_with_ties_toward_zero(data):
    """gguf-py interleaves the halves of a block and never writes -0."""
    quants = pytest.importorskip("gguf.quants")
    from gguf import GGMLQuantizationType

    want = quants.quantize(DATA[data], GGMLQuantizationType.MXFP4).reshape(256, -1, 17)
    got = cast_array(DATA[data], recipes.mxfp4.with_policy(scale="floor", rounding="ties_zero"))
    codes = got.codes().reshape(256, -1, 32)
    codes = np.where(codes == 8, 0, codes)
    assert np.array_equal(want[..., 0], got.scale)
    assert np.array_equal(want[..., 1:], codes[..., :16] | (codes[..., 16:] << 4))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_torch_casts_equal_encode(name):
    """torch saturates E4M3FN alone (since 2.12); NaN has the sign of its source there."""
    torch = pytest.importorskip("torch")
    from breccia import formats
    from breccia.numerics import encode

    x = np.random.default_rng(2).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    want = torch.from_numpy(x).to(getattr(torch, name)).view(torch.uint8).numpy()
    got = encode(x, formats.find(name), overflow="saturate" if name == "float8_e4m3fn" else "nan")
    number = ~np.isnan(x)
    assert np.array_equal(got[number], want[number])
