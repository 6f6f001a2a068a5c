"""The process that builds and measures candidates: what it lets through, and what it does without a GPU."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.frontend.lower import Lowered  # noqa: E402
from breccia.frontend.program import components  # noqa: E402
from breccia.frontend.tuning import Job, ProcessBench  # noqa: E402
from breccia.frontend.tuning.workers import Processes  # noqa: E402
from breccia.targets.triton import timing, worker  # noqa: E402

NAN = float("nan")


def result(*values: float, dtype: Any = torch.float32) -> Any:
    return torch.tensor(values, dtype=dtype)


# --- results that may be timed ---


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (result(1.0, 2.0), result(1.0, 2.0)),
        (result(1.0, 2.0, dtype=torch.bfloat16), result(1.0, 2.0, dtype=torch.bfloat16)),
        (result(1.0, NAN, math.inf), result(1.001, NAN, math.inf)),
        (torch.zeros(1000, dtype=torch.uint8), torch.zeros(1000, dtype=torch.uint8).index_fill(0, torch.tensor(3), 1)),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (result(0.0, 0.0), result(0.0, 0.0)),
        (torch.arange(3), torch.arange(3)),
    ],
)
def test_equal_but_for_rounding_is_right(found: Any, wanted: Any) -> None:
    worker.check(found.clone, (wanted,))
    worker.check(lambda: (found.clone(), found.clone()), (wanted, wanted))


@pytest.mark.parametrize(
    ("found", "wanted", "reason"),
    [
        (result(1.0, 2.0), result(1.0, 2.1), "relative error"),
        (result(1.0, NAN), result(1.0, 2.0), "NaN or infinity where"),
        (result(1.0, 3.0), result(1.0, NAN), "missing, or another one"),
        (result(1.0, 3.4e38), result(1.0, math.inf), "missing, or another one"),
        (result(1.0, math.inf), result(1.0, -math.inf), "missing, or another one"),
        (result(1.0, math.inf), result(1.0, NAN), "missing, or another one"),
        (result(1.0), result(1.0, 2.0), r"\(1,\), not torch.float32\(2,\)"),
        (result(1.0), result(1.0, dtype=torch.bfloat16), "not torch.bfloat16"),
        (torch.zeros(100, dtype=torch.uint8), torch.arange(100).to(torch.uint8), "99.0% of the codes differ"),
        (torch.arange(3), torch.arange(3) + 1, "integers differ"),
    ],
)
def test_what_is_wrong_is_told(found: Any, wanted: Any, reason: str) -> None:
    with pytest.raises(worker._WrongError, match=reason):
        worker.check(found.clone, (wanted,))


def test_bits_that_change_from_call_to_call_are_told() -> None:
    calls: list[int] = []

    def unsteady() -> Any:
        calls.append(1)
        return result(1.0, 1.0 + 1e-6 * len(calls))

    with pytest.raises(worker._WrongError, match="differ from one call to the next"):
        worker.check(unsteady, (result(1.0, 1.0),))


# --- tensors in files ---


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 6),
        torch.randn(6, 4).t(),
        torch.randn(8, 3).t()[:, :6],
        torch.empty_strided((6, 3), (1, 8)).fill_(2.0),
        torch.randn(3, 1).expand(3, 5),
        torch.randn(10)[3:7],
        torch.zeros(0, 4),
        torch.randn(5).to(torch.float8_e4m3fn),
        torch.tensor(2.0),
    ],
    ids=lambda t: f"{tuple(t.shape)}-{t.stride()}",
)
def test_tensors_come_back_as_they_lay(tmp_path: Path, tensor: Any) -> None:
    timing.store(tmp_path / "file", [tensor])
    (back,) = torch.load(tmp_path / "file")
    assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)
    assert back.stride() == tensor.stride() or not tensor.numel()
    assert torch.equal(back.float(), tensor.float())
    copy = worker._copied(back)
    assert (copy.stride(), torch.equal(copy.float(), back.float())) == (back.stride(), True)


def test_only_what_is_seen_of_a_large_tensor_is_written(tmp_path: Path) -> None:
    timing.store(tmp_path / "file", [torch.zeros(1 << 20)[:10]])
    assert (tmp_path / "file").stat().st_size < 10_000


# --- the process, without a GPU ---


@dataclass
class At:
    """A bench for one function, and its code."""

    bench: ProcessBench
    low: Lowered
    source: str


def product(a: Any, w: Any) -> Any:
    return breccia.matmul(a, breccia.transpose(w), out_dtype="bfloat16")


def double(x: Any) -> Any:
    return x + x


def prepare(processes: Processes, folder: Path, fn: Any, args: tuple[Any, ...], arch: str, wanted: Any = None) -> At:
    compiled: Any = breccia.compile(fn, target=f"triton:{arch}")
    low = compiled.lower(*args)
    folder.mkdir()
    timing.store(folder / "inputs", [part for leaf in low.leaves for part in components(leaf)])
    timing.store(folder / "wanted", [] if wanted is None else [wanted])
    job = Job(low.target, fn.__name__, "cpu", folder / "inputs", folder / "wanted")
    return At(ProcessBench(processes, job), low, low.emitted())


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """One process that builds, with a cache of Triton's of its own, and one that measures by Triton's interpreter."""
    home = tmp_path_factory.mktemp("triton")
    before = os.environ.get("TRITON_CACHE_DIR")
    os.environ["TRITON_CACHE_DIR"] = str(home)
    try:
        with Processes("breccia.targets.triton.worker", 1) as made:
            yield made
    finally:
        if before is None:
            del os.environ["TRITON_CACHE_DIR"]
        else:
            os.environ["TRITON_CACHE_DIR"] = before


def fp8() -> tuple[Any, Any]:
    a, w = torch.randn(64, 512).bfloat16(), torch.randn(256, 512).bfloat16()
    return breccia.cast(a, recipes.float8_1x128), breccia.cast(w, recipes.float8_128x128)


def test_code_in_triton_and_in_gluon_is_compiled_without_a_gpu(
    processes: Processes, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gluon = prepare(processes, tmp_path / "a", product, fp8(), "sm_90")
    assert "gluon" in gluon.source
    assert gluon.bench.build(gluon.source) == ""
    plain = prepare(processes, tmp_path / "b", double, (torch.randn(8, 64),), "gfx942")
    assert plain.bench.build(plain.source) == ""
    home = Path(os.environ["TRITON_CACHE_DIR"])
    assert list(home.rglob("_gemm_0.cubin"))
    assert list(home.rglob("_rowwise_0.hsaco"))


def test_code_that_cannot_be_built_says_why(processes: Processes, tmp_path: Path) -> None:
    at = prepare(processes, tmp_path / "a", double, (torch.randn(8, 64),), "sm_90")
    assert "SyntaxError" in at.bench.build(at.source.replace("def double(", "def def("))
    assert "nonsense" in at.bench.build(at.source.replace("tl.store(", "tl.nonsense("))
    assert at.bench.build(at.source) == ""


def test_what_needs_more_memory_than_there_is_is_refused(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = prepare(processes, tmp_path / "a", product, fp8(), "sm_90")
    ask = processes.builders.queue[0].ask
    monkeypatch.setattr(
        processes.builders.queue[0], "ask", lambda request, seconds: ask({**request, "scratch": 1000}, seconds)
    )
    assert "bytes of shared memory, and sm_90 has 1000" in at.bench.build(at.source)


def test_right_results_are_timed_and_wrong_ones_are_not(processes: Processes, tmp_path: Path) -> None:
    x = torch.randn(8, 64)
    right = prepare(processes, tmp_path / "right", double, (x,), "sm_90", x + x)
    measured = right.bench.measure(right.source, 2)
    assert measured.failed == ""
    assert 0 < measured.microseconds < 1e8
    wrong = prepare(processes, tmp_path / "wrong", double, (x,), "sm_90", x * 3)
    measured = wrong.bench.measure(wrong.source, 2)
    assert "relative error" in measured.failed
    assert measured.microseconds == math.inf
    other = right.bench.measure(right.source.replace("def double(", "def other("), 2)
    assert "defines no function 'double'" in other.failed


LAUNCHED = """
import os, sys
from pathlib import Path
import torch
import breccia
from breccia import recipes
from breccia.frontend.program import components
from breccia.targets.triton import launch, timing, worker
from tests.targets.triton.offline import _without_device

