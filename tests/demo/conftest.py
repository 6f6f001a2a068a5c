"""The model of the demo, read once for all of its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from breccia.demo.encoder import Encoder
from breccia.demo.weights import Checkpoint, find_model
from breccia.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def model_folder() -> Path:
    try:
        return find_model()
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def checkpoint(model_folder: Path) -> Checkpoint:
    return Checkpoint(model_folder / "model.safetensors")


@pytest.fixture(scope="session")
def encoder(model_folder: Path, checkpoint: Checkpoint) -> Encoder:
    return Encoder.load(model_folder / "config.json", checkpoint)
