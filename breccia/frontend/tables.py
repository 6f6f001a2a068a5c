"""Tables of tuned schedules: what a search found to be quickest on one device, kept in files. No xDSL here.

    {"format": 1, "device": "NVIDIA H100 80GB HBM3",
     "sections": {"triton:sm_90, triton 3.6, space 1": {
       "5f0c..": {"schedule": {"block_m": 64, ...}, "kernel": "matmul ..", "default_us": 120.9, "tuned_us": 112.0,
                  "date": "2026-11-26"}}}}

A kernel is found by a hash of its text, see `breccia.frontend.schedules`. There is a file for each device: the user's
in the cache folder (`tuned/<device>.json`), and one that comes with the target, for devices that it was tuned on. The
user's entries win. Only calls whose arrays lie on that very device use them: code made without it is always the same. A
file that is damaged is named in a TableWarning and ignored. Files are replaced whole, never written into.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from breccia.arrays import foreign, namespace
from breccia.errors import FormatError
from breccia.frontend import cache as code_cache
from breccia.target import Entries, Target
from breccia.tensor import ScaledTensor

FORMAT = 1
"""Version of what files hold."""
FOLDER = "tuned"
"""Below the cache folder."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_KEY = re.compile(r"[0-9a-f]{32}")


class TableWarning(UserWarning):
    """A table of tuned schedules cannot be used; it is ignored, and kernels have the schedules of other tables."""


@dataclass(frozen=True)
class Entry:
    """What was found for one kernel. Times are microseconds on the device, of the function that was tuned."""

    schedule: Entries
    kernel: str
    """The kernel in words, for people."""
    default_us: float
    tuned_us: float
    date: str
    """Of the measurement; empty for a schedule that was given without one."""

    @property
    def gain(self) -> float:
        """How many times as quick as with the default schedule."""
        return self.default_us / self.tuned_us


Section = Mapping[str, Entry]
"""Entries by the key of their kernel."""


@dataclass(frozen=True)
class Table:
    """What one file holds: the entries of one device, in a section for each target and its versions."""

    device: str
    sections: Mapping[str, Section] = field(default_factory=dict[str, Section])

    def merged(self, section: str, entries: Section) -> Table:
        """This table with more entries; those of the same kernels are replaced."""
        return Table(self.device, {**self.sections, section: {**self.sections.get(section, {}), **entries}})


@dataclass(frozen=True)
class Found:
    """An entry, and the table that it comes from."""

    entry: Entry
    origin: str


class Tables:
    """The entries that hold for one call: of its target, versions and device. Immutable.

    Invariant: equal `digest` means equal schedules; it is empty where there are none.
    """

    def __init__(self, sources: Sequence[tuple[str, Section]] = ()) -> None:
        """sources: (what to call the table, its entries), of which the later ones win."""
        self._sources = tuple(sources)
        self._found = {key: Found(entry, origin) for origin, section in sources for key, entry in section.items()}
        schedules = {key: sorted(found.entry.schedule.items()) for key, found in sorted(self._found.items())}
        self.digest = hashlib.sha256(json.dumps(schedules).encode()).hexdigest() if schedules else ""

    def find(self, key: str) -> Found | None:
        """What is known of the kernel with this key."""
        return self._found.get(key)

    def extended(self, origin: str, section: Section) -> Tables:
        """These tables and one more, which wins."""
        return Tables([*self._sources, (origin, section)])


NONE = Tables()


# -- which tables a call uses ------------------------------------------------------------------------------------------


def device_name(target: Target, leaves: Sequence[Any]) -> str:
    """The name of the device that a call is made on, if its target is for it and can be tuned; else empty."""
    if target.tuning is None:
        return ""
    for leaf in leaves:
        array = leaf.scales[-1] if isinstance(leaf, ScaledTensor) else leaf
        if isinstance(array, np.ndarray) or not foreign(array):
            continue
        if namespace(array).architecture(array) == target.arch:
            return target.tuning.device(array)
    return ""


def untunable(target: Target, leaves: Sequence[Any]) -> str:
    """Why nothing can be tuned for a call with these arrays; empty where it can."""
    if target.tuning is None:
        return f"kernels of {target.full_name} have no schedules to choose among"
    if not (device := device_name(target, leaves)):
        return f"schedules are measured on the device that they are for, and no array lies on a {target.arch} one"
    if user_file(device) is None:
        return "there is no folder to keep what is found: BRECCIA_CACHE=0 is set, or the folder cannot be used"
    return ""


def section_of(target: Target) -> str:
    """What entries for a target, by this version of its compiler and of its space of schedules, stand under."""
    assert target.tuning is not None, "only targets with a space have tables"
    return f"{target.full_name}, {target.tuning.version()}"


def tables_of(target: Target, leaves: Sequence[Any]) -> Tables:
    """The tables for a call with these arrays. A file is read once in a process."""
    device = device_name(target, leaves)
    if not device or target.tuning is None:
        return NONE
    files = [(f"breccia's table for {device}", target.tuning.tables / f"{slug(device)}.json")]
    mine = user_file(device)
    if mine is not None:
        files.append(("your table", mine))
    section = section_of(target)
    found = [(origin, read(file, device)) for origin, file in files]
    return Tables([(origin, table.sections.get(section, {})) for origin, table in found if table is not None])


