"""breccia 0.1's names for moving tensors between libraries without a copy: `st.to(library)` does the same.

DLPack carries no FP8, FP4 and E8M0 in every library; canonical storage is bytes, which all of them take.
"""

from __future__ import annotations

from typing import Any

from breccia.errors import DTypeError, UnsupportedError
from breccia.tensor import ScaledTensor


def to_dlpack(scaled: ScaledTensor) -> tuple[Any, Any]:
    """(data capsule, scale capsule) of the element storage and the innermost scales, for any `from_dlpack`.

    Raises UnsupportedError for a tensor that has more parts than these two, which would be lost.

    >>> from breccia import cast, recipes
    >>> len(to_dlpack(cast([[1.0, 2.0]], recipes.mxfp4)))
    2
    """
    if len(scaled.scales) > 1 or scaled.zero_point is not None or scaled.offset is not None:
        raise UnsupportedError(
            f"two DLPack capsules hold elements and one level of scales; {scaled.recipe!r} "
            f"({scaled.recipe.describe()}) has more: move the tensor with st.to(library)"
        )
    return scaled.data.__dlpack__(), scaled.scale.__dlpack__()


def from_dlpack(scaled: ScaledTensor, framework: str) -> ScaledTensor:
    """The tensor with the arrays of "numpy", "torch", "mlx" or "jax", all of its parts; memory is shared where it can
    be. Raises DTypeError for another name.
    """
    if framework not in ("numpy", "torch", "mlx", "jax"):
        raise DTypeError(f"unsupported framework: {framework!r}; allowed: numpy, torch, mlx, jax")
    return scaled.to(framework)
