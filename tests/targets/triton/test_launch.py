"""Emitted Triton source becomes functions: run by the interpreter here, and compiled for a driver that is not there."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from breccia.errors import DTypeError, FormatError, UnsupportedError  # noqa: E402
from breccia.targets.triton import launch as rt  # noqa: E402

HEADER = """import triton
import triton.language as tl

from breccia.targets.triton import launch as rt

"""
SCALE = (
    HEADER
    + '''
@triton.jit
def _scale_0(x, scale, out, M, N, x_stride0, x_stride1, scale_stride0):
    row = tl.program_id(0)
    column = tl.arange(0, 64)
    values = tl.load(x + row * x_stride0 + column * x_stride1, mask=column < N, other=0.0)
    tl.store(out + row * N + column, values * tl.load(scale + row * scale_stride0), mask=column < N)


scale_0 = rt.Kernel(
    _scale_0,
    pointers=("fp32", "fp32", "fp32"),
    strided=(2, 1, 0),
    sizes=2,
    num_warps=1,
    target="sm_90",
).call


def scale(x, factors):
    """scale(x: [M, N] f32, factors: [M] f32) -> [M, N] f32"""
    M, N = x.shape
    out = rt.empty((M, N), rt.f32, x)
    scale_0(M, x, factors, out, M, N)
    return out
'''
)
GEMM = (
    HEADER
    + """
@triton.jit
def _gemm_0(a, a_scale, b, out, M, a_stride0, a_stride1, a_scale_stride0, a_scale_stride1, b_stride0, b_stride1):
    m = tl.program_id(0) * 32 + tl.arange(0, 32)
    n = tl.arange(0, 32)
    total = tl.zeros((32, 32), tl.float32)
    for step in range(2):
        k = step * 32 + tl.arange(0, 32)
        x = tl.load(a + m[:, None] * a_stride0 + k[None, :] * a_stride1, mask=m[:, None] < M, other=0.0)
        y = tl.load(b + k[:, None] * b_stride0 + n[None, :] * b_stride1)
        factor = tl.load(a_scale + m * a_scale_stride0 + step * a_scale_stride1, mask=m < M, other=0.0)
        total += tl.dot(x, y) * factor[:, None]
    tl.store(out + m[:, None] * 32 + n[None, :], total, mask=m[:, None] < M)


gemm_0 = rt.Kernel(
    _gemm_0,
    pointers=("fp8e4nv", "fp32", "fp8e4nv", "fp32"),
    strided=(2, 2, 2, 0),
    sizes=1,
    num_warps=4, num_stages=2,
    target="sm_90",
).call


