"""The space of schedules: what is in it is legal, becomes a kernel's schedule as it is, and can be emitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import Capabilities, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.kernel import KernelOp
from breccia.ir.pipeline import Pipeline
from breccia.ir.rewriting import kernels
from breccia.passes import default_pipeline, pipeline_names
from breccia.passes.schedule import Schedule
from breccia.target import find
from breccia.targets.triton.space import candidates, refusal
from breccia.testing.validate import validate_pipeline
from tests.targets.numpy.programs import SOFTMAX, normalized
from tests.targets.triton.programs import FP8_BLOCKS, gemm, grouped

TALL = """
func.func @tall(%x : !breccia.tensor<[M, 4096], bf16>) -> !breccia.tensor<[1, 1], f32> {
  %f = breccia.convert %x : f32
  %y = breccia.reduce max %f axis [0, 1]
  func.return %y : !breccia.tensor<[1, 1], f32>
}"""
PROGRAMS = {
    "many rows": (gemm(*FP8_BLOCKS, typical=4096, n=4096, k=7168), "sm_90"),
    "few rows": (gemm(*FP8_BLOCKS, typical=64, n=2112, k=7168), "sm_90"),
    "one scale a row": (gemm("float8_row", typical=4096, n=4096), "sm_90"),
    "decoded first": (gemm("mxfp8_e4m3", typical=4096, n=4096, k=4096), "sm_90"),
    "no wgmma": (gemm(*FP8_BLOCKS, typical=4096, n=4096), "sm_89"),
    "scaled instructions": (gemm("mxfp8_e4m3", typical=4096, n=4096), "sm_100"),
    "AMD": (gemm("mxfp4", typical=256), "gfx950"),
    "4 bits": (gemm("", "uint4_g128_f16", typical=16), "sm_90"),
    "unknown rows": (gemm(*FP8_BLOCKS), "sm_90"),
    "an end": (gemm(*FP8_BLOCKS, typical=4096, bias=True), "sm_90"),
    "grouped": (grouped(), "sm_90"),
    "softmax": (SOFTMAX, "sm_90"),
    "a cast": (normalized(), "sm_90"),
    "reduction": (TALL, "sm_90"),
}


def exploded(text: str, arch: str, **changes: int) -> tuple[ModuleOp, Capabilities]:
    """A program as `schedule` meets it."""
    capabilities = replace(find(f"triton:{arch}").capabilities, **changes)
    module = parse_module(text)
    set_target(module, capabilities)
    before = pipeline_names(capabilities).index("schedule")
    Pipeline(default_pipeline(capabilities)[:before]).run(module)
    return module, capabilities


def rest_of(module: ModuleOp, capabilities: Capabilities) -> ModuleOp:
    after = pipeline_names(capabilities).index("schedule")
    Pipeline(default_pipeline(capabilities)[after:]).run(module)
    return module


def spaces(name: str) -> Iterator[tuple[ModuleOp, Capabilities, int, list[dict[str, int | str]]]]:
    module, capabilities = exploded(*PROGRAMS[name])
    for number, kernel in enumerate(kernels(module)):
        yield module, capabilities, number, list(candidates(kernel, capabilities))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_default_is_first_and_all_are_legal_and_different(name: str) -> None:
    for module, capabilities, number, found in spaces(name):
        kernel = kernels(module)[number]
        assert all(refusal(kernel, capabilities, entries) == "" for entries in found)
        assert all(entries not in found[:i] for i, entries in enumerate(found))
        set_target(module, capabilities)
        Schedule().run(module)
        schedule = kernels(module)[number].schedule
        assert found[0] == (dict(schedule.data) if schedule is not None else {})


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_tried_becomes_the_schedule_as_it_is(name: str) -> None:
    for module, capabilities, number, found in spaces(name):
        for entries in found[:: max(1, len(found) // 12)]:
            trial = module.clone()
            set_target(trial, capabilities)
            kernels(trial)[number].properties["schedule"] = ScheduleAttr(tuple(entries.items()))
            Schedule().run(trial)
            assert dict(kernels(trial)[number].schedule.data) == entries


@pytest.mark.parametrize("name", ["many rows", "few rows", "no wgmma", "4 bits", "grouped", "a cast"])
def test_what_is_tried_can_be_emitted_and_differs(name: str) -> None:
    target = find(f"triton:{PROGRAMS[name][1]}")
    for module, capabilities, number, found in spaces(name):
        texts: set[str] = set()
        some = found[:: max(1, len(found) // 6)]
        for entries in some:
            trial = module.clone()
            set_target(trial, capabilities)
            kernels(trial)[number].properties["schedule"] = ScheduleAttr(tuple(entries.items()))
            texts.add(target.emit(rest_of(trial, capabilities)))
        assert len(texts) == len(some)


SMALL = {
    "groups": (gemm(*FP8_BLOCKS, typical=4096, k=256, n=384), "sm_90"),
    "turns": (gemm(*FP8_BLOCKS, typical=64, k=256, n=160, bias=True), "sm_90"),
    "plain": (gemm("mxfp8_e4m3", k=160, n=96), "sm_89"),
    "grouped": (grouped(k=256, n=128), "sm_90"),
    "a cast": (normalized(), "sm_90"),
}


@pytest.mark.parametrize("name", SMALL)
def test_passes_keep_their_contracts_whatever_the_schedule(name: str) -> None:
    """Translation validation of all that reads a schedule."""
    module, capabilities = exploded(*SMALL[name])
    found = candidates(kernels(module)[0], capabilities)
    after = pipeline_names(capabilities).index("schedule")
    for entries in found[1 :: max(1, len(found) // 3)]:
        trial = module.clone()
        kernels(trial)[0].properties["schedule"] = ScheduleAttr(tuple(entries.items()))
        validate_pipeline(trial, default_pipeline(capabilities)[after:], sizes=[{"M": 70}], kinds=("normal",))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("many rows", 30),
        ("few rows", 40),
        ("no wgmma", 20),
        ("4 bits", 20),
        ("grouped", 20),
        ("softmax", 5),
        ("a cast", 5),
    ],
)
def test_there_is_something_to_search(name: str, least: int) -> None:
    assert all(len(found) >= least for *_, found in spaces(name))


def test_reductions_of_whole_tensors_have_their_default_alone() -> None:
    assert [len(found) for *_, found in spaces("reduction")] == [1]


def test_few_rows_are_tried_in_plain_triton_too() -> None:
    ((*_, few),) = spaces("few rows")
    ((*_, many),) = spaces("many rows")
    assert {"groups" in entries for entries in few} == {True, False}
    assert {"groups" in entries for entries in many} == {True}


def test_less_memory_leaves_fewer() -> None:
    text, arch = PROGRAMS["many rows"]
    found = {kib: len(_all(text, arch, scratch_bytes=kib << 10)) for kib in (227, 160, 140)}
    assert found[227] > found[160] > found[140] > 1


def _all(text: str, arch: str, **changes: int) -> tuple[dict[str, int | str], ...]:
    module, capabilities = exploded(text, arch, **changes)
    return candidates(kernels(module)[0], capabilities)


def _only(name: str) -> tuple[KernelOp, Capabilities, dict[str, int | str]]:
    module, capabilities = exploded(*PROGRAMS[name])
    _KEPT.append(module)  # a kernel does not keep its module
    kernel = kernels(module)[0]
    return kernel, capabilities, candidates(kernel, capabilities)[0]


_KEPT: list[ModuleOp] = []


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("many rows", {"num_stages": 9}, "9 stages; from 2 to 4"),
        ("many rows", {"num_stages": 1}, "1 stages"),
        ("many rows", {"num_stages": "x"}, "x stages"),
        ("many rows", {"raster": 5}, "raster 5; allowed: 8, 4, 16"),
        ("many rows", {"groups": 7}, "no program has that shape"),
        ("many rows", {"num_warps": 8}, "num_warps"),
        ("many rows", {"swizzle": 3}, "swizzle"),
        ("few rows", {"num_stages": 3}, "steps of 2"),
        ("no wgmma", {"groups": 2}, "does not suit groups of warps"),
        ("no wgmma", {"num_stages": 40}, "of scratch memory hold"),
        ("no wgmma", {"num_warps": 3}, "3 warps; allowed: 1, 2"),
        ("no wgmma", {"num_warps": 1}, "registers of a thread"),
        ("no wgmma", {"block_k": 100}, "its tiles do not fit"),
        ("no wgmma", {"block_m": 0}, "block_m = 0"),
        ("no wgmma", {"block_m": True}, "block_m = True"),
        ("no wgmma", {"decode": "apart"}, "decode = apart"),
        ("no wgmma", {"colour": 1}, "an entry colour"),
        ("a cast", {"block_m": 1 << 16}, "elements for each thread"),
        ("a cast", {"num_stages": 3}, "an entry num_stages"),
        ("reduction", {"block_m": 64}, "no schedule but the default"),
    ],
)
def test_what_is_not_legal_is_refused_with_the_reason(name: str, change: dict[str, int | str], reason: str) -> None:
    kernel, capabilities, default = _only(name)
    assert reason in refusal(kernel, capabilities, {**default, **change})


def test_schedules_that_leave_something_out_are_refused() -> None:
    for name in ("many rows", "no wgmma", "a cast"):
        kernel, capabilities, default = _only(name)
        for key in default:
            assert refusal(kernel, capabilities, {k: v for k, v in default.items() if k != key})
