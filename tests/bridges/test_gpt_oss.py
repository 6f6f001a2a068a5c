"""gpt-oss: against transformers' own decoder, and against MLX, which has the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from breccia import recipes
from breccia.bridges import from_gpt_oss, to_gpt_oss
from breccia.errors import DTypeError, FormatError, UnsupportedError
from breccia.tensor import cast_array

RNG = np.random.default_rng(0)
BLOCKS = RNG.integers(0, 256, (3, 8, 5, 16), np.uint8)
SCALES = RNG.integers(110, 140, (3, 8, 5), np.uint8)


def test_values_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    convert = pytest.importorskip("transformers.integrations.mxfp4").convert_moe_packed_tensors
    theirs = convert(torch.from_numpy(BLOCKS), torch.from_numpy(SCALES), dtype=torch.float32)
    st = from_gpt_oss(BLOCKS, SCALES)
    assert (st.shape, st.recipe, st.dtype.name) == ((3, 8, 160), recipes.mxfp4, "bfloat16")
    np.testing.assert_array_equal(st.dequantize("float32"), theirs.transpose(-1, -2).numpy())


def test_the_same_bits_come_back():
    st = from_gpt_oss(BLOCKS, SCALES)
    blocks, scales = to_gpt_oss(st)
    assert np.shares_memory(blocks, BLOCKS)
    assert (blocks.tobytes(), scales.tobytes()) == (BLOCKS.tobytes(), SCALES.tobytes())
    assert blocks.shape == BLOCKS.shape


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    blocks, scales = torch.from_numpy(BLOCKS), torch.from_numpy(SCALES)
    st = from_gpt_oss(blocks, scales.view(torch.float8_e8m0fnu))
    assert st.to("numpy") == from_gpt_oss(BLOCKS, SCALES)
    assert torch.equal(to_gpt_oss(st)[0], blocks)


def test_what_does_not_fit():
    with pytest.raises(FormatError, match=r"in / 32, 16\), got"):
        from_gpt_oss(BLOCKS[..., :8], SCALES)
    with pytest.raises(FormatError, match=r"scales must have shape \(3, 8, 5\), got \(3, 8, 4\)"):
        from_gpt_oss(BLOCKS, SCALES[..., :4])
    with pytest.raises(DTypeError, match="blocks must be an array of uint8"):
        from_gpt_oss(BLOCKS.astype(np.int32), SCALES)
    for recipe, shape in ((recipes.nvfp4, (4, 64)), (recipes.mxfp4, (4, 48)), (recipes.mxfp8_e4m3, (4, 64))):
        with pytest.raises(UnsupportedError, match="gpt-oss holds MXFP4"):
            to_gpt_oss(cast_array(np.ones(shape, np.float32), recipe))
    with pytest.raises(UnsupportedError, match="gpt-oss holds MXFP4"):
        to_gpt_oss(cast_array(np.ones((64, 64), np.float32), recipes.mxfp4, axis=0))
