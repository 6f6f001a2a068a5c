"""Passes and how they are run: verified after each, and in test mode held to their numeric contract.

A pass declares what it may do to results:

    exact          bit-equal
    value_exact    decoded values are equal, codes and scales may differ
    reassociates   bit-equal where scales are powers of two and sums are exact; else within rounding of the sums
    changes_value  anything, and only under a flag that the user named
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import VerifyException

from breccia.errors import PassError
from breccia.ir.dialect import context
from breccia.ir.printer import print_module

Contract = Literal["exact", "value_exact", "reassociates", "changes_value"]


@dataclass(frozen=True)
class BrecciaPass(ModulePass):
    """Base of all passes. Fields of a subclass are its options: `-p place-scales{prefer=operand}`.

    Invariant: `contract` is what translation validation holds the pass to.
    """

    contract: ClassVar[Contract]

    @abstractmethod
    def run(self, module: ModuleOp) -> None:
        """Rewrite the module in place."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.run(op)


@dataclass
class Record:
    """What one pass did: its name, contract, seconds, and the decisions it recorded."""

    name: str
    contract: Contract
    seconds: float
    text: str = ""


Check = Callable[[BrecciaPass, ModuleOp, ModuleOp], None]
"""Called with a pass, the module before it (a clone) and after it; raises where the contract is broken."""


@dataclass
class Pipeline:
    """Runs passes in order and verifies what they made.

    careful: verify after every pass (the default). Without it, once at the end; only where that or a pass fails are the
        passes run again, carefully, on a copy from before, to name the one that is to blame. Verifying takes longer
        than the passes themselves, so compiling does not pay for it twelve times.
    dump: folder that receives `NN-pass.mlir` after every pass; the environment variable BRECCIA_DUMP by default.
    check: translation validation, on in tests.
    keep_text: store the IR after each pass in the records.
    """

    passes: Sequence[BrecciaPass]
    check: Check | None = None
    dump: Path | None = None
    keep_text: bool = False
    careful: bool = True
    records: list[Record] = field(default_factory=list[Record])

    def __post_init__(self) -> None:
        if self.dump is None and os.environ.get("BRECCIA_DUMP"):
            self.dump = Path(os.environ["BRECCIA_DUMP"])

    def run(self, module: ModuleOp) -> None:
        """Apply every pass; raises PassError naming the pass whose output does not verify."""
        if self.careful or self.check is not None or self.dump is not None:
            self._run(module, careful=True)
            return
        copy = module.clone()
        try:
            self._run(module, careful=False)
            module.verify()
        except Exception:
            self.records.clear()
            self._run(copy, careful=True)
            raise

    def _run(self, module: ModuleOp, *, careful: bool) -> None:
        self._dump(module, 0, "start")
        for number, step in enumerate(self.passes, 1):
            before = module.clone() if self.check else None
            start = time.perf_counter()
            step.apply(_CONTEXT[0] if _CONTEXT else _make_context(), module)
            seconds = time.perf_counter() - start
            if careful:
                self._verify(step, module)
            if self.check and before is not None:
                self.check(step, before, module)
            text = print_module(module) if self.keep_text else ""
            self.records.append(Record(step.name, step.contract, seconds, text))
            self._dump(module, number, step.name)

    @staticmethod
    def _verify(step: BrecciaPass, module: ModuleOp) -> None:
        try:
            module.verify()
        except VerifyException as error:
            raise PassError(f"pass {step.name} made IR that does not verify: {error}") from error

    def _dump(self, module: ModuleOp, number: int, name: str) -> None:
        if self.dump is None:
            return
        self.dump.mkdir(parents=True, exist_ok=True)
        (self.dump / f"{number:02}-{name}.mlir").write_text(print_module(module))


_CONTEXT: list[Context] = []


def _make_context() -> Context:
    _CONTEXT.append(context())
    return _CONTEXT[0]
