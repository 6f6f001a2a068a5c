"""Tensors as descriptors take them, without a GPU: which fit as they lie, and what becomes of those that do not."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # as all of this folder
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from breccia.targets.triton import _descriptors as d  # noqa: E402
from breccia.targets.triton import launch as rt  # noqa: E402


def made(rows: int, columns: int) -> Any:
    return torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)


@pytest.mark.parametrize(
    ("tensor", "fits"),
    [
        (made(8, 8), True),
        (made(8, 16)[:, 4:12], True),
        (made(8, 16)[:, 1:9], False),  # an address that is no multiple of 16 bytes
        (made(8, 7), False),  # rows of 28 bytes
        (made(8, 8).T, False),
        (made(8, 8)[::2], True),
        (made(1, 7), True),  # one row has no distance to the next one
        (made(8, 1), False),
    ],
)
def test_what_does_not_fit_is_copied(tensor: Any, fits: bool) -> None:
    assert d.fits(tensor) == fits
    found = d.aligned(tensor)
    assert (found.data_ptr() == tensor.data_ptr()) == fits
    assert d.fits(found)
    assert torch.equal(found, tensor)


@pytest.mark.parametrize(
    ("tensor", "fits"),
    [
        (made(6, 8).view(2, 3, 8), True),
        (made(6, 7).view(2, 3, 7), False),  # rows of 28 bytes
        (made(8, 8).view(2, 4, 8)[:, :3], False),  # a row between matrices
        (made(8, 8).view(2, 4, 8)[:1, :3], True),
        (made(6, 16).view(2, 3, 16)[:, :, 4:12], True),
        (made(6, 8).view(2, 3, 8).mT, False),
    ],
)
def test_matrices_are_rows_of_one_where_they_lie_one_behind_the_other(tensor: Any, fits: bool) -> None:
    assert d.fits(tensor) == fits
    found = d.aligned(tensor)
    assert (found.data_ptr() == tensor.data_ptr()) == fits
    assert torch.equal(found, tensor)
    described = d.described(found, "fp32", (1, 8))
    assert described.shape == [tensor.shape[0] * tensor.shape[1], tensor.shape[2]]
    assert described.strides[1] == 1
    assert torch.equal(d.rows_of(found).view(tensor.shape), tensor)


def test_types_of_parameters_name_element_and_box() -> None:
    bytes_ = d.kind_of("fp8e4nv", (64, 128))
    assert bytes_.startswith("tensordesc<fp8e4nv[64, 128],NVMMASharedLayout(")
    assert "swizzle_byte_width=128" in bytes_
    assert "swizzle_byte_width=32" in d.kind_of("bf16", (64, 16))


def test_columns_are_aligned_to_16_bytes() -> None:
    for rows in (1, 3, 4, 130):
        found = rt.columns((rows, 5), rt.f32, torch.zeros(1))
        assert found.stride(0) == 1
        assert found.stride(1) % 4 == 0
        assert found.stride(1) >= rows


def test_a_kernel_in_gluon_says_that_triton_does_not_interpret_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Function:
        __name__, arg_names, cache_key = "_gemm_0", ["x"], ""

    monkeypatch.setattr(rt.knobs.runtime, "interpret", True)
    with pytest.raises(rt.UnsupportedError, match=r"kernel gemm_0 is in Gluon, .*sm_89"):
        rt.Kernel(Function(), pointers=("bf16",), strided=(0,), sizes=0, target="sm_90", boxes=((64, 64),))
