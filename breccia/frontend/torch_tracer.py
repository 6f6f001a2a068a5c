"""What a traced function holds where it was called with tensors of PyTorch: methods and attributes mean PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from breccia.frontend import torch_functions
from breccia.frontend.torch_functions import FUNCTIONS, METHODS
from breccia.frontend.tracer import Tracer


class TorchTracer(Tracer):
    """A traced tensor. Where NumPy and PyTorch mean different things by one name, this has PyTorch's.

    So `x.size()` is a call, `x.transpose(0, 1)` exchanges two axes, `x.var()` divides by n - 1, `x.max(dim=1)` has
    `.values`, and `x.dtype` is PyTorch's and compares with PyTorch's. NumPy's functions (np.exp(x)) work as well.
    """

    __slots__ = ()

    @property
    def dtype(self) -> Any:
        """PyTorch's dtype; NumPy's of a scaled tensor, and where PyTorch has none."""
        return self._dtype if self.recipe is not None else torch_functions.torch_dtype(self._dtype)

    @property
    def device(self) -> Any:
        """The device of the arguments."""
        return self.trace.device

    @property
    def is_cuda(self) -> bool:
        return str(self.trace.device).startswith("cuda")

    def __getattr__(self, name: str) -> NoReturn:
        torch_functions.no_attribute(name)
        super().__getattr__(name)


def _method(name: str) -> Callable[..., Any]:
    scaled_method = getattr(Tracer, name, None)  # of a ScaledTensor, whose methods are the same in all libraries

    def method(self: TorchTracer, *args: Any, **kwargs: Any) -> Any:
        if self.recipe is not None and callable(scaled_method):
            return scaled_method(self, *args, **kwargs)
        return torch_functions.call(name, (self, *args), kwargs)

    method.__name__ = method.__qualname__ = name
    return method


for _name in (*FUNCTIONS, *METHODS):
    if not _name.startswith("_"):
        setattr(TorchTracer, _name, _method(_name))
