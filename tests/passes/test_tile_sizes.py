"""Tile sizes where a program is a group of warps: registers, scratch memory, expected sizes, and what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import Capabilities, Mma, TileRow, set_target
from breccia.ir.hints import set_typical
from breccia.ir.pipeline import Pipeline
from breccia.ir.rewriting import functions, kernels
from breccia.passes.explode import Explode
from breccia.passes.schedule import Schedule
from breccia.passes.split_decode import SplitDecode
from breccia.passes.tile import Tile
from breccia.testing.validate import validate_pipeline
from tests.passes.kernel_cases import CASES, SMALL_SIZES
from tests.passes.kernel_texts import SMALL, gemm, module, plain, quantize_kernel

GPU = Capabilities(
    "test:gpu",
    mma=(Mma("f8E4M3FN", "f8E4M3FN", 32), Mma("bf16", "bf16", 16)),
    compute=("bf16", "f32"),
    tiles=(TileRow("gemm", 128, 128, 128), TileRow("grouped", 128, 128, 128), TileRow("rowwise", 8, 512, 1)),
    pow2_tiles=True,
    decode_rows=512,
    scratch_bytes=227 << 10,
)
HOPPER = replace(GPU, name="test:hopper", features=("wgmma",))
TIGHT = replace(GPU, name="test:tight", scratch_bytes=64 << 10)
ROW = 8 * 512


def scheduled(source: ModuleOp, capabilities: Capabilities = GPU, **said: int | str) -> dict[str, int | str]:
    set_target(source, capabilities)
    if said:
        kernels(source)[0].properties["schedule"] = ScheduleAttr(tuple(said.items()))
    Pipeline([Explode(), Schedule()]).run(source)
    schedule = kernels(source)[0].schedule
    return {} if schedule is None else dict(schedule.data)


def elements(entries: dict[str, int | str], columns: int) -> int:
    rows, width = entries.get("block_m", 1), entries.get("block_n", columns)
    assert isinstance(rows, int)
    assert isinstance(width, int)
    return rows * width


def power_of_two(n: int | str) -> bool:
    return isinstance(n, int) and n > 0 and n & (n - 1) == 0


def mx(m: str, n: str = "4096", k: str = "4096") -> ModuleOp:
    return gemm("mxfp8", "mxfp8.T", "operand", "operand", m, k, n, "bf16")


def plain_product(m: str, n: str = "4096") -> ModuleOp:
    return gemm("", "", "", "", m, "4096", n)


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [64, 300, 1024, 4096])
def test_a_tile_of_rows_holds_as_many_elements_as_the_row_says(columns: int) -> None:
    source = module({"x": plain(f"M, {columns}")}, "%y = reduce sum %x axis [1]", {"y": plain("M, 1")})
    power = 1 << (columns - 1).bit_length()
    held = scheduled(source).get("block_m", 1)
    assert isinstance(held, int)
    assert held * min(power, ROW) <= ROW
    entries = scheduled(quantize_kernel("row", f"M, {columns}"))
    assert "block_n" not in entries, "a scale of the row needs all of it"
    assert elements(entries, power) == ROW


@pytest.mark.parametrize("fmt", ["1x128", "mxfp8", "nvfp4"])
def test_rows_that_need_not_be_whole_come_in_tiles(fmt: str) -> None:
    source = quantize_kernel(fmt, "M, 8192") if fmt != "nvfp4" else CASES["quantize nvfp4, outer given"]()
    columns = 8192 if fmt != "nvfp4" else 100
    entries = scheduled(source)
    assert elements(entries, columns) <= ROW
    assert all(power_of_two(v) for v in entries.values())


def test_long_rows_that_must_be_whole_come_one_at_a_time() -> None:
    assert scheduled(quantize_kernel("row", "M, 16384")).get("block_m", 1) == 1


def test_columns_that_must_be_whole_leave_room_for_fewer_of_them() -> None:
    source = module({"x": plain("4096, N")}, "%y = reduce sum %x axis [0]", {"y": plain("1, N")})
    assert scheduled(source) == {"block_n": 64, "num_warps": 16}, "a cache line of each"
    source = module({"x": plain("100000, 4")}, "%t = transpose %x [1, 0]\n%y = unary neg %t", {"y": plain("4, 100000")})
    assert elements(scheduled(source), 1) * 4 == ROW


def test_blocks_along_the_rows_leave_room_for_fewer_columns() -> None:
    entries = scheduled(quantize_kernel("128x128", "M, 8192"))
    assert entries["block_m"] == entries["block_n"] == 128
    entries = scheduled(quantize_kernel("128x1", "8192, 8192"))
    assert entries["block_m"] == 128
    assert elements(entries, 8192) == max(ROW, 128 * 64)


def test_a_tile_divides_the_rows_where_one_not_much_shorter_does() -> None:
    assert scheduled(quantize_kernel("1x128", "M, 1792"))["block_n"] in (256, 512)  # 1792 = 7 * 256
    width = scheduled(quantize_kernel("1x128", "M, 8256"))["block_n"]  # 64.5 * 128: every tile ends beyond the row
    assert isinstance(width, int)
    assert width >= 256


def test_warps_grow_with_what_a_tile_holds() -> None:
    few, many = (scheduled(quantize_kernel("row", f"M, {n}"))["num_warps"] for n in (4096, 65536))
    assert power_of_two(few)
    assert power_of_two(many)
    assert few < many <= 16  # type: ignore[operator]


# -- products ----------------------------------------------------------------------------------------------------------


def test_few_rows_get_tiles_of_few_rows() -> None:
    for rows in (16, 40, 64):
        entries = scheduled(plain_product(str(rows)))
        assert "block_m" not in entries, "one tile covers all of them"
        assert entries["num_warps"] == 4
    assert scheduled(plain_product("100"))["block_n"] > scheduled(plain_product("64"))["block_n"]  # type: ignore[operator]


def test_expected_rows_count_where_the_size_is_open() -> None:
    def entries(size: int) -> dict[str, int | str]:
        source = plain_product("M")
        set_typical(next(functions(source)), {"M": size})
        return scheduled(source)

    assert entries(16)["block_m"] == 16
    assert entries(64)["block_m"] == 64
    assert entries(4096) == scheduled(plain_product("4096"))


def test_stages_fit_the_scratch_memory() -> None:
    for capabilities in (GPU, TIGHT):
        entries = scheduled(plain_product("4096"), capabilities)
        m, n, k, stages = (int(entries[e]) for e in ("block_m", "block_n", "block_k", "num_stages"))
        assert stages >= 2
        assert (m + n) * k * 2 * stages <= capabilities.scratch_bytes
    assert scheduled(plain_product("4096"), TIGHT)["block_k"] < 128  # type: ignore[operator]


def test_wide_tiles_are_for_16_bits_and_much_scratch_memory() -> None:
    assert scheduled(plain_product("4096"))["block_n"] == 256
    assert scheduled(plain_product("4096"), TIGHT)["block_n"] == 128
    assert scheduled(gemm("row", "column", "epilogue", "epilogue", "4096", "4096", "4096"))["block_n"] == 128


def test_what_is_said_is_kept_and_the_rest_follows_from_it() -> None:
    entries = scheduled(plain_product("4096"), block_n=64, num_stages=1)
    assert entries["block_n"] == 64
    assert entries["num_stages"] == 1
    assert entries["num_warps"] == 4, "128 x 64 sums are few"
    assert scheduled(plain_product("4096"), TIGHT, block_k=128)["block_k"] == 128
    rows = scheduled(quantize_kernel("row", "M, 4096"), block_m=2)
    assert rows["block_m"] == 2
    assert rows["num_warps"] > scheduled(quantize_kernel("row", "M, 4096"), block_m=1)["num_warps"]  # type: ignore[operator]
    assert scheduled(quantize_kernel("1x128", "M, 4096"), block_n=128)["block_n"] == 128


# -- decoding apart ----------------------------------------------------------------------------------------------------


def test_operands_of_large_products_are_decoded_apart() -> None:
    assert scheduled(mx("4096"))["decode"] == "apart"
    assert scheduled(mx("512", "512"))["decode"] == "apart"


@pytest.mark.parametrize(("m", "n"), [("511", "4096"), ("4096", "500"), ("16", "4096"), ("M", "4096")])
def test_few_rows_or_columns_are_decoded_in_place(m: str, n: str) -> None:
    assert "decode" not in scheduled(mx(m, n))


def test_expected_rows_count_for_decoding_too() -> None:
    for size, wanted in ((256, None), (4096, "apart")):
        source = mx("M")
        set_typical(next(functions(source)), {"M": size})
        assert scheduled(source).get("decode") == wanted


def test_targets_say_whether_and_from_where_on() -> None:
    assert "decode" not in scheduled(mx("4096"), replace(GPU, decode_rows=0))
    assert "decode" not in scheduled(mx("4096"), replace(GPU, decode_rows=8192))
    assert scheduled(mx("M"), decode="apart")["decode"] == "apart"
    assert scheduled(mx("4096"), decode="inside")["decode"] == "inside"


def test_bytes_that_are_multiplied_as_they_are_go_apart_only_to_be_turned() -> None:
    row = ("row", "column", "epilogue", "epilogue", "4096", "4096", "4096")
    assert "decode" not in scheduled(gemm(*row))
    assert scheduled(gemm(*row), HOPPER)["decode"] == "apart"


def test_plain_operands_and_groups_have_nothing_to_decode() -> None:
    assert "decode" not in scheduled(plain_product("4096"))
    assert "decode" not in scheduled(CASES["grouped, mainloop"](), replace(GPU, decode_rows=1))


def test_a_large_product_becomes_three_kernels_and_one_of_few_rows_stays_whole() -> None:
    for m, wanted in (("512", 3), ("16", 1)):
        source = mx(m, "512", "512")
        set_target(source, GPU)
        Pipeline([Explode(), Schedule(), Tile(), SplitDecode()]).run(source)
        assert len(kernels(source)) == wanted


@pytest.mark.parametrize(
    "case", ["quantize 1x128", "quantize 128x128", "quantize mxfp8", "dequantize nvfp4", "broadcast", "transpose"]
)
def test_rows_in_tiles_mean_the_same(case: str) -> None:
    source = CASES[case]()
    set_target(source, replace(SMALL, name="test:powers", pow2_tiles=True))
    validate_pipeline(source, [Explode(), Schedule(), Tile()], sizes=SMALL_SIZES, kinds=("normal", "nan"))
