"""Emitted kernels compiled for TPU v5e, v6e and TPU7x by libtpu, and what became of them: instructions and bundles.

JAX's own lowering takes what the compiler then refuses, so only libtpu counts. No TPU is needed.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import pytest

from breccia import recipes
from breccia.ir.dialect import parse_module
from breccia.target import find
from breccia.testing.conformance import lower
from breccia.testing.conformance import programs as conformance_programs
from tests.conftest import CheckGolden
from tests.targets.numpy.programs import w_type, x_type
from tests.targets.pallas import offline, programs

if not offline.available():
    pytest.skip("needs JAX and libtpu: pip install breccia[tpu-dev]", allow_module_level=True)

RECIPES = recipes.all_recipes()
ARCHITECTURES = ("v5e", "v6e", "v7")
CHOSEN = {
    "v6e": ("float8_row", "float8_1x128", "float8_128x128_e8m0", "nvfp4", "uint4_g32_f16", "nf4"),
    "v5e": ("float8_1x128", "mxfp4"),
    "v7": ("float8_128x128", "mxfp6_e3m2"),
}
"""What takes every path on one of them: scales of each kind, packed codes, zero points, codebooks."""
KEPT_ON = {"v6e": tuple(programs.GOLDEN), "v5e": ("grouped",), "v7": ("rms_norm",)}
"""Programs whose text is kept, that are compiled too."""

PLAIN = """
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

TYPED = {typed}
SUMS = jnp.{sums}


def kernel(x_ref, w_ref, out_ref, acc_ref):
    @pl.when(pl.program_id(2) == 0)
    def _start():
        acc_ref[...] = jnp.zeros_like(acc_ref)

    x, w = (jax.lax.bitcast_convert_type(r[...], TYPED) if r.dtype == jnp.uint8 else r[...] for r in (x_ref, w_ref))
    acc_ref[...] += jax.lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=SUMS)

    @pl.when(pl.program_id(2) == {steps} - 1)
    def _finish():
        out_ref[...] = acc_ref[...].astype(jnp.float32)


