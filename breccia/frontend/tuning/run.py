"""Tuning of one lowered function: from its kernels to entries of a table."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from breccia.errors import BrecciaError, UnsupportedError
from breccia.frontend.lower import Lowered
from breccia.frontend.program import device_of
from breccia.frontend.schedules import about, kernel_key
from breccia.frontend.tables import (
    NONE,
    Entry,
    Tables,
    add,
    device_name,
    section_of,
    tables_in,
    tables_of,
    untunable,
    user_file,
)
from breccia.frontend.tuning.reference import difference
from breccia.frontend.tuning.search import Bench, Job, Outcome, SearchError, Space, Watcher, search
from breccia.frontend.tuning.workers import ProcessBench, Processes
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import GroupedMatmulOp, MatmulOp
from breccia.ir.rewriting import functions
from breccia.target import Entries, Target

MOST_WORKERS = 8
"""Processes that build: more would take the time of the one that measures."""


@dataclass(frozen=True)
class Report:
    """What tuning one function came to. known: what a table had already; failed: why nothing (more) was searched; late:
    kernels that time was not enough for.
    """

    outcomes: tuple[Outcome, ...] = ()
    known: tuple[Entry, ...] = ()
    failed: str = ""
    late: int = 0


def processes(target: Target) -> Processes:
    """Workers for searches, as many as there are cores to build on; to be used in a `with`."""
    assert target.tuning is not None, "only what can be tuned is searched"
    return Processes(target.tuning.worker, max(1, min(MOST_WORKERS, (os.cpu_count() or 2) - 1)))


def tune(
    lowered: Lowered, *, seconds: float, file: Path | None = None, again: bool = False, watcher: Watcher | None = None,
    make_bench: Callable[[Job], Bench] | None = None,
) -> Report:  # fmt: skip
    """Search for the quickest schedules of a function's kernels on the device that its arrays lie on, and keep them.

    seconds: about how long, for all kernels together. file: the table to use and to add to, instead of the user's and
    the target's. again: search for kernels that a table knows too. make_bench: what builds and measures, instead of
    processes for this search alone. What is found is written as soon as it is known, so that an interrupted search
    leaves a valid table. Raises UnsupportedError where nothing can be measured; a function whose default schedules give
    wrong results is not searched, which the report says.
    """
    target, leaves = lowered.target, lowered.leaves
    device = device_name(target, leaves)
    if not device or file is None:
        why = untunable(target, leaves)
        if why:
            raise UnsupportedError(f"nothing can be tuned for {target.full_name}: {why}")
    kept = file or user_file(device)
    assert kept is not None, "untunable calls were refused"
    tables = NONE if again else tables_of(target, leaves) if file is None else tables_in(file, target, device)
    spaces, known = spaces_of(lowered, tables)
    if not spaces:
        return Report(known=known)

    outcomes: list[Outcome] = []

    def keep(outcome: Outcome) -> None:
        outcomes.append(outcome)
        add(kept, device, section_of(target), {outcome.space.key: _entry(outcome)})

    def source(schedules: Mapping[str, Entries]) -> str:
        return scheduled(lowered, _unusual(spaces, schedules), tables).emitted()

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="breccia-tune-")))
        try:
            job = _prepared(lowered.retargeted(tables=tables), folder)
            if make_bench is None:
                bench: Bench = ProcessBench(stack.enter_context(processes(target)), job)
            else:
                bench = make_bench(job)
            search(spaces, source, bench, seconds=seconds, found=keep, watcher=watcher)
        except SearchError as error:
            return Report(tuple(outcomes), known, failed=str(error))
    return Report(tuple(outcomes), known, late=len(spaces) - len(outcomes))


def spaces(lowered: Lowered) -> list[Space]:
    """The kernels of a function for which there are several schedules, and these; needs no device.

    Raises UnsupportedError where the target has no space of schedules.

    >>> import numpy as np
    >>> import breccia
    >>> low = breccia.compile(lambda x: x + x).lower(np.ones((8, 64), np.float32), target="triton:sm_90")
    >>> (kernel,) = spaces(low)
    >>> kernel.candidates[0]
    {'block_m': 64, 'num_warps': 2}
    """
    if lowered.target.tuning is None:
        raise UnsupportedError(f"kernels of {lowered.target.full_name} have no schedules to choose among")
    return spaces_of(lowered, NONE)[0]


def scheduled(lowered: Lowered, schedules: Mapping[str, Entries], tables: Tables = NONE) -> Lowered:
    """A lowered function in which some kernels have these schedules, by their keys; the others those of `tables`.

    `explain()` says so where one is not legal, and the kernel has its default then.

    >>> import numpy as np
    >>> import breccia
    >>> low = breccia.compile(lambda x: x + x).lower(np.ones((8, 64), np.float32), target="triton:sm_90")
    >>> (kernel,) = spaces(low)
    >>> "num_warps = 8" in scheduled(low, {kernel.key: {"block_m": 64, "num_warps": 8}}).ir("schedule")
    True
    """
    given = {key: Entry(entries, "", 1.0, 1.0, "") for key, entries in schedules.items()}
    return lowered.retargeted(tables=tables.extended("the schedule given", given))


def spaces_of(lowered: Lowered, tables: Tables) -> tuple[list[Space], tuple[Entry, ...]]:
    """(what there is to search for each kernel that no table knows, products first; what is known of the others).

    Kernels that convert constants run once, and are left alone.
    """
    target = lowered.target
    assert target.tuning is not None, "only what can be tuned is searched"
    module = lowered.module_after("explode")
    known: dict[str, Entry] = {}
    found: dict[str, Space] = {}
    weights: dict[str, int] = {}
    for function in functions(module):
        if function.sym_name.data == "prepare":
            continue
        for kernel in [op for op in function.walk() if isinstance(op, KernelOp) and op.schedule is None]:
            key = kernel_key(kernel)
            if (entry := tables.find(key)) is not None:
                known[key] = entry.entry
            elif key not in found:
                candidates = tuple(target.tuning.candidates(kernel, target.capabilities))
                if len(candidates) > 1:
                    found[key] = Space(key, about(kernel), candidates)
                    weights[key] = sum(isinstance(op, MatmulOp | GroupedMatmulOp) for op in kernel.body.ops)
    order = sorted(found, key=lambda key: -weights[key])
    return [found[key] for key in order], tuple(known.values())


def _unusual(spaces: Sequence[Space], schedules: Mapping[str, Entries]) -> dict[str, Entries]:
    """The schedules that are not defaults, which are left to the cost model."""
    defaults = {space.key: space.candidates[0] for space in spaces}
    return {key: entries for key, entries in schedules.items() if entries != defaults[key]}


def _entry(outcome: Outcome) -> Entry:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return Entry(outcome.schedule, outcome.space.kernel, outcome.default_us, outcome.tuned_us, date)


def _prepared(lowered: Lowered, folder: Path) -> Job:
    """Run the function as it is, hold its results against array functions, and write what candidates are to be given.

    Raises SearchError where the function does not run, or gives something else than array functions do.
    """
    tuning = lowered.target.tuning
    assert tuning is not None, "only what can be tuned is searched"
    try:
        program = lowered.program()
        wrong = difference(lowered, program.run(lowered.leaves))
        given = program.gather(lowered.leaves)
        results = program.function(*given)
        inputs, wanted = folder / "inputs", folder / "wanted"
        tuning.store(inputs, given)
        tuning.store(wanted, results if isinstance(results, tuple) else (results,))
    except (BrecciaError, RuntimeError) as error:  # PyTorch's, when memory is short, is the latter
        said = f"{type(error).__name__}: {error}"
        raise SearchError(f"the function, or its array functions, cannot be run to compare with: {said}") from error
    if wrong:
        raise SearchError(
            f"with its default schedules, the function gives something else than array functions: {wrong}"
        )
    return Job(lowered.target, program.plan.entry, device_of(lowered.leaves), inputs, wanted)
