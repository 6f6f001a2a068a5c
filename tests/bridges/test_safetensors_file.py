"""The container: against safetensors' own writer and reader, and against damaged and hostile files."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

from breccia.bridges._atomic import replacing
from breccia.bridges.safetensors_file import NUMPY_DTYPES, SafetensorsFile, write_file
from breccia.errors import BrecciaError, DTypeError, FormatError

RNG = np.random.default_rng(0)


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def put(folder: Path, contents: bytes) -> Path:
    path = folder / "x.safetensors"
    path.write_bytes(contents)
    return path


def tensor(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one_of_each() -> dict[str, Any]:
    octets = RNG.integers(0, 256, 64, np.uint8)
    made = {name: octets[: 4 * dtype.itemsize].view(dtype).reshape(2, 2) for name, dtype in NUMPY_DTYPES.items()}
    return made | {
        "BOOL": np.array([[True, False], [False, True]]),
        "scalar": np.array(3, np.float32),
        "empty": np.zeros((0, 3)),
    }


# --- good files ---


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    arrays = one_of_each()
    write_file(tmp_path / "a.safetensors", arrays, {"who": "me"})
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert file.metadata == {"who": "me"}
        assert set(file) == set(arrays)
        assert len(file) == len(arrays)
        for name, x in arrays.items():
            for found in (file.read(name), file.view(name)):
                assert (found.dtype, found.shape, found.tobytes()) == (x.dtype, np.shape(x), np.asarray(x).tobytes())


def test_views_are_of_the_file_and_outlive_it(tmp_path):
    write_file(tmp_path / "a.safetensors", {"w": np.arange(1024, dtype=np.float32)})
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        view = file.view("w")
    assert not view.flags.writeable
    assert view[1023] == 1023


def test_one_tensor_is_read_without_the_others(tmp_path):
    write_file(tmp_path / "a.safetensors", {"big": np.zeros(1 << 24, np.uint8), "small": np.ones(4, np.uint8)})
    tracemalloc.start()
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert file.read("small").tolist() == [1, 1, 1, 1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_safetensors_reads_what_we_write(tmp_path):
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    arrays = {name: x for name, x in one_of_each().items() if name not in ("U16", "U32", "U64")}
    write_file(tmp_path / "a.safetensors", arrays)
    found = load_file(tmp_path / "a.safetensors")
    for name, x in arrays.items():
        octets = found[name].reshape(-1).view(torch.uint8).numpy() if found[name].numel() else np.zeros(0, np.uint8)
        assert octets.tobytes() == np.asarray(x).tobytes(), name
        assert tuple(found[name].shape) == np.shape(x)


def test_we_read_what_safetensors_writes(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    octets = torch.from_numpy(RNG.integers(0, 256, (4, 6), np.uint8))
    kinds = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    tensors = {name: octets.view(getattr(torch, name)).clone() for name in kinds}
    tensors |= {"bf16": torch.randn(3, 5).bfloat16(), "f4": octets.clone().view(torch.float4_e2m1fn_x2)}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        for name in kinds:
            assert file.read(name).dtype == getattr(ml_dtypes, name)
            assert file.read(name).tobytes() == octets.numpy().tobytes()
        assert file.entry("f4").shape == (4, 12)
        assert file.read("f4").tobytes() == octets.numpy().tobytes()
        assert file.read("bf16").tobytes() == tensors["bf16"].view(torch.uint8).numpy().tobytes()


def test_six_bit_tensors_are_read_as_bytes(tmp_path):
    header = {"w": tensor("F6_E2M3", (2, 4), (0, 6))}
    with SafetensorsFile(put(tmp_path, raw(header, bytes(range(6))))) as file:
        assert file.read("w").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_data_that_is_not_aligned_is_read_all_the_same(tmp_path):
    data = b"\0" + np.arange(3, dtype=np.float32).tobytes()
    header = {"a": tensor("U8", (1,), (0, 1)), "b": tensor("F32", (3,), (1, 13))}
    with SafetensorsFile(put(tmp_path, raw(header, data))) as file:
        assert file.read("b").tolist() == file.view("b").tolist() == [0, 1, 2]


def test_other_orders_of_memory_are_written_in_rows(tmp_path):
    x = RNG.standard_normal((3, 4, 5)).astype(">f4")
    arrays = {"big": x, "turned": x.T, "back": x[::-1, :, ::-2], "column": x[:, :, 1]}
    write_file(tmp_path / "a.safetensors", arrays)
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.read(name), array)


# --- bad files (rows 31 to 37, 41, 45 to 47 of the table of bad input) ---

BAD = {
    "empty": (b"", "has 0 bytes"),
    "short": (b"\1\0\0", "has 3 bytes"),
    "length 2**63": (raw({}, length=1 << 63), "its header would take 9223372036854775808 bytes"),
    "length 2**34": (raw({}, length=1 << 34), "its header would take"),
    "length beyond the file": (raw({}, length=3), "its header would take 3 bytes; the file has 10"),
    "pickle": (pickle.dumps({"w": np.zeros(3)}, 4).ljust(64, b"\0"), "is no safetensors file"),
    "pickle behind a length": (raw(pickle.dumps([1])), r"\(a pickle\?\)"),
    "no JSON": (raw(b"{nonsense"), "is no JSON"),
    "no UTF-8": (raw(b'{"\xff": 1}'), "is no JSON"),
    "UTF-16": (raw('{"a": 1}'.encode("utf-16-le")), "is no JSON"),
    "a list": (raw(b"[1]"), "does not start"),
    "deep": (raw(b'{"a":' + b"[" * 100_000), "is no JSON"),
    "a number of 10,000 digits": (raw(b'{"a":' + b"1" * 10_000 + b"}"), "is no JSON"),
    "key twice": (raw(b'{"a":1,"a":2}'), "has the key 'a' twice"),
    "key twice, inside": (raw(b'{"a":{"dtype":"U8","dtype":"U8"}}'), "has the key 'dtype' twice"),
    "cut": (raw({"a": tensor()}, b"abc"), "has 71 bytes, its header calls for 72: the file is cut"),
    "trailing": (raw({"a": tensor()}, b"abcde"), "bytes at its end belong to no tensor"),
    "hole": (raw({"a": tensor(), "b": tensor(offsets=(5, 9))}, b"123456789"), "'b' leaves a gap after 'a'"),
    "overlap": (raw({"a": tensor(), "b": tensor(offsets=(2, 6))}, b"123456"), "'b' overlaps 'a'"),
    "negative offset": (raw({"a": tensor(offsets=(-4, 0))}), "ascending integers"),
    "offsets turned": (raw({"a": tensor(offsets=(4, 0))}, b"1234"), "ascending integers"),
    "float offset": (raw({"a": tensor(offsets=(0.0, 4.0))}, b"1234"), "ascending integers"),
    "bool offset": (raw({"a": tensor("U8", (1,), (False, True))}, b"1"), "ascending integers"),
    "three offsets": (raw({"a": tensor(offsets=(0, 2, 4))}, b"1234"), "ascending integers"),
    "negative size": (raw({"a": tensor("U8", (-4,))}, b"1234"), "integers of at least 0"),
    "size of text": (raw({"a": tensor("U8", ("4",))}, b"1234"), "integers of at least 0"),
    "no shape": (raw({"a": {"dtype": "U8", "data_offsets": [0, 4]}}, b"1234"), "must have exactly"),
    "more": (raw({"a": tensor() | {"x": 1}}, b"1234"), "must have exactly"),
    "product overflows": (raw({"a": tensor("U8", (1 << 40, 1 << 40), (0, 0))}), "beyond 2\\*\\*63"),
    "product wraps to 0": (raw({"a": tensor("U8", (1 << 32, 1 << 32), (0, 0))}), "beyond 2\\*\\*63"),
    "lying shape": (raw({"a": tensor("F32", (4,))}, b"1234"), "takes 16 bytes, but has 4"),
    "unknown dtype": (raw({"a": tensor("F3")}, b"1234"), "unknown dtype 'F3'; known: BOOL"),
    "odd row of F4": (raw({"a": tensor("F4", (8, 1), (0, 4))}, b"1234"), "do not fill whole bytes"),
    "F4 without axes": (raw({"a": tensor("F4", (), (0, 1))}, b"1"), "do not fill whole bytes"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}}), "must be an object of strings"),
    "metadata of text": (raw({"__metadata__": "a"}), "must be an object of strings"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(name, tmp_path):
    contents, text = BAD[name]
    path = put(tmp_path, contents)
    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(FormatError, match=text) as caught:
        SafetensorsFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < (1 << 24) + 40 * len(contents)
    assert time.monotonic() - started < 2


def test_100_000_tensors_take_little_time(tmp_path):
    header = {f"layer.{i}.weight": tensor("U8", (1,), (i, i + 1)) for i in range(100_000)}
    path = put(tmp_path, raw(header, b"\0" * 100_000))
    started = time.monotonic()
    with SafetensorsFile(path) as file:
        assert len(file) == 100_000
    assert time.monotonic() - started < 20  # a second, where nothing else runs


def test_what_is_no_file(tmp_path):
    with pytest.raises(FormatError, match="is not a file"):
        SafetensorsFile(tmp_path)
    with pytest.raises(FileNotFoundError):
        SafetensorsFile(tmp_path / "none")


def test_an_unknown_tensor(tmp_path):
    with SafetensorsFile(put(tmp_path, raw({"a": tensor()}, b"1234"))) as file, pytest.raises(FormatError, match="'b'"):
        file.read("b")


def test_a_file_that_is_cut_after_it_was_opened_is_an_error_no_crash(tmp_path):
    path = tmp_path / "a.safetensors"
    write_file(path, {"w": np.zeros(1 << 20, np.uint8)})
    with SafetensorsFile(path) as file:
        os.truncate(path, 5000)
        with pytest.raises(OSError, match="was cut after it was opened"):
            file.read("w")
        with pytest.raises(OSError, match="was cut after it was opened"):
            file.view("w")


@hypothesis.given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
@hypothesis.settings(max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused(tmp_path, tail, place, value):
    whole = bytearray(raw({"a": tensor(), "b": tensor("F16", (2, 1), (4, 8))}, b"12345678") + tail)
    whole[place % len(whole)] = value
    try:
        with SafetensorsFile(put(tmp_path, bytes(whole))) as file:
            for name in file:
                file.read(name)
    except BrecciaError:
        pass


# --- writing ---


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "a.safetensors"
    for array in (np.array(["text"]), np.array([None]), np.zeros(3, ml_dtypes.int4)):
        with pytest.raises(DTypeError, match="w: safetensors has no dtype for"):
            write_file(path, {"w": array})
    with pytest.raises(FormatError, match="cannot be called"):
        write_file(path, {"__metadata__": np.zeros(3)})
    with pytest.raises(FormatError, match="metadata is text"):
        write_file(path, {}, {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_no_files_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("folder", "pipe", "link"):
        with pytest.raises(FormatError, match=r"folder, device or pipe|is a link"):
            write_file(tmp_path / name, {"w": np.zeros(3)})
    with pytest.raises(FormatError, match="no regular file"):
        write_file("/dev/null", {"w": np.zeros(3)})
    with pytest.raises(FileNotFoundError, match="make it first"):
        write_file(tmp_path / "none" / "a", {"w": np.zeros(3)})
    assert (tmp_path / "target").read_text() == "mine"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = put(tmp_path, b"old")

    def write_half():
        with replacing(path) as stream:
            stream.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = put(tmp_path, b"old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_file(path, {"w": np.zeros(100_000, np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys
from pathlib import Path
from breccia.bridges._atomic import replacing
with replacing(Path(sys.argv[1])) as stream:
    stream.write(b"new" * 100_000)
    stream.flush()
    print("half", flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_sweeps(tmp_path):
    path = put(tmp_path, b"old")
    command = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (-9, b"half\n"), done.stderr
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_file(path, {"w": np.arange(3)})
    assert list(tmp_path.iterdir()) == [path]
    with SafetensorsFile(path) as file:
        assert file.read("w").tolist() == [0, 1, 2]


def test_a_writer_that_is_alive_is_not_swept(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as stream:
        stream.write(b"first")
        with replacing(path) as other:
            other.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_stay(tmp_path):
    path = put(tmp_path, b"old")
    path.chmod(0o640)
    write_file(path, {"w": np.zeros(3)})
    assert path.stat().st_mode & 0o777 == 0o640