def gemm(a, a_scale, b):
    M = a.shape[0]
    out = rt.empty((M, 32), rt.f32, a)
    gemm_0(-(-M // 32), a, a_scale, b, out, M)
    return out
"""
)
COUNT = (
    HEADER
    + """
@triton.jit
def _count_0(flags, out):
    tl.atomic_add(out, tl.load(flags + tl.program_id(0)).to(tl.int32))


count_0 = rt.Kernel(_count_0, pointers=("i1", "i32"), strided=(0, 0), sizes=0, target="sm_90").call


def count(flags):
    out = rt.full((1,), 3, rt.i32, flags)
    count_0(flags.shape[0], flags, out)
    return out
"""
)


# --- the interpreter ---


def interpreted(source: str, entry: str) -> Any:
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton was imported without TRITON_INTERPRET=1")
    return rt.launch(source, entry)


@pytest.mark.parametrize("strides", [(40, 1), (1, 5), (80, 2)])
def test_strides_are_those_of_the_tensors(strides: tuple[int, int]) -> None:
    scale = interpreted(SCALE, "scale")
    x = torch.randn(400).as_strided((5, 40), strides)
    factors = torch.randn(10)[::2]
    assert torch.equal(scale(x, factors), x * factors[:, None])


def test_no_programs_write_nothing() -> None:
    assert interpreted(SCALE, "scale")(torch.zeros(0, 4), torch.zeros(0)).shape == (0, 4)


@pytest.mark.parametrize("stored", ["codes", "float8"])
def test_codes_are_read_as_the_type_of_the_pointer(stored: str) -> None:
    gemm = interpreted(GEMM, "gemm")
    a, b = (torch.randn(shape).to(torch.float8_e4m3fn) for shape in ((40, 64), (32, 64)))
    scale = torch.tensor([[0.5, 4.0]]).expand(40, 2)
    grouped = a.float().reshape(40, 2, 32) * scale[:, :, None]
    expected = grouped.reshape(40, 64) @ b.float().T
    given = (a.view(torch.uint8), b.view(torch.uint8)) if stored == "codes" else (a, b)
    torch.testing.assert_close(gemm(given[0], scale, given[1].T), expected, rtol=1e-5, atol=1e-4)


def test_programs_combine_into_a_full_output() -> None:
    assert interpreted(COUNT, "count")(torch.tensor([True, False, True])).tolist() == [5]


def test_a_dtype_of_another_width_is_refused() -> None:
    with pytest.raises(DTypeError, match=r"_scale_0 reads scale as fp32, of 4 bytes.*float64"):
        interpreted(SCALE, "scale")(torch.zeros(2, 4), torch.zeros(2, dtype=torch.float64))


def test_another_rank_is_refused() -> None:
    with pytest.raises(DTypeError, match=r"_scale_0 wants 1 axes as scale; .* shape \(2, 1\)"):
        interpreted(SCALE, "scale")(torch.zeros(2, 4), torch.zeros(2, 1))


# --- sources ---


def test_the_same_source_is_loaded_once_by_all_threads() -> None:
    source, found = SCALE + "\n# threads\n", []
    threads = [threading.Thread(target=lambda: found.append(rt.launch(source, "scale"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_a_missing_function_is_named() -> None:
    with pytest.raises(FormatError, match=r"defines no function 'gemm'; it defines .*scale"):
        rt.launch(SCALE, "gemm")


def test_another_library_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="arrays of torch, not of jax"):
        rt.launch(SCALE, "scale", "jax")


def test_the_source_lies_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRECCIA_CACHE_DIR", str(tmp_path / "cache"))
    function = rt.launch(SCALE + "\n# in the cache\n", "scale")
    file = Path(inspect.getsourcefile(function) or "")
    assert file.parent == tmp_path / "cache"
    assert list(file.parent.iterdir()) == [file]
    assert file.read_text() == SCALE + "\n# in the cache\n"


def test_a_file_with_other_contents_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRECCIA_CACHE_DIR", str(tmp_path))
    file = rt._file("triton-0.py", b"one")
    file.write_bytes(b"on")
    assert rt._file("triton-0.py", b"one").read_bytes() == b"one"


@pytest.mark.parametrize("setting", [("BRECCIA_CACHE", "0"), ("BRECCIA_CACHE_DIR", "/dev/null/cache")])
def test_without_a_cache_folder_the_source_lies_in_a_temporary_one(
    setting: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from breccia.frontend.cache import CacheWarning

    monkeypatch.setenv(*setting)
    if setting[0] == "BRECCIA_CACHE":
        file = rt._file("triton-1.py", b"two")
    else:
        with pytest.warns(CacheWarning):
            file = rt._file("triton-1.py", b"two")
    assert file.parent == rt._temporary()


def test_a_source_that_fails_is_not_kept() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            rt.launch("1 / 0\n", "f")


# --- kernels and devices ---


def test_a_kernel_has_as_many_parameters_as_it_says() -> None:
    text = SCALE.replace("sizes=2", "sizes=1")
    with pytest.raises(FormatError, match=r"_scale_0 has 8 parameters .*3 pointers, 1 sizes and 3 strides make 7"):
        rt.launch(text, "scale")


def test_pointers_are_of_known_types() -> None:
    with pytest.raises(FormatError, match="pointers are of u8, i8"):
        rt.launch(SCALE.replace('("fp32", "fp32"', '("f32", "fp32"'), "scale")


def test_only_gpus_have_an_architecture() -> None:
    with pytest.raises(UnsupportedError, match="for CUDA and ROCm devices, not for cpu"):
        rt.device_arch("cpu")


# --- compiled for a driver that is not there ---

FAKE = """
import contextlib, json, os, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from breccia.errors import BrecciaError
from breccia.targets.triton import launch as rt

launched, compiled = [], []
limit = [232448]

class Utils:
    def load_binary(self, *_): return 1, 2, 0, 0, 1024
    def unload_module(self, _): pass
    def get_device_properties(self, _): return {"max_shared_mem": limit[0]}

class Launcher:  # goes through CompiledKernel.run
    def __init__(self, source, metadata): pass
    def __call__(self, *args): launched.append(args)

class CudaLauncher(Launcher):  # as Triton's own: its C function is called directly
    global_scratch_size = profile_scratch_size = 0
    launch_cooperative_grid = launch_pdl = False
    arg_annotations, kernel_signature = "marks", "layout"
    def launch(self, *args): launched.append(args)

class Driver:
    utils, launcher_cls = Utils(), Launcher
    def get_current_device(self): return 0
    def get_current_stream(self, device=0): return 7
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def map_python_to_cpp_type(self, kind): return kind

def compile(source, **options):
    compiled.append(made := really(source, **options))
    return made

really, triton.compile = triton.compile, compile
driver.set_active(Driver())
sources = json.load(sys.stdin)
scale, gpu, report = rt.launch(sources["scale"], "scale"), rt._gpu, {}

def error(call):
    try: call()
    except BrecciaError as caught: return f"{type(caught).__name__}: {caught}"

x, factors = torch.zeros(48, 64), torch.zeros(48)
report["cpu"] = error(lambda: scale(x, factors))

rt._gpu, rt._on = lambda tensor: 0, lambda device: contextlib.nullcontext()
rt._stream_of, rt._current_device = lambda: lambda device: 7, lambda: None

scale(x, factors)
report["aligned"] = compiled[-1].asm["ttir"]
report["ptx"] = compiled[-1].asm["ptx"]
report["fusion"] = compiled[-1].metadata.enable_fp_fusion
count = len(compiled)
scale(x, factors); scale(x + 1, factors)
report["warm"] = [count, len(compiled)], [list(args[:9]) for args in launched], [list(args[12:]) for args in launched]

scale(torch.zeros(48 * 64 + 1)[1:].view(48, 64), factors)
report["misaligned"] = compiled[-1].asm["ttir"]
scale(torch.zeros(64, 48).T, factors)
report["transposed"] = compiled[-1].asm["ttir"]
scale(x[:1], factors[:1])
report["one"] = compiled[-1].asm["ttir"]

before = len(compiled)
for row in range(66, 90):
    scale(torch.zeros(48, row)[:, :64], factors)
report["many"] = len(compiled) - before
report["dynamic"] = [made.asm["ttir"] for made in compiled[-2:]]
scale(x, factors)
report["seen"] = len(compiled) - before

report["wrong dtype"] = error(lambda: scale(torch.zeros(48, 99).double()[:, :64], factors))

triton.knobs.runtime.launch_enter_hook.add(lambda metadata: None)
scale(x, factors)
report["hooked"] = type(launched[-1][6]).__name__, launched[-1][7] is triton.knobs.runtime.launch_enter_hook
triton.knobs.runtime.launch_enter_hook.calls.clear()
triton.knobs.runtime.launch_exit_hook = print
scale(x, factors)
report["set hook"] = launched[-1][8] is print
triton.knobs.runtime.launch_exit_hook = type(triton.knobs.runtime).launch_exit_hook

Driver.launcher_cls = CudaLauncher
direct = rt.launch(sources["scale"] + "#", "scale")
direct(x, factors)
report["direct"] = [v for v in launched[-1] if v is not None], [v is None for v in launched[-1]].count(True)
CudaLauncher.global_scratch_size = 128
rt.launch(sources["scale"] + "##", "scale")(x, factors)
report["scratch"] = len(launched[-1]), type(rt._allocator.get()).__name__

from triton.compiler.compiler import max_shared_mem
limit[0] = 1000
max_shared_mem.cache_clear()
codes = torch.zeros(32, 64, dtype=torch.uint8)
gemm = rt.launch(sources["gemm"], "gemm")
report["shared"] = error(lambda: gemm(codes, torch.zeros(32, 2), codes.T))
limit[0] = 232448
max_shared_mem.cache_clear()
gemm(codes, torch.zeros(32, 2), codes.T)
report["gemm"] = compiled[-1].asm["ttir"]
other = rt.launch(sources["scale"].replace("sm_90", "sm_100"), "scale")
report["other device"] = error(lambda: other(x, factors))
print(json.dumps(report))
"""


@cache
def _report() -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    folder = Path(os.environ["BRECCIA_CACHE_DIR"]) / "triton-fake"
    environment |= {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAKE],
        input=json.dumps({"scale": SCALE, "gemm": GEMM}), env=environment, capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def report() -> dict[str, Any]:
    """What a process saw in which Triton compiles for sm_90."""
    return _report()


def parameters(ttir: str) -> list[str]:
    """Types of a function's parameters, with a star where they are divisible by 16."""
    line = next(line for line in ttir.splitlines() if "tt.func public" in line)
    found = line.partition("(")[2].split("%")[1:]
    return [
        part.partition(": ")[2].partition(" ")[0].rstrip(",)") + "*" * ("tt.divisibility = 16" in part)
        for part in found
    ]


POINTER = "!tt.ptr<f32>"


def test_strides_are_part_of_the_code_and_sizes_are_not(report: dict[str, Any]) -> None:
    assert parameters(report["aligned"]) == [f"{POINTER}*"] * 3 + ["i32*"] * 2
    assert ".target sm_90a" in report["ptx"]
    assert report["fusion"] is False


def test_only_aligned_pointers_are_said_to_be(report: dict[str, Any]) -> None:
    assert parameters(report["misaligned"])[:3] == [POINTER, f"{POINTER}*", f"{POINTER}*"]


def test_a_size_of_1_is_part_of_the_code(report: dict[str, Any]) -> None:
    assert parameters(report["one"]) == [f"{POINTER}*"] * 3 + ["i32*"]


def test_other_strides_are_other_code(report: dict[str, Any]) -> None:
    assert report["transposed"] != report["aligned"]
    assert parameters(report["transposed"]) == parameters(report["aligned"])


def test_after_many_strides_they_are_numbers_of_the_call(report: dict[str, Any]) -> None:
    assert report["many"] == 6 + 2, "two were seen before; the others are one code for 80, and one for the rest"
    for ttir, stride in zip(report["dynamic"], ("i32", "i32*"), strict=True):
        assert parameters(ttir) == [f"{POINTER}*"] * 3 + ["i32*"] * 2 + [stride]
    assert report["seen"] == report["many"], "strides that were seen keep their code"


def test_a_warm_call_only_launches(report: dict[str, Any]) -> None:
    compiled, starts, strides = report["warm"]
    assert compiled == [1, 1]
    assert [start[:6] for start in starts] == [[48, 1, 1, 7, 2, starts[0][5]]] * 3
    assert strides == [[48, 64, 64, 1, 1]] * 3


def test_the_driver_is_called_directly_where_it_can_be(report: dict[str, Any]) -> None:
    given, absent = report["direct"]
    assert given[:5] == [48, 1, 1, 7, 2]
    assert given[5:7] == [False, False]
    assert absent == 5
    values = given[-1] if rt._TUPLED else given[-8:]
    assert values[3:] == [48, 64, 64, 1, 1]


def test_a_kernel_that_needs_memory_gets_it_from_torch(report: dict[str, Any]) -> None:
    assert report["scratch"] == [9 + 8, "function"]


def test_hooks_are_called(report: dict[str, Any]) -> None:
    assert report["hooked"] == ["LazyDict", True]
    assert report["set hook"] is True


def test_codes_are_passed_under_the_type_of_the_pointer(report: dict[str, Any]) -> None:
    assert parameters(report["gemm"]) == [
        "!tt.ptr<f8E4M3FN>*", f"{POINTER}*", "!tt.ptr<f8E4M3FN>*", f"{POINTER}*", "i32*",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "cpu",
            "UnsupportedError: target triton runs on CUDA and ROCm devices, and was given a tensor on cpu of shape",
        ),
        (
            "wrong dtype",
            "DTypeError: kernel _scale_0 reads x as fp32, of 4 bytes; it was given a tensor of torch.float64",
        ),
        ("shared", "UnsupportedError: kernel _gemm_0 needs 4096 bytes of shared memory, and sm_90 has 1000"),
        (
            "other device",
            "UnsupportedError: kernel _scale_0 was made for triton:sm_100, and the tensors lie on a device",
        ),
    ],
)
def test_errors_say_what_is_wrong(report: dict[str, Any], case: str, message: str) -> None:
    assert (report[case] or "no error").startswith(message)
