"""The command line of `breccia-opt`, read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from breccia.cli._opt_gradients import Gradients
    from breccia.ir.pipeline import BrecciaPass


@dataclass
class Options:
    """The command line, read. `dims` are sizes of symbols for --interpret."""

    file: str | None
    passes: list[BrecciaPass | str] = field(default_factory=list)
    """Passes in order; the word `default` stands for the pipeline of the module's target."""
    target: str | None = None
    emit: str | None = None
    interpret: bool = False
    function: str | None = None
    seed: int = 0
    dims: dict[str, int] = field(default_factory=dict[str, int])
    pad: str | None = None
    print_between: bool = False
    verify_each: bool = True
    split: bool = False
    diagnostics: bool = False
    generic: bool = False
    locations: bool = False
    gradients: Gradients | None = None
