"""breccia: block-scaled numbers as a type, compiled to readable kernels.

`import breccia` loads nothing beyond the standard library. Every public name and submodule is loaded on first use
(PEP 562), so the price of NumPy, xDSL or a framework is paid only by the code that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from breccia._version import __version__

if TYPE_CHECKING:
    from breccia import bridges as bridges
    from breccia import checkpoint as checkpoint
    from breccia import errors as errors
    from breccia import formats as formats
    from breccia import functions as functions
    from breccia import ir as ir
    from breccia import layouts as layouts
    from breccia import numerics as numerics
    from breccia import recipes as recipes
    from breccia import scaling as scaling
    from breccia import tensor as tensor
    from breccia import testing as testing
    from breccia import training as training
    from breccia.bridges import (
        from_awq,
        from_bitsandbytes,
        from_compressed_tensors,
        from_deepseek_v3,
        from_dlpack,
        from_gguf,
        from_gpt_oss,
        from_gptq,
        from_gptq_ordered,
        from_hqq,
        from_mlx,
        from_modelopt,
        from_quark,
        from_torchao,
        from_transformer_engine,
        load_safetensors,
        save_safetensors,
        to_awq,
        to_bitsandbytes,
        to_compressed_tensors,
        to_deepseek_v3,
        to_dlpack,
        to_gguf,
        to_gpt_oss,
        to_gptq,
        to_hqq,
        to_mlx,
        to_modelopt,
        to_quark,
        to_torchao,
        to_transformer_engine,
    )
    from breccia.checkpoint import open_checkpoint
    from breccia.delayed import delayed_init, delayed_update
    from breccia.errors import (
        BlockBorderError,
        BrecciaError,
        DTypeError,
        FormatError,
        GradientError,
        PassError,
        PluginError,
        RecipeError,
        ShapeError,
        TraceError,
        UnknownSizeError,
        UnsupportedError,
    )
    from breccia.frontend.compile import compile
    from breccia.functions import (
        amax,
        astype,
        broadcast_to,
        cast,
        concat,
        dequantize,
        exp,
        gelu,
        grouped_matmul,
        layer_norm,
        matmul,
        max,
        maximum,
        mean,
        minimum,
        relu,
        requantize,
        reshape,
        rms_norm,
        rsqrt,
        sigmoid,
        silu,
        softmax,
        sqrt,
        sum,
        tanh,
        transpose,
        where,
    )
    from breccia.gradients import cast_ste, cast_ste_clipped
    from breccia.layouts import Layout, PerBlockK, PerBlockMN, PerChannel, PerTensor
    from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint, all_recipes
    from breccia.scaling import (
        DelayedScaling,
        Float8BlockScaling,
        Float8CurrentScaling,
        INT4Scaling,
        MXFP8BlockScaling,
        NVFP4BlockScaling,
        ScalingRecipe,
    )
    from breccia.tensor import ScaledTensor, from_buffer
    from breccia.training import TrainingRecipe

# Kept equal to the imports above, which are for type checkers alone, by tests/test_import.py.
_HOMES = {
    "breccia.bridges": (
        "save_safetensors load_safetensors from_deepseek_v3 to_deepseek_v3 from_torchao to_torchao "
        "from_transformer_engine to_transformer_engine from_compressed_tensors to_compressed_tensors from_gpt_oss "
        "to_gpt_oss from_modelopt to_modelopt from_gguf to_gguf from_mlx to_mlx from_gptq from_gptq_ordered to_gptq "
        "from_awq to_awq from_bitsandbytes to_bitsandbytes from_hqq to_hqq from_quark to_quark to_dlpack "
        "from_dlpack"
    ),
    "breccia.checkpoint": "open_checkpoint",
    "breccia.delayed": "delayed_init delayed_update",
    "breccia.errors": (
        "BlockBorderError BrecciaError DTypeError FormatError GradientError PassError PluginError RecipeError "
        "ShapeError TraceError UnknownSizeError UnsupportedError"
    ),
    "breccia.frontend.compile": "compile",
    "breccia.functions": (
        "amax astype broadcast_to cast concat dequantize exp gelu grouped_matmul layer_norm "
        "matmul max maximum mean minimum relu requantize reshape rms_norm rsqrt sigmoid silu softmax sqrt sum tanh "
        "transpose where"
    ),
    "breccia.gradients": "cast_ste cast_ste_clipped",
    "breccia.layouts": "Layout PerBlockK PerBlockMN PerChannel PerTensor",
    "breccia.recipes": "Level Offset Policy Recipe ZeroPoint all_recipes",
    "breccia.scaling": (
        "DelayedScaling Float8BlockScaling Float8CurrentScaling INT4Scaling MXFP8BlockScaling NVFP4BlockScaling "
        "ScalingRecipe"
    ),
    "breccia.tensor": "ScaledTensor from_buffer",
    "breccia.training": "TrainingRecipe",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
_SUBMODULES = frozenset(
    (
        "bridges",
        "checkpoint",
        "errors",
        "formats",
        "functions",
        "ir",
        "layouts",
        "numerics",
        "recipes",
        "scaling",
        "tensor",
        "testing",
        "training",
    )
)

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "__version__",
    # the type and its parts
    "ScaledTensor", "from_buffer", "Recipe", "Level", "ZeroPoint", "Offset", "Policy", "all_recipes",
    "Layout", "PerTensor", "PerChannel", "PerBlockK", "PerBlockMN",
    # the recipes of breccia 0.1
    "ScalingRecipe", "DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling", "MXFP8BlockScaling",
    "NVFP4BlockScaling", "INT4Scaling",
    # training
    "TrainingRecipe",
    # functions, eager and under `compile`
    "compile", "cast", "dequantize", "requantize", "cast_ste", "cast_ste_clipped", "delayed_init",
    "delayed_update", "matmul", "grouped_matmul",
    "silu", "gelu", "relu", "sigmoid", "exp", "tanh", "rsqrt", "sqrt", "softmax", "rms_norm", "layer_norm",
    "where", "maximum", "minimum", "sum", "mean", "max", "amax",
    "concat", "reshape", "transpose", "astype", "broadcast_to",
    # bridges to other formats
    "save_safetensors", "load_safetensors", "from_deepseek_v3", "to_deepseek_v3", "from_torchao", "to_torchao",
    "from_transformer_engine", "to_transformer_engine", "from_compressed_tensors", "to_compressed_tensors",
    "from_gpt_oss", "to_gpt_oss", "from_modelopt", "to_modelopt", "from_gguf", "to_gguf", "from_mlx", "to_mlx",
    "from_gptq", "from_gptq_ordered", "to_gptq", "from_awq", "to_awq", "from_bitsandbytes", "to_bitsandbytes",
    "from_hqq", "to_hqq", "from_quark", "to_quark", "to_dlpack", "from_dlpack",
    # whole checkpoints
    "open_checkpoint",
    # errors
    "BrecciaError", "FormatError", "RecipeError", "ShapeError", "BlockBorderError", "DTypeError", "UnsupportedError",
    "UnknownSizeError", "TraceError", "GradientError", "PassError", "PluginError",
    # submodules
    "bridges", "checkpoint", "errors", "formats", "functions", "ir", "layouts", "numerics", "recipes", "scaling",
    "tensor", "testing", "training",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Load the public name or submodule `name` on first use."""
    if name in _SUBMODULES:
        return import_module(f"breccia.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'breccia' has no attribute {name!r}; dir(breccia) lists the public names")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