def tables_in(file: Path, target: Target, device: str) -> Tables:
    """The tables of a call if there were no other file than this one."""
    table = read(file, device)
    return NONE if table is None else Tables([(str(file), table.sections.get(section_of(target), {}))])


def user_file(device: str) -> Path | None:
    """The user's table for a device; None where the cache is turned off or its folder cannot be used."""
    home = code_cache.checked_folder()
    return None if home is None else home / FOLDER / f"{slug(device)}.json"


def slug(device: str) -> str:
    """A device's name as a file's.

    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


# -- files -------------------------------------------------------------------------------------------------------------


@cache
def read(file: Path, device: str) -> Table | None:
    """The table in a file; None where there is none, and where it cannot be used, which is warned of."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        _ignored(file, f"it cannot be read: {type(error).__name__}: {error}")
        return None
    try:
        table = parse(text)
    except FormatError as error:
        _ignored(file, str(error))
        return None
    if table.device != device:
        _ignored(file, f"it is for {table.device!r}, and this device is {device!r}")
        return None
    return table


def _ignored(file: Path, why: str) -> None:
    warnings.warn(
        f"the table of tuned schedules {file} is ignored: {why}; remove it, or tune again with `breccia tune`",
        TableWarning,
        stacklevel=3,
    )


def add(file: Path, device: str, section: str, entries: Section) -> Table:
    """Merge entries into a file, which is made if it is not there; several processes may do so at once.

    A file that cannot be used is kept beside the new one, as `<name>.damaged`. Raises OSError.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(file.parent):
        read.cache_clear()
        known = read(file, device)
        if known is None and file.exists():
            file.replace(file.with_suffix(".json.damaged"))
        table = (known or Table(device)).merged(section, entries)
        code_cache.replace_file(file, show(table).encode(), readable=True)
    read.cache_clear()
    return table


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold a lock on a folder against other processes, where the system has such: else the last one to write wins."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems lock no folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# -- text --------------------------------------------------------------------------------------------------------------


def show(table: Table) -> str:
    """A table as text; one line for each entry, so that changes can be read."""
    lines = [f'{{"format": {FORMAT}, "device": {json.dumps(table.device)}, "sections": {{']
    for number, (name, section) in enumerate(sorted(table.sections.items())):
        entries = [f"    {json.dumps(key)}: {json.dumps(_to_json(e))}" for key, e in sorted(section.items())]
        lines.append(f"  {json.dumps(name)}: {{")
        lines += [entry + ("," if i < len(entries) - 1 else "") for i, entry in enumerate(entries)]
        lines.append("  }" + ("," if number < len(table.sections) - 1 else ""))
    return "\n".join([*lines, "}}"]) + "\n"


def _to_json(entry: Entry) -> dict[str, Any]:
    return {
        "schedule": entry.schedule, "kernel": entry.kernel, "default_us": round(entry.default_us, 3),
        "tuned_us": round(entry.tuned_us, 3), "date": entry.date,
    }  # fmt: skip


def parse(text: str) -> Table:
    """The table that text holds; raises FormatError saying what is wrong."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is no JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        given = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise FormatError(f"it is no table of format {FORMAT}, but {given!r}")
    device, sections = data.get("device"), data.get("sections")
    if not isinstance(device, str) or not isinstance(sections, dict):
        raise FormatError('it lacks a "device" or "sections"')
    return Table(device, {name: _section(name, entries) for name, entries in sections.items()})


def _section(name: str, entries: Any) -> Section:
    if not isinstance(entries, dict):
        raise FormatError(f"section {name!r} is no object")
    return {key: _entry(f"{key} of section {name!r}", key, value) for key, value in entries.items()}


def _entry(where: str, key: str, value: Any) -> Entry:
    if not _KEY.fullmatch(key) or not isinstance(value, dict):
        raise FormatError(f"{where} is no entry by the hash of a kernel")
    schedule = value.get("schedule")
    if not isinstance(schedule, dict) or not all(map(_says, schedule.items())):
        raise FormatError(f"{where} has no schedule of numbers and words: {schedule!r:.80}")
    kernel, date = value.get("kernel"), value.get("date")
    if not isinstance(kernel, str) or not isinstance(date, str):
        raise FormatError(f"{where} does not say its kernel and date")
    return Entry(schedule, kernel, _time(where, value, "default_us"), _time(where, value, "tuned_us"), date)


def _time(where: str, value: Mapping[str, Any], name: str) -> float:
    took = value.get(name)
    if isinstance(took, bool) or not isinstance(took, int | float) or not 0 < took < float("inf"):
        raise FormatError(f"{where} has {took!r} as {name}, which is no time")
    return float(took)


def _says(item: tuple[str, Any]) -> bool:
    name, value = item
    word = isinstance(value, str) and _NAME.fullmatch(value) is not None
    return _NAME.fullmatch(name) is not None and (word or type(value) is int)
