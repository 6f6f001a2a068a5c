"""compressed-tensors: its compressors write what we read, and its decompressors read what we write, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_compressed_tensors, to_compressed_tensors
from breccia.bridges._common import integer, recipe_of
from breccia.errors import FormatError, UnsupportedError
from breccia.tensor import ScaledTensor, cast_array
from tests.peers.compare import load, need

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((64, 96)) * 3 + 1).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def peer() -> str:
    return need("compressed-tensors", "torch")


def peer_of(name: str) -> Any:
    load("compressed_tensors.compressors")
    return load("compressed_tensors.compressors.base").BaseCompressor.get_value_from_registry(name)


def scheme_of(weights: dict[str, Any]) -> Any:
    import torch

    quantization = load("compressed_tensors.quantization")
    weights = {k: (torch.uint8 if v == "torch.uint8" else v) for k, v in weights.items()}
    args = quantization.QuantizationArgs(**weights)
    return quantization.QuantizationScheme(targets=["Linear"], weights=args)


def decompressed(tensors: dict[str, Any], scheme: dict[str, Any]) -> np.ndarray:
    """The weight that compressed-tensors makes of these tensors, as float32."""
    import torch

    given = {name: x if hasattr(x, "cpu") else torch.from_numpy(np.ascontiguousarray(x)) for name, x in tensors.items()}
    made = peer_of(scheme["format"]).decompress(given, scheme_of(scheme["weights"]))["weight"]
    return made.float().numpy()


def both_ways(st: ScaledTensor) -> dict[str, Any]:
    """They decode what we write to our values, and we read it to the same tensor."""
    tensors, scheme = to_compressed_tensors(st.to("torch"))
    np.testing.assert_array_equal(decompressed(tensors, scheme), st.dequantize("float32"))
    back = from_compressed_tensors(tensors, scheme["weights"]).to("numpy")
    assert (back.recipe, back.codes().tobytes()) == (st.recipe, st.codes().tobytes())
    assert [x.tobytes() for x in back.scales] == [x.tobytes() for x in st.scales]
    assert back.zero_point is None or back.zero_point.tobytes() == st.zero_point.tobytes()
    numpy_tensors, same = to_compressed_tensors(st)
    assert same == scheme
    for name, x in numpy_tensors.items():
        assert np.asarray(x).tobytes() == tensors[name].contiguous().view(_bytes()).numpy().tobytes()
    return tensors


def _bytes() -> Any:
    import torch

    return torch.uint8


# --- what we write ---


@pytest.mark.parametrize("group", [16, 32, 96, None])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_integers(bits, zero, group):
    kind = integer(bits, signed=not zero)
    group = None if group == 96 else group
    recipe = recipe_of(kind, (formats.float32, (1, group)), zero_point=kind if zero else None)
    tensors = both_ways(cast_array(X, recipe))
    assert tensors["weight_packed"].shape == (64, -(-96 * bits // 32))


def test_integers_of_the_tensor_and_odd_columns():
    both_ways(cast_array(X[:, :37], recipe_of(formats.int4, (formats.float32, None))))
    both_ways(cast_array(X[:33, :37], recipe_of(formats.uint4, (formats.float32, (1, None)), zero_point=formats.uint4)))
    both_ways(cast_array(X[:, :37], recipe_of(integer(3, signed=True), (formats.float32, (1, None)))))


def test_experts():
    st = cast_array(X.reshape(2, 32, 96), recipes.uint4_g32_f32)
    tensors, scheme = to_compressed_tensors(st)
    for i in range(2):
        one = {name: x[i] for name, x in tensors.items() if name != "weight_shape"}
        one["weight_shape"] = np.array([32, 96])
        np.testing.assert_array_equal(decompressed(one, scheme), st.numpy()[i])
    assert from_compressed_tensors(tensors, scheme["weights"]) == st


@pytest.mark.parametrize("scale", ["float16", "bfloat16"])
def test_scales_of_16_bits(scale):
    st = cast_array(X, recipe_of(formats.uint4, (formats.find(scale), (1, 32)), zero_point=formats.uint4))
    tensors, scheme = to_compressed_tensors(st.to("torch"))
    back = from_compressed_tensors(tensors, scheme["weights"])
    assert back.dtype.name == scale
    assert back.to("numpy").codes().tobytes() == st.codes().tobytes()
    np.testing.assert_array_equal(decompressed(tensors, scheme), back.dequantize().float().numpy())


@pytest.mark.parametrize("name", ["float8_tensor", "float8_row", "float8_128x128", "float8_1x128"])
def test_float8(name):
    both_ways(cast_array(np.tile(X, (4, 4)), recipes.find(name)))


def test_float8_with_partial_blocks():
    st = cast_array(np.tile(X, (3, 6)), recipes.float8_128x128)  # 192 x 576
    tensors, scheme = to_compressed_tensors(st.to("torch"))
    assert tensors["weight_scale"].shape == (2, 5)
    assert from_compressed_tensors(tensors, scheme["weights"]).to("numpy") == st
    np.testing.assert_array_equal(decompressed(tensors, scheme), st.numpy())


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6_e2m3", "mxfp8_e4m3"])
def test_mx(name):
    both_ways(cast_array(X, recipes.find(name)))


def test_nvfp4():
    outer = np.float32(2.0**-7)
    tensors = both_ways(cast_array(X, recipes.nvfp4, scale=(outer, None)))
    assert tensors["weight_global_scale"].tolist() == [128.0]


# --- what they write ---


def compressed(name: str, weights: dict[str, Any], **tensors: Any) -> dict[str, Any]:
    return peer_of(name).compress(tensors, scheme_of(weights))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_integers_of_theirs(bits, symmetric):
    import torch

    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 32}
    weight = torch.from_numpy(X)
    low, high = weight.reshape(64, 3, 32).amin(-1), weight.reshape(64, 3, 32).amax(-1)
    args = scheme_of(weights).weights
    scale, zero = load("compressed_tensors.quantization.utils").calculate_qparams(low, high, args)
    tensors = compressed("pack-quantized", weights, weight=weight, weight_scale=scale, weight_zero_point=zero)
    st = from_compressed_tensors(tensors, args)
    np.testing.assert_array_equal(decompressed(tensors, {"format": "pack-quantized", "weights": weights}), st.numpy())
    again, _ = to_compressed_tensors(st)
    for key, x in again.items():
        assert torch.equal(x, tensors[key].to(x.dtype)), key
    assert set(again) == set(tensors)
    naive = compressed("int-quantized", weights, weight=weight, weight_scale=scale, weight_zero_point=zero)
    assert naive["weight"].dtype is torch.int8
    assert from_compressed_tensors(naive, weights) == st


def test_nvfp4_of_theirs_divides_by_its_global_scale():
    import torch

    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    weight = torch.from_numpy(X)
    global_scale = torch.tensor([448 * 6 / float(weight.abs().max())])
    scale = (global_scale * weight.reshape(64, 6, 16).abs().amax(-1) / 6).to(torch.float8_e4m3fn).float()
    tensors = compressed(
        "nvfp4-pack-quantized", weights, weight=weight, weight_scale=scale, weight_global_scale=global_scale
    )
    st = from_compressed_tensors(tensors, weights)
    theirs = decompressed(tensors, {"format": "nvfp4-pack-quantized", "weights": weights})
    np.testing.assert_allclose(st.numpy(), theirs, rtol=2**-7)  # they decode in bfloat16
    assert float(st.scales[0]) == float(np.float32(1) / global_scale.numpy()[0])
    again, _ = to_compressed_tensors(st, global_scale=global_scale)
    assert all(torch.equal(x.view(torch.uint8), tensors[key].view(torch.uint8)) for key, x in again.items())
    with pytest.raises(FormatError, match="is not the inverse of the outer scale"):
        to_compressed_tensors(st, global_scale=global_scale * 2)


def test_every_outer_scale_has_a_divisor_or_is_refused():
    data, scale = np.zeros((1, 8), np.uint8), np.zeros((1, 1), np.uint8)
    refused = 0
    for outer in RNG.random(200, np.float32):
        st = ScaledTensor(data, scales=(outer, scale), recipe=recipes.nvfp4)
        try:
            tensors, scheme = to_compressed_tensors(st)
        except UnsupportedError:
            refused += 1
            continue
        assert from_compressed_tensors(tensors, scheme["weights"]) == st
    assert refused < 100


# --- what does not fit ---

PACKED = {
    "weight_packed": np.zeros((2, 4), np.int32), "weight_scale": np.ones((2, 1), np.float32),
    "weight_shape": np.array([2, 32]),
}  # fmt: skip
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}


@pytest.mark.parametrize(
    ("tensors", "weights", "error", "text"),
    [
        ({"weight_scale": None}, {}, FormatError, "there is no tensor 'weight_scale'; given are weight_packed"),
        ({"pre_quant_scale": np.ones(3)}, {}, FormatError, "does not know the tensor pre_quant_scale"),
        ({}, {"symmetric": False}, FormatError, "there is no tensor 'weight_zero_point'"),
        ({}, {"group_size": 16}, FormatError, r"weight_scale of a \(2, 32\) weight must have shape \(2, 2\)"),
        ({}, {"num_bits": 8}, FormatError, r"weight_packed of a \(2, 32\) weight of 8 bits must have shape \(2, 8\)"),
        ({}, {"num_bits": 9}, UnsupportedError, "with 9 bits"),
        ({}, {"num_bits": -1}, UnsupportedError, "with -1 bits"),
        ({}, {"type": "complex"}, UnsupportedError, "of type 'complex'"),
        ({}, {"strategy": "token"}, UnsupportedError, "of strategy 'token'"),
        ({"weight_shape": np.array([2, 40])}, {}, FormatError, "must have shape"),
        ({"weight_g_idx": np.arange(32)[::-1] // 16}, {"group_size": 16}, UnsupportedError, "activation order"),
        ({"weight_zero_point": np.ones((2, 1), np.int8)}, {}, FormatError, "symmetric weight has a weight_zero_point"),
        ({"weight_zero_point": np.zeros((2, 1), np.int32)}, {"symmetric": False}, FormatError, r"got \(2, 1\)"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(tensors, weights, error, text):
    given = {name: x for name, x in (PACKED | tensors).items() if x is not None}
    with pytest.raises(error, match=text):
        from_compressed_tensors(given, INT4 | weights)


def test_an_order_of_columns_that_changes_nothing_is_read():
    from_compressed_tensors(PACKED | {"weight_g_idx": np.zeros(32, np.int32), "bias": np.ones(2)}, INT4)


@pytest.mark.parametrize(
    ("recipe", "shape", "text"),
    [
        (recipes.int4_g32_f16, (4, 48), r"whole groups alone, and 48 columns.*group that divides"),
        (recipes.nvfp4, (4, 24), "cannot hold"),
        (recipes.mxfp6_e3m2, (4, 64), "cannot hold"),
        (recipes.mxfp8_e5m2, (4, 64), "cannot hold"),
        (recipes.nf4, (4, 64), r"breccia\.requantize"),
        (recipes.float8_e5m2_tensor, (4, 64), "FP8 of E4M3 alone"),
        (recipes.float8_e4m3fnuz_tensor, (4, 64), "cannot hold"),
        (recipe_of(formats.uint4, (formats.float32, None), zero_point=formats.uint4), (4, 64), "per row or group"),
        (recipe_of(formats.int4, (formats.float32, (2, 32))), (4, 64), "blocks along the last axis"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_it_cannot_hold_is_refused(recipe, shape, text):
    with pytest.raises(UnsupportedError, match=text):
        to_compressed_tensors(cast_array(np.ones(shape, np.float32), recipe))
