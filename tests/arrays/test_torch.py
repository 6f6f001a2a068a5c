"""What PyTorch's primitives refuse."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.errors import DTypeError  # noqa: E402


@pytest.mark.parametrize("recipe", [recipes.float8_tensor, recipes.nvfp4, recipes.nf4], ids=str)
def test_sparse_and_nested_tensors_are_refused(recipe):
    x = torch.eye(32)
    with pytest.raises(DTypeError, match=r"sparse tensor .*allowed: strided tensors.*x\.to_dense\(\)"):
        breccia.cast(x.to_sparse(), recipe)
    with pytest.raises(DTypeError, match=r"nested tensor .*allowed: strided tensors.*to_padded_tensor"):
        breccia.cast(torch.nested.nested_tensor([x, x[:3]], layout=torch.jagged), recipe)


def test_complex_tensors_are_refused():
    with pytest.raises(DTypeError, match=r"complex64.*allowed: float16.*take x\.real"):
        breccia.cast(torch.ones(4, 32, dtype=torch.complex64), recipes.mxfp4)
