"""Block-scaled FP8 products of JAX arrays on an NVIDIA GPU, under `jax.jit`: `python -m benchmarks.jax_gpu`.

Ours is `breccia.matmul` of FP8 1x128 by 128x128, and of FP8 by row, compiled for the arrays that it is given; beside it
what is written without breccia: decode both operands to bf16 with `jax.numpy`, and multiply. All under `jax.jit`, with
results in bf16. Rounds time all of them one after the other; what is shown is the median over rounds of a call among
many, so that launching is hidden. `--device cpu` tries the script on small shapes, and keeps nothing. With
`--pallas`, the kernels of a TPU target, as Pallas's interpreter runs them here, are timed too: slowly.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import breccia
from benchmarks import _machine
from breccia import recipes

BAR = 1.3
ROUNDS = 11
Call = Callable[[], Any]
PAIRS = {
    "FP8 1x128 by 128x128": (recipes.float8_1x128, recipes.float8_128x128),
    "FP8 by row": (recipes.float8_row, recipes.float8_row),
}


def spread(scale: Any, shape: tuple[int, int]) -> Any:
    """Every scale over its block."""
    rows, columns = (n // s for n, s in zip(shape, scale.shape, strict=True))
    return jnp.repeat(jnp.repeat(scale, rows, axis=0), columns, axis=1)


@jax.jit
def plain(x: Any, x_scale: Any, w: Any, w_scale: Any) -> Any:
    """Decoded to bf16, and multiplied."""
    x, w = (jax.lax.bitcast_convert_type(codes, jnp.float8_e4m3fn) for codes in (x, w))
    a = (x.astype(jnp.float32) * spread(x_scale, x.shape)).astype(jnp.bfloat16)
    b = (w.astype(jnp.float32) * spread(w_scale, w.shape)).astype(jnp.bfloat16)
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(jnp.bfloat16)


def milliseconds(call: Call, seconds: float) -> float:
    """One call among as many as fit the time."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, int(seconds / max(time.perf_counter() - start, 1e-5)))
    start = time.perf_counter()
    for _ in range(count - 1):
        call()
    jax.block_until_ready(call())
    return (time.perf_counter() - start) / count * 1e3


def operands(size: int, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal((size, size)).astype(np.float32)) for _ in range(2))
    return breccia.cast(x, pair[0]), breccia.cast(w, pair[1], axis=0)


def product(x: Any, w: Any) -> Any:
    return breccia.matmul(x, w, out_dtype="bfloat16")


def calls(size: int, pair: tuple[Any, Any], *, pallas: bool) -> dict[str, Call]:
    """What is timed, checked against each other before that."""
    x, w = operands(size, pair)
    ours = jax.jit(breccia.compile(product))
    found: dict[str, Call] = {
        "breccia": lambda: ours(x, w),
        "plain": lambda: plain(x.data, x.scales[-1], w.data, w.scales[-1]),
    }
    if pallas:
        kernels = jax.jit(breccia.compile(product, target="pallas:v6e"))
        found["pallas, interpreted"] = lambda: kernels(x, w)
    wanted = np.asarray(found["plain"](), np.float32)
    for name, call in found.items():
        error = float(np.abs(np.asarray(call(), np.float32) - wanted).max() / np.abs(wanted).max())
        if not error < 2e-2:
            raise SystemExit(f"{name} of size {size} differs by {error:.1e} of the largest entry")
    return found


def row(name: str, size: int, timed: dict[str, float]) -> str:
    speeds = {key: 2 * size**3 / ms * 1e-9 for key, ms in timed.items()}
    ratio = timed["plain"] / timed["breccia"]
    cells = "  ".join(f"{key} {timed[key]:8.3f} ms {speeds[key]:6.0f} TFLOP/s" for key in timed)
    return f"{name:22}{size:6}  {cells}  {ratio:.2f} x" + ("" if ratio >= BAR else f"  below the bar of {BAR} x")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu tries the script")
    parser.add_argument("--pallas", action="store_true", help="time the TPU kernels too, as they are interpreted here")
    given = parser.parse_args(arguments)
    cuda = given.device == "cuda"
    if cuda and jax.default_backend() != "gpu":
        print(f"JAX's backend is {jax.default_backend()}: there is no GPU to measure; --device cpu tries the script")
        return
    lines: list[str] = []
    for size in (4096, 8192) if cuda else (256,):
        for name, pair in PAIRS.items():
            chosen = calls(size, pair, pallas=given.pallas)
            times: dict[str, list[float]] = {key: [] for key in chosen}
            for _ in range(ROUNDS if cuda else 2):
                for key, call in chosen.items():
                    times[key].append(milliseconds(call, 0.2 if cuda else 0.01))
            lines.append(row(name, size, {key: statistics.median(t) for key, t in times.items()}))
            print(lines[-1], flush=True)
    if not cuda:
        return
    head = f"FP8 products of JAX arrays under jit, and the bar of {BAR} x: {jax.devices()[0].device_kind}; "
    slug = jax.devices()[0].device_kind.lower().replace(" ", "-")
    text = "\n".join([head + _machine.describe("jax", "jaxlib"), "", *lines])
    file = _machine.RESULTS / f"jax_gpu-{slug}.txt"
    _machine.RESULTS.mkdir(exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
    print(f"kept as {file.name}")


if __name__ == "__main__":
    main()
