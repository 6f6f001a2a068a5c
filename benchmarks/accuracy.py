"""How accurate a product is, for every recipe: `python -m benchmarks.accuracy [--device cuda]`.

On N(0, 1) data, on NumPy with float32 results, or on a GPU by PyTorch with bfloat16 results:
  what the recipe costs    cosine and relative error against the float32 product of the original operands
  what we add ourselves    relative error against the float64 product of the *decoded* operands; the bar is 1e-6, and
                           2e-3 for bfloat16, whose own rounding is 1.66e-3
  K == N                   cosine where the weight was cast along its first axis, and along its last: 0.9993, in four
                           places, for every recipe of e4m3 elements
  outliers                 8 channels 30,000 times the others that meet weights of 0: recipes with blocks keep 0.999
and the snippet of the first release, whose cosine against float32 must reach 0.9993.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

import numpy as np

import breccia
from benchmarks import _machine
from breccia.arrays import transfer
from breccia.recipes import Recipe, all_recipes, find

BAR_ERROR, BAR_ERROR_BF16, BAR_COSINE, BAR_OUTLIERS = 1e-6, 2e-3, 0.9993, 0.999
OUTLIERS = [
    ("float8_tensor", "float8_tensor"), ("float8_row", "float8_row"), ("float8_1x128", "float8_128x128"),
    ("float8_1x128", "float8_1x128"), ("mxfp8_e4m3", "mxfp8_e4m3"),
]  # fmt: skip


def relative_error(found: Any, wanted: Any) -> float:
    """Frobenius norm of the difference over that of `wanted`."""
    difference = np.asarray(found, np.float64) - np.asarray(wanted, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(wanted, np.float64)))


def cosine(a: Any, b: Any) -> float:
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


class Place:
    """Where products are computed: `device` is empty for NumPy, else one of PyTorch's."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.bar = BAR_ERROR_BF16 if device else BAR_ERROR

    def cast(self, x: Any, recipe: Recipe, axis: int = -1) -> Any:
        return breccia.cast(transfer(x, "torch", self.device) if self.device else x, recipe, axis=axis)

    def product(self, left: Any, right: Any) -> Any:
        """The product as breccia computes it here, brought to NumPy."""
        return self.home(breccia.matmul(left, right, out_dtype="bfloat16" if self.device else "float32"))

    def home(self, x: Any) -> Any:
        return transfer(x, "numpy", None).astype(np.float64)


def snippet(place: Place) -> float:
    """Cosine of the quick start's product against float32."""
    rng = np.random.default_rng(0)
    a, w = rng.standard_normal((16, 256), np.float32), rng.standard_normal((256, 128), np.float32)
    left = place.cast(a, breccia.Float8CurrentScaling())
    right = place.cast(w, breccia.Float8BlockScaling(block_k=128))
    return cosine(place.product(left, right), a @ w)


def every_recipe(place: Place) -> tuple[list[str], float]:
    """(the table, the largest error of our own)."""
    rng = np.random.default_rng(1)
    a, w = rng.standard_normal((512, 1024), np.float32), rng.standard_normal((1024, 256), np.float32)
    plain = a.astype(np.float64) @ w.astype(np.float64)
    lines = [f"{'recipe':26}{'bits':>8}{'cosine':>11}{'rel. error':>12}{'ours, against float64 of the decoded':>40}"]
    worst = 0.0
    for name, recipe in all_recipes().items():
        left, right = place.cast(a, recipe), place.cast(w, recipe, axis=0)
        found = place.product(left, right)
        decoded = place.home(left.dequantize()) @ place.home(right.dequantize())
        ours = relative_error(found, decoded)
        worst = max(worst, ours)
        loss = f"{cosine(found, plain):11.6f}{relative_error(found, plain):12.5f}"
        lines.append(f"{name:26}{right.bits_per_value:8.3f}{loss}{ours:40.2e}")
    return lines, worst


def both_axes(place: Place) -> tuple[list[str], list[str]]:
    """(the table for K == N, the recipes that missed the bar, which has four places)."""
    rng = np.random.default_rng(2)
    a, w = rng.standard_normal((512, 1024), np.float32), rng.standard_normal((1024, 1024), np.float32)
    plain = a.astype(np.float64) @ w.astype(np.float64)
    lines, missed = [f"{'K == N == 1024':26}{'cast(w, axis=0)':>18}{'cast(w)':>18}"], list[str]()
    for name, recipe in all_recipes().items():
        if not recipe.element.name.startswith("float8"):
            continue
        left = place.cast(a, recipe)
        found = [cosine(place.product(left, place.cast(w, recipe, axis)), plain) for axis in (0, -1)]
        lines.append(f"{name:26}" + "".join(f"{value:18.6f}" for value in found))
        if recipe.element.name.startswith("float8_e4m3") and round(min(found), 4) < BAR_COSINE:
            missed.append(f"{name} where K == N")
    return lines, missed


def outliers(place: Place) -> tuple[list[str], list[str]]:
    """(the table, the recipes with blocks that missed the bar)."""
    rng = np.random.default_rng(3)
    a, w = rng.standard_normal((256, 4096), np.float32), rng.standard_normal((4096, 256), np.float32)
    channels = rng.choice(4096, 8, replace=False)
    a[:, channels] *= 3e4
    w[channels] = 0
    plain = a.astype(np.float64) @ w.astype(np.float64)
    lines, missed = [f"{'outliers, 256 x 4096 x 256':44}{'cosine':>18}"], list[str]()
    for names in OUTLIERS:
        left, right = (find(name) for name in names)
        found = cosine(place.product(place.cast(a, left), place.cast(w, right, axis=0)), plain)
        width = left.innermost.block and left.innermost.block[-1]
        lines.append(f"{' x '.join(names):44}{found:18.6f}")
        if width and found < BAR_OUTLIERS:
            missed.append(f"{' x '.join(names)} with outliers")
    return lines, missed


def device_of() -> str | None:
    """What the command line asks for; None, said aloud, where it is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="", help="of PyTorch, such as cuda; by default NumPy is used")
    device = parser.parse_args().device
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            print("no CUDA GPU: nothing to measure here")
            return None
    return device


def where(device: str) -> tuple[str, list[str]]:
    """(part of the file's name, lines about the device)."""
    if not device:
        return "accuracy", [_machine.describe("numpy", "ml_dtypes")]
    import torch

    name = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else device
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"accuracy-{slug}", [_machine.describe("numpy", "ml_dtypes", "torch"), name]


def main() -> None:
    device = device_of()
    if device is None:
        return
    place = Place(device)
    file, about = where(device)
    table, worst = every_recipe(place)
    axes, missed_axes = both_axes(place)
    huge, missed_outliers = outliers(place)
    quick = snippet(place)
    missed = [*missed_axes, *missed_outliers]
    missed += ["our own error"] if not worst <= place.bar else []
    missed += ["the quick start"] if not quick >= BAR_COSINE else []
    lines = ["accuracy of a product, 512 x 1024 times 1024 x 256, both sides cast, N(0, 1)", *about, "", *table]
    lines += ["", *axes, "", *huge, ""]
    lines += [
        f"largest error of our own: {worst:.2e} (at most {place.bar:.0e})",
        f"cosine where K == N, e4m3 elements: at least {BAR_COSINE} in four places; outliers, blocks: {BAR_OUTLIERS}",
        f"cosine of the quick start: {quick:.6f} (at least {BAR_COSINE})",
        f"MISSED by {', '.join(missed)}" if missed else "held",
    ]
    _machine.write(file, "\n".join(lines))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
