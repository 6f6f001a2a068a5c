"""Skipping what needs a library that is not installed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

FRAMEWORKS = {"torch", "jax", "mlx", "triton"}


@contextmanager
def skipped_without_frameworks() -> Generator[None]:
    """Skip the test, saying so, where code inside imports a framework that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in FRAMEWORKS:
            raise
        pytest.skip(f"needs {error.name}, which is not installed")
