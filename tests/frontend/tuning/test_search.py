"""The search on benches that are made up: what wins, what is dropped, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from breccia.errors import UnsupportedError
from breccia.frontend.tuning import Measured, Outcome, SearchError, Space, search
from breccia.frontend.tuning.search import FINAL_ROUNDS, FINALISTS
from breccia.target import Entries
from tests.frontend.tuning.fakes import Clock, FakeBench, Record, code, space

TIMES = {"a=16": 100.0, "a=32": 80.0, "a=64": 50.0, "a=128": 90.0, "a=256": 120.0}
SPACE = space("a", 16, 32, 64, 128, 256)


def searched(bench: FakeBench, *spaces: Space, seconds: float = 1e9, **more: object) -> list[Outcome]:
    found: list[Outcome] = []
    outcomes = search(spaces or [SPACE], code, bench, seconds=seconds, found=found.append, **more)
    assert found == outcomes
    return outcomes


def test_the_quickest_is_found() -> None:
    (outcome,) = searched(FakeBench(TIMES.__getitem__))
    assert outcome.schedule == {"block_m": 64}
    assert (outcome.default_us, outcome.tuned_us, outcome.gain) == (100.0, 50.0, 2.0)
    assert (outcome.tried, outcome.complete, outcome.dropped) == (5, True, ())


def test_where_nothing_is_quicker_the_default_stays() -> None:
    (outcome,) = searched(FakeBench(lambda source: 100.0 if source == "a=16" else 99.5))
    assert outcome.schedule == {"block_m": 16}
    assert outcome.gain == 1.0


def test_each_is_built_once_and_the_best_are_measured_again_in_turns() -> None:
    bench = FakeBench(TIMES.__getitem__)
    searched(bench)
    assert sorted(bench.built) == sorted(TIMES)
    again = bench.measured[len(TIMES) :]
    assert again == ["a=16", "a=64", "a=32", "a=128"] * FINAL_ROUNDS
    assert FINALISTS == 3


def test_what_was_lucky_once_does_not_win() -> None:
    """A candidate that is quicker only the first time is not taken."""
    seen: set[str] = set()

    def time(source: str) -> float:
        lucky = source == "a=64" and source not in seen
        seen.add(source)
        return 10.0 if lucky else TIMES[source] if source != "a=64" else 95.0

    (outcome,) = searched(FakeBench(time))
    assert outcome.schedule == {"block_m": 32}
    assert outcome.gain == 1.25


def test_wrong_broken_and_unsteady_candidates_are_dropped_with_the_reason() -> None:
    bench = FakeBench(TIMES.__getitem__, failures={"a=64": "NaN"}, broken={"a=32": "no registers"})
    (outcome,) = searched(bench)
    assert outcome.schedule == {"block_m": 128}
    assert {int(e["block_m"]): why for e, why in outcome.dropped} == {64: "NaN", 32: "no registers"}
    assert outcome.tried == 5
    assert "a=32" not in bench.measured


def test_what_fails_when_it_is_repeated_is_dropped() -> None:
    class Unsteady(FakeBench):
        def measure(self, source: str, runs: int) -> Measured:
            if source == "a=64" and source in self.measured:
                return Measured(failed="different bits")
            return super().measure(source, runs)

    (outcome,) = searched(Unsteady(TIMES.__getitem__))
    assert outcome.schedule == {"block_m": 32}
    assert outcome.dropped == (({"block_m": 64}, "different bits"),)


def test_what_cannot_be_emitted_is_dropped() -> None:
    def source(schedules: Mapping[str, Entries]) -> str:
        if schedules["a"] == {"block_m": 64}:
            raise UnsupportedError("no such tile")
        return code(schedules)

    found: list[Outcome] = []
    search([SPACE], source, FakeBench(TIMES.__getitem__), seconds=1e9, found=found.append)
    assert found[0].schedule == {"block_m": 32}
    assert found[0].dropped == (({"block_m": 64}, "no such tile"),)


def test_equal_code_is_tried_once() -> None:
    bench = FakeBench(lambda _: 1.0)
    search([SPACE], lambda _: "same", bench, seconds=1e9, found=lambda _: None)
    assert bench.built == bench.measured == ["same"]


def test_a_default_that_fails_ends_the_search() -> None:
    for bench in (FakeBench(TIMES.__getitem__, failures={"a=16": "bad"}), FakeBench(abs, broken={"a=16": "bad"})):
        with pytest.raises(SearchError, match="kernel a: its default schedule cannot be measured: bad"):
            searched(bench)


def test_the_time_limit_ends_it_with_the_best_so_far() -> None:
    clock = Clock()
    (outcome,) = searched(FakeBench(TIMES.__getitem__, clock=clock), seconds=1.5, clock=clock)
    assert outcome.schedule == {"block_m": 64}
    assert (outcome.tried, outcome.complete) == (3, False)


def test_a_build_that_takes_too_long_is_not_waited_for() -> None:
    release = threading.Event()

    class Slow(FakeBench):
        def build(self, source: str) -> str:
            if source == "a=64":
                release.wait(30)
            return super().build(source)

    try:
        (outcome,) = searched(Slow(TIMES.__getitem__), seconds=0.5)
    finally:
        release.set()
    assert outcome.schedule == {"block_m": 32}
    assert not outcome.complete


def test_kernels_are_searched_one_after_the_other_with_what_is_known() -> None:
    times = {"a": {16: 10.0, 32: 5.0}, "b": {8: 20.0, 4: 8.0}}

    def time(source: str) -> float:
        parts = dict(part.split("=") for part in source.split())
        return sum(times[key][int(parts.get(key, min(times[key])))] for key in times)

    bench = FakeBench(time)
    first, second = searched(bench, space("a", 16, 32), space("b", 8, 4))
    assert (first.schedule, second.schedule) == ({"block_m": 32}, {"block_m": 4})
    assert "a=32 b=4" in bench.measured
    assert "a=16 b=4" not in bench.measured


def test_time_is_shared_among_kernels() -> None:
    clock = Clock()
    bench = FakeBench(lambda _: 100.0, clock=clock)
    outcomes = searched(bench, space("a", *range(1, 100)), space("b", *range(1, 100)), seconds=20, clock=clock)
    assert [outcome.tried for outcome in outcomes] == [11, 10]


def test_an_interruption_keeps_what_was_found() -> None:
    found: list[Outcome] = []
    bench = FakeBench(TIMES.__getitem__, interrupt_after=3)
    with pytest.raises(KeyboardInterrupt):
        search([SPACE, space("b", 1, 2)], code, bench, seconds=1e9, found=found.append)
    assert [(o.schedule, o.complete) for o in found] == [({"block_m": 64}, False)]


def test_an_interruption_before_the_default_keeps_nothing() -> None:
    found: list[Outcome] = []
    with pytest.raises(KeyboardInterrupt):
        search([SPACE], code, FakeBench(abs, interrupt_after=0), seconds=1e9, found=found.append)
    assert found == []


def test_a_watcher_is_told_how_it_goes_on() -> None:
    record = Record()
    (outcome,) = searched(FakeBench(TIMES.__getitem__), watcher=record)
    assert record.begun == ["a"]
    assert record.steps == [(2, 1.25), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert record.ended == [outcome]
