"""`breccia tune`: search on this machine's GPU, keep what is found, and show it beside the defaults."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import breccia
from breccia.cli._tune_inputs import Case, cases, on_device
from breccia.errors import BrecciaError, UnsupportedError
from breccia.frontend.compile import CompiledFunction
from breccia.frontend.lower import Lowered
from breccia.frontend.tables import device_name, user_file
from breccia.frontend.tuning import Bench, Job, Outcome, ProcessBench, Report, Space, processes, tune
from breccia.target import Entries, Target, find

BAR = 0.93
"""What the default should reach of the tuned schedule's speed, by the geometric mean."""
FAMILY = "triton"
"""The target whose kernels are tuned."""


@dataclass(frozen=True)
class Options:
    """What the command line says. only: parts of names, of which a case has one; seconds: for each case."""

    what: str
    inputs: tuple[str, ...] = ()
    seconds: float = 60.0
    output: Path | None = None
    again: bool = False
    only: tuple[str, ...] = ()


@dataclass
class Row:
    """One kernel of one case. share: what the default reaches of the tuned speed."""

    case: str
    kernel: str
    default_us: float
    tuned_us: float
    schedule: Entries
    tried: str
    dropped: tuple[tuple[Entries, str], ...] = ()

    @property
    def share(self) -> float:
        return self.tuned_us / self.default_us


@dataclass
class Result:
    """What became of all cases."""

    rows: list[Row] = field(default_factory=list[Row])
    failed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    interrupted: bool = False
    table: Path | None = None
    """Where what is found is kept, once something was searched."""

    @property
    def share(self) -> float:
        """The geometric mean of the rows' shares; 1 where there are none."""
        return math.exp(sum(math.log(row.share) for row in self.rows) / len(self.rows)) if self.rows else 1.0


class _Bars:
    """Shows a search as a bar, and its outcome as a line."""

    def __init__(self, progress: Progress, case: str) -> None:
        self.progress, self.case = progress, case
        self.task = progress.add_task(f"{case}: preparing", total=None, gain="")

    def begin(self, space: Space) -> None:
        name = space.kernel.partition(":")[0]
        self.progress.update(self.task, description=f"{self.case}: {name}", total=len(space.candidates), completed=1)

    def step(self, tried: int, gain: float) -> None:
        self.progress.update(self.task, completed=tried, gain=f"{gain:.2f} x")

    def end(self, outcome: Outcome) -> None:
        self.progress.console.print(
            f"  {self.case}: {outcome.default_us:.1f} us by default, {outcome.tuned_us:.1f} us tuned, "
            f"{outcome.tried} of {len(outcome.space.candidates)} schedules tried",
            highlight=False,
        )


def run(
    options: Options, console: Console, *, device: tuple[str, str] | None = None,
    make_bench: Callable[[Job], Bench] | None = None,
) -> Result:  # fmt: skip
    """Tune what the options say, and print a table. device: (place, architecture) instead of the current GPU's;
    make_bench: what measures instead of processes. Raises UnsupportedError where there is no GPU, InputError for what
    cannot be tuned, and RecipeError.
    """
    place, arch = device or _usable()
    target = find(f"{FAMILY}:{arch}")
    todo = [case for case in cases(options.what, options.inputs, on_device(place)) if _wanted(case.name, options.only)]
    result = Result()
    columns = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[gain]}"),
        TimeElapsedColumn(),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=console, transient=True))
        if make_bench is None:
            workers = stack.enter_context(processes(target))
            make_bench = lambda job: ProcessBench(workers, job)  # noqa: E731
        try:
            for case in todo:
                _one(case, options, target, progress, make_bench, result)
        except KeyboardInterrupt:
            result.interrupted = True
    _print(result, console)
    return result