home, kernel = Path(os.environ["TRITON_CACHE_DIR"]), launch.Kernel
a, w = torch.randn(64, 512).bfloat16(), torch.randn(256, 512).bfloat16()
eighths = breccia.cast(a, recipes.float8_1x128), breccia.cast(w, recipes.float8_128x128)
for args in ((a, w), eighths):
    product = lambda a, w: breccia.matmul(a, breccia.transpose(w), out_dtype="bfloat16")
    low = breccia.compile(product, target="triton:sm_90", name="product").lower(*args)
    tensors = [part for leaf in low.leaves for part in components(leaf)]
    if len(tensors) > 2:  # scales as a cast on Hopper writes them
        tensors[1] = launch.columns(tuple(tensors[1].shape), torch.float32, a).copy_(tensors[1])
    timing.store(home / "inputs", tensors)
    worker.build({"source": low.emitted(), "entry": "product", "inputs": str(home / "inputs"), "scratch": 0})
    built = set(home.rglob("*.cubin"))
    launch.Kernel = kernel
    for name in [name for name in sys.modules if name.startswith("breccia_triton_")]:
        del sys.modules[name]
    with _without_device("sm_90", []):
        low.target.launch(low.emitted(), "product", "torch")(*tensors)
    print(len(built), built == set(home.rglob("*.cubin")))
"""


def test_a_launch_finds_what_was_built(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHED], capture_output=True, text=True, env=environment, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "True", "2", "True"]
