"""The search: candidates of one kernel after the other are built in parallel, checked, and timed one by one.

What builds and measures is handed in, so that nothing here knows of devices. A search takes about as long as it is
told: what has begun is finished. What it has found when it is interrupted is found all the same.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from breccia.errors import BrecciaError
from breccia.target import Entries, Target

RUNS, FINAL_RUNS = 20, 40
"""Timed calls of a candidate, of which the median counts; and of those that came out best, each time."""
FINALISTS, FINAL_ROUNDS = 3, 3
"""The quickest ones are measured again, in turns with the default, so that a card that warms up favours none."""
LEAST_GAIN = 1.01
"""A schedule that gains less than this is not told from the default."""


@dataclass(frozen=True)
class Measured:
    """What became of a candidate: its time, or why it may not be used."""

    microseconds: float = math.inf
    failed: str = ""


class Bench(Protocol):
    """What builds and measures code."""

    workers: int
    """How many builds go at once."""

    def build(self, source: str) -> str:
        """Make code ready to be loaded; why that cannot be, or an empty text. Called from several threads."""
        ...

    def measure(self, source: str, runs: int) -> Measured:
        """Check the results of code, and time it."""
        ...


@dataclass(frozen=True)
class Job:
    """What a bench is made for: how the emitted function is called, on which device, and files of what it takes and
    should give.
    """

    target: Target
    entry: str
    device: Any
    inputs: Path
    wanted: Path


@dataclass(frozen=True)
class Space:
    """One kernel: its key, what it is in words, and the schedules to try, the default first."""

    key: str
    kernel: str
    candidates: tuple[Entries, ...]


@dataclass(frozen=True)
class Outcome:
    """What was found for one kernel; `schedule` is the default's where none is quicker. Times are of the function."""

    space: Space
    schedule: Entries
    default_us: float
    tuned_us: float
    tried: int
    dropped: tuple[tuple[Entries, str], ...] = ()
    """Candidates that did not work, and why."""
    complete: bool = True
    """False where time was over before all candidates were tried."""

    @property
    def gain(self) -> float:
        """How many times as quick as with the default schedule."""
        return self.default_us / self.tuned_us


class Watcher(Protocol):
    """Is told how a search goes on, to show it."""

    def begin(self, space: Space) -> None: ...
    def step(self, tried: int, gain: float) -> None: ...
    def end(self, outcome: Outcome) -> None: ...


class SearchError(BrecciaError, RuntimeError):
    """The default schedule itself cannot be measured, so there is nothing to compare with."""


Source = Callable[[Mapping[str, Entries]], str]
"""The code in which some kernels have the schedules given, by their keys. Raises BrecciaError where there is none."""


