"""0.1's names for DLPack."""

from __future__ import annotations

import numpy as np
import pytest

from breccia import recipes
from breccia.bridges import from_dlpack, to_dlpack
from breccia.errors import UnsupportedError
from breccia.tensor import cast_array

X = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)


def test_capsules_share_memory():
    torch = pytest.importorskip("torch")
    st = cast_array(X, recipes.mxfp8_e4m3)
    data, scale = (torch.from_dlpack(capsule) for capsule in to_dlpack(st))
    assert data.data_ptr() == st.data.ctypes.data
    assert scale.numpy().tolist() == st.scale.tolist()


@pytest.mark.parametrize("recipe", [recipes.nvfp4, recipes.uint4_g32_f16], ids=repr)
def test_parts_are_not_dropped(recipe):
    with pytest.raises(UnsupportedError, match=r"has more: move the tensor with st\.to"):
        to_dlpack(cast_array(X, recipe))


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "mlx"])
def test_every_library(library):
    pytest.importorskip("mlx.core" if library == "mlx" else library)
    st = cast_array(X, recipes.uint4_g32_f16)  # 0.1 lost the zero points
    moved = from_dlpack(st, library)
    assert moved == st
    assert moved.library == library


def test_another_name():
    with pytest.raises(TypeError, match="unsupported framework: 'cupy'"):
        from_dlpack(cast_array(X, recipes.mxfp4), "cupy")
