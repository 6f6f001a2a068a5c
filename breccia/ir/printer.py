"""Text of the IR for people: type aliases for repeated recipes, layouts and policies; short op names inside kernels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from io import StringIO

from xdsl.ir import Attribute, Operation, ParametrizedAttribute, SSAValue
from xdsl.printer import Printer

from breccia.ir.attributes import PolicyAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.kernel import KernelOp
from breccia.ir.types import LayoutAttr, RecipeAttr

_PREFIX: dict[type[Attribute], str] = {RecipeAttr: "recipe", PolicyAttr: "policy", LayoutAttr: "layout"}


@dataclass(eq=False, repr=False)
class BrecciaPrinter(Printer):
    """Prints `#recipe0` for what the header spells out, and `dot` for `breccia.dot` inside kernels."""

    aliases: dict[Attribute, str] = field(default_factory=dict[Attribute, str])

    def print_ssa_value(self, value: SSAValue) -> str:
        """As xDSL's, and also clear of names that a kernel's region arguments took over from its operands."""
        hint = value.name_hint
        if hint and value not in self._ssa_values and hint in self.ssa_names:
            while f"{hint}_{self.ssa_names[hint]}" in self.ssa_names:
                self.ssa_names[hint] += 1
        return super().print_ssa_value(value)

    def print_attribute(self, attribute: Attribute) -> None:
        alias = self.aliases.get(attribute) if isinstance(attribute, tuple(_PREFIX)) else None
        if alias is not None:
            self.print_string(alias)
        else:
            super().print_attribute(attribute)

    def print_op(self, op: Operation) -> None:
        short = isinstance(op, BrecciaOp) and isinstance(op.parent_op(), KernelOp) and not self.print_generic_format
        if not short:
            super().print_op(op)
            return
        self._print_results(op)
        self.print_string(op.name.removeprefix("breccia."))
        op.print(self)
        if self.print_debuginfo:
            self.print_string(" ")
            self.print_attribute(op.location)


def print_module(op: Operation, *, generic: bool = False, locations: bool = False, aliases: bool = True) -> str:
    """`op` as text that parses back to an equal module."""
    table = collect_aliases(op) if aliases and not generic else {}
    out = StringIO()
    header = BrecciaPrinter(stream=out)
    for attribute, alias in table.items():
        out.write(f"{alias} = ")
        header.print_attribute(attribute)
        out.write("\n")
    BrecciaPrinter(stream=out, aliases=table, print_generic_format=generic, print_debuginfo=locations).print_op(op)
    return out.getvalue() + "\n"


def collect_aliases(op: Operation) -> dict[Attribute, str]:
    """A short name for every recipe, policy and layout that stands more than once, numbered in order of appearance."""
    seen: Counter[Attribute] = Counter()
    for inner in op.walk():
        for value in (*inner.operands, *inner.results):
            _collect(value.type, seen)
        for region in inner.regions:
            for block in region.blocks:
                for arg in block.args:
                    _collect(arg.type, seen)
        for attribute in (*inner.properties.values(), *inner.attributes.values()):
            _collect(attribute, seen)
    out: dict[Attribute, str] = {}
    count: Counter[str] = Counter()
    for attribute, uses in seen.items():
        if uses > 1:
            prefix = _PREFIX[type(attribute)]
            out[attribute] = f"#{prefix}{count[prefix]}"
            count[prefix] += 1
    return out


def _collect(attribute: Attribute, seen: Counter[Attribute]) -> None:
    if isinstance(attribute, tuple(_PREFIX)):
        seen[attribute] += 1
    elif isinstance(attribute, ParametrizedAttribute):
        for parameter in attribute.parameters:
            _collect(parameter, seen)