def _usable() -> tuple[str, str]:
    """The current GPU and its architecture."""
    tuning = find(f"{FAMILY}:sm_90").tuning
    assert tuning is not None, "Triton's kernels can be tuned"
    try:
        place, arch = tuning.place()
    except ImportError as error:
        raise UnsupportedError(
            f"breccia tune measures kernels of Triton on PyTorch tensors, and {error.name} is not installed: "
            "pip install 'breccia[torch,triton]' on a machine with a GPU"
        ) from None
    if f"{FAMILY}:{arch}" not in find(f"{FAMILY}:sm_90").full_names:
        raise UnsupportedError(
            f"breccia has no kernels for {place}, which is {arch}; see docs/targets.md for what it has"
        )
    return place, arch


def _wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(part in name for part in only)


def _one(
    case: Case, options: Options, target: Target, progress: Progress, make_bench: Callable[[Job], Bench], result: Result
) -> None:
    """Tune one case, into `result`; what fails says so there, and the next one goes on."""
    bars = _Bars(progress, case.name)
    try:
        lowered = _lowered(case, target)
        result.table = options.output or user_file(device_name(target, lowered.leaves))
        report = tune(
            lowered, seconds=options.seconds, file=options.output, again=options.again, watcher=bars,
            make_bench=make_bench,
        )  # fmt: skip
    except BrecciaError as error:
        result.failed.append((case.name, str(error)))
        return
    except Exception as error:  # noqa: BLE001 - the user's function, and a device whose memory is short, raise anything
        result.failed.append((case.name, f"{type(error).__name__}: {error}"))
        return
    finally:
        progress.remove_task(bars.task)
    result.rows += _rows(case.name, report)
    if report.failed:
        result.failed.append((case.name, report.failed))
    if report.late:
        result.failed.append((case.name, f"{report.late} more kernels: {options.seconds:g} s were over; tune again"))


def _lowered(case: Case, target: Target) -> Lowered:
    compiled = case.function if isinstance(case.function, CompiledFunction) else breccia.compile(case.function)
    arguments: tuple[Any, ...] = case.arguments()
    return compiled._lowered(arguments, {}, target=target)


def _rows(case: str, report: Report) -> list[Row]:
    known = [Row(case, e.kernel, e.default_us, e.tuned_us, e.schedule, "known") for e in report.known]
    found = [
        Row(
            case,
            o.space.kernel,
            o.default_us,
            o.tuned_us,
            o.schedule,
            f"{o.tried}/{len(o.space.candidates)}",
            o.dropped,
        )
        for o in report.outcomes
    ]
    return [*known, *found]


def _print(result: Result, console: Console) -> None:
    if result.rows:
        table = Table("case", "kernel", "default us", "tuned us", "default/tuned", "tried", "schedule")
        for row in result.rows:
            schedule = ", ".join(f"{key} {value}" for key, value in row.schedule.items())
            times = f"{row.default_us:.1f}", f"{row.tuned_us:.1f}", f"{row.share:.3f}"
            table.add_row(row.case, row.kernel.partition(":")[0], *times, row.tried, schedule)
        console.print(table)
        verdict = "reached" if result.share >= BAR else "missed"
        console.print(
            f"default schedules have {result.share:.3f} of the tuned ones' speed (geometric mean of "
            f"{len(result.rows)} kernels; bar {BAR}, {verdict})",
            highlight=False,
        )
    if result.rows and result.table is not None:
        console.print(f"kept in {result.table}", markup=False, highlight=False, soft_wrap=True)
    for row in result.rows:
        for why, count in _counted(row.dropped).items():
            console.print(f"dropped in {row.case}: {count} schedules, {why}", highlight=False)
    for name, why in result.failed:
        console.print(f"[bold]not tuned[/bold]: {name}: ", end="")
        console.print(why, markup=False, highlight=False)


def _counted(dropped: Sequence[tuple[Entries, str]]) -> dict[str, int]:
    """How many candidates were dropped for each reason."""
    found: dict[str, int] = {}
    for _, why in dropped:
        found[why] = found.get(why, 0) + 1
    return found
