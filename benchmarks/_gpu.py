"""What the benchmarks of one GPU share: options, timing, checks that run before timing, and a table that goes on.

Timing on CUDA is that of `breccia.targets.triton.timing`, by which schedules are tuned: events around calls with an
empty L2 cache, the median of 20; for small ones a CUDA graph that goes through several sets of inputs. So it is time of
the device: what the host takes is `benchmarks.dispatch`'s question.
On `--device cpu` everything runs on small shapes by the host's clock, to try the scripts themselves; nothing is kept.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

import breccia
from benchmarks import _machine
from breccia.arrays import transfer
from breccia.targets.triton import timing
from breccia.tensor import ScaledTensor, flatten

Call = Callable[[], Any]
WIDTH = 60
WORDS = ("check", "error")
"""Columns that hold words."""


class MismatchError(Exception):
    """A result that is not what it should be; the message says how far off and where."""


# -- options -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    device: str
    quick: bool
    full: bool
    only: tuple[str, ...]
    seconds: float
    runs: int
    target: str | None
    started: float = field(default_factory=time.perf_counter)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def late(self) -> bool:
        """True where the time of this run is spent."""
        return time.perf_counter() - self.started > self.seconds

    def pick(self, usual: Any, quick: Any, cpu: Any) -> Any:
        """What to measure: shapes that fit the machine and the time."""
        return (quick if self.quick else usual) if self.cuda else cpu

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return breccia.compile(function, target=self.target)


def options(doc: str | None, arguments: Sequence[str] | None = None) -> Options | None:
    """The options of this run; None, said aloud, where there is no device to measure."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ...; cpu tries the script on small shapes")
    parser.add_argument("--quick", action="store_true", help="few shapes, under a minute; nothing is kept")
    parser.add_argument("--full", action="store_true", help="everything, however long it takes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose name contains one of these")
    parser.add_argument("--seconds", type=float, help="start no new row after this long (150; --quick: 50)")
    parser.add_argument("--runs", type=int, default=20, help="timed calls, of which the median is shown")
    parser.add_argument("--target", help="what breccia.compile is told, such as triton:sm_90; by default nothing")
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA GPU: nothing to measure here")
        return None
    usual = float("inf") if given.full else 50.0 if given.quick else 150.0
    seconds = usual if given.seconds is None else given.seconds
    only = tuple(given.only)
    if given.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(given.device if ":" in given.device else "cuda:0"))
    torch.manual_seed(0)
    return Options(given.device, given.quick, given.full, only, seconds, given.runs, given.target)


# -- timing ------------------------------------------------------------------------------------------------------------


def microseconds(call: Call, given: Options) -> float:
    """Median device time of a call; see `breccia.targets.triton.timing`. The call has run before."""
    return timing.microseconds(call, given.device, given.runs)


def graph_microseconds(calls: Sequence[Call], given: Options, rounds: int = 2, replays: int = 7) -> float:
    """Device time of one call, from replays of a graph that goes `rounds` times through all `calls`."""
    return timing.graph_microseconds(calls, given.device, rounds, replays)


