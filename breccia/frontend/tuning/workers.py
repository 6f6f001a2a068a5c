"""Processes that build and measure candidates, so that neither a hung kernel nor a lost device ends the search.

A worker is a module of the target (`Tuning.worker`) that runs on its own. It is told what to do by lines of JSON, and
answers by such; one that does not answer in time, or ends, is replaced by a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any, Self

from breccia.frontend.tuning.search import Job, Measured

STARTING = 180.0
"""Seconds for the first answer of a process, which loads its libraries."""
BUILDING = 120.0
"""Seconds to build one candidate."""
MEASURING = 30.0
"""Seconds to check and time one candidate."""
_ENDING = 10.0
_LOG_BYTES = 600


class Worker:
    """One process, started when it is first asked for something.

    Invariants: one request at a time; `ask` always answers, if only with what failed.
    """

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._log: IO[str] | None = None
        self._over = False

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request; `{"failed": why}` where none comes."""
        if self._over:
            return {"failed": "the search is over"}
        limit = seconds if self._process is not None else seconds + STARTING
        process = self._process or self._start()
        assert process.stdin is not None, "it was started with pipes"
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            self.close()
            return {"failed": f"no answer within {limit:.0f} s: its process was ended"}
        except OSError:
            line = ""
        if not line:
            said = self._said()
            self.close()
            return {"failed": f"its process ended: {said or 'without a word'}"}
        return json.loads(line)

    def _start(self) -> subprocess.Popen[str]:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until `close`
        self._lines = queue.Queue()
        # A session of its own: Ctrl-C in a terminal is for the search, which ends its processes itself.
        process = self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            encoding="utf-8", env=self._environment, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=_pump, args=(process, self._lines), daemon=True).start()
        return process

    def _said(self) -> str:
        """The end of what the process wrote to standard error."""
        if self._log is None:
            return ""
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(0)
            return " ".join(self._log.read()[-_LOG_BYTES:].split())
        return ""

    def finish(self) -> None:
        """End the process for good: whoever still asks gets an answer, and no new process."""
        self._over = True
        self.close()

    def close(self) -> None:
        """End the process, if there is one; the next request starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold on to it
                process.wait(_ENDING)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._log is not None:
            self._log.close()
            self._log = None


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Pass on what a process answers; an empty line says that it ended."""
    assert process.stdout is not None, "it was started with pipes"
    with contextlib.suppress(OSError, ValueError):
        for line in process.stdout:
            lines.put(line)
    lines.put("")


class Processes:
    """Workers of one target: `count` that build, and one that measures. They serve one search after the other.

    module: that of the target's worker.
    """

    def __init__(self, module: str, count: int) -> None:
        path = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | path
        command = [sys.executable, "-m", module]
        self.count = count
        self.builders: queue.LifoQueue[Worker] = queue.LifoQueue()
        self.measurer = Worker([*command, "measure"], {**os.environ, **path})
        self._all = [self.measurer, *(Worker([*command, "build"], plain) for _ in range(count))]
        for worker in self._all[1:]:
            self.builders.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.finish()


class ProcessBench:
    """A bench of processes. Invariant: all candidates are timed in the way that the first one was."""

    def __init__(self, processes: Processes, job: Job) -> None:
        self.workers, self._processes, self._job = processes.count, processes, job
        self._graph: bool | None = None

    def build(self, source: str) -> str:
        """Compile a candidate; why it cannot be, or an empty text. May be called from several threads."""
        worker = self._processes.builders.get()
        try:
            scratch = self._job.target.capabilities.scratch_bytes
            about = {"arch": self._job.target.arch, "scratch": scratch}
            return worker.ask({**self._request(source), **about}, BUILDING)["failed"]
        finally:
            self._processes.builders.put(worker)

    def measure(self, source: str, runs: int) -> Measured:
        """Check and time a candidate."""
        job = self._job
        about = {"wanted": str(job.wanted), "device": str(job.device), "runs": runs, "graph": self._graph}
        answer = self._processes.measurer.ask({**self._request(source), **about}, MEASURING)
        if answer["failed"]:
            return Measured(failed=answer["failed"])
        self._graph = answer["graph"]
        return Measured(answer["microseconds"])

    def _request(self, source: str) -> dict[str, Any]:
        return {"source": source, "entry": self._job.entry, "inputs": str(self._job.inputs)}
