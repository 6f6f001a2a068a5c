"""Tuning a function from end to end, on a device that is made up: kernels run by Triton's interpreter."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.errors import TraceError, UnsupportedError  # noqa: E402
from breccia.frontend import compile as frontend  # noqa: E402
from breccia.frontend import tables  # noqa: E402
from breccia.frontend.compile import FallbackWarning  # noqa: E402
from breccia.frontend.lower import Lowered  # noqa: E402
from breccia.frontend.tuning import Bench, Job, Report, run, tune  # noqa: E402
from tests.frontend.tuning.device import DEVICE, FAMILY, pretend  # noqa: E402
from tests.frontend.tuning.fakes import FakeBench  # noqa: E402

ARCH = "sm_80"
SECTION = f"triton:{ARCH}, triton {FAMILY}, space 1"


def double(x: Any) -> Any:
    return x + x


def chain(x: Any, w: Any) -> Any:
    """A cast of its own, and a product of what it gives."""
    q = breccia.cast(x, recipes.int8_row)
    return q, breccia.matmul(x, w)


def by_warps(*, best: int) -> Callable[[str], float]:
    """Times of code, shortest for kernels of so many warps."""

    def time(source: str) -> float:
        return 10.0 + sum(abs(int(n) - best) for n in re.findall(r"num_warps=(\d+)", source))

    return time


class Benches:
    """Makes benches, and remembers them."""

    def __init__(self, time: Callable[[str], float], **more: Any) -> None:
        self.time, self.more = time, more
        self.made: list[FakeBench] = []
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> Bench:
        assert job.inputs.is_file()
        assert job.wanted.is_file()
        self.jobs.append(job)
        self.made.append(FakeBench(self.time, **self.more))
        return self.made[-1]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ARCH)


def lowered(fn: Callable[..., Any], *args: Any) -> Lowered:
    return breccia.compile(fn, target=f"triton:{ARCH}").lower(*args)


def tuned(fn: Callable[..., Any], *args: Any, benches: Benches, **more: Any) -> Report:
    return tune(lowered(fn, *args), seconds=1e9, make_bench=benches, **more)


def x(m: int = 8, n: int = 64) -> Any:
    return torch.randn(m, n)


@pytest.mark.usefixtures("device")
def test_what_is_found_is_kept_and_used_from_then_on() -> None:
    report = tuned(double, x(), benches=Benches(by_warps(best=4)))
    (outcome,) = report.outcomes
    assert outcome.schedule["num_warps"] == 4
    assert outcome.gain > 1.0
    low = lowered(double, x())
    assert "num_warps = 4" in low.explain()
    assert f"by your table: {outcome.gain:.2f} x the default" in low.explain()
    file = tables.user_file(DEVICE)
    assert file is not None
    found = tables.read(file, DEVICE)
    assert found is not None
    ((section, entries),) = found.sections.items()
    assert section == SECTION
    assert [entry.kernel for entry in entries.values()] == [outcome.space.kernel]


@pytest.mark.usefixtures("device")
def test_what_is_known_is_not_searched_again_unless_asked() -> None:
    benches = Benches(by_warps(best=4))
    tuned(double, x(), benches=benches)
    report = tuned(double, x(), benches=benches)
    assert (report.outcomes, len(report.known), len(benches.made)) == ((), 1, 1)
    assert report.known[0].schedule["num_warps"] == 4
    report = tuned(double, x(), benches=Benches(by_warps(best=2)), again=True)
    assert report.outcomes[0].schedule["num_warps"] == 2
    assert "num_warps = 2" in lowered(double, x()).explain()


@pytest.mark.usefixtures("device")
def test_a_default_that_nothing_beats_is_remembered_too() -> None:
    benches = Benches(lambda _: 10.0)
    tuned(double, x(), benches=benches)
    tuned(double, x(), benches=benches)
    assert len(benches.made) == 1
    assert "by your table: 1.00 x" in lowered(double, x()).explain()


@pytest.mark.usefixtures("device")
def test_a_file_is_used_instead_of_the_users_table(tmp_path: Path) -> None:
    benches = Benches(by_warps(best=4))
    tuned(double, x(), benches=benches, file=tmp_path / "out.json")
    assert "by the cost model" in lowered(double, x()).explain()
    report = tuned(double, x(), benches=benches, file=tmp_path / "out.json")
    assert (len(report.known), len(benches.made)) == (1, 1)
    assert tables.read(tmp_path / "out.json", DEVICE) is not None


@pytest.mark.usefixtures("device")
def test_each_kernel_is_searched_products_first() -> None:
    report = tuned(chain, torch.randn(64, 128), torch.randn(128, 64), benches=Benches(by_warps(best=2)))
    assert report.failed == ""
    assert [o.space.kernel.partition(":")[0] for o in report.outcomes] == ["matmul", "quantize"]
    assert lowered(chain, torch.randn(64, 128), torch.randn(128, 64)).explain().count("by your table") == 2


@pytest.mark.usefixtures("device")
def test_an_interruption_keeps_what_was_found_so_far() -> None:
    with pytest.raises(KeyboardInterrupt):
        tuned(double, x(), benches=Benches(by_warps(best=4), interrupt_after=3))
    assert "by your table" in lowered(double, x()).explain()


@pytest.mark.usefixtures("device")
def test_a_default_that_is_wrong_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    from breccia.frontend.program import Program

    def chosen(self: Program) -> Any:
        function: Any = self.function
        return lambda leaves: function(*self.gather(leaves)) + ("triton" in function.__module__)

    monkeypatch.setattr(Program, "_chosen", chosen)
    benches = Benches(by_warps(best=4))
    report = tuned(double, x(), benches=benches)
    assert "gives something else than array functions: result 0 has a relative error" in report.failed
    assert benches.made == []


@pytest.mark.usefixtures("device")
def test_a_default_that_does_not_measure_is_said() -> None:
    class Broken(FakeBench):
        def build(self, source: str) -> str:
            return "no compiler"

    report = tune(lowered(double, x()), seconds=1, make_bench=lambda _: Broken(by_warps(best=1)))
    assert "its default schedule cannot be measured: no compiler" in report.failed


def test_without_a_device_there_is_an_error_that_says_what_is_needed() -> None:
    with pytest.raises(UnsupportedError, match=f"no array lies on a {ARCH} one"):
        tuned(double, x(), benches=Benches(by_warps(best=4)))


# --- breccia.compile(tune=...) ---


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Benches:
    """What a compiled function measures with."""
    made = Benches(by_warps(best=4))
    monkeypatch.setattr(run, "processes", lambda target: _Nothing())
    monkeypatch.setattr(run, "ProcessBench", lambda _, job: made(job))
    return made


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def compiled(**options: Any) -> Any:
    return breccia.compile(double, target=f"triton:{ARCH}", **options)


@pytest.mark.usefixtures("device")
def test_the_first_call_of_each_kind_searches(benches: Benches) -> None:
    f = compiled(tune=True)
    one, other = x(8, 64), x(8, 128)
    assert torch.equal(f(one), one + one)
    assert torch.equal(f(one * 3), one * 6)
    assert len(benches.made) == 1
    assert torch.equal(f(other), other + other)
    assert len(benches.made) == 2
    assert "by your table" in f.lower(one).explain()


@pytest.mark.usefixtures("device")
def test_another_function_of_that_kernel_finds_it_known(benches: Benches) -> None:
    compiled(tune=30.0)(x())
    compiled(tune=True, name="f")(x())
    assert len(benches.made) == 1
    assert "by your table" in compiled().lower(x()).explain()


@pytest.mark.usefixtures("device")
def test_a_later_process_finds_the_plan_and_searches_nothing(benches: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(tune=True)(x())
    monkeypatch.setattr(frontend.CompiledFunction, "_made", lambda *_: pytest.fail("made again"))
    assert torch.equal(compiled(tune=True)(torch.ones(8, 64)), torch.full((8, 64), 2.0))
    assert len(benches.made) == 1


@pytest.mark.usefixtures("device")
def test_code_of_before_is_not_found_after_tuning(benches: Benches) -> None:
    before = compiled()
    before(x())
    compiled(tune=True)(x())
    after = compiled()
    after(x())
    (program,) = next(iter(after._programs.values()))
    (old,) = next(iter(before._programs.values()))
    assert program.function is not old.function


def test_where_nothing_can_be_measured_it_is_said(benches: Benches) -> None:
    frontend._warn_once.cache_clear()
    with pytest.warns(
        FallbackWarning, match="double: nothing is tuned, since schedules are measured on the device"
    ) as said:
        compiled(tune=True)(x())
    assert said[0].filename == __file__
    with pytest.raises(UnsupportedError, match="strict=True and tune=60"):
        compiled(tune=True, strict=True)(x())
    with pytest.warns(FallbackWarning, match="kernels of numpy have no schedules"):
        breccia.compile(double, tune=True)(x())
    assert benches.made == []


def test_times_that_are_none_are_refused() -> None:
    for wrong in ("30", -1.0, float("inf"), float("nan"), None):
        with pytest.raises(TraceError, match="the seconds that a search may take"):
            breccia.compile(double, tune=wrong)


def test_methods_are_tuned_as_long() -> None:
    class Layer:
        @breccia.compile(tune=5.0)
        def forward(self, x: Any) -> Any:
            return x

    assert Layer().forward._seconds == 5.0


# --- a target without a space ---


def test_out_of_tree_targets_go_on_without_a_space() -> None:
    from breccia.target import Target, find

    assert replace(find("numpy")).tuning is None
    assert Target("mine", "1", list).tuning is None


# --- real processes ---


@pytest.mark.usefixtures("device")
def test_processes_build_and_measure_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it: compiled for a GPU that is not there, run by Triton's interpreter, and timed by the clock."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(run, "MOST_WORKERS", 1)
    report = tune(lowered(double, x()), seconds=3.0)
    assert report.failed == ""
    (outcome,) = report.outcomes
    assert outcome.dropped == ()
    assert outcome.tried > 2
    assert outcome.default_us > outcome.tuned_us / 2 > 0
    assert list((tmp_path / "triton").rglob("*.cubin"))
    assert "by your table" in lowered(double, x()).explain()
