"""Shapes of programs on Hopper: what the cost model picks, and where it does not apply."""

from __future__ import annotations

import pytest

from breccia.ir.kernel import KernelOp
from breccia.passes._group_tiles import FEW, SHAPES, TURNS, WITHIN_GROUPS, Shape, cost
from breccia.target import find
from tests.targets.triton.programs import FP8_BLOCKS, gemm, grouped, lowered

SM_90 = find("triton:sm_90").capabilities


def best(rows: int, columns: int, depth: int) -> Shape:
    few = FEW if rows <= FEW[0].rows else ()
    return min((*SHAPES, *few, *TURNS), key=lambda shape: cost(shape, rows, columns, -(-depth // 128)))


@pytest.mark.parametrize(
    ("size", "rows", "columns", "turns"),
    [
        ((8192, 8192, 8192), 256, 128, 1),
        ((4096, 7168, 16384), 256, 128, 1),
        (
            (4096, 2112, 7168),
            192,
            128,
            1,
        ),  # three rounds of tiles, nearly full
        ((64, 2112, 7168), 64, 16, 2),
        ((128, 2112, 7168), 64, 32, 2),
        ((64, 7168, 16384), 64, 64, 2),
        ((64, 7168, 2048), 64, 64, 2),
        ((16, 8192, 8192), 64, 64, 2),
        ((128, 7168, 16384), 64, 128, 2),
        ((128, 7168, 2048), 128, 64, 1),
        ((128, 24576, 1536), 128, 192, 1),
        ((128, 32768, 512), 128, 256, 1),
    ],
)
def test_what_was_quickest_on_a_device_is_picked(
    size: tuple[int, int, int], rows: int, columns: int, turns: int
) -> None:
    shape = best(*size)
    assert (shape.rows, shape.columns, shape.turns) == (rows, columns, turns)


def schedule(text: str, arch: str = "sm_90") -> dict[str, int | str]:
    kernels = [op for op in lowered(text, arch).walk() if isinstance(op, KernelOp) and op.step.blocks]
    assert len(kernels) == 1
    assert kernels[0].schedule is not None
    return dict(kernels[0].schedule.data)


def test_products_of_bytes_are_shared_by_groups_on_hopper_alone() -> None:
    text = gemm("float8_1x128", "float8_128x128", typical=4096, n=4096)
    assert schedule(text)["groups"] == 2
    assert "groups" not in schedule(text, "sm_89")
    assert "groups" not in schedule(text, "sm_100")


def test_turns_have_an_even_number_of_stages() -> None:
    found = schedule(gemm("float8_1x128", "float8_128x128", typical=64, n=2112, k=7168))
    assert found["turns"] == 2
    assert int(found["num_stages"]) % 2 == 0


def test_scales_of_both_sides_along_k_leave_no_room_for_a_second_tile() -> None:
    found = schedule(gemm("float8_1x128", typical=4096, n=4096))
    assert (found["groups"], found["waves_m"], found["waves_n"]) == (2, 1, 1)


def test_weights_of_4_bits_and_unknown_rows_stay_as_they_were() -> None:
    assert "groups" not in schedule(gemm("", "uint4_g128_f16", typical=4096))
    assert "groups" not in schedule(gemm("float8_1x128", "float8_128x128"))


def test_operands_decoded_apart_are_shared_as_halves() -> None:
    found = schedule(gemm("mxfp8_e4m3", typical=4096, n=4096, k=4096))
    assert (found["groups"], found["block_k"]) == (2, 64)


def test_scratch_memory_holds_all_stages() -> None:
    for typical in (64, 128, 4096):
        for pair in (("float8_row", "float8_row"), FP8_BLOCKS):
            found = schedule(gemm(*pair, typical=typical, n=2112))
            steps = int(found.get("steps", 1))
            rows = 64 * int(found["groups"]) * int(found["waves_m"])
            stage = (rows + int(found["block_n"]) * int(found["waves_n"])) * 128 * steps
            assert stage * int(found["num_stages"]) < SM_90.scratch_bytes


@pytest.mark.parametrize(
    ("groups", "rows", "tile"), [(32, 256, (128, 256)), (32, 128, (128, 256)), (32, 16, (64, 256))]
)
def test_groups_of_few_rows_have_low_tiles(groups: int, rows: int, tile: tuple[int, int]) -> None:
    found = min(WITHIN_GROUPS, key=lambda shape: cost(shape, rows, 4096, 56, groups))
    assert (found.rows, found.columns) == tile


def test_grouped_products_of_bytes_as_rows_of_k_are_shared_by_groups_of_warps() -> None:
    text = grouped(n=4096, k=1024, groups=8, typical=8192)
    found = schedule(text)
    assert (found["block_m"], found["groups"]) == (64, 2)
    assert "decode" not in found
    assert "groups" not in schedule(text, "sm_89")
    assert "groups" not in schedule(grouped())  # rows are not known
    upright = text.replace("%t = breccia.transpose %w [0, 2, 1]", "").replace("%t,", "%w,")
    upright = upright.replace("8, 4096, 1024", "8, 1024, 4096")
    assert "groups" not in schedule(upright)
    assert "groups" not in schedule(grouped("mxfp8_e4m3", "mxfp8_e4m3", n=4096, k=1024, groups=8, typical=8192))


def test_scales_of_both_sides_along_k_leave_half_a_tile_to_a_group_of_rows() -> None:
    found = schedule(grouped(b="float8_1x128", n=4096, k=1024, groups=8, typical=8192))
    assert (found["groups"], found["waves_m"], found["waves_n"], found["block_n"]) == (2, 1, 1, 64)
