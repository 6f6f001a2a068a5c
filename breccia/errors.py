"""Every error breccia raises on purpose: one base class and a few children.

A message says what was given, what is allowed and how to go on.
"""


class BrecciaError(Exception):
    """Base class of all errors raised by breccia."""


class FormatError(BrecciaError, ValueError):
    """A stored value, file or format name is not what its format allows."""


class RecipeError(BrecciaError, ValueError):
    """A recipe (or a part of one) is inconsistent, or two recipes do not fit together."""


class ShapeError(BrecciaError, ValueError):
    """Shapes, ranks, axes or block counts do not fit together."""


class BlockBorderError(ShapeError):
    """A slice or split would cut through a block, which shares one scale."""


class DTypeError(BrecciaError, TypeError):
    """An array has a dtype that the operation does not accept."""


class UnsupportedError(BrecciaError, NotImplementedError):
    """The operation is well formed, but this target, library or version cannot do it."""


class TraceError(BrecciaError, TypeError):
    """A decorated function does something that cannot be traced; names the user's file and line."""


class GradientError(BrecciaError, RuntimeError):
    """A gradient was asked for where there is none, such as that of stored elements."""


class UnknownSizeError(UnsupportedError):
    """A target has to know a size that is left open until the call."""


class PassError(BrecciaError, RuntimeError):
    """A pass met IR outside its contract, or broke its own contract."""


class PluginError(BrecciaError, ImportError):
    """A target from another package cannot be loaded, or clashes with another one."""
