"""A search on one line of a terminal, for calls of functions that are compiled with `tune`."""

from __future__ import annotations

import sys
from typing import TextIO

from breccia.frontend.tuning.search import Outcome, Space

BAR = 24
SHOWN = 48
"""Letters of a kernel's words."""


class LineWatcher:
    """Writes a bar that goes on in place, and what was found below it; nothing where no terminal shows it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total, self._kernel = 0, ""

    def begin(self, space: Space) -> None:
        """A kernel's search begins."""
        self._total, self._kernel = len(space.candidates), space.kernel[:SHOWN]
        self.step(0, 1.0)

    def step(self, tried: int, gain: float) -> None:
        """So many candidates were tried; the best is `gain` times as quick as the default."""
        done = "#" * min(BAR, tried * BAR // max(1, self._total))
        self._write(f"\rtuning {self._kernel} [{done:{BAR}}] {tried}/{self._total}, {gain:.2f} x")

    def end(self, outcome: Outcome) -> None:
        """The search for this kernel is over."""
        late = "" if outcome.complete else ", time was over"
        self._write(
            f"\rtuned {self._kernel}: {outcome.gain:.2f} x by {outcome.tried} schedules{late}".ljust(110) + "\n"
        )

    def _write(self, text: str) -> None:
        if self._stream.isatty():
            self._stream.write(text)
            self._stream.flush()