def plain(x, w):
    return pl.pallas_call(
        kernel,
        grid=(512 // {m}, 512 // {n}, {steps}),
        in_specs=[pl.BlockSpec(({m}, {k}), lambda m, n, k: (m, k)), pl.BlockSpec(({k}, {n}), lambda m, n, k: (k, n))],
        out_specs=pl.BlockSpec(({m}, {n}), lambda m, n, k: (m, n)),
        out_shape=jax.ShapeDtypeStruct((512, 512), jnp.float32),
        scratch_shapes=[pltpu.VMEM(({m}, {n}), SUMS)],
    )(x, w)
"""
"""A product that scales nothing, in the same tiles."""

PRODUCTS = {
    "float8_tensor": ("float8_tensor", "float8_tensor", 256, "jnp.float8_e4m3fn"),
    "float8_row": ("float8_row", "float8_row", 256, "jnp.float8_e4m3fn"),
    "float8_1x128": ("float8_1x128", "float8_128x128", 128, "jnp.float8_e4m3fn"),
    "int8_row": ("int8_row", "int8_row", 256, "jnp.int8"),
    "mxfp8": ("mxfp8_e4m3", "mxfp8_e4m3", 256, "jnp.float8_e4m3fn"),
    "nvfp4": ("nvfp4", "nvfp4", 256, "jnp.float8_e4m3fn"),
}  # fmt: skip
"""Recipes of both sides, the tile along k, and what a plain product of the same codes would take."""
BAR = 1.15
WITHIN_THE_BAR = ("float8_tensor",)
"""Those that only fold a number in. Scales of rows, and more so those of blocks, are multiplications of the tile that
a product without scales does not have: `docs/targets.md` says how many bundles they take."""
FP8 = {"v5e": "f8e4m3b11.bf16", "v6e": "f8e4m3b11.bf16", "v7": "f8e4m3fn"}
"""The matrix instruction of FP8 operands: all but v7 multiply them as bf16."""
OTHERS = {"mxfp8": "bf16", "nvfp4": "bf16"}
INT8 = {"v5e": "s8", "v6e": "s8", "v7": "bf16"}
"""And of INT8, which v7 multiplies as bf16."""


def product(a: str, b: str) -> str:
    x, w = x_type(recipes.find(a), 512), w_type(recipes.find(b), 512, 512)
    return f"""
func.func @f(%x : {x}, %w : {w}) -> !breccia.tensor<[M, 512], f32> {{
  %p = breccia.matmul %x, %w
  func.return %p : !breccia.tensor<[M, 512], f32>
}}"""


def job(name: str, text: str, arch: str, sizes: dict[str, int], placement: str = "") -> offline.Job | None:
    target = find(f"pallas:{arch}")
    lowered, placed = lower(parse_module(text), target, placement)
    if placement and placement not in placed:
        return None
    return offline.job(name, lowered, target.emit(lowered), sizes)


def conformance_jobs(arch: str, names: tuple[str, ...]) -> list[offline.Job]:
    """Every program of the conformance set for these recipes."""
    found = conformance_programs(find(f"pallas:{arch}").capabilities, {n: RECIPES[n] for n in names}, [(5, 160, 24)])
    made = (job(f"{p.name} {p.recipe} {p.placement}", p.text, arch, {"M": 5}, p.placement) for p in found)
    return [j for j in made if j is not None]


@cache
def compiled(arch: str) -> dict[str, offline.Compiled]:
    """The chosen conformance programs, those whose text is kept, and products beside plain ones, in one process."""
    jobs = conformance_jobs(arch, CHOSEN[arch])
    made = [job(f"kept {n}", programs.GOLDEN[n], arch, {"M": 300}) for n in KEPT_ON[arch]]
    made += [job(f"product {n}", product(a, b), arch, {"M": 512}) for n, (a, b, _, _) in PRODUCTS.items()]
    jobs += [j for j in made if j is not None]
    shapes = (((512, 512), "uint8"), ((512, 512), "uint8"))
    for k, typed in dict.fromkeys((k, typed) for _, _, k, typed in PRODUCTS.values()):
        sums = "int32" if typed == "jnp.int8" else "float32"
        plain = PLAIN.format(m=256, n=256, k=k, steps=512 // k, typed=typed, sums=sums)
        jobs.append(offline.Job(f"plain {k} {typed}", plain, "plain", shapes))
    return offline.compile_all(jobs, arch)


def both(arch: str, name: str) -> tuple[offline.Compiled, offline.Compiled]:
    """(a product, the plain product of the same codes in the same tiles)."""
    _, _, k, typed = PRODUCTS[name]
    return compiled(arch)[f"product {name}"], compiled(arch)[f"plain {k} {typed}"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_everything_compiles(arch: str) -> None:
    failed = {name: c.error for name, c in compiled(arch).items() if c.error}
    assert failed == {}
    assert len(compiled(arch)) >= 15


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_matrix_instructions(arch: str) -> None:
    known = {**OTHERS, "int8_row": INT8[arch]}
    wanted = {name: known.get(name, FP8[arch]) for name in PRODUCTS}
    assert {name: " ".join(compiled(arch)[f"product {name}"].instructions) for name in PRODUCTS} == wanted


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", WITHIN_THE_BAR)
def test_what_scales_nothing_costs_no_more_than_a_plain_product(arch: str, name: str) -> None:
    ours, plain = both(arch, name)
    assert 0 < ours.bundles <= BAR * plain.bundles, f"{ours.bundles} bundles, {plain.bundles} for the plain product"


def test_bundles_are_as_kept(golden: CheckGolden) -> None:
    """Static figures of speed: they change where the emitted kernel does, or the compiler."""
    versions = f"jax {version('jax')}, libtpu {version('libtpu')}"
    if versions != KEPT:
        pytest.skip(f"the figures are those of {KEPT}; installed are {versions}")
    rows = [f"bundles of a kernel in tiles of 256 x 256 x k, and of a plain product of the same codes: {versions}"]
    for arch in ARCHITECTURES:
        for name, (_, _, k, _) in PRODUCTS.items():
            ours, plain = both(arch, name)
            ratio = ours.bundles / plain.bundles
            counts = f"{ours.bundles:6}{plain.bundles:6}  {ratio:.2f} x"
            rows.append(f"{arch:4}{name:16}k {k:4}{counts}  {' '.join(ours.instructions)}")
    golden("\n".join(rows), "bundles.txt")


KEPT = "jax 0.10.2, libtpu 0.0.42.1"


@pytest.mark.exhaustive
@pytest.mark.parametrize("arch", [*ARCHITECTURES, "v5p"])
@pytest.mark.parametrize("start", range(0, len(RECIPES), 10))
def test_every_recipe_compiles(arch: str, start: int) -> None:
    jobs = conformance_jobs(arch, tuple(RECIPES)[start : start + 10])
    failed = {name: c.error for name, c in offline.compile_all(jobs, arch).items() if c.error}
    assert failed == {}
