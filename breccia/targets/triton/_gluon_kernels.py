"""Which products become kernels in Gluon, and of which kind."""

from __future__ import annotations

from breccia.codegen.lines import tensor_type
from breccia.ir.capabilities import Capabilities
from breccia.ir.kernel import KernelOp
from breccia.targets.triton._casts import Library
from breccia.targets.triton._gluon import Gluon, Shape
from breccia.targets.triton._gluon_grouped import Grouped, groups_of
from breccia.targets.triton._gluon_turns import Turns
from breccia.targets.triton._gluon_weights import DecodedWeights
from breccia.targets.triton._specialized import specialized
from breccia.targets.triton._swapped import swapped
from breccia.targets.triton._text import KernelText

KEYS = ("groups", "waves_m", "waves_n", "num_stages", "raster", "turns", "steps")
"""What a schedule says of the shape of programs, in the order of the fields of `Shape`."""


def gluon_text(kernel: KernelOp, name: str, library: Library, capabilities: Capabilities) -> KernelText | None:
    """The functions of a warp-specialized kernel; None where it does not fit, so that plain Triton has to do."""
    if "wgmma" not in capabilities.features:
        return None
    said = kernel.entries
    shape = Shape(*(int(said.get(key, 1)) for key in KEYS))
    weights = swapped(kernel)
    if weights is not None:
        return DecodedWeights(kernel, weights, shape, name, library, capabilities).written()
    groups = groups_of(kernel)
    product = specialized(kernel if groups is None else groups.one)
    if product is None:
        return None
    if groups is not None:
        upright = product.upright or not isinstance(tensor_type(groups.one.args[product.b].type).shape[0], int)
        return None if upright else Grouped(groups, product, shape, name, library, capabilities).written()
    kind = Turns if shape.turns > 1 else Gluon
    return kind(kernel, product, shape, name, library, capabilities).written()