def search(
    spaces: Sequence[Space], source: Source, bench: Bench, *, seconds: float, found: Callable[[Outcome], None],
    watcher: Watcher | None = None, clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:  # fmt: skip
    """Find the quickest schedule of each kernel in turn, the ones before it having theirs already.

    seconds: for all kernels, from when the first default has been measured, so that starting takes nothing of it; each
    gets its share of what is left. found: is told each outcome as soon as it is known, also when the search is
    interrupted. Raises SearchError where a default cannot be measured.
    """
    deadline = math.inf
    chosen: dict[str, Entries] = {}
    outcomes: list[Outcome] = []
    for number, space in enumerate(spaces):
        if clock() >= deadline:
            break
        one = _Search(space, lambda entries, at=space.key: source({**chosen, at: entries}), bench, watcher, clock)
        try:
            one.begin()
            deadline = min(deadline, clock() + seconds)
            one.run(clock() + (deadline - clock()) / (len(spaces) - number))
        except KeyboardInterrupt:
            if one.base:
                found(one.outcome())
            raise
        outcome = one.outcome()
        chosen[space.key] = outcome.schedule
        found(outcome)
        if watcher is not None:
            watcher.end(outcome)
        outcomes.append(outcome)
    return outcomes


class _Search:
    """The search for one kernel. Invariant: `times` holds every candidate that works, and its latest times."""

    def __init__(
        self, space: Space, source: Callable[[Entries], str], bench: Bench, watcher: Watcher | None,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.space, self.source, self.bench, self.watcher, self.clock = space, source, bench, watcher, clock
        self.base = ""
        """The code of the default, once it has been measured."""
        self.entries: dict[str, Entries] = {}
        self.times: dict[str, list[float]] = {}
        self.dropped: list[tuple[Entries, str]] = []
        self.late = self.complete = False

    def begin(self) -> None:
        """Measure the default; raises SearchError where that cannot be."""
        if self.watcher is not None:
            self.watcher.begin(self.space)
        default = self.space.candidates[0]
        code = self.source(default)
        failed = self.bench.build(code) or self._measure(default, code)
        if failed:
            raise SearchError(f"{self.space.kernel}: its default schedule cannot be measured: {failed}")
        self.base = code

    def run(self, deadline: float) -> None:
        """Try the others."""
        for entries, code, failed in self._built(deadline):
            if failed:
                self.dropped.append((entries, failed))
            else:
                self._measure(entries, code)
            if self.watcher is not None:
                self.watcher.step(len(self.times) + len(self.dropped), self.outcome().gain)
            if self.clock() >= deadline:
                break
        else:
            self.complete = not self.late
        self._settle()

    def outcome(self) -> Outcome:
        """What is known so far."""
        usual = statistics.median(self.times[self.base])
        best = min(self.times, key=lambda code: statistics.median(self.times[code]))
        took = statistics.median(self.times[best])
        if usual / took < LEAST_GAIN:
            best, took = self.base, usual
        return Outcome(
            self.space, self.entries[best], usual, took, len(self.times) + len(self.dropped), tuple(self.dropped),
            self.complete,
        )  # fmt: skip

    def _measure(self, entries: Entries, code: str, runs: int = RUNS) -> str:
        """Time a candidate; why it may not be used, or an empty text."""
        measured = self.bench.measure(code, runs)
        if measured.failed:
            self.dropped.append((entries, measured.failed))
            return measured.failed
        self.entries.setdefault(code, entries)
        self.times.setdefault(code, []).append(measured.microseconds)
        return ""

    def _built(self, deadline: float) -> Iterator[tuple[Entries, str, str]]:
        """(schedule, code, why it cannot be built) of every candidate after the default, in order, until the deadline.

        Some are built ahead of the one that is waited for; those of equal code are built once.
        """
        pool = ThreadPoolExecutor(self.bench.workers)
        ahead: deque[tuple[Entries, str, Future[str]]] = deque()
        rest = iter(self.space.candidates[1:])
        seen = {self.base}
        try:
            while True:
                while len(ahead) < 2 * self.bench.workers and (entries := next(rest, None)) is not None:
                    try:
                        code = self.source(entries)
                    except BrecciaError as error:
                        self.dropped.append((entries, str(error)))
                        continue
                    if code not in seen:
                        seen.add(code)
                        ahead.append((entries, code, pool.submit(self.bench.build, code)))
                if not ahead:
                    return
                entries, code, building = ahead.popleft()
                try:
                    yield entries, code, building.result(timeout=max(0.0, deadline - self.clock()))
                except TimeoutError:  # the deadline: what is not built yet is not tried
                    self.late = True
                    return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _settle(self) -> None:
        """Measure the quickest ones again, in turns with the default; what fails now is out."""
        usual = statistics.median(self.times[self.base])
        quicker = [code for code in self.times if statistics.median(self.times[code]) < usual and code != self.base]
        finalists = sorted(quicker, key=lambda code: statistics.median(self.times[code]))[:FINALISTS]
        for code in quicker:
            if code not in finalists:
                self.times[code] = [math.inf]  # not measured as often as the others, so it cannot win
        if not finalists:
            return
        again: dict[str, list[float]] = {code: [] for code in (self.base, *finalists)}
        for _ in range(FINAL_ROUNDS):
            for code in [c for c in again if c in self.times]:
                measured = self.bench.measure(code, FINAL_RUNS)
                if measured.failed and code == self.base:
                    raise SearchError(
                        f"{self.space.kernel}: its default schedule fails when repeated: {measured.failed}"
                    )
                if measured.failed:
                    self.dropped.append((self.entries[code], measured.failed))
                    del self.times[code]
                else:
                    again[code].append(measured.microseconds)
        self.times.update({code: times for code, times in again.items() if code in self.times})
