"""Where a measurement was taken, and where its results are kept."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def label() -> str:
    """A file-name part for this kind of machine, such as `linux-x86_64-2cpu`."""
    return f"{platform.system()}-{platform.machine()}-{os.cpu_count()}cpu".lower()


def describe(*packages: str) -> str:
    """One line: date, processor, cores, Python and the versions of `packages`."""
    today = date.today().isoformat()
    cores = f"{_processor()}, {os.cpu_count()} cores"
    parts = [today, cores, platform.system(), f"Python {platform.python_version()}"]
    return "; ".join(parts + [f"{name} {version(name)}" for name in packages])


def write(name: str, text: str) -> Path:
    """Print `text` and keep it as benchmarks/results/NAME-MACHINE.txt."""
    print(text)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{label()}.txt"
    file.write_text(text.rstrip() + "\n", encoding="utf-8")
    return file


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        if models:
            return str(models[0])
    return platform.processor() or platform.machine()
