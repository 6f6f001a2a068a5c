"""The dialect, and a context that knows it."""

from __future__ import annotations

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.ir import Dialect
from xdsl.parser import Parser

from breccia.ir.attributes import IntsAttr, NumberAttr, PlaceAttr, PolicyAttr, ScheduleAttr
from breccia.ir.capabilities import CapabilitiesAttr
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import WHOLE_TENSOR_OPS
from breccia.ir.tile_ops import TILE_OPS
from breccia.ir.tiling import TilingAttr
from breccia.ir.types import CodeType, DimsAttr, LayoutAttr, RecipeAttr, ScaledType, TensorType

Breccia = Dialect(
    "breccia",
    [*WHOLE_TENSOR_OPS, *TILE_OPS, KernelOp],
    [
        CodeType, DimsAttr, LayoutAttr, RecipeAttr, ScaledType, TensorType,
        IntsAttr, NumberAttr, PlaceAttr, PolicyAttr, ScheduleAttr, TilingAttr, CapabilitiesAttr,
    ],
)  # fmt: skip


def context() -> Context:
    """A context with `builtin`, `func` and `breccia`."""
    ctx = Context()
    for dialect in (Builtin, Func, Breccia):
        ctx.load_dialect(dialect)
    return ctx


def parse_module(text: str, name: str = "<text>") -> ModuleOp:
    """The verified module that `text` spells; raises xDSL's ParseError or VerifyException."""
    parser = Parser(context(), text, name)
    try:
        module = parser.parse_module()
    except RecursionError:
        parser.raise_error("nested too deeply here")
    module.verify()
    return module
