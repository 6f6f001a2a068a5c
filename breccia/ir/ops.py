"""All ops on whole tensors, in one place for those who use them."""

from __future__ import annotations

from breccia.ir.array_ops import (
    BinaryOp,
    BroadcastOp,
    ConcatOp,
    ConvertOp,
    FullOp,
    IotaOp,
    ReduceOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    UnaryOp,
)
from breccia.ir.scaled_ops import (
    AmaxFromHistoryOp,
    AssembleOp,
    ConvertLayoutOp,
    DequantizeOp,
    GroupedMatmulOp,
    HistoryUpdateOp,
    MatmulOp,
    PartsOp,
    QuantizeOp,
    ScaleFromAmaxOp,
    ScalesOp,
    YieldOp,
)

WHOLE_TENSOR_OPS = (
    FullOp, IotaOp, UnaryOp, BinaryOp, SelectOp, ConvertOp, ReduceOp, BroadcastOp, TransposeOp, ReshapeOp, SliceOp,
    ConcatOp, QuantizeOp, DequantizeOp, ScalesOp, MatmulOp, GroupedMatmulOp, AssembleOp, PartsOp, ConvertLayoutOp,
    ScaleFromAmaxOp, HistoryUpdateOp, AmaxFromHistoryOp, YieldOp,
)  # fmt: skip

__all__ = [
    "WHOLE_TENSOR_OPS", "AmaxFromHistoryOp", "AssembleOp", "BinaryOp", "BroadcastOp", "ConcatOp", "ConvertLayoutOp",
    "ConvertOp", "DequantizeOp", "FullOp", "GroupedMatmulOp", "HistoryUpdateOp", "IotaOp", "MatmulOp", "PartsOp",
    "QuantizeOp", "ReduceOp", "ReshapeOp", "ScaleFromAmaxOp", "ScalesOp", "SelectOp", "SliceOp", "TransposeOp",
    "UnaryOp", "YieldOp",
]  # fmt: skip
