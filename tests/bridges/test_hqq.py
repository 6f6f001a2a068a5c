"""HQQ: against its Quantizer where hqq is installed, and against its packing, written out, where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_hqq, to_hqq
from breccia.bridges._common import integer, recipe_of
from breccia.errors import FormatError, UnsupportedError
from breccia.tensor import cast_array

RNG = np.random.default_rng(0)


def quantized(bits: int, shape: tuple[int, int] = (16, 128), group: int = 64) -> tuple[np.ndarray, dict[str, Any], Any]:
    """(W_q, meta, values): rows of groups packed as core/bitpack.py has it, in a loop."""
    rows, per = shape[0] * shape[1] // group, 8 // bits
    codes = RNG.integers(0, 1 << bits, (rows, group))
    packed = np.zeros((rows // per, group), np.uint8)
    for i in range(per):
        packed |= (codes[i * rows // per : (i + 1) * rows // per] << (8 - (i + 1) * bits)).astype(np.uint8)
    scale = (RNG.random((rows, 1)) + 0.5).astype(np.float16)
    zero = (RNG.random((rows, 1)) * ((1 << bits) - 1)).astype(np.float16)
    meta = {
        "nbits": bits, "group_size": group, "shape": shape, "scale": scale, "zero": zero, "axis": 1,
        "packing": f"{bits}bit_u8", "view_as_float": False,
    }  # fmt: skip
    values = (codes.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
    return packed, meta, values.reshape(shape)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_and_bytes(bits):
    packed, meta, values = quantized(bits)
    st = from_hqq(packed, meta)
    assert (st.shape, st.recipe.blocks(2)) == ((16, 128), ((1, 64),))
    np.testing.assert_array_equal(st.numpy(), values)
    back, again = to_hqq(st)
    assert back.tobytes() == packed.tobytes()
    assert again["scale"].tobytes() == meta["scale"].tobytes()
    assert again["zero"].tobytes() == meta["zero"].tobytes()
    assert {k: again[k] for k in ("nbits", "group_size", "shape", "axis", "packing")} == {
        k: meta[k] for k in ("nbits", "group_size", "shape", "axis", "packing")
    }


def test_the_halves_of_the_tensor_not_neighbours():
    packed = np.array([[0x1F] * 8], np.uint8)
    ones = np.ones((2, 1), np.float16)
    meta = {
        "nbits": 4, "group_size": 8, "shape": (2, 8), "scale": ones, "zero": ones * 0, "axis": 1, "packing": "4bit_u8"
    }  # fmt: skip
    assert from_hqq(packed, meta).numpy()[:, 0].tolist() == [1.0, 15.0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quantizer(bits):
    torch = pytest.importorskip("torch")
    try:
        from hqq.core.quantize import Quantizer
    except ImportError as error:
        pytest.skip(f"hqq is not installed: {error}")
    weight = torch.from_numpy(RNG.standard_normal((16, 128)).astype(np.float32))
    packed, meta = Quantizer.quantize(weight, nbits=bits, group_size=64, axis=1, device="cpu", optimize=False)
    meta["scale"], meta["zero"] = meta["scale"].half(), meta["zero"].half()
    theirs = Quantizer.dequantize(packed, {**meta, "compute_dtype": torch.float32, "scale": meta["scale"].float()})
    st = from_hqq(packed, meta)
    np.testing.assert_array_equal(st.numpy(), theirs.numpy())
    back, again = to_hqq(st)
    assert torch.equal(back, packed)
    np.testing.assert_array_equal(
        Quantizer.dequantize(back, {**again, "compute_dtype": torch.float32, "scale": again["scale"].float()}).numpy(),
        st.numpy(),
    )


@pytest.mark.parametrize(
    "recipe",
    [recipes.uint4_g64_f16, recipes.int4_g64_f16, recipe_of(integer(2, False), (formats.float32, (1, 32)))],
    ids=repr,
)
def test_what_we_cast(recipe):
    st = cast_array(np.abs(RNG.standard_normal((16, 128))).astype(np.float32), recipe)
    packed, meta = to_hqq(st)
    per, bits = 8 // meta["nbits"], meta["nbits"]
    rows = np.concatenate([packed >> (8 - (i + 1) * bits) & (1 << bits) - 1 for i in range(per)])
    values = (rows.astype(np.float32) - meta["zero"].astype(np.float32)) * meta["scale"].astype(np.float32)
    np.testing.assert_array_equal(values.reshape(16, 128), st.numpy())


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"axis": 0}, UnsupportedError, "groups of axis=0 are strided"),
        ({"packing": "3bit_32", "nbits": 3}, UnsupportedError, "packing '3bit_32' of 3 bits"),
        ({"packing": None}, UnsupportedError, "packing None"),
        ({"shape": (32, 65), "group_size": 65}, FormatError, "has 32 scales; got"),
        ({"shape": (64, 32), "group_size": 64}, UnsupportedError, "cross the rows"),
        ({"scale": np.ones((3, 1), np.float16)}, FormatError, "has 32 scales; got"),
        ({"scale": np.full((32, 1), 1 / 3, np.float32)}, UnsupportedError, "Round meta"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(change, error, text):
    packed, meta, _ = quantized(4)
    with pytest.raises(error, match=text):
        from_hqq(packed, meta | change)
    del meta["zero"]
    with pytest.raises(FormatError, match="meta has no zero"):
        from_hqq(packed, meta)


@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        (recipes.mxfp4, (16, 64)), (recipes.nf4, (16, 64)), (recipes.int4_g64_f16, (16, 96)),
        (recipes.int4_g64_f16, (1, 64)), (recipe_of(integer(3, False), (formats.float16, (1, 64))), (16, 64)),
    ],
    ids=repr,
)  # fmt: skip
def test_what_it_cannot_hold_is_refused(recipe, shape):
    with pytest.raises(UnsupportedError, match=r"HQQ holds.*recipes\.uint4_g64_f16"):
        to_hqq(cast_array(np.ones(shape, np.float32), recipe))
