"""`breccia targets`: what code can be made for, whether it can run here, and what each target can do."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from breccia.ir.capabilities import Capabilities, show_value
from breccia.target import PluginWarning, Target, find, names, provider


def run(chosen: Sequence[str], console: Console) -> None:
    """Print a table of all targets; with names, all capabilities of these. UnsupportedError for unknown names."""
    if not chosen:
        _overview(console)
    for name in chosen:
        _show(find(name), console)


def _overview(console: Console) -> None:
    """One row for each target and architecture, then why some cannot run here, and plug-ins that cannot be used."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PluginWarning)
        found = [find(name) for name in names()]
    table = Table("target", "from", "emits", "runs here", "scales applied at", "arrays", box=None, pad_edge=False)
    absent: dict[str, list[str]] = {}
    for target in found:
        if target.unavailable:
            absent.setdefault(target.unavailable, []).append(target.full_name)
        table.add_row(
            target.full_name, provider(target.name), _yes(target.emits), _yes(not target.unavailable),
            ", ".join(target.capabilities.placements), ", ".join(target.arrays),
        )  # fmt: skip
    console.print(table, emoji=False)
    console.print()
    for reason, those in absent.items():
        console.print(f"not here: {escape(', '.join(those))}: {escape(reason)}", highlight=False, emoji=False)
    for warning in caught:
        console.print(f"skipped: {escape(str(warning.message))}", highlight=False, emoji=False)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _show(target: Target, console: Console) -> None:
    """Every capability, and what the target says of itself."""
    table = Table(box=None, show_header=False, pad_edge=False, title=target.full_name, title_justify="left")
    table.add_row("from", f"{provider(target.name)}, version {target.version}")
    table.add_row("runs here", f"no: {target.unavailable}" if target.unavailable else "yes")
    table.add_row("arrays", ", ".join(target.arrays))
    table.add_row("gradients", _yes(target.gradients))
    table.add_row("tuned", _yes(target.tuning is not None))
    for f in fields(Capabilities)[1:]:
        value = getattr(target.capabilities, f.name)
        parts = value if isinstance(value, tuple) else (value,)
        table.add_row(f.name, escape("\n".join(map(show_value, parts))) or "none")
    console.print(table, emoji=False)
