"""Tuning on a real GPU: processes build and measure, the table is used by the next call, and results stay right."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that PyTorch can use"),
    # Not imported here: that fixes whether Triton interprets, which other modules say when they are collected.
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
]

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.frontend.tables import read, user_file  # noqa: E402


def product(a: Any, w: Any) -> Any:
    return breccia.matmul(a, breccia.transpose(w), out_dtype="bfloat16")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRECCIA_CACHE_DIR", str(tmp_path))
    read.cache_clear()


@pytest.mark.parametrize(("m", "n", "k"), [(64, 2080, 7168), (4096, 4096, 1024)])
def test_what_is_found_is_right_and_used_from_then_on(m: int, n: int, k: int) -> None:
    torch.manual_seed(0)
    a, w = (torch.randn(*shape, device="cuda").bfloat16() for shape in ((m, k), (n, k)))
    left, right = breccia.cast(a, recipes.float8_1x128), breccia.cast(w, recipes.float8_128x128)
    found = breccia.compile(product, tune=15.0, strict=True)(left, right)
    wanted = left.dequantize("float32").double() @ right.dequantize("float32").double().t()
    assert float(torch.linalg.norm(found.double() - wanted) / torch.linalg.norm(wanted)) < 2e-3
    file = user_file(torch.cuda.get_device_name())
    assert file is not None
    table = read(file, torch.cuda.get_device_name())
    assert table is not None
    ((entry,),) = [section.values() for section in table.sections.values()]
    assert 0 < entry.tuned_us <= entry.default_us < 1e5
    other = breccia.compile(product, name="other")
    assert "by your table" in other.lower(left, right).explain()
    assert torch.equal(other(left, right), found)


def test_rowwise_kernels_are_tuned() -> None:
    x = torch.randn(4096, 4096, device="cuda").bfloat16()
    gated: Any = breccia.compile(
        lambda x: breccia.cast(breccia.silu(x) * x, recipes.float8_1x128), tune=10.0, strict=True
    )
    assert torch.equal(gated(x).codes(), breccia.cast(torch.nn.functional.silu(x) * x, recipes.float8_1x128).codes())
    assert "by your table" in gated.lower(x).explain()
