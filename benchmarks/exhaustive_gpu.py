"""All 2**32 float32 inputs through every cast that the Triton target emits: `python -m benchmarks.exhaustive_gpu`.

Each format of at most 8 bits: the emitted function that encodes it, as `breccia.compile` of `breccia.astype` has it and
alone in its variants, and what decodes each of its codes; then whole casts by given scales. What is right is said by
the array functions on the same GPU, and these are compared with the definition, `numerics.bit_encode` on NumPy, for a
sample of inputs in the same run.
--full adds the roundings that no recipe asks for by default. `--device cpu --bits 16` runs 2**16 inputs, evenly spaced,
in Triton's interpreter, to try the script. Not a benchmark of speed: seconds are mostly the array functions'.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import torch

import breccia
from benchmarks import _machine
from breccia import formats, numerics, recipes
from breccia.arrays import numpy as xp
from breccia.errors import DTypeError, UnsupportedError
from breccia.formats import Format
from breccia.numerics.bit_encode import bit_encode
from breccia.tensor import flatten

NARROW = [fmt for fmt in formats.ALL if fmt.bits <= 8]
CONVERTED = frozenset({"f8E4M3FN", "f8E5M2"})
"""MLIR names of the formats that some architectures convert to themselves."""
CASTS = (
    "float8_1x128", "float8_e5m2_tensor", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "nvfp4",
    "mxint8", "int8_row", "int4_g32_f16", "nf4",
)  # fmt: skip
DECODED = {"f32": ("fp32", np.float32), "bf16": ("bf16", ml_dtypes.bfloat16), "f16": ("fp16", np.float16)}
"""Types that codes are decoded to: what pointers point to, and NumPy's dtypes."""
COLUMNS = 1024
SAMPLE = 1 << 18
Tensor = torch.Tensor
Encoder = Callable[[Tensor], Tensor]


@dataclass
class Run:
    """What to run on, and what was found.

    Invariants: 2**bits inputs, evenly spaced among all patterns of float32, in chunks that are divisible by COLUMNS.
    """

    device: str
    bits: int
    chunk: int
    target: str
    seconds: float
    full: bool
    lines: list[str] = field(default_factory=list)
    wrong: int = 0
    missing: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def late(self) -> bool:
        return time.perf_counter() - self.started > self.seconds

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def row(self, name: str, way: str, count: int | str, first: str = "") -> None:
        """One line of the results; whatever is not 0 is a failure."""
        self.wrong += count != 0
        self.say(f"{name:20}{way:38}{count:>12}{first}")

    def inputs(self) -> Iterator[Tensor]:
        """Every input, as float32 [rows, COLUMNS]."""
        half, step = 1 << (self.bits - 1), 1 << (32 - self.bits)
        for start in range(-half, half, self.chunk):
            index = torch.arange(start, min(start + self.chunk, half), dtype=torch.int64, device=self.device)
            # Of fewer inputs than all, the low bits are not 0, as they would be in steps.
            yield (index * step + index * 2654435761 % step).to(torch.int32).view(torch.float32).view(-1, COLUMNS)


# -- emitted functions alone -------------------------------------------------------------------------------------------

