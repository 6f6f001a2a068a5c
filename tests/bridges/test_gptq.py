"""GPTQ and AWQ: against decoders written from the formats' descriptions, one code at a time, and compressed-tensors'
converter of AWQ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_awq, from_gptq, from_gptq_ordered, to_awq, to_gptq
from breccia.bridges._common import integer, recipe_of
from breccia.errors import FormatError, ShapeError, UnsupportedError
from breccia.tensor import ScaledTensor, cast_array
from tests.peers.compare import load, need

RNG = np.random.default_rng(0)


def bits_of(words: np.ndarray, place: int, bits: int) -> int:
    """A code of a column of words, by its place in the stream of bits."""
    whole = sum(int(np.uint32(w)) << 32 * i for i, w in enumerate(words))
    return whole >> place * bits & (1 << bits) - 1


def gptq_values(tensors: dict[str, np.ndarray], bits: int, version: int) -> np.ndarray:
    """(out, in): each code, zero point and scale looked up for itself."""
    groups, out = tensors["g_idx"], tensors["scales"].shape[1]
    made = np.zeros((out, groups.size), np.float32)
    for n in range(out):
        for k, g in enumerate(groups):
            zero = bits_of(tensors["qzeros"][g], n, bits)
            zero = (zero + 1) % (1 << bits) if version == 1 else zero
            made[n, k] = (bits_of(tensors["qweight"][:, n], k, bits) - zero) * np.float32(tensors["scales"][g, n])
    return made


def random_gptq(bits: int, inputs: int, out: int, group: int, order: Any = None) -> dict[str, np.ndarray]:
    def words(*shape: int) -> np.ndarray:
        return RNG.integers(0, 2**32, shape, np.uint32).view(np.int32)

    count = -(-inputs // group)
    groups = np.arange(inputs) // group
    return {
        "qweight": words(inputs * bits // 32, out), "qzeros": words(count, out * bits // 32),
        "scales": RNG.standard_normal((count, out)).astype(np.float16),
        "g_idx": (groups if order is None else groups[np.argsort(order)]).astype(np.int32),
    }  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(bits, version):
    tensors = random_gptq(bits, 96, 32, 32)
    st = from_gptq(tensors, bits=bits, group_size=32, version=version)
    assert (st.shape, st.dtype.name) == ((32, 96), "float16")
    np.testing.assert_array_equal(st.dequantize("float32"), gptq_values(tensors, bits, version))
    back = to_gptq(st, version=version)
    for name, x in tensors.items():
        assert (back[name].dtype, back[name].tobytes()) == (x.dtype, x.tobytes()), name


def test_the_versions_differ_by_one():
    tensors = random_gptq(4, 32, 8, 32)
    first, second = (from_gptq(tensors, group_size=32, version=v) for v in (1, 2))
    assert ((first.zero_point.astype(int) - second.zero_point) % 16 == 1).all()


def test_a_zero_point_of_0_survives_version_1():
    """Adding one to whole words would carry into the next zero point."""
    st = cast_array(np.abs(RNG.standard_normal((8, 32))).astype(np.float32), recipes.uint4_g32_f16)
    assert (st.zero_point == 0).all()
    tensors = to_gptq(st)
    assert (tensors["qzeros"].view(np.uint32) == 0xFFFFFFFF).all()
    assert (from_gptq(tensors, group_size=32).zero_point == 0).all()


def test_symmetric_zero_points_are_stored_as_7_and_8():
    st = cast_array(RNG.standard_normal((8, 32)).astype(np.float32), recipes.int4_g32_f16)
    first, second = to_gptq(st, version=1), to_gptq(st, version=2)
    assert (first["qzeros"] == 0x77777777).all()
    assert (second["qzeros"].view(np.uint32) == 0x88888888).all()
    np.testing.assert_array_equal(from_gptq(first, group_size=32).dequantize("float32"), st.numpy())


def test_partial_groups_and_whole_inputs():
    tensors = random_gptq(4, 40, 8, 32)
    st = from_gptq(tensors, group_size=32)
    np.testing.assert_array_equal(st.dequantize("float32"), gptq_values(tensors, 4, 1))
    tensors = random_gptq(4, 40, 8, 40)
    st = from_gptq(tensors, group_size=-1)
    np.testing.assert_array_equal(st.dequantize("float32"), gptq_values(tensors, 4, 1))
    assert to_gptq(st, group_size=-1)["scales"].shape == (1, 8)


def test_activation_order():
    order = RNG.permutation(96)
    tensors = random_gptq(4, 96, 8, 32, order)
    with pytest.raises(UnsupportedError, match="from_gptq_ordered gives the weight with its columns sorted"):
        from_gptq(tensors, group_size=32)
    st, found = from_gptq_ordered(tensors, group_size=32)
    values = gptq_values(tensors, 4, 1)
    np.testing.assert_array_equal(st.dequantize("float32"), values[:, found])
    back = to_gptq(st, order=found)
    assert all(back[name].tobytes() == x.tobytes() for name, x in tensors.items())
    with pytest.raises(ShapeError, match="each of the 96 inputs once"):
        to_gptq(st, order=np.zeros(96, int))
    plain, order = from_gptq_ordered(random_gptq(4, 96, 8, 32), group_size=32)
    assert (plain.shape, order.tolist()) == ((8, 96), list(range(96)))


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    tensors = random_gptq(4, 64, 8, 32)
    st = from_gptq({name: torch.from_numpy(x) for name, x in tensors.items()}, group_size=32)
    assert st.library == "torch"
    assert st.to("numpy") == from_gptq(tensors, group_size=32)
    assert to_gptq(st)["qweight"].dtype is torch.int32


# --- AWQ ---


def random_awq(inputs: int = 64, out: int = 16, group: int = 32) -> dict[str, np.ndarray]:
    words = RNG.integers(0, 2**32, (inputs + inputs // group, out // 8), np.uint32).view(np.int32)
    scales = RNG.random((inputs // group, out)).astype(np.float16)
    return {"qweight": words[:inputs], "qzeros": words[inputs:], "scales": scales}


def awq_values(tensors: dict[str, np.ndarray], group: int) -> np.ndarray:
    def nibble(words: np.ndarray, row: int, column: int) -> int:
        place = [0, 4, 1, 5, 2, 6, 3, 7][column % 8]
        return int(np.uint32(words[row, column // 8])) >> 4 * place & 15

    inputs, out = tensors["qweight"].shape[0], tensors["scales"].shape[1]
    made = np.zeros((out, inputs), np.float32)
    for n in range(out):
        for k in range(inputs):
            codes = nibble(tensors["qweight"], k, n) - nibble(tensors["qzeros"], k // group, n)
            made[n, k] = codes * np.float32(tensors["scales"][k // group, n])
    return made


def test_awq():
    tensors = random_awq()
    st = from_awq(tensors, group_size=32)
    assert st.recipe == recipes.uint4_g32_f16
    np.testing.assert_array_equal(st.dequantize("float32"), awq_values(tensors, 32))
    back = to_awq(st)
    assert all(back[name].tobytes() == x.tobytes() for name, x in tensors.items())


def test_awq_is_what_compressed_tensors_converts():
    need("compressed-tensors", "torch")
    import torch

    converter = load("compressed_tensors.entrypoints.convert").AutoAWQConverter
    tensors = random_awq()
    named = {f"l.{name}": torch.from_numpy(x) for name, x in tensors.items()}
    made = converter(bits=4, group_size=32, zero_point=True).process(named)
    from breccia.bridges import from_compressed_tensors

    args = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
    theirs = from_compressed_tensors({k.removeprefix("l."): v for k, v in made.items()}, args).to("numpy")
    assert theirs == from_awq(tensors, group_size=32)


def test_gptq_to_awq_and_back_is_lossless():
    st = from_gptq(random_gptq(4, 64, 16, 32), group_size=32)
    assert from_awq(to_awq(st), group_size=32) == st
    assert from_gptq(to_gptq(from_awq(random_awq(), group_size=32)), group_size=32).shape == (16, 64)


# --- what does not fit ---


@pytest.mark.parametrize(
    ("change", "arguments", "error", "text"),
    [
        ({"scales": None}, {}, FormatError, "there is no tensor 'scales'"),
        ({"perm": np.arange(3)}, {}, FormatError, "does not know the tensor perm"),
        ({}, {"bits": 5}, UnsupportedError, "codes of 5 bits"),
        ({}, {"group_size": 16}, FormatError, r"scales of 64 inputs in groups of 16 must have shape \(4, 8\)"),
        ({}, {"group_size": 0}, FormatError, "group_size must be positive"),
        ({}, {"version": 3}, FormatError, "version must be 1"),
        ({}, {"bits": 8}, FormatError, "scales of 32 inputs"),
        ({"qweight": np.zeros((8, 8), np.int64)}, {}, FormatError, "must be an int32 matrix"),
        ({"qzeros": np.zeros((2, 2), np.int32)}, {}, FormatError, r"qzeros must have shape \(2, 1\)"),
        ({"g_idx": np.zeros(64, np.int32)}, {}, FormatError, "does not give each group 32"),
        ({"g_idx": np.zeros(3, np.int32)}, {}, FormatError, r"g_idx must have shape \(64,\)"),
    ],
)  # fmt: skip
def test_gptq_tensors_that_do_not_fit(change, arguments, error, text):
    tensors = {name: x for name, x in (random_gptq(4, 64, 8, 32) | change).items() if x is not None}
    with pytest.raises(error, match=text):
        from_gptq(tensors, **{"group_size": 32} | arguments)


def test_awq_tensors_that_do_not_fit():
    with pytest.raises(UnsupportedError, match="version 'gemv'"):
        from_awq(random_awq(), group_size=32, version="gemv")
    with pytest.raises(FormatError, match=r"scales of 64 inputs in groups of 128 must have shape \(1, 16\)"):
        from_awq(random_awq())
    with pytest.raises(FormatError, match="group_size must be positive"):
        from_awq(random_awq(), group_size=-2)


@pytest.mark.parametrize("write", [to_gptq, to_awq])
@pytest.mark.parametrize(
    "recipe",
    [
        recipes.mxfp4, recipes.float8_row, recipes.nf4, recipe_of(integer(5, False), (formats.float16, (1, 32))),
        recipe_of(formats.uint4, (formats.float16, (1, 32)), offset=formats.float16),
        recipe_of(formats.int4, (formats.float16, None)), recipes.int4_g32_f32,
    ],
    ids=repr,
)  # fmt: skip
def test_what_they_cannot_hold_is_refused(recipe, write):
    st = cast_array(RNG.standard_normal((32, 64)).astype(np.float32), recipe)
    with pytest.raises(UnsupportedError, match=r"breccia\.requantize\(st, breccia\.recipes\.uint4_g128_f16\)"):
        write(st)


def test_codes_that_do_not_fill_words():
    st = cast_array(np.ones((4, 32), np.float32), recipes.int4_g32_f16)
    with pytest.raises(ShapeError, match="which 4 x 32 do not fill"):
        to_gptq(st)
    with pytest.raises(ShapeError, match="4 are no multiple of 8"):
        to_awq(st)
    with pytest.raises(FormatError, match="has groups of 32, not of 64"):
        to_gptq(cast_array(np.ones((8, 64), np.float32), recipes.int4_g32_f16), group_size=64)
    with pytest.raises(UnsupportedError, match="GPTQ holds"):
        to_gptq(ScaledTensor(np.zeros((2, 8, 32), np.uint8), np.ones((2, 8, 1), np.float16), recipes.int4_g32_f16))
