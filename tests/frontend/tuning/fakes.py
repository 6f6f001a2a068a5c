"""A bench without a device: what each piece of code takes is made up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from breccia.frontend.tuning import Measured, Outcome, Space
from breccia.target import Entries


class Clock:
    """Time that goes on when it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeBench:
    """Times of code by a function of it; `failures` and `broken` say what does not measure or build."""

    time: Callable[[str], float]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    broken: Mapping[str, str] = field(default_factory=dict[str, str])
    workers: int = 2
    clock: Clock | None = None
    built: list[str] = field(default_factory=list[str])
    measured: list[str] = field(default_factory=list[str])
    interrupt_after: int = 1 << 30
    lock: threading.Lock = field(default_factory=threading.Lock)

    def build(self, source: str) -> str:
        with self.lock:
            self.built.append(source)
        return self.broken.get(source, "")

    def measure(self, source: str, runs: int) -> Measured:
        assert source in self.built, "code is built before it is measured"
        if len(self.measured) >= self.interrupt_after:
            raise KeyboardInterrupt
        self.measured.append(source)
        if self.clock is not None:
            self.clock.now += 1.0
        if source in self.failures:
            return Measured(failed=self.failures[source])
        return Measured(self.time(source))


class Record:
    """Notes down what a search tells."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.steps: list[tuple[int, float]] = []
        self.ended: list[Outcome] = []

    def begin(self, space: Space) -> None:
        self.begun.append(space.key)

    def step(self, tried: int, gain: float) -> None:
        self.steps.append((tried, gain))

    def end(self, outcome: Outcome) -> None:
        self.ended.append(outcome)


def space(key: str, *sizes: int) -> Space:
    """A kernel whose schedules differ in one number."""
    return Space(key, f"kernel {key}", tuple({"block_m": size} for size in sizes))


def code(schedules: Mapping[str, Entries]) -> str:
    """Stands for emitted code: the schedules themselves."""
    return " ".join(f"{key}={entries['block_m']}" for key, entries in sorted(schedules.items()))
