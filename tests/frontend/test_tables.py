"""Files of tuned schedules: what they hold, damage, merging by several processes at once, and precedence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from breccia.errors import FormatError
from breccia.frontend import cache, tables
from breccia.frontend.tables import Entry, Table, Tables, TableWarning, add, parse, read, show, slug
from breccia.target import Target, find

DEVICE = "Fake GPU 80GB"
KEYS = [f"{number:032x}" for number in range(40)]
ENTRY = Entry({"block_m": 64, "num_stages": 4, "decode": "apart"}, "matmul: a -> b", 120.5, 100.25, "2026-11-26")
SECTION = "triton:sm_90, triton 3.6, space 1"


@pytest.fixture(autouse=True)
def nothing_read_before() -> Iterator[None]:
    read.cache_clear()
    yield
    read.cache_clear()


def table(*keys: str, section: str = SECTION, device: str = DEVICE, **changes: Any) -> Table:
    return Table(device, {section: {key: replace(ENTRY, **changes) for key in keys or KEYS[:1]}})


# --- text ---


def test_text_reads_back() -> None:
    for one in (Table(DEVICE), table(), table(*KEYS[:3]).merged("numpy, 1", {KEYS[4]: ENTRY})):
        assert parse(show(one)) == one


def test_gain() -> None:
    assert ENTRY.gain == pytest.approx(1.202, abs=1e-3)


def test_each_entry_is_a_line_of_its_own() -> None:
    lines = show(table(*KEYS[:3])).splitlines()
    assert sum(KEYS[i] in line for i in range(3) for line in lines) == 3
    assert not any(KEYS[0] in line and KEYS[1] in line for line in lines)


def changed(path: tuple[str, ...], value: Any) -> str:
    data = json.loads(show(table()))
    at = data
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return json.dumps(data)


PLACE = ("sections", SECTION, KEYS[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        (show(table())[:-20], "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "format 1, but 'list'"),
        ("{}", "format 1, but None"),
        (changed(("format",), 2), "format 1, but 2"),
        (changed(("device",), 3), '"device"'),
        (changed(("sections",), []), '"sections"'),
        (changed(("sections", SECTION), []), "is no object"),
        (changed(("sections", SECTION, "import os"), {}), "no entry by the hash"),
        (changed(PLACE, 3), "no entry by the hash"),
        (changed((*PLACE, "schedule"), None), "no schedule"),
        (changed((*PLACE, "schedule", "block_m"), 1.5), "no schedule"),
        (changed((*PLACE, "schedule", "block_m"), True), "no schedule"),
        (changed((*PLACE, "schedule", "block_m"), "a b"), "no schedule"),
        (changed((*PLACE, "schedule", "a>"), 3), "no schedule"),
        (changed((*PLACE, "default_us"), -1), "default_us"),
        (changed((*PLACE, "tuned_us"), "3"), "tuned_us"),
        (changed((*PLACE, "tuned_us"), True), "tuned_us"),
        (changed((*PLACE, "date"), 3), "kernel and date"),
    ],
)
def test_what_is_no_table_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse(text)


# --- files ---


def test_no_file_is_no_table_and_no_warning(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json", DEVICE) is None


@pytest.mark.parametrize("contents", [b"", b"\xff\xfe", b"{}", show(table(device="Other")).encode()])
def test_damaged_and_foreign_files_are_named_and_ignored(tmp_path: Path, contents: bytes) -> None:
    file = tmp_path / "gpu.json"
    file.write_bytes(contents)
    with pytest.warns(TableWarning, match=r"gpu\.json is ignored: .*breccia tune"):
        assert read(file, DEVICE) is None


def test_a_file_that_cannot_be_read_is_ignored(tmp_path: Path) -> None:
    with pytest.warns(TableWarning, match="cannot be read"):
        assert read(tmp_path, DEVICE) is None


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(show(table()))
    first = read(file, DEVICE)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("read again"))
    assert read(file, DEVICE) is first


def test_entries_are_added_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "below" / "gpu.json"
    add(file, DEVICE, SECTION, {KEYS[0]: ENTRY})
    add(file, DEVICE, "other", {KEYS[0]: ENTRY})
    add(file, DEVICE, SECTION, {KEYS[1]: ENTRY, KEYS[0]: replace(ENTRY, tuned_us=90.0)})
    found = read(file, DEVICE)
    assert found is not None
    assert found.sections == {
        SECTION: {KEYS[0]: replace(ENTRY, tuned_us=90.0), KEYS[1]: ENTRY},
        "other": {KEYS[0]: ENTRY},
    }
    assert [path.name for path in file.parent.iterdir()] == ["gpu.json"]
    assert file.stat().st_mode & 0o777 == 0o644 or os.name != "posix"


def test_adding_to_a_damaged_file_keeps_it_aside(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text("half of a ta")
    with pytest.warns(TableWarning):
        add(file, DEVICE, SECTION, {KEYS[0]: ENTRY})
    assert read(file, DEVICE) == table()
    assert file.with_suffix(".json.damaged").read_text() == "half of a ta"


def test_a_failed_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gpu.json"
    add(file, DEVICE, SECTION, {KEYS[0]: ENTRY})

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        add(file, DEVICE, SECTION, {KEYS[1]: ENTRY})
    monkeypatch.undo()
    read.cache_clear()
    assert read(file, DEVICE) == table()
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


ADDING = """
import sys
from pathlib import Path
from breccia.frontend.tables import Entry, add
for key in sys.argv[2:]:
    add(Path(sys.argv[1]), "Fake GPU 80GB", "section", {key: Entry({"block_m": 64}, "k", 2.0, 1.0, "2026-11-26")})
