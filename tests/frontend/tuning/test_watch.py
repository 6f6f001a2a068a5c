"""A search on a line of a terminal."""

from __future__ import annotations

import io

from breccia.frontend.tuning import LineWatcher, Outcome
from tests.frontend.tuning.fakes import space


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    watcher, one = LineWatcher(stream), space("a", 1, 2, 3, 4)
    watcher.begin(one)
    watcher.step(2, 1.234)
    watcher.end(Outcome(one, {"block_m": 2}, 100.0, 80.0, 4, complete=False))
    return stream.getvalue()


def test_a_bar_goes_on_and_what_was_found_stays() -> None:
    begun, half, end = shown(Terminal()).split("\r")[1:]
    assert begun == f"tuning kernel a [{' ' * 24}] 0/4, 1.00 x"
    assert half == f"tuning kernel a [{'#' * 12}{' ' * 12}] 2/4, 1.23 x"
    assert end.rstrip(" \n") == "tuned kernel a: 1.25 x by 4 schedules, time was over"
    assert end.endswith("\n")
    assert len(end) > len(half)


def test_where_there_is_no_terminal_nothing_is_written() -> None:
    assert shown(io.StringIO()) == ""
