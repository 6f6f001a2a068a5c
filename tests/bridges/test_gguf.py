"""GGUF: gguf's decoders and quantizers, bit for bit, on real quantizations and on random bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_gguf, to_gguf
from breccia.bridges._common import integer, recipe_of
from breccia.bridges.gguf import KINDS, dequantize_gguf
from breccia.errors import DTypeError, FormatError, UnsupportedError
from breccia.tensor import ScaledTensor, cast_array
from tests.peers.compare import load, need

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((6, 512)) * 3).astype(np.float32)
WRITTEN = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4")
HALVES = {  # where float16 numbers lie in a block, which random bytes would make NaN
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "MXFP4": (),
    "NVFP4": (), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def peer() -> str:
    return need("gguf")


def kind_of(name: str) -> Any:
    return load("gguf").GGMLQuantizationType[name]


def theirs(data: np.ndarray, name: str) -> np.ndarray:
    return load("gguf.quants").dequantize(data, kind_of(name))


def random_rows(name: str, rows: int = 5, blocks: int = 7) -> np.ndarray:
    kind = KINDS[name]
    data = RNG.integers(0, 256, (rows, blocks, kind.nbytes), np.uint8)
    for place in HALVES[name]:
        halves = RNG.standard_normal((rows, blocks, 1)).astype(np.float16)
        data[..., place : place + 2] = halves.view(np.uint8)
    if name == "MXFP4":
        data[..., 0] = RNG.integers(1, 250, (rows, blocks))
    if name == "NVFP4":
        data[..., :4] &= 0x7F
        data[..., :4] -= data[..., :4] == 0x7F
    return data.reshape(rows, -1)


@pytest.mark.parametrize("name", KINDS)
def test_sizes_are_those_of_gguf(name):
    assert load("gguf").GGML_QUANT_SIZES[kind_of(name)] == (KINDS[name].size, KINDS[name].nbytes)


@pytest.mark.parametrize("name", KINDS)
def test_random_bytes_decode_to_the_same_bits(name):
    data = random_rows(name)
    st = from_gguf(data, kind_of(name))
    assert st.shape == (5, 7 * KINDS[name].size)
    # ggml has no -0 in its tables of E2M1, and none in Q4_0's integers.
    np.testing.assert_array_equal(st.numpy(), theirs(data, name))
    positive = st.numpy() != 0
    assert st.numpy()[positive].tobytes() == theirs(data, name)[positive].tobytes()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_what_gguf_quantizes(name):
    data = load("gguf.quants").quantize(X, kind_of(name))
    st = from_gguf(data, name)
    np.testing.assert_array_equal(st.numpy(), theirs(data, name))
    made = to_gguf(st)
    assert (made.kind, made.data.tobytes(), made.data.shape) == (name, data.tobytes(), data.shape)


@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_come_back(name):
    data = random_rows(name, blocks=4)
    made = to_gguf(from_gguf(data, name))
    assert (made.kind, made.data.tobytes(), made.scale) == (name, data.tobytes(), None)


def test_the_halves_of_a_block():
    """Byte j holds codes j and j + 16: neither neighbours nor the other way round."""
    block = np.zeros((1, 18), np.uint8)
    block[0, :2] = np.array([1], np.float16).view(np.uint8)
    block[0, 2:] = 0x88
    block[0, 2] = 0xF0  # code 0 is 0, which is -8; code 16 is 15, which is 7
    values = from_gguf(block, "Q4_0").numpy()[0]
    assert (values[0], values[16], values[1]) == (-8, 7, 0)


def test_what_we_cast_decodes_there_to_our_values():
    for recipe in (recipes.int4_g32_f16, recipes.mxfp4, recipe_of(formats.int8, (formats.float16, (1, 32)))):
        st = cast_array(X, recipe)
        made = to_gguf(st)
        np.testing.assert_array_equal(theirs(made.data, made.kind), st.numpy())


def test_nvfp4_has_its_outer_scale_in_another_tensor():
    st = cast_array(X, recipes.nvfp4)
    made = to_gguf(st)
    assert made.kind == "NVFP4"
    assert float(made.scale) == float(st.scales[0]) != 1
    assert from_gguf(made.data, "NVFP4", scale=made.scale.reshape(1)) == st
    np.testing.assert_allclose(theirs(made.data, "NVFP4") * made.scale, st.numpy(), rtol=3e-7)


def test_wider_scales_that_are_float16_exactly_are_taken():
    values = np.exp2(np.arange(64, dtype=np.float32) % 8).reshape(2, 32)
    st = ScaledTensor(RNG.integers(0, 16, (2, 64), np.uint8), values[:, :2], recipes.int4_g32_f32, shape=(2, 64))
    made = to_gguf(st)
    np.testing.assert_array_equal(theirs(made.data, made.kind), st.numpy())
    with pytest.raises(UnsupportedError, match="float16 scales"):
        to_gguf(ScaledTensor(st.data, values[:, :2] + 2.0**-20, recipes.int4_g32_f32))


def test_experts_and_torch():
    torch = pytest.importorskip("torch")
    data = random_rows("Q4_K", rows=6).reshape(2, 3, -1)
    st = from_gguf(torch.from_numpy(data), "Q4_K")
    assert (st.shape, st.library) == ((2, 3, 7 * 256), "torch")
    np.testing.assert_array_equal(st.numpy().reshape(6, -1), theirs(data.reshape(6, -1), "Q4_K"))


@pytest.mark.parametrize("name", ["IQ4_XS", "TQ1_0", "IQ2_XXS", "Q4_K", "BF16"])
def test_every_other_type_is_decoded_by_gguf(name):
    size, nbytes = load("gguf").GGML_QUANT_SIZES[kind_of(name)]
    data = RNG.integers(0, 60, (2, 3 * nbytes), np.uint8)
    np.testing.assert_array_equal(dequantize_gguf(data, name), theirs(data, name))
    assert size
    if name != "Q4_K":
        with pytest.raises(UnsupportedError, match=f"{name} has no place.*dequantize_gguf decodes it"):
            from_gguf(data, name)


def test_no_rows():
    st = from_gguf(np.zeros((0, 36), np.uint8), "Q4_0")
    assert st.shape == (0, 64)
    assert to_gguf(st).data.shape == (0, 36)


def test_what_does_not_fit():
    with pytest.raises(FormatError, match=r"blocks of 18 bytes for 32 values; got \(2, 19\)"):
        from_gguf(np.zeros((2, 19), np.uint8), "Q4_0")
    with pytest.raises(DTypeError, match="data must be an array of uint8"):
        from_gguf(np.zeros((2, 18), np.float32), "Q4_0")
    with pytest.raises(UnsupportedError, match="Q9_9 has no place"):
        from_gguf(np.zeros((2, 18), np.uint8), "Q9_9")
    with pytest.raises(UnsupportedError, match="does not decode Q9_9"):
        dequantize_gguf(np.zeros((2, 18), np.uint8), "Q9_9")
    with pytest.raises(FormatError, match="code 0x7f"):
        from_gguf(np.full((1, 36), 0x7F, np.uint8), "NVFP4")
    with pytest.raises(FormatError, match="Q4_0 has no scale of its own"):
        from_gguf(np.zeros((2, 18), np.uint8), "Q4_0", scale=np.ones(1))
    with pytest.raises(FormatError, match="is one number; got 2"):
        from_gguf(np.zeros((2, 36), np.uint8), "NVFP4", scale=np.ones(2))


@pytest.mark.parametrize(
    ("recipe", "columns"),
    [
        (recipes.int4_g32_f16, 48), (recipes.int4_g64_f16, 64), (recipes.uint4_g32_f16, 64), (recipes.nf4, 64),
        (recipes.nvfp4, 80), (recipes.mxfp8_e4m3, 64), (recipe_of(integer(6, True), (formats.float16, (1, 32))), 64),
        (recipe_of(formats.uint4, (formats.float16, (1, 32))), 64), (KINDS["Q6_K"].recipe, 256),
    ],
    ids=repr,
)  # fmt: skip
def test_what_it_cannot_hold_is_refused(recipe, columns):
    with pytest.raises(UnsupportedError, match=r"GGUF holds.*To go on: "):
        to_gguf(cast_array(np.ones((2, columns), np.float32), recipe))