"""


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    halves = KEYS[:20], KEYS[20:]
    started = [subprocess.Popen([sys.executable, "-c", ADDING, str(file), *half]) for half in halves]
    assert [process.wait() for process in started] == [0, 0]
    found = read(file, DEVICE)
    assert found is not None
    assert set(found.sections["section"]) == set(KEYS)


def test_the_cache_that_loses_old_entries_keeps_tables(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    file = tables.user_file(DEVICE)
    assert file == cache_folder / "tuned" / "fake-gpu-80gb.json"
    add(file, DEVICE, SECTION, {KEYS[0]: ENTRY})
    for number in range(5):
        (cache_folder / f"code-{number}").write_text("")
    cache._prune_once.cache_clear()
    cache.write("code-x", 1)
    assert len(list(cache_folder.iterdir())) < 5
    assert read(file, DEVICE) == table()


def test_names_of_files() -> None:
    assert slug("AMD Instinct MI300X (gfx942)") == "amd-instinct-mi300x-gfx942"


# --- which entries a call gets ---


def test_later_tables_win_and_the_digest_is_that_of_schedules() -> None:
    section = {KEYS[0]: ENTRY, KEYS[1]: ENTRY}
    mine = {KEYS[0]: replace(ENTRY, schedule={"block_m": 128})}
    both = Tables([("shipped", section), ("mine", mine)])
    first, second = both.find(KEYS[0]), both.find(KEYS[1])
    assert first is not None
    assert second is not None
    assert (first.origin, first.entry.schedule["block_m"]) == ("mine", 128)
    assert (second.origin, both.find(KEYS[2])) == ("shipped", None)
    later = {key: replace(entry, date="2027-01-01", tuned_us=1.0) for key, entry in section.items()}
    assert Tables([("a", section)]).digest == Tables([("b", later)]).digest != both.digest
    assert Tables().digest == Tables([("empty", {})]).digest == ""
    assert Tables([("shipped", section)]).extended("mine", mine).digest == both.digest


class Stranger:
    """A device's array, as far as tables ask."""


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """Triton's target with a folder of tables of its own, and a compiler that is not asked."""
    found = find("triton:sm_90")
    assert found.tuning is not None
    tuning = replace(
        found.tuning, version=lambda: "triton 3.6, space 1", device=lambda _: DEVICE, tables=tmp_path / "shipped"
    )
    return replace(found, tuning=tuning)


def on(monkeypatch: pytest.MonkeyPatch, architecture: str) -> list[Any]:
    """A call's arrays, on a device of that architecture."""

    class Space:
        @staticmethod
        def architecture(_: Any) -> str:
            return architecture

    monkeypatch.setattr(tables, "foreign", lambda _: "torch")
    monkeypatch.setattr(tables, "namespace", lambda _: Space)
    return [Stranger()]


def ship(target: Target, one: Table) -> None:
    assert target.tuning is not None
    target.tuning.tables.mkdir()
    (target.tuning.tables / f"{slug(one.device)}.json").write_text(show(one))


def test_the_users_entries_win_over_shipped_ones(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = on(monkeypatch, "sm_90")
    ship(target, table(*KEYS[:2]))
    mine = tables.user_file(DEVICE)
    assert mine is not None
    add(mine, DEVICE, SECTION, {KEYS[1]: replace(ENTRY, schedule={"block_m": 128})})
    found = [tables.tables_of(target, leaves).find(key) for key in KEYS[:3]]
    assert [one and one.origin for one in found] == [f"breccia's table for {DEVICE}", "your table", None]
    assert found[1] is not None
    assert found[1].entry.schedule == {"block_m": 128}


def test_another_architecture_device_or_version_finds_nothing(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    ship(target, table())
    assert target.tuning is not None
    assert tables.tables_of(target, on(monkeypatch, "sm_90")).find(KEYS[0]) is not None
    assert tables.tables_of(target, on(monkeypatch, "sm_89")).find(KEYS[0]) is None
    leaves = on(monkeypatch, "sm_90")
    for change in ({"version": lambda: "triton 3.7, space 1"}, {"version": lambda: "triton 3.6, space 2"}):
        other = replace(target, tuning=replace(target.tuning, **change))
        assert tables.tables_of(other, leaves).find(KEYS[0]) is None
    other = replace(target, tuning=replace(target.tuning, device=lambda _: "Fake GPU"))
    assert tables.tables_of(other, leaves).find(KEYS[0]) is None


def test_without_the_device_there_is_no_table(target: Target) -> None:
    ship(target, table())
    assert tables.tables_of(target, [np.ones(3)]).digest == ""
    assert tables.tables_of(target, []).digest == ""


def test_a_target_without_a_space_has_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables.tables_of(find("numpy"), on(monkeypatch, "")).digest == ""
    assert "no schedules to choose among" in tables.untunable(find("numpy"), [])


def test_without_a_cache_there_are_shipped_tables_alone(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = on(monkeypatch, "sm_90")
    ship(target, table())
    monkeypatch.setenv("BRECCIA_CACHE", "0")
    assert tables.tables_of(target, leaves).find(KEYS[0]) is not None
    assert "BRECCIA_CACHE=0" in tables.untunable(target, leaves)


def test_a_damaged_table_hides_no_other_one(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = on(monkeypatch, "sm_90")
    ship(target, table())
    mine = tables.user_file(DEVICE)
    assert mine is not None
    mine.parent.mkdir(parents=True)
    mine.write_text("{")
    with pytest.warns(TableWarning, match="fake-gpu-80gb"):
        assert tables.tables_of(target, leaves).find(KEYS[0]) is not None
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        tables.tables_of(target, leaves)


def test_shipped_tables_are_whole() -> None:
    tuning = find("triton:sm_90").tuning
    assert tuning is not None
    for file in tuning.tables.glob("*"):
        assert file.name == f"{slug(parse(file.read_text()).device)}.json"
