"""Few rows and weights of 4 bits on Hopper: which products decode in registers, and the shape of their programs."""

from __future__ import annotations

import pytest

from breccia.ir.kernel import KernelOp
from breccia.passes import _tile_sizes, _weight_tiles
from breccia.passes._weight_tiles import SHAPES, Shape, cost
from breccia.target import find
from tests.targets.triton.programs import gemm, lowered

SM_90 = find("triton:sm_90").capabilities
DECODED = ("int4_g128_f16", "int4_g128_bf16", "int4_g128_f32", "uint4_g128_f16", "mxfp4", "nvfp4")


def schedule(text: str, arch: str = "sm_90") -> dict[str, int | str]:
    (kernel,) = [op for op in lowered(text, arch).walk() if isinstance(op, KernelOp) and op.step.blocks]
    assert kernel.schedule is not None
    return dict(kernel.schedule.data)


def swapped(text: str, arch: str = "sm_90") -> bool:
    return schedule(text, arch).get("operands") == "swapped"


@pytest.mark.parametrize("name", DECODED)
@pytest.mark.parametrize("rows", [16, 64])
def test_few_rows_meet_decoded_weights(name: str, rows: int) -> None:
    found = schedule(gemm("", name, typical=rows, n=4096, k=4096))
    assert (found["operands"], found["block_m"], found["block_n"], found["block_k"]) == ("swapped", rows, 64, 128)


@pytest.mark.parametrize("block", [32, 64])
def test_shorter_groups_make_shorter_steps(block: int) -> None:
    found = schedule(gemm("", f"uint4_g{block}_f16", typical=16, n=4096))
    assert (found["block_k"], found["steps"]) == (block, 4)


def test_other_architectures_and_more_rows_do_not_swap() -> None:
    assert not swapped(gemm("", "mxfp4", typical=16), "sm_89")
    assert not swapped(gemm("", "mxfp4", typical=16), "sm_100")
    assert not swapped(gemm("", "mxfp4", typical=256))
    assert not swapped(gemm("", "mxfp4"))  # rows that nothing is known of


@pytest.mark.parametrize(
    "text",
    [
        gemm("", "mxfp4", typical=16, rows=False),  # a weight [K, N]: neighbours in a byte are not neighbours along k
        gemm("", "nf4", typical=16),  # values from a table
        gemm("", "float8_128x128", typical=16),
        gemm("mxfp8_e4m3", "mxfp4", typical=16),
        gemm("", "mxfp4", typical=16).replace("[M, 1024], bf16", "[M, 1024], f16"),  # float16 does not hold the scales
    ],
    ids=["K, N", "table", "bytes", "two scaled", "float16"],
)
def test_other_products_do_not_swap(text: str) -> None:
    found = lowered(text, "sm_90")
    schedules = [dict(op.schedule.data) for op in found.walk() if isinstance(op, KernelOp) and op.schedule is not None]
    assert schedules
    assert not any("operands" in each for each in schedules)


def test_integers_are_decoded_to_float16_as_well() -> None:
    assert swapped(gemm("", "int4_g128_f16", typical=16).replace("[M, 1024], bf16", "[M, 1024], f16"))


@pytest.mark.parametrize(
    ("rows", "columns", "groups"), [(64, 8192, 1), (64, 28672, 2), (33, 28672, 2), (16, 28672, 1), (1, 8192, 1)]
)
def test_groups_share_the_activation_where_there_are_tiles_enough(rows: int, columns: int, groups: int) -> None:
    typical = 16 if rows <= 16 else 64
    assert schedule(gemm("", "mxfp4", typical=typical, n=columns))["groups"] == groups


def test_the_activation_costs_where_it_is_read_for_every_tile() -> None:
    apart, shared = Shape(64, 2, 2), Shape(64, 1, 2, 2)
    assert cost(shared, 64, 28672) < cost(apart, 64, 28672)
    assert cost(apart, 64, 8192) < cost(shared, 64, 8192)  # half of the multiprocessors would have nothing to do


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scratch_memory_holds_all_stages(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHAPES", "SCALED_SHAPES"):
        monkeypatch.setattr(_weight_tiles, name, (shape,))
    found = schedule(gemm("", "mxfp4", typical=shape.rows, n=4096))
    stages, turns = int(found["num_stages"]), int(found["turns"])
    stage = (64 * 64 * shape.groups + shape.rows * 256) * shape.steps
    assert stages % turns == 0
    assert stage * stages + (turns - 1) * 64 * shape.rows * 4 < SM_90.scratch_bytes


def test_without_shapes_everything_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHAPES", "SCALED_SHAPES"):
        monkeypatch.setattr(_weight_tiles, name, ())
    assert not swapped(gemm("", "mxfp4", typical=16, n=4096))


def test_plain_triton_swaps_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    text = gemm("", "mxfp4", typical=16, n=4096)
    monkeypatch.setattr(_tile_sizes, "SWAPPED_ROWS", 16)
    assert swapped(text, "sm_80")
    assert not swapped(gemm("", "mxfp4", typical=64, n=4096), "sm_80")
    assert not swapped(gemm("float8_1x128", "float8_128x128", typical=16), "sm_89")  # multiplied as it is stored
