"""Processes that work for a search: answers, silence, sudden ends, and new ones after that."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from breccia.frontend.tuning import workers
from breccia.frontend.tuning.workers import Worker

SCRIPT = """
import json, os, sys, time
for line in sys.stdin:
    do = json.loads(line)["do"]
    if do == "sleep":
        time.sleep(60)
    if do == "die":
        sys.stderr.write("out of\\n  luck\\n")
        os._exit(3)
    print(json.dumps({"failed": "", "pid": os.getpid(), "session": os.getsid(0)}), flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return Worker([sys.executable, str(script)], dict(os.environ))


def test_one_process_answers_all_requests_in_a_session_of_its_own(worker: Worker) -> None:
    first, second = (worker.ask({"do": "answer"}, 30) for _ in range(2))
    assert first == second
    assert first["session"] == first["pid"] != os.getsid(0)
    worker.finish()


def test_silence_is_ended_and_the_next_request_gets_a_new_process(worker: Worker) -> None:
    first = worker.ask({"do": "answer"}, 30)
    start = time.monotonic()
    assert "no answer within 0 s" in worker.ask({"do": "sleep"}, 0.3)["failed"]
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(first["pid"], 0)
    assert worker.ask({"do": "answer"}, 30)["pid"] != first["pid"]
    worker.finish()


def test_a_process_that_ends_says_why_and_is_replaced(worker: Worker) -> None:
    worker.ask({"do": "answer"}, 30)
    assert worker.ask({"do": "die"}, 30) == {"failed": "its process ended: out of luck"}
    assert worker.ask({"do": "answer"}, 30)["failed"] == ""
    worker.finish()


def test_loading_has_time_of_its_own(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.ask({"do": "answer"}, 0.0)["failed"] == ""
    worker.close()
    monkeypatch.setattr(workers, "STARTING", 0.0)
    assert "no answer" in worker.ask({"do": "sleep"}, 0.1)["failed"]
    worker.finish()


def test_after_the_end_nothing_is_started(worker: Worker) -> None:
    pid = worker.ask({"do": "answer"}, 30)["pid"]
    worker.finish()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert worker.ask({"do": "answer"}, 30) == {"failed": "the search is over"}


def test_a_command_that_is_none_is_a_failure_with_its_words(tmp_path: Path) -> None:
    worker = Worker([sys.executable, str(tmp_path / "none.py")], dict(os.environ))
    assert "No such file" in worker.ask({"do": "answer"}, 30)["failed"]
    worker.finish()
