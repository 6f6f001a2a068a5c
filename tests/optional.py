"""Skipping what needs a library that is not installed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

FRAMEWORKS = {"torch", "jax", "mlx", "triton"}
MODULES = {"numpy": "numpy", "torch": "torch", "jax": "jax", "mlx": "mlx.core"}
"""The array libraries, and the module of each that has its arrays."""


def need(*libraries: str) -> None:
    """Skip the test, saying so, where one of these array libraries is not installed."""
    for name in libraries:
        pytest.importorskip(MODULES[name])


@contextmanager
def skipped_without_frameworks() -> Generator[None]:
    """Skip the test, saying so, where code inside imports a framework that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in FRAMEWORKS:
            raise
        pytest.skip(f"needs {error.name}, which is not installed")
