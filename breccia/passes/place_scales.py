"""Decides where the scales of every matmul operand are applied. Contract: reassociates.

Per operand and per level, outermost first, the first legal of `epilogue` (one multiplication for each output), `mma`
(the target's scaled instruction), `mainloop` (partial sums are scaled before they are added), `operand` (decode on
load). Legality follows from types and the module's capabilities (`_placement.py`); the reasons stay in the op.

    %y = breccia.matmul %a, %w                   // a: f8E4M3FN, f32 per [1, 128]; w: f8E4M3FN, f32 per [128, 128]
    ->  %y = breccia.matmul %a, %w place_a #breccia.place<mainloop> place_b #breccia.place<mainloop>
          {breccia.reason = "a level 0 (f32 per [1, 128]): mainloop, since blocks of 128 along k ..."}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Attribute

from breccia import formats
from breccia.errors import PassError
from breccia.ir.attributes import PLACEMENTS, PlaceAttr
from breccia.ir.capabilities import Capabilities, target_of
from breccia.ir.ops import GroupedMatmulOp, MatmulOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import functions
from breccia.ir.types import ScaledType, TensorType, dtype_of
from breccia.passes._folding import FOLDED
from breccia.passes._placement import Decision, decide

REASON = "breccia.reason"
"""Attribute of a matmul: one line for each level and one for the compute dtype, for `explain`."""


@dataclass(frozen=True)
class PlaceScales(BrecciaPass):
    """Invariant: `compute` is only set to a dtype that holds every operand as it enters the product without rounding,
    but for values below the target's `smallest_kept`.

    prefer: a placement to take wherever it is legal, before all others; for experiments.
    """

    name: ClassVar[str] = "place-scales"
    contract: ClassVar = "reassociates"
    prefer: str = ""

    def run(self, module: ModuleOp) -> None:
        if self.prefer and self.prefer not in PLACEMENTS:
            raise PassError(f"place-scales: prefer is {self.prefer!r}; allowed: {', '.join(PLACEMENTS)}")
        capabilities = target_of(module, self.name)
        decided: dict[tuple[Attribute, ...], Decision] = {}
        for function in functions(module):
            for op in function.body.walk():
                if isinstance(op, MatmulOp | GroupedMatmulOp) and "place_a" not in op.properties:
                    self._place(op, capabilities, decided)

    def _place(
        self, op: MatmulOp | GroupedMatmulOp, capabilities: Capabilities, decided: dict[tuple[Attribute, ...], Decision]
    ) -> None:
        key = (op.args[0].type, op.args[1].type)
        a, b = key
        assert isinstance(a, TensorType | ScaledType), "the verifier holds matmul to arrays"
        assert isinstance(b, TensorType | ScaledType), "the verifier holds matmul to arrays"
        if key not in decided:
            decided[key] = decide(a, b, capabilities, self.prefer)
        decision = decided[key]
        for prop, type_, places in (("place_a", a, decision.places_a), ("place_b", b, decision.places_b)):
            if isinstance(type_, ScaledType):
                op.properties[prop] = PlaceAttr(places)
        if decision.compute is not None and "compute" not in op.properties:
            op.properties["compute"] = dtype_of(formats.find(decision.compute))
        folded = op.attributes.pop(FOLDED, None)
        before = (folded.data,) if isinstance(folded, StringAttr) else ()
        op.attributes[REASON] = StringAttr("\n".join((*before, *decision.reasons)))
