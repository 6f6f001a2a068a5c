"""What `import breccia` costs over bare Python: `python -m benchmarks.import_time [--runs 20]`.

Interpreters with and without the import take turns, so that a busy moment hits both; the bar is 60 ms.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from benchmarks import _machine

CASES = {
    "bare Python": "pass",
    "import breccia": "import breccia",
    "import numpy": "import numpy",
    "breccia.recipes.nvfp4": "import breccia; breccia.recipes.nvfp4",
    "breccia.ScaledTensor": "import breccia; breccia.ScaledTensor",
}


def measure(runs: int) -> dict[str, list[float]]:
    """Wall time in milliseconds of a fresh interpreter for each case."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(runs + 1):
        for name, code in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            if turn:  # the first turn warms the file cache and writes .pyc files
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    times = measure(parser.parse_args().runs)
    bare = statistics.median(times["bare Python"])
    lines = ["import time, ms: median, fastest, median over bare Python", _machine.describe("numpy", "ml_dtypes"), ""]
    for name, values in times.items():
        middle = statistics.median(values)
        lines.append(f"{name:24}{middle:9.1f}{min(values):9.1f}{middle - bare:9.1f}")
    over = statistics.median(times["import breccia"]) - bare
    lines += ["", f"import breccia over bare Python: {over:.1f} ms (at most 60): {'held' if over <= 60 else 'MISSED'}"]
    _machine.write("import_time", "\n".join(lines))
    if over > 60:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