def host_microseconds(call: Call, given: Options, calls: int = 2000, repeats: int = 7) -> float:
    """Median host time of a call: nothing waits for the device inside a repeat."""
    calls = calls if given.cuda else 50
    for _ in range(calls // 10):
        call()
    times: list[float] = []
    for _ in range(repeats):
        wait(given)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append(time.perf_counter() - start)
    wait(given)
    return 1e6 * statistics.median(times) / calls


def wait(given: Options) -> None:
    if given.cuda:
        torch.cuda.synchronize()


def rotations(nbytes: int, given: Options) -> int:
    """How many sets of inputs of this size the L2 cache cannot hold: 2 to 10."""
    return timing.rotations(nbytes) if given.cuda else 2


# -- right first -------------------------------------------------------------------------------------------------------


def parts(result: Any) -> list[torch.Tensor]:
    """All arrays of a result: a tensor, a ScaledTensor, or several of them."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, ScaledTensor):
        return list(flatten(result)[0])
    return [array for each in result for array in parts(each)]


def nbytes(*values: Any) -> int:
    """Bytes of all arrays together."""
    return sum(array.numel() * array.element_size() for array in parts(values))


def poisoned(call: Call) -> Any:
    """The result of a call whose outputs lie where NaN was: 255 is NaN in every byte of float32, bf16, e4m3 and e8m0.

    The call allocates its outputs, so freed blocks of their sizes are filled, which the allocator hands out again.
    """
    found = [(array.numel() * array.element_size(), array.device) for array in parts(call())]
    blocks = [torch.full((size,), 255, dtype=torch.uint8, device=device) for size, device in found for _ in range(2)]
    del blocks
    return call()


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of the reference, in float64."""
    wanted = reference.double()
    return float(torch.linalg.norm(result.double() - wanted) / torch.linalg.norm(wanted))


def check(result: torch.Tensor, reference: torch.Tensor, tolerance: float, what: str) -> float:
    """The relative error; raises MismatchError where it exceeds `tolerance`, or where shapes differ or NaN appears."""
    if result.shape != reference.shape:
        raise MismatchError(f"{what}: shape {tuple(result.shape)}, not {tuple(reference.shape)}")
    bad = int(torch.isnan(result).sum() - torch.isnan(reference).sum())
    if bad:
        first = tuple(torch.isnan(result).nonzero()[0].tolist()) if bad > 0 else ()
        raise MismatchError(f"{what}: {bad} of {result.numel()} results are NaN that should not be, first at {first}")
    error = relative_error(result, reference)
    if not error <= tolerance:
        worst = int((result.double() - reference.double()).abs().argmax())
        at = tuple(int(i) for i in np.unravel_index(worst, tuple(result.shape)))
        values = f"{float(result.flatten()[worst]):.6g}, not {float(reference.flatten()[worst]):.6g}"
        raise MismatchError(f"{what}: relative error {error:.2e}, at most {tolerance:.0e}; worst at {at}: {values}")
    return error


def check_equal(result: Any, reference: Any, what: str) -> None:
    """Raises MismatchError where two arrays or ScaledTensors, of whatever libraries, do not hold the same bits."""
    left, right = _named(result), _named(reference)
    if left.keys() != right.keys():
        raise MismatchError(f"{what}: {', '.join(left)}, not {', '.join(right)}")
    for name, found in left.items():
        wanted = right[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise MismatchError(f"{what}: {name} {found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}")
        bits = f"u{found.dtype.itemsize}"
        a, b = (np.ascontiguousarray(x).reshape(x.shape or (1,)).view(bits) for x in (found, wanted))
        different = np.argwhere(a != b)
        if len(different):
            at = tuple(int(i) for i in different[0])
            values = f"0x{int(a[at]):x}, not 0x{int(b[at]):x}"
            raise MismatchError(f"{what}: {len(different)} of {a.size} {name} differ, first at {at}: {values}")


def share_of_different_elements(found: ScaledTensor, wanted: ScaledTensor) -> float:
    """How many codes of two tensors of one shape differ, of all."""
    a, b = (on_host(st.codes()) for st in (found, wanted))
    return float(np.count_nonzero(a != b)) / max(1, a.size)


def on_host(x: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """A tensor as a NumPy array of the same bits."""
    return transfer(x, "numpy", None)


def _named(value: Any) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    if not isinstance(value, ScaledTensor):
        return {"values": on_host(value)}
    arrays = {"elements": value.codes()}
    arrays |= {f"scales{i or ''}": scales for i, scales in enumerate(reversed(value.scales))}
    arrays |= {name: a for name in ("zero_point", "offset") if (a := getattr(value, name)) is not None}
    return {name: on_host(array) for name, array in arrays.items()}


# -- tables ------------------------------------------------------------------------------------------------------------


class Table:
    """Rows that are measured one after another, each guarded: what fails says so in its row, and the next one runs.

    Invariants: `failures` names the rows of breccia that failed or missed a bar; a lost device fails all later rows.
    """

    def __init__(self, given: Options, columns: Sequence[str]) -> None:
        self.given, self.columns = given, tuple(columns)
        self.lines = ["", f"{'':{WIDTH}}" + "".join(f"{name:>{self._width(name)}}" for name in self.columns)]
        self.failures: list[str] = []
        self.lost = False

    def section(self, title: str) -> None:
        self.lines += ["", title]
        print(title, file=sys.stderr, flush=True)

    def wants(self, name: str) -> bool:
        return not self.given.only or any(part in name for part in self.given.only)

    def row(self, name: str, case: Callable[[], Sequence[object]], *, ours: bool = False, always: bool = False) -> bool:
        """Measure one row; its cells are what `case` gives, in the order of the columns.

        ours: a failure is breccia's. always: a yardstick, which no filter and no lateness leaves out.
        Returns False where the row was asked for and failed.
        """
        if not always and not self.wants(name):
            return True
        began = time.perf_counter()
        if self.lost:
            text = "not run: the device was lost"
        elif self.given.late and not always:
            text = f"not run: {self.given.seconds:.0f} s are over"
        else:
            try:
                cells = zip(self.columns, case(), strict=False)
                text = "".join(f"{_shown(cell):>{self._width(column)}}" for column, cell in cells)
            except Exception as error:  # noqa: BLE001 - whatever a peer or a new kernel raises belongs into its row
                text = self._failed(name, error, ours)
        self.lines.append(f"  {name:{WIDTH - 2}}{text}")
        print(f"  {name:{WIDTH - 2}}{text}   [{time.perf_counter() - began:.1f} s]", file=sys.stderr, flush=True)
        return not text.lstrip().startswith("failed")

    def say(self, name: str, text: str) -> None:
        """A row of words alone."""
        self.lines.append(f"  {name:{WIDTH - 2}}  {text}")
        print(self.lines[-1], file=sys.stderr, flush=True)

    def _failed(self, name: str, error: Exception, ours: bool) -> str:
        if ours:
            self.failures.append(name)
        traceback.print_exception(error, limit=-6, file=sys.stderr)
        try:
            wait(self.given)
        except Exception:  # noqa: BLE001 - the driver's own, of many classes
            self.lost = True
        said = (str(error).strip().splitlines() or [""])[0][:150]
        return f"  failed: {type(error).__name__}: {said}"

    def _width(self, column: str) -> int:
        return 16 if column in WORDS else max(10, len(column) + 2)


def _shown(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.3f}" if abs(cell) < 10 else f"{cell:.1f}" if abs(cell) < 1000 else f"{cell:.0f}"


def finish(name: str, title: str, table: Table, notes: Sequence[str] = ()) -> None:
    """Print the table, keep it where it is a whole run on a GPU, and exit with 1 where breccia failed."""
    given = table.given
    verdict = "held" if not table.failures else "FAILED: " + "; ".join(table.failures)
    took = f"{time.perf_counter() - given.started:.0f} s in all"
    heading = [title, _machine.describe(*_installed()), _device(given), _emitted(given)]
    text = "\n".join([*heading, *table.lines, "", *notes, f"checks: {verdict}; {took}"])
    if given.cuda and not given.only and not given.quick:
        _machine.write(f"{name}-{_slug(torch.cuda.get_device_name())}", text)
    else:
        print(text)
    if table.failures:
        raise SystemExit(1)


def _installed() -> list[str]:
    found: list[str] = []
    for name in ("numpy", "torch", "triton", "torchao"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def _device(given: Options) -> str:
    if not given.cuda:
        return "on the CPU: this tries the script and measures nothing of interest"
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    cuda = getattr(torch, "version").cuda  # noqa: B009 - not in torch's annotations
    return f"{about.name}, sm_{about.major}{about.minor}, {about.total_memory / 2**30:.0f} GiB, CUDA {cuda}"


def _emitted(given: Options) -> str:
    """Which kind of code breccia.compile makes for arrays of this device, so that nobody takes one for another."""
    try:
        compiled: Any = given.compile(lambda x: x + x)
        source = compiled.lower(torch.ones(2, 2, device=given.device)).source()
    except Exception as error:  # noqa: BLE001 - whatever a target under development raises
        return f"breccia {breccia.__version__}; code unknown: {type(error).__name__}: {error}".splitlines()[0]
    kind = "Triton" if "import triton" in source else "array functions, not Triton"
    return f"breccia {breccia.__version__}, target {given.target or 'by default'}: code in {kind}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
