"""torchao's own classes: values bit for bit by its `dequantize`, and the same bits back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_torchao, to_torchao
from breccia.bridges._common import integer, recipe_of
from breccia.errors import FormatError, RecipeError, UnsupportedError
from breccia.recipes import Recipe
from breccia.tensor import cast_array
from tests.peers.compare import load, need

MX = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4")


@pytest.fixture(scope="module", autouse=True)
def peer() -> str:
    return need("torchao", "torch")


def values(*shape: int, dtype: str = "float32") -> Any:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).mul(3).to(getattr(torch, dtype))


def mx(x: Any, name: str = "mxfp8_e4m3", swizzled: bool = False) -> Any:
    import torch

    module = load("torchao.prototype.mx_formats.mx_tensor")
    element = recipes.find(name).element.name
    kind = {"float6_e2m3fn": "fp6_e2m3", "float6_e3m2fn": "fp6_e3m2"}.get(element)
    kind = kind or getattr(torch, element + "_x2" * (name == "mxfp4"))
    return module.MXTensor.to_mx(x, kind, 32, is_swizzled_scales=swizzled)


def nvfp4(x: Any, outer: float | None = None, swizzled: bool = False) -> Any:
    import torch

    cls = load("torchao.prototype.mx_formats.nvfp4_tensor").NVFP4Tensor
    return cls.to_nvfp4(x, per_tensor_scale=outer and torch.tensor(outer), is_swizzled_scales=swizzled)


def both_ways(tensor: Any, recipe: Recipe | None = None) -> None:
    """Their values are ours, bit for bit, and their bits come back."""
    import torch

    theirs = tensor.dequantize()
    st = from_torchao(tensor)
    assert recipe is None or st.recipe == recipe
    ours = st.dequantize()
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)
    back = to_torchao(st)
    assert type(back) is type(tensor)
    assert torch.equal(back.dequantize(), theirs)
    if not getattr(tensor, "is_swizzled_scales", False):
        for name in ("qdata", "scale", "zero_point"):
            if getattr(tensor, name, None) is not None and getattr(back, name) is not None:
                a, b = getattr(tensor, name), getattr(back, name)
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                assert a.contiguous().view(torch.uint8).tolist() == b.contiguous().view(torch.uint8).tolist()


# --- each class ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("swizzled", [False, True])
@pytest.mark.parametrize("name", MX)
def test_mx_tensors(name, swizzled, dtype):
    both_ways(mx(values(200, 160, dtype=dtype), name, swizzled), recipes.find(name))


@pytest.mark.parametrize("name", MX)
def test_mx_tensors_that_are_turned(name):
    tensor = mx(values(96, 160), name).t()
    assert from_torchao(tensor).recipe.blocks(2) == ((32, 1),)
    both_ways(tensor)


def test_mx_tensors_of_three_axes():
    both_ways(mx(values(2, 128, 96), "mxfp4", swizzled=True))


@pytest.mark.parametrize("swizzled", [False, True])
@pytest.mark.parametrize("outer", [None, 2.0**-5])
def test_nvfp4_tensors(outer, swizzled):
    both_ways(nvfp4(values(200, 80), outer, swizzled), recipes.nvfp4 if outer else None)


def test_nvfp4_tensors_whose_outer_scale_rounds_differ_by_an_ulp_at_most():
    tensor = nvfp4(values(64, 64), 0.1)
    ours, theirs = from_torchao(tensor).numpy(), tensor.dequantize().numpy()
    np.testing.assert_array_max_ulp(ours, theirs, maxulp=1)
    assert not np.array_equal(ours, theirs)


def test_nvfp4_tensors_that_are_turned():
    both_ways(nvfp4(values(64, 80), 0.25).t())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["float8_tensor", "float8_row", "float8_128x128", "float8_1x128"])
def test_float8_tensors(name, dtype):
    ao = load("torchao.quantization")
    granularity = {
        "float8_tensor": ao.PerTensor(), "float8_row": ao.PerRow(), "float8_128x128": ao.PerBlock([128, 128]),
        "float8_1x128": ao.PerBlock([1, 128]),
    }[name]  # fmt: skip
    tensor = ao.Float8Tensor.from_hp(values(256, 384, dtype=dtype), granularity=granularity)
    both_ways(tensor, recipes.find(name))
    assert from_torchao(tensor).data.data_ptr() == tensor.qdata.data_ptr()


@pytest.mark.parametrize("mapping", ["SYMMETRIC", "ASYMMETRIC"])
def test_int8_tensors(mapping):
    ao = load("torchao.quantization")
    kind = load("torchao.quantization.quant_primitives").MappingType[mapping]
    x = values(64, 96) + 1
    for granularity in (ao.PerRow(), ao.PerTensor()):
        tensor = ao.Int8Tensor.from_hp(x, granularity, mapping_type=kind)
        both_ways(tensor)
        assert (from_torchao(tensor).zero_point is None) == (mapping == "SYMMETRIC")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mapping", ["SYMMETRIC", "ASYMMETRIC"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7])
def test_intx_tensors(bits, mapping, dtype):
    import torch

    kind = load("torchao.quantization.quant_primitives").MappingType[mapping]
    cls = load("torchao.quantization").IntxUnpackedToInt8Tensor
    x = values(64, 96, dtype=dtype) + 1
    both_ways(cls.from_hp(x, (1, 32), getattr(torch, f"int{bits}"), mapping_type=kind))


def test_unsigned_integers_are_shifted_and_keep_their_values():
    st = cast_array(np.asarray(values(8, 64)), recipes.uint4_g32_f32)
    tensor = to_torchao(st)
    np.testing.assert_array_equal(tensor.dequantize().numpy(), st.numpy())
    assert from_torchao(tensor).recipe == recipe_of(formats.int4, (formats.float32, (1, 32)), zero_point=formats.int4)
    plain = cast_array(np.abs(np.asarray(values(8, 64))), recipe_of(integer(4, False), (formats.float32, (1, 32))))
    np.testing.assert_array_equal(to_torchao(plain).dequantize().numpy(), plain.numpy())


# Int4Tensor has no dequantize and is made on GPUs alone: these are its attributes, by mslk's int4_row_quantize_zp.


def int4(zero: float, pre: Any = None) -> tuple[Any, np.ndarray]:
    import torch

    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (16, 64)).astype(np.int8)
    scale = torch.rand(2, 16).bfloat16() + 0.5
    zeros = torch.randn(2, 16).bfloat16() * zero
    packed = (codes[:, ::2] & 15 | codes[:, 1::2] << 4).astype(np.int8)
    cls = load("torchao.quantization").Int4Tensor
    whole = [x.float().T.repeat_interleave(32, 1).numpy() for x in (scale, zeros)]
    made = cls(torch.from_numpy(packed), scale, zeros, [1, 32], torch.Size((16, 64)), act_pre_scale=pre)
    return made, codes.astype(np.float32) * whole[0] + whole[1]


@pytest.mark.parametrize("zero", [0.0, 1.0])
def test_int4_tensors_have_turned_scales_and_zeros_that_are_added(zero):
    tensor, wanted = int4(zero)
    st = from_torchao(tensor)
    assert (st.recipe.offset is None) == (zero == 0)
    np.testing.assert_array_equal(st.dequantize("float32").numpy(), wanted)


# --- what does not fit ---


def test_activations_that_are_scaled_before_are_refused():
    import torch

    with pytest.raises(UnsupportedError, match="act_pre_scale"):
        from_torchao(int4(0.0, torch.ones(64))[0])


def test_other_classes_are_refused():
    import torch

    with pytest.raises(UnsupportedError, match=r"cannot read a torch\.Tensor; readable: Float8Tensor"):
        from_torchao(torch.ones(3))


def test_the_recipe_can_be_asked_for():
    tensor = mx(values(64, 96))
    assert from_torchao(tensor, recipes.mxfp8_e4m3.with_policy(scale="floor")).recipe.policy.scale == "floor"
    with pytest.raises(RecipeError, match="which is not <recipe mxfp4>"):
        from_torchao(tensor, recipes.mxfp4)


def test_scales_of_another_shape_are_refused():
    tensor = load("torchao.quantization").Float8Tensor.from_hp(values(256, 128))
    tensor.scale = tensor.scale[:3]
    with pytest.raises(FormatError, match="scales of a"):
        from_torchao(tensor)


@pytest.mark.parametrize(
    ("recipe", "shape", "text"),
    [
        (recipes.float8_128x128, (192, 256), "whole blocks alone.*pad the last block"),
        (recipes.nf4, (4, 64), r"it cannot hold.*breccia\.requantize"),
        (recipes.mxint8, (4, 64), "cannot hold"),
        (recipes.nvfp4_16x16, (16, 64), "cannot hold"),
        (recipes.mxfp4, (4, 48), "cannot hold"),
        (recipes.float8_1x128_e8m0, (4, 128), "cannot hold"),
        (recipe_of(formats.uint4, (formats.float32, (1, 32)), offset=formats.float32), (4, 64), "cannot hold"),
    ],
    ids=repr,
)
def test_what_it_cannot_hold_is_refused(recipe, shape, text):
    with pytest.raises(UnsupportedError, match=text):
        to_torchao(cast_array(np.ones(shape, np.float32), recipe))


def test_tensors_of_other_libraries_become_torch_tensors():
    st = cast_array(np.asarray(values(8, 64)), recipes.mxfp8_e4m3)
    assert from_torchao(to_torchao(st)) == st
