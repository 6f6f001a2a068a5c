"""Tuning: the quickest schedule of each kernel is searched on the device, and kept in a table.

    target's space -> search -> table -> the pass `schedule`, from then on

`tune(lowered, seconds=30.0)` is the whole of it; `breccia.compile(fn, tune=True)` and `breccia tune` call it.
Candidates come from the target (`breccia.target.Tuning`), in the order of its cost model. They are built in processes
of their own, measured in another one, and none is taken that gives other results than the default schedule. The
default's own result is held against array functions before.
"""

from __future__ import annotations

from breccia.frontend.tuning.run import Report, processes, scheduled, spaces, tune
from breccia.frontend.tuning.search import Bench, Job, Measured, Outcome, SearchError, Space, Watcher, search
from breccia.frontend.tuning.watch import LineWatcher
from breccia.frontend.tuning.workers import ProcessBench

__all__ = [
    "Bench", "Job", "LineWatcher", "Measured", "Outcome", "ProcessBench", "Report", "SearchError", "Space", "Watcher",
    "processes", "scheduled", "search", "spaces", "tune",
]  # fmt: skip
