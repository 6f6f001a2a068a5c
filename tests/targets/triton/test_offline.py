"""Emitted kernels compiled for GPUs that are not there: the instructions they get, and that nothing spills."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # as all of this folder; what compiles is another process
pytest.importorskip("torch")
pytest.importorskip("triton")

from breccia.ir.dialect import parse_module
from breccia.recipes import all_recipes
from breccia.target import find
from breccia.targets.triton import ARCHITECTURES
from breccia.testing import conformance
from tests.targets.triton import programs
from tests.targets.triton.offline import compiled, table

COMMON: dict[str, str] = {"rms_norm": programs.normalized(), "cast_mxfp6": programs.cast("mxfp6_e3m2")}
"""Compiled for every architecture."""
FP8 = programs.gemm(*programs.FP8_BLOCKS)
MXFP8, MXFP4, NVFP4 = (programs.gemm(name) for name in ("mxfp8_e4m3", "mxfp4", "nvfp4"))
NVFP4_COLUMNS = programs.gemm("nvfp4", rows=False)
GROUPED = programs.grouped()
GROUPED_MANY, GROUPED_FEW = (programs.grouped(groups=8, n=4096, typical=rows) for rows in (8192, 256))
INT4 = programs.gemm("", "uint4_g128_f16")
FP8_GROUPS, FP8_TURNS = (
    programs.gemm(*programs.FP8_BLOCKS, typical=rows, n=4096, k=k) for rows, k in ((4096, 1024), (64, 7168))
)
FUSED = programs.gemm(*programs.FP8_BLOCKS, typical=4096, n=4096, bias=True)
MXFP8_GROUPS = programs.gemm("mxfp8_e4m3", typical=4096, n=4096, k=4096)
FEW_ROWS = {
    f"{name}, {rows} rows": programs.gemm("", name, typical=rows, n=4096, bias=True)
    for name in ("int4_g128_f16", "uint4_g128_f16", "uint4_g32_f16", "mxfp4", "nvfp4") for rows in (16, 64)
}  # fmt: skip
CHOSEN: dict[str, dict[str, str]] = {
    "sm_80": {"fp8": FP8, "int4": INT4},
    "sm_86": {"fp8": FP8},
    "sm_89": {"fp8": FP8},
    "sm_90": {
        "fp8": FP8,
        "int4": INT4,
        "mxfp8": MXFP8,
        "grouped": GROUPED,
        "batch in groups": programs.batch(),
        "many rows in groups": GROUPED_MANY,
        "few rows in groups": GROUPED_FEW,
        "counted rows in groups": programs.grouped(groups=32, n=4096, counted=256),
        "rows' scales in groups": programs.grouped("float8_row", "float8_row", typical=4096, n=4096),
        "columns' scales in groups": programs.grouped(b="float8_1x128", typical=4096, n=4096),
        "int8": programs.gemm("int8_row"),
        "fp8 in groups": FP8_GROUPS,
        "fp8 in turns": FP8_TURNS,
        "fused in groups": FUSED,
        "mxfp8 in groups": MXFP8_GROUPS,
        **FEW_ROWS,
    },
    "sm_100": {"fp8": FP8, "mxfp8": MXFP8, "nvfp4": NVFP4, "nvfp4 by columns": NVFP4_COLUMNS},
    "sm_103": {"nvfp4": NVFP4},
    "sm_120": {"mxfp8": MXFP8, "mxfp4": MXFP4, "nvfp4": NVFP4, "nvfp4 by columns": NVFP4_COLUMNS},
    "gfx942": {"fp8": FP8, "fnuz": programs.gemm("float8_e4m3fnuz_tensor"), "int4": INT4},
    "gfx950": {"fp8": FP8, "mxfp8": MXFP8, "mxfp4": MXFP4},
    "gfx1201": {"fp8": FP8, "int4": INT4},
}
"""Products of plain sizes, stored as most models store them: weights as [n, k]."""
INSTRUCTIONS = [
    ("sm_80", "fp8", ("mma.sync", "bf16.bf16")),
    ("sm_86", "fp8", ("mma.sync", "bf16.bf16")),
    ("sm_89", "fp8", ("mma.sync", "m16n8k32", "e4m3.e4m3")),
    ("sm_90", "fp8", ("wgmma", "e4m3.e4m3")),
    ("sm_90", "grouped", ("wgmma", "e4m3.e4m3")),
    ("sm_90", "batch in groups", ("wgmma", "m64n128k32", "e4m3.e4m3")),
    ("sm_90", "many rows in groups", ("wgmma", "m64n128k32", "e4m3.e4m3")),
    ("sm_90", "few rows in groups", ("wgmma", "m64n128k32", "e4m3.e4m3")),
    ("sm_90", "fp8 in groups", ("wgmma", "m64n128k32", "e4m3.e4m3")),
    ("sm_90", "fp8 in turns", ("wgmma", "m64n32k32", "e4m3.e4m3")),
    ("sm_90", "mxfp8 in groups", ("wgmma", "m64n128k16", "bf16.bf16")),
    ("sm_90", "int4", ("wgmma", "bf16.bf16")),
    *(("sm_90", name, ("wgmma", f"m64n{name.split()[1]}k16", "bf16.bf16")) for name in FEW_ROWS),
    ("sm_90", "int8", ("wgmma", "s8.s8")),
    ("sm_90", "mxfp8", ("wgmma", "bf16.bf16")),
    ("sm_100", "fp8", ("tcgen05.mma", "kind::f8f6f4")),
    ("sm_100", "mxfp8", ("tcgen05.mma", "mxf8f6f4", "block_scale")),
    ("sm_100", "nvfp4", ("tcgen05.mma", "mxf4nvf4", "block_scale", "block16")),
    ("sm_100", "nvfp4 by columns", ("tcgen05.mma", "mxf4nvf4", "block_scale", "block16")),
    ("sm_103", "nvfp4", ("tcgen05.mma", "mxf4nvf4", "block_scale")),
    ("sm_120", "mxfp8", ("mma.sync", "mxf8f6f4", "block_scale")),
    ("sm_120", "mxfp4", ("mma.sync", "mxf4nvf4", "block_scale", "ue8m0")),
    ("sm_120", "nvfp4", ("mma.sync", "mxf4nvf4", "block_scale", "ue4m3")),
    ("gfx942", "fp8", ("v_mfma_", "bf16")),
    ("gfx942", "fnuz", ("v_mfma_", "fp8_fp8")),
    ("gfx950", "fp8", ("v_mfma_", "f8f6f4")),
    ("gfx950", "mxfp8", ("v_mfma_scale_",)),
    ("gfx950", "mxfp4", ("v_mfma_scale_",)),
    ("gfx1201", "fp8", ("v_wmma_", "fp8_fp8")),
]
"""What a matrix product of each kind has to become: the part of a name that an instruction has."""
SPILLS = {("sm_89", "fp8"): 64}
"""Known spills, in bytes (NVIDIA) or registers (AMD); everything else has none."""


def jobs(count: int) -> int:
    """How many compilers run side by side; under pytest-xdist, its workers do."""
    return 1 if "PYTEST_XDIST_WORKER" in os.environ else min(count, os.cpu_count() or 1, 2)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_everything_compiles_to_the_right_instructions_and_nothing_spills(arch: str) -> None:
    results = compiled(arch, {**COMMON, **CHOSEN[arch]})
    text = table({arch: results})
    print(text)
    assert not [r.name for r in results.values() if r.error], text
    assert all(r.kernels for r in results.values()), text
    spilled = {(arch, r.name): sum(k.spills for k in r.kernels) for r in results.values()}
    assert all(spills <= SPILLS.get(key, 0) for key, spills in spilled.items()), text
    assert not [r.name for r in results.values() if any(k.serialized for k in r.kernels)], text
    wanted = [(name, parts) for a, name, parts in INSTRUCTIONS if a == arch]
    missing = [(name, parts) for name, parts in wanted if not any(k.has(*parts) for k in results[name].kernels)]
    assert not missing, text
    limit = find(f"triton:{arch}").capabilities.scratch_bytes
    assert all(k.shared <= limit for r in results.values() for k in r.kernels), text


def test_every_architecture_has_its_programs() -> None:
    assert list(CHOSEN) == list(ARCHITECTURES)


def conformance_programs(arch: str) -> dict[str, str]:
    """The texts of the conformance kit, once each: placements are chosen by the target here."""
    found: dict[str, str] = {}
    for program in conformance.programs(find(f"triton:{arch}").capabilities, all_recipes(), [(130, 576, 304)]):
        found.setdefault(f"{program.name} {program.recipe}", program.text)
    return found


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_conformance_programs_compile(arch: str, part: int) -> None:
    names = dict(list(conformance_programs(arch).items())[part::4])
    assert all(parse_module(text) for text in names.values())
    results = compiled(arch, names, timeout=1200)
    assert not [r for r in results.values() if r.error], table({arch: results})


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.GOLDEN)
def test_golden_programs_compile_everywhere(name: str) -> None:
    text = programs.GOLDEN[name][1]
    with ThreadPoolExecutor(jobs(len(ARCHITECTURES))) as pool:
        found = pool.map(lambda arch: compiled(arch, {name: text}), ARCHITECTURES)
        results = dict(zip(ARCHITECTURES, found, strict=True))
    assert not [r for by_name in results.values() for r in by_name.values() if r.error], table(results)
