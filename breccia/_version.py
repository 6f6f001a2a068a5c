"""The version of breccia, in one place: hatchling and `breccia.__version__` both read it here."""

__version__ = "0.2.0.dev0"
