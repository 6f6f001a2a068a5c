"""All 2**32 float32 inputs through the FP8 casts of a library: `python -m benchmarks.exhaustive --library torch`.

Options: --device (cuda, mps, gpu ...), --formats, --jobs (processes), --log2-inputs 32 (fewer: that many patterns,
evenly spaced). Codes of `breccia.cast` with a scale of 1 are compared with NumPy's; NumPy's with the definition,
`numerics.bit_encode`. Not a benchmark of speed: seconds include the comparison.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

import breccia
from benchmarks import _machine
from breccia import formats
from breccia.arrays import numpy as xp
from breccia.arrays import primitives_of
from breccia.numerics.bit_encode import bit_encode
from breccia.recipes import Level, Recipe

FORMATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
CHUNK = 1 << 24
Array = np.ndarray[Any, np.dtype[Any]]


def caster(library: str, device: str | None, name: str) -> Callable[[Array], Array]:
    """A function from float32 values to codes, both NumPy's, by the library's own cast."""
    recipe = Recipe(formats.find(name), (Level(formats.float32),))
    primitives = primitives_of(library)

    def cast(x: Any, scale: Any) -> Any:
        return breccia.cast(x, recipe, scale=scale).data

    if library == "jax":
        import jax

        cast = jax.jit(cast)
    one = primitives.from_numpy(np.ones((), np.float32), device)
    return lambda x: primitives.to_numpy(cast(primitives.from_numpy(x, device), one))


def definition(name: str) -> Callable[[Array], Array]:
    """A function to the codes that are right: with a given scale, infinity poisons its element."""
    fmt = formats.find(name)
    nan = np.float32(np.nan)
    return lambda x: bit_encode(xp, np.where(np.isinf(x), nan, x), fmt, "rne", "saturate", None)


def differences(library: str, device: str | None, name: str, log2: int, part: int = 0, parts: int = 1) -> int:
    """How many of 2**log2 inputs have other codes; of these, the chunks of one part of several."""
    expected = definition(name) if library == "numpy" else caster("numpy", None, name)
    found = caster(library, device, name)
    count, step = 0, 1 << (32 - log2)
    for start in range(part * CHUNK, 1 << log2, parts * CHUNK):
        index = np.arange(start, min(start + CHUNK, 1 << log2), dtype=np.uint64) * np.uint64(step)
        x = index.astype(np.uint32).view(np.float32).reshape(-1, 1 << 10)
        count += int(np.count_nonzero(found(x).view(np.uint8) != expected(x)))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default="numpy", choices=["numpy", "torch", "jax", "mlx"])
    parser.add_argument("--device")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--log2-inputs", type=int, default=32)
    options = parser.parse_args()
    library, device = options.library, options.device
    lines = [
        f"float32 inputs whose FP8 codes differ, of 2**{options.log2_inputs}; {library}"
        + (f" on {device}" if device else "")
        + (", against numpy" if library != "numpy" else ", against numerics.bit_encode"),
        _machine.describe(*dict.fromkeys(("numpy", "ml_dtypes", library))),
        "",
    ]
    total = 0
    pool = ProcessPoolExecutor(options.jobs, get_context("spawn")) if options.jobs > 1 else None
    for name in options.formats:
        start = time.perf_counter()
        call = partial(differences, library, device, name, options.log2_inputs)
        count = sum(pool.map(call, range(options.jobs), [options.jobs] * options.jobs)) if pool else call()
        total += count
        lines.append(f"{name:18}{count:12} differ{time.perf_counter() - start:10.0f} s")
        print(lines[-1], flush=True)
    _machine.write(f"exhaustive-{library}" + (f"-{device}" if device else ""), "\n".join(lines))
    if total:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