EACH = '''import triton
import triton.language as tl

from breccia.targets.triton import launch as rt


{helpers}
@triton.jit
def _each_0(x, out, N):
    place = tl.program_id(0) * 2048 + tl.arange(0, 2048)
    tile = tl.load(x + place, mask=place < N, other=0)
    tl.store(out + place, {function}(tile), mask=place < N)


each_0 = rt.Kernel(
    _each_0, pointers=("{read}", "{written}"), strided=(0, 0), sizes=1, num_warps=4, target="{target}"
).call


def each(x):
    """`{function}` of every entry."""
    out = rt.empty(tuple(x.shape), rt.{dtype}, x)
    each_0(-(-x.numel() // 2048), x, out, x.numel())
    return out
'''
WRITTEN = {"u8": "ui8", "fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""What a pointer points to, and the dtype of such an output."""


def alone(run: Run, library: Any, function: str, read: str, written: str) -> Encoder:
    """A kernel that does nothing but call one emitted function."""
    from breccia.targets.triton import launch

    text = EACH.format(
        helpers="\n\n".join(library.texts), function=function, read=read, written=written, dtype=WRITTEN[written],
        target=run.target.partition(":")[2],
    )  # fmt: skip
    return launch.launch(text, "each")


def encoders(run: Run, fmt: Format, rounding: Any, overflow: Any) -> dict[str, Encoder]:
    """What the target emits to encode a format, under the names of the variants."""
    from breccia.targets.triton import _casts

    found: dict[str, Encoder] = {}
    usual = (rounding, overflow) == ("rne", "saturate")
    if usual:
        compiled = breccia.compile(lambda x: breccia.astype(x, fmt.name), target=run.target)
        try:
            compiled.lower(torch.zeros(2, 2, device=run.device))
            found["compiled astype"] = compiled
        except DTypeError:  # no library has a dtype of that name, so that only casts write this format
            pass
    libraries = {"helper": _casts.Library()}
    if usual and fmt.mlir in CONVERTED:
        libraries["hardware"] = _casts.Library(frozenset(), CONVERTED)
    for name, library in libraries.items():
        found[name] = alone(run, library, _casts.encode(library, fmt, rounding, overflow), "fp32", "u8")
    library = _casts.Library()
    function = _casts.encode_number(library, fmt, rounding, overflow)
    found["helper for numbers"] = alone(run, library, function, "fp32", "u8")
    return found


# -- comparisons -------------------------------------------------------------------------------------------------------


def encoded_right(run: Run, fmt: Format, rounding: Any, overflow: Any) -> None:
    """Count the inputs whose codes differ, for each variant of one format and rounding."""

    def right(x: Tensor) -> Tensor:
        return numerics.encode(x, fmt, rounding, overflow)

    way = "" if rounding == "rne" else f", {rounding}"
    way += ", too large is NaN" if overflow == "nan" else ""
    run.row(fmt.name, f"array functions{way}", *sampled(run, fmt, rounding, overflow, right))
    found = encoders(run, fmt, rounding, overflow)
    counts, firsts = dict.fromkeys(found, 0), dict.fromkeys(found, "")
    for x in run.inputs():
        wanted = right(x)
        for name, encode in found.items():
            codes = encode(x).view(torch.uint8)
            different = codes != wanted
            if "numbers" in name:
                different &= ~torch.isnan(x)
            number = int(different.sum())
            counts[name] += number
            if number and not firsts[name]:
                firsts[name] = _first(x, codes, wanted, different)
    for name, count in counts.items():
        run.row(fmt.name, f"{name}{way}", count, firsts[name])


def _first(x: Tensor, codes: Tensor, wanted: Tensor, different: Tensor) -> str:
    at = tuple(different.nonzero()[0].tolist())
    bits = int(x.view(torch.int32)[at]) & 0xFFFFFFFF
    return f"  first 0x{bits:08x} ({float(x[at]):.9g}): 0x{int(codes[at]):02x}, not 0x{int(wanted[at]):02x}"


def sampled(run: Run, fmt: Format, rounding: Any, overflow: Any, right: Encoder) -> tuple[int, str]:
    """How many codes of a sample are not the definition's, and a note; the multiplier reaches all of the low bits."""
    index = np.arange(min(SAMPLE, 1 << run.bits), dtype=np.uint64) * np.uint64(2654435761)
    x = index.astype(np.uint32).view(np.float32).reshape(-1, COLUMNS)
    wanted = bit_encode(xp, x, fmt, rounding, overflow, None)
    found = right(torch.from_numpy(x).to(run.device)).cpu().numpy()
    return int(np.count_nonzero(found != wanted)), f"  of {x.size} sampled, against NumPy"


def decoded_right(run: Run, fmt: Format) -> None:
    """Count the codes whose decoded values differ from NumPy's, in every type that holds them."""
    from breccia.targets.triton import _casts

    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    wanted = numerics.decode(codes, fmt)
    libraries = {"": _casts.Library()}
    if fmt.mlir in CONVERTED:
        libraries[" by hardware"] = _casts.Library(frozenset(), CONVERTED)
    for way, library in libraries.items():
        for to, (pointer, dtype) in DECODED.items():
            try:
                function = _casts.decode(library, fmt, to)
            except UnsupportedError:  # that type cannot hold every value
                continue
            values = alone(run, library, function, "u8", pointer)(torch.from_numpy(codes).to(run.device))
            found = values.float().cpu().numpy()
            with np.errstate(all="ignore"):
                exact = wanted.astype(dtype).astype(np.float32)
            same = (found.view(np.uint32) == exact.view(np.uint32)) | (np.isnan(found) & np.isnan(exact))
            run.row(fmt.name, f"decoded to {to}{way}", int(np.count_nonzero(~same)), f"  of {codes.size} codes")


def cast_right(run: Run, name: str) -> None:
    """Count the elements and scales that differ from the array functions', by scales that are given.

    They are those of a tensor that holds the largest element everywhere: 1, and for NVFP4 1 / 448 and 448.
    """
    recipe = recipes.find(name)

    def cast(x: Any, *scales: Any) -> Any:
        return breccia.cast(x, recipe, scale=scales[0] if len(scales) == 1 else scales)

    kernels, arrays = (breccia.compile(cast, target=target) for target in (run.target, "numpy"))
    given: dict[int, tuple[Any, ...]] = {}
    count = 0
    for x in run.inputs():
        if len(x) not in given:
            given[len(x)] = breccia.cast(torch.full_like(x, float(recipe.element.max)), recipe).scales
        found, wanted = (flatten(f(x, *given[len(x)]))[0] for f in (kernels, arrays))
        for a, b in zip(found, wanted, strict=True):
            words = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[a.element_size()]
            different = a.contiguous().view(words) != b.contiguous().view(words)  # fails where shapes differ
            count += int(different.sum())
    run.row(name, "cast by given scales", count)


# -- all of it ---------------------------------------------------------------------------------------------------------


def jobs(run: Run, only: Sequence[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Everything there is to compare, the most important first."""
    ways: list[tuple[str, str]] = [("rne", "saturate"), ("rne", "nan")]
    ways += [("ties_away", "saturate"), ("ties_zero", "saturate")] if run.full else []
    chosen = [fmt for fmt in NARROW if not only or fmt.name in only]
    for rounding, overflow in ways:
        for fmt in chosen:
            if overflow != "nan" or fmt.kind == "float":  # integers always saturate
                yield fmt.name, lambda fmt=fmt, r=rounding, o=overflow: encoded_right(run, fmt, r, o)
        if (rounding, overflow) == ways[0]:
            for name in CASTS:
                if not only or name in only:
                    yield name, lambda name=name: cast_right(run, name)
            for fmt in chosen:
                yield fmt.name, lambda fmt=fmt: decoded_right(run, fmt)


def run_all(run: Run, only: Sequence[str]) -> None:
    for name, job in jobs(run, only):
        if run.late:
            run.missing += 1
            run.say(f"{name:20}not run: {run.seconds:.0f} s are over")
            continue
        began = time.perf_counter()
        try:
            job()
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises belongs into its line
            run.row(name, "failed", type(error).__name__, f"  {(str(error).splitlines() or [''])[0][:150]}")
        print(f"    [{time.perf_counter() - began:.1f} s]", flush=True)


def prepared(options: argparse.Namespace) -> Run:
    """The run that is asked for; on the CPU, Triton's interpreter is switched on."""
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
        from tests.targets.triton import interpreter

        interpreter.patch()
        return Run("cpu", options.bits, 1 << 16, "triton:sm_90", options.seconds, options.full)
    from breccia.targets.triton import launch

    target = f"triton:{launch.device_arch(options.device)}"
    return Run(options.device, options.bits, 1 << 26, target, options.seconds, options.full)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--bits", type=int, default=32, help="2**BITS inputs, at least 2**10")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="formats and recipes")
    parser.add_argument("--seconds", type=float, default=240.0, help="start nothing new after this long")
    parser.add_argument("--full", action="store_true", help="other roundings too")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU: nothing to run here")
        return
    run = prepared(options)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    run.say(f"float32 inputs whose emitted casts differ from the array functions, of 2**{run.bits}; {run.target}")
    run.say(_machine.describe("numpy", "ml_dtypes", "torch", "triton"))
    run.say(f"{name}, breccia {breccia.__version__}\n")
    with np.errstate(all="ignore"):
        run_all(run, options.only)
    verdict = f"FAILED: {run.wrong} rows differ" if run.wrong else "no differences"
    verdict += f"; {run.missing} not run" if run.missing else ""
    run.say(f"\n{verdict}; {time.perf_counter() - run.started:.0f} s in all")
    if options.device == "cuda" and options.bits == 32 and not options.only:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        _machine.write(f"exhaustive-{slug}", "\n".join(run.lines))
    if run.wrong or run.missing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
