"""Tuned schedules meet kernels: the key under which a table knows a kernel, and the pass that takes what is known.

Contract of the pass: exact, as `schedule`'s, whose place it takes: what no table knows gets the default.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, Operation

from breccia.frontend.tables import NONE, Found, Tables
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.base import BrecciaOp, show_shape
from breccia.ir.capabilities import Capabilities, target_of
from breccia.ir.hints import typical_sizes
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import YieldOp
from breccia.ir.printer import print_module
from breccia.ir.rewriting import kernels
from breccia.ir.types import TensorType
from breccia.passes._plan import symbols_of
from breccia.passes.schedule import Schedule
from breccia.target import Entries, Tuning

CHOSEN = "breccia.chosen"
"""Attribute of a kernel whose schedule is from a table, or whose entry was refused: what `explain()` says of it."""
DEFAULT = "by the cost model"


def kernel_key(kernel: KernelOp) -> str:
    """A hash of what a kernel that is not tiled computes, and of the sizes to expect.

    Equal for equal kernels, whatever their values, symbols and functions are called and wherever they were written.
    """
    text = kernel_text(kernel)
    sizes = typical_sizes(kernel)
    names = sorted(symbols_of(kernel), key=lambda name: _place(name, text))
    for number, name in enumerate(names):
        text = re.sub(rf"\b{re.escape(name)}\b", f"size{number}", text)
    expected = ", ".join(f"size{i} = {sizes[name]}" for i, name in enumerate(names) if name in sizes)
    return hashlib.sha256(f"{text}\n{expected}".encode()).hexdigest()[:32]


def _place(name: str, text: str) -> int:
    found = re.search(rf"\b{re.escape(name)}\b", text)
    return found.start() if found else len(text)


def kernel_text(kernel: KernelOp) -> str:
    """A kernel on its own, without names of values, without schedule, and without what passes noted down."""
    block = Block(arg_types=[a.type for a in kernel.args])
    copy = kernel.clone(dict(zip(kernel.args, block.args, strict=True)))
    copy.properties["sym_name"] = StringAttr("kernel")
    copy.properties.pop("schedule", None)
    for op in copy.walk():
        op.attributes.clear()
        for result in op.results:
            result.name_hint = None
        for region in op.regions:
            for inner in region.blocks:
                for argument in inner.args:
                    argument.name_hint = None
    text = print_module(copy, aliases=False)
    copy.drop_all_references()
    return text


def about(kernel: KernelOp) -> str:
    """A kernel in a line for people: its ops, and the arrays that it takes and gives."""
    shown = [op.short_name for op in kernel.body.ops if isinstance(op, BrecciaOp) and not isinstance(op, YieldOp)]
    ops = " ".join(name for name in shown if name not in ("assemble", "parts", "convert_layout"))
    sizes = typical_sizes(kernel)
    at = ", ".join(f"{name} = {sizes[name]}" for name in sorted(symbols_of(kernel) & set(sizes)))
    arrays = [", ".join(map(_array, values)) for values in (kernel.args, kernel.outs)]
    return f"{ops}: {arrays[0]} -> {arrays[1]}" + (f" at {at}" if at else "")


def _array(value: object) -> str:
    kind = value.type  # type: ignore[attr-defined]
    assert isinstance(kind, TensorType), "operands of exploded kernels are plain tensors"
    return f"{kind.dtype}{show_shape(kind.shape)}"


@dataclass(frozen=True)
class TunedSchedule(Schedule):
    """`schedule`, for a call whose tables may know better. An entry that is not legal (any more) is ignored, and said.

    Kernels that have a schedule already keep it, and so do all where the target has no space of schedules.
    """

    tables: Tables = field(default=NONE, compare=False)
    tuning: Tuning | None = None

    def run(self, module: ModuleOp) -> None:
        todo = [k for k in kernels(module) if not k.is_tiled and k.schedule is None] if self.tables.digest else []
        for kernel in todo:
            found = self.tables.find(kernel_key(kernel))
            if found is not None:
                self._take(kernel, found, target_of(module, self.name))
        super().run(module)

    def _take(self, kernel: KernelOp, found: Found, capabilities: Capabilities) -> None:
        entry = found.entry
        reason = self.tuning.refusal(kernel, capabilities, dict(entry.schedule)) if self.tuning is not None else ""
        if reason:
            said = f"{DEFAULT}; {found.origin} has {_shown(entry.schedule)}, which is not legal: {reason}"
        else:
            kernel.properties["schedule"] = ScheduleAttr.of(entry.schedule)
            measured = f": {entry.gain:.2f} x the default when it was measured, {entry.date}" if entry.date else ""
            said = f"by {found.origin}{measured}"
        kernel.attributes[CHOSEN] = StringAttr(said)


def chosen(kernel: Operation) -> str:
    """How a kernel came by its schedule."""
    said = kernel.attributes.get(CHOSEN)
    return said.data if isinstance(said, StringAttr) else DEFAULT


def _shown(schedule: Entries) -> str:
    return "<" + ", ".join(f"{key} = {value}" for key, value in schedule.items()) + ">"
