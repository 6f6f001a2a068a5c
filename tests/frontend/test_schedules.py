"""Tuned schedules meet kernels: keys, the pass that takes entries, what explain says, and caches that do not hide them.

No GPU is needed: tensors of the host stand for those of a device whose name and architecture are made up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.frontend import cache, fingerprint, tables  # noqa: E402
from breccia.frontend.lower import Lowered  # noqa: E402
from breccia.frontend.schedules import about, kernel_key, kernel_text  # noqa: E402
from breccia.frontend.tables import Entry, Tables, add  # noqa: E402
from breccia.ir.rewriting import kernels  # noqa: E402
from breccia.passes.schedule import default_schedule  # noqa: E402
from tests.frontend.tuning.device import DEVICE, SECTION, pretend  # noqa: E402


def lowered(fn: Callable[..., Any], *args: Any, target: str = "triton:sm_90", **options: Any) -> Lowered:
    return breccia.compile(fn, target=target, **options).lower(*args)


def keys(low: Lowered) -> list[str]:
    return [kernel_key(kernel) for kernel in kernels(low.module_after("explode"))]


def operands(m: int = 64, n: int = 256, k: int = 512, left: str = "float8_1x128") -> tuple[Any, Any]:
    a, w = (torch.randn(*shape).bfloat16() for shape in ((m, k), (n, k)))
    return breccia.cast(a, recipes.find(left)), breccia.cast(w, recipes.float8_128x128)


def product(a: Any, w: Any) -> Any:
    return breccia.matmul(a, breccia.transpose(w), out_dtype="bfloat16")


def same_product(left_one: Any, weight: Any) -> Any:
    turned = breccia.transpose(weight)

    return breccia.matmul(left_one, turned, out_dtype="bfloat16")


def gated(x: Any) -> Any:
    return breccia.cast(breccia.silu(x) * x, recipes.float8_1x128)


def gated_twice(scale: Any, x: Any) -> Any:
    return breccia.cast(breccia.silu(x) * x, recipes.float8_1x128), scale + scale


# --- keys ---


def test_names_and_places_in_a_file_do_not_count() -> None:
    a, w = operands()
    assert keys(lowered(product, a, w)) == keys(lowered(same_product, a, w)) == keys(lowered(product, a, w, name="f"))


def test_symbols_names_do_not_count() -> None:
    x = torch.randn(40, 256).bfloat16()
    (one,) = keys(lowered(gated, x))
    assert one in keys(lowered(gated_twice, torch.randn(3, 7), x))  # where its size is called M1


@pytest.mark.parametrize(
    "other",
    [
        operands(m=65),
        operands(n=384),
        operands(k=640),
        operands(left="float8_row"),
    ],
)
def test_other_sizes_and_recipes_count(other: tuple[Any, Any]) -> None:
    assert keys(lowered(product, *operands())) != keys(lowered(product, *other))


def test_other_ops_count() -> None:
    x = torch.randn(40, 256).bfloat16()
    assert keys(lowered(gated, x)) != keys(lowered(lambda x: breccia.cast(x * x, recipes.float8_1x128), x))
    other = recipes.float8_1x128.with_policy(scale="ceil") if hasattr(recipes.Recipe, "with_policy") else None
    assert other is None or keys(lowered(lambda x: breccia.cast(x, other), x)) != keys(lowered(gated, x))


def test_unknown_rows_count_by_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "sm_90")
    found = {m: keys(lowered(gated, torch.randn(m, 256).bfloat16())) for m in (10, 16, 17, 32, 64, 200, 5000)}
    assert found[10] == found[16] != found[17] == found[32] != found[64] != found[200] != found[5000]
    assert len({key for (key,) in found.values()}) == 5


def test_a_schedule_and_what_passes_noted_do_not_count() -> None:
    low = lowered(product, *operands())
    (plain,), (scheduled,) = kernels(low.module_after("explode")), kernels(low.module_after("schedule"))
    assert scheduled.schedule is not None
    assert kernel_text(plain) == kernel_text(scheduled)
    assert "schedule<" not in kernel_text(scheduled)
    assert "reason" not in kernel_text(scheduled)


def test_looking_at_a_kernel_leaves_it_as_it_was() -> None:
    low = lowered(gated, torch.randn(40, 256).bfloat16())
    module = low.module_after("explode")
    before = str(module)
    (kernel,) = kernels(module)
    kernel_key(kernel)
    module.verify()
    assert str(module) == before
    assert about(kernel).endswith("bf16[M, 256] -> f8E4M3FN[M, 256], f32[M, 2]")


# --- entries that are taken ---


def entry(low: Lowered, **changes: Any) -> Entry:
    """An entry for the only kernel: its default with changes."""
    (kernel,) = kernels(low.module_after("explode"))
    default = default_schedule(kernel, low.target.capabilities, {})
    return Entry({**default, **changes}, "matmul", 120.0, 100.0, "2026-11-26")


def with_entry(low: Lowered, one: Entry) -> Lowered:
    return low.retargeted(tables=Tables([("your table", {keys(low)[0]: one})]))


def test_an_entry_is_taken_and_explained() -> None:
    low = lowered(product, *operands(m=4096, n=4096))
    tuned = with_entry(low, entry(low, raster=16))
    (kernel,) = kernels(tuned.module_after("schedule"))
    assert kernel.schedule is not None
    assert kernel.schedule.integer("raster", 0) == 16
    assert "chosen    by your table: 1.20 x the default when it was measured, 2026-11-26" in tuned.explain()
    assert "chosen    by the cost model\n" in low.explain()
    assert tuned.emitted() != low.emitted()


def test_an_entry_that_is_not_legal_is_ignored_with_the_reason() -> None:
    low = lowered(product, *operands(m=4096, n=4096))
    tuned = with_entry(low, entry(low, num_stages=77))
    assert tuned.emitted() == low.emitted()
    said = next(line for line in tuned.explain().splitlines() if line.startswith("  chosen"))
    assert said.startswith("  chosen    by the cost model; your table has <block_m = 64")
    assert "which is not legal: 77 stages" in said


def test_other_kernels_get_their_default() -> None:
    low = lowered(product, *operands(m=4096, n=4096))
    tuned = lowered(product, *operands(m=4095, n=4096)).retargeted(
        tables=Tables([("t", {keys(low)[0]: entry(low, raster=16)})])
    )
    assert "chosen    by the cost model\n" in tuned.explain()


def test_targets_without_a_space_do_not_say_how_schedules_were_chosen() -> None:
    assert "chosen" not in lowered(product, *operands(), target="numpy").explain()


# --- on a device ---


def store(low: Lowered, one: Entry, section: str = SECTION) -> None:
    file = tables.user_file(DEVICE)
    assert file is not None
    add(file, DEVICE, section, {keys(low)[0]: one})


def test_the_table_of_the_device_is_used_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    a, w = operands(m=4096, n=4096)
    away = lowered(product, a, w)
    pretend(monkeypatch, "sm_90")
    low = lowered(product, a, w)
    store(low, entry(low, raster=16))
    assert "by your table" in lowered(product, a, w).explain()
    assert "by your table" in lowered(product, a, w, target="triton:sm_90").explain()
    assert "by your table" not in lowered(product, a, w, target="triton:sm_100").explain()
    pretend(monkeypatch, "")
    assert lowered(product, a, w).emitted() == away.emitted()


def test_code_in_caches_does_not_hide_what_was_tuned_since(monkeypatch: pytest.MonkeyPatch) -> None:
    a, w = operands(m=4096, n=4096)
    pretend(monkeypatch, "sm_90")
    before = lowered(product, a, w)
    plain = before.source()
    store(before, entry(before, raster=16))
    after = lowered(product, a, w)
    assert after.code_key != before.code_key
    assert after.source() != plain
    assert lowered(product, a, w).source() == after.source()


def test_plans_on_disk_are_of_one_state_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 256).bfloat16()
    compiled: Any = breccia.compile(gated, target="triton:sm_90")
    pretend(monkeypatch, "sm_90")

    def plan() -> str | None:
        return compiled._plan_name(compiled._origin(), compiled._target([x]), [x], (x,), {})

    empty = plan()
    low = lowered(gated, x)
    store(low, entry(low, num_warps=4))
    tuned = plan()
    store(low, replace(entry(low, num_warps=4), date="2027-01-01"))
    again = plan()
    store(low, entry(low, num_warps=8))
    assert None not in (empty, tuned)
    assert empty != tuned == again != plan()


def test_plans_on_disk_are_of_one_range_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    few, more = (torch.randn(m, 256).bfloat16() for m in (16, 4096))
    assert fingerprint.signature((few,), {}, True) == fingerprint.signature((more,), {}, True)
    pretend(monkeypatch, "sm_90")
    assert fingerprint.signature((few,), {}, True) != fingerprint.signature((more,), {}, True)
    assert fingerprint.signature((few,), {}, True) == fingerprint.signature((few[:3],), {}, True)


def test_code_without_the_device_has_the_key_it_always_had(cache_folder: Path) -> None:
    a, w = operands()
    low = lowered(product, a, w)
    file = tables.user_file(DEVICE)
    assert file is not None
    key = low.code_key
    store(low, entry(low, num_stages=2))
    assert lowered(product, a, w).code_key == key
    assert cache.read(key) is None
