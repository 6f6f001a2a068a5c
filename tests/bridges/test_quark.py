"""Quark: against its own packing (torch/utils/pack.py, read from the installed package) where amd-quark is installed,
and against its description otherwise.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_quark, to_quark
from breccia.bridges._common import recipe_of
from breccia.errors import FormatError, UnsupportedError
from breccia.tensor import cast_array

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((16, 128)) * 3).astype(np.float32)


@pytest.fixture
def pack(monkeypatch) -> Any:
    """Quark's packing module alone: its package needs more than the tests have."""
    pytest.importorskip("torch")
    spec = importlib.util.find_spec("quark")
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(place) / "torch" / "utils" / "pack.py" for place in places]
    found = [file for file in files if file.is_file()]
    if not found:
        pytest.skip("amd-quark is not installed")
    bits = {"fp6_e2m3": (2, 3, 2), "fp6_e3m2": (3, 2, 4)}
    stubs = {
        "quark.torch.quantization.config.type": {"Dtype": object, "QSchemeType": object, "ZeroPointType": object},
        "quark.torch.quantization.constants": {"PER_GROUP_INT_TRANSPOSE_DTYPES": ()},
        "quark.torch.quantization.utils": {"get_dtype_params": bits.__getitem__},
        "quark.torch.utils.numerics": {"safe_log2": lambda x: x.log2()},
    }
    for name in ("quark", "quark.torch", "quark.torch.quantization", "quark.torch.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "quark.torch.quantization.config", ModuleType("config"))
    for name, members in stubs.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    made = importlib.util.spec_from_file_location("quark_pack", found[0])
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


# --- their packing ---


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6_e2m3", "mxfp6_e3m2"])
def test_fp4_and_fp6_unpack_there_to_our_elements(name, pack):
    import torch

    st = cast_array(X, recipes.find(name))
    tensors, config = to_quark(st.to("torch"))
    unpacked = pack.create_pack_method("per_group", config["dtype"]).unpack(tensors["weight"], True)
    scale = torch.exp2(tensors["weight_scale"].float() - 127).repeat_interleave(32, 1)
    np.testing.assert_array_equal((unpacked * scale).numpy(), st.numpy())
    packed = pack.create_pack_method("per_group", config["dtype"]).pack(unpacked, True)
    assert torch.equal(packed, tensors["weight"])


@pytest.mark.parametrize("reorder", [True, False])
@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_int4_of_theirs(name, reorder, pack):
    import torch

    low = -8 if name == "int4" else 0
    codes = torch.from_numpy(RNG.integers(low, low + 16, (16, 128)).astype(np.int32))
    zeros = torch.from_numpy(RNG.integers(low, low + 16, (16, 4)).astype(np.int32))
    scale = torch.rand(4, 16)
    method = pack.create_pack_method("per_group", name)
    tensors = {
        "weight": method.pack(codes, reorder), "weight_scale": scale, "weight_zero_point": method.pack(zeros, reorder)
    }  # fmt: skip
    config = {"dtype": name, "qscheme": "per_group", "group_size": 32}
    st = from_quark(tensors, config, pack_method="reorder" if reorder else "order", dtype="float32")
    wanted = (codes - zeros.repeat_interleave(32, 1)).float() * scale.T.repeat_interleave(32, 1)
    np.testing.assert_array_equal(st.numpy(), wanted.numpy())
    if reorder:
        back, again = to_quark(st)
        assert all(torch.equal(back[key], x) for key, x in tensors.items())
        assert (again["dtype"], again["group_size"], again["symmetric"]) == (name, 32, False)


def test_mx_of_theirs(pack):
    import torch

    st = cast_array(X, recipes.mxfp4)
    elements = st.codes()
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    scales = np.exp2(st.scale.astype(np.float32) - 127)[..., None]
    rows = np.concatenate([scales, table[elements].reshape(16, 4, 32)], -1).reshape(16, -1)
    packed = pack.create_pack_method("per_group", "mx", "fp4").pack(torch.from_numpy(rows), True)
    assert packed.shape == (16, 4 * 17)
    assert from_quark({"weight": packed}, {"dtype": "mx", "mx_element_dtype": "fp4"}, dtype="float32").to("numpy") == st


# --- its description ---


def test_int4_nibbles_by_the_description():
    """In a word along the outputs: columns 0, 2, 4, 6, 1, 3, 5, 7, lowest nibble first, in two's complement."""
    words = np.full((32, 1), 0x7531F420, np.int32)
    tensors = {"weight": words, "weight_scale": np.ones((1, 8), np.float32)}
    config = {"dtype": "int4", "qscheme": "per_group", "group_size": 32}
    assert from_quark(tensors, config).dequantize("float32")[:, 0].tolist() == [0, 1, 2, 3, 4, 5, -1, 7]
    plain = from_quark(tensors, config, pack_method="order")
    assert plain.dequantize("float32")[:, 0].tolist() == [0, 2, 4, -1, 1, 3, 5, 7]


def test_mx_exponents_have_no_bias():
    block = np.array([[1] + [0x22] * 16], np.uint8)
    st = from_quark({"weight": block}, {"dtype": "mx"}, dtype="float32")
    assert (st.scale.tolist(), set(st.numpy()[0].tolist())) == ([[128]], {2.0})


@pytest.mark.parametrize("name", ["float8_tensor", "float8_row", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp4", "mxfp6_e3m2"])
def test_floats_come_back(name):
    st = cast_array(X, recipes.find(name))
    tensors, config = to_quark(st)
    assert from_quark(tensors, config, dtype="float32") == st


@pytest.mark.parametrize("recipe", [recipes.int4_g32_f16, recipes.uint4_g32_bf16, recipes.int4_g128_f32], ids=repr)
def test_integers_come_back(recipe):
    st = cast_array(X, recipe)
    tensors, config = to_quark(st)
    assert from_quark(tensors, config, dtype="float32") == st


def test_blocks_and_int8():
    scale = np.array([[2.0, 4.0]], np.float32)
    config = {"dtype": "fp8_e4m3", "qscheme": "per_block", "block_size": [16, 64]}
    st = from_quark({"weight": np.full((16, 128), 56, np.uint8), "weight_scale": scale}, config)
    assert st.dequantize("float32")[0, [0, 127]].tolist() == [2.0, 4.0]
    config = {"dtype": "int8", "qscheme": "per_channel"}
    tensors = {"weight": np.full((2, 4), -3, np.int8), "weight_scale": np.array([1.0, 2.0], np.float32)}
    assert from_quark(tensors, config).dequantize("float32")[:, 0].tolist() == [-3.0, -6.0]


MXFP4 = {"weight": np.zeros((2, 16), np.uint8), "weight_scale": np.zeros((2, 1), np.uint8)}


@pytest.mark.parametrize(
    ("change", "config", "error", "text"),
    [
        ({"weight_scale": None}, {}, FormatError, "there is no tensor 'weight_scale'"),
        ({"weight_scale_2": np.ones(1)}, {}, FormatError, "does not know the tensor weight_scale_2"),
        ({}, {"group_size": 16}, FormatError, r"weight_scale of a \(2, 32\) weight must have shape \(2, 2\)"),
        ({}, {"dtype": "bf16"}, UnsupportedError, "weights of 'bf16' cannot be read"),
        ({}, {"qscheme": "per_token"}, UnsupportedError, "qscheme 'per_token'"),
        ({}, {"qscheme": "per_block"}, FormatError, "block_size of two numbers"),
        ({}, {"dtype": "int8"}, UnsupportedError, "int8 per group lies turned"),
        ({}, {"dtype": "int4"}, FormatError, "must be an int32 matrix"),
        ({}, {"dtype": "mx"}, FormatError, "blocks of 17 bytes"),
        ({}, {"dtype": "mx", "mx_element_dtype": "fp6_e2m3"}, UnsupportedError, "mx of 'fp6_e2m3'"),
        ({"weight_zero_point": np.ones(1)}, {}, UnsupportedError, "zero points that are not 0"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(change, config, error, text):
    tensors = {name: x for name, x in (MXFP4 | change).items() if x is not None}
    with pytest.raises(error, match=text):
        from_quark(tensors, {"dtype": "fp4", "qscheme": "per_group", "group_size": 32} | config)


@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        (recipes.nvfp4, (16, 64)), (recipes.mxfp4, (16, 48)), (recipes.int4_g32_f16, (12, 64)), (recipes.nf4, (16, 64)),
        (recipes.float8_128x128, (16, 256)),
        (recipe_of(formats.uint4, (formats.float16, (1, 32)), offset=formats.float16), (16, 64)),
    ],
    ids=repr,
)  # fmt: skip
def test_what_it_cannot_hold_is_refused(recipe, shape):
    with pytest.raises(UnsupportedError, match=r"Quark holds.*breccia\.requantize"):
        to_quark(cast_array(np.ones(shape, np.float32), recipe))
