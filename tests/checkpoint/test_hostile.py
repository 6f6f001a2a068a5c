"""Checkpoints that something is wrong with, at random: only breccia's errors come out, and nothing is read wrongly."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from breccia import ScaledTensor
from breccia.checkpoint import open_checkpoint
from breccia.errors import BrecciaError
from tests.checkpoint.models import MODELS, write

DTYPES = (np.uint8, np.int8, np.float32, np.float16, np.int32, np.int64, np.bool_, np.complex64)
ODD = (None, 0, -1, 3, "x", [], {}, 1.5, True, [128, 128], "group", 1 << 40)


def damage_tensor(stored: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(list(stored))
    x = np.asarray(stored[name])
    what = rng.choice(("drop", "halve", "flatten", "retype", "empty", "lift"))
    if what == "drop":
        del stored[name]
        return
    stored[name] = {
        "halve": lambda: x[..., : x.shape[-1] // 2] if x.ndim else x,
        "flatten": lambda: x.reshape(-1),
        "retype": lambda: np.zeros(x.shape, rng.choice(DTYPES)),
        "empty": lambda: np.zeros((0,) * x.ndim, x.dtype),
        "lift": lambda: x[None],
    }[what]()


def damage_config(config: dict[str, Any], rng: random.Random) -> None:
    where = config
    while True:
        key = rng.choice(list(where))
        if not isinstance(where[key], dict) or not where[key] or rng.random() < 0.2:
            where[key] = rng.choice(ODD)
            return
        where = where[key]


@pytest.mark.parametrize("model", MODELS)
def test_damage(model: str, tmp_path: Path) -> None:
    made, config, _ = MODELS[model][1]()
    sound = refused = 0
    for seed in range(60):
        rng = random.Random(f"{model} {seed}")
        stored, said = dict(made), copy.deepcopy(config)
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.8 and stored:
                damage_tensor(stored, rng)
            else:
                damage_config(said, rng)
        folder = write(tmp_path / str(seed), stored, said)
        try:
            with open_checkpoint(folder, strict=False) as checkpoint:
                refused += bool(checkpoint.problems)
                for name, weight in checkpoint.weights.items():
                    try:
                        found = checkpoint[name]
                    except BrecciaError:
                        continue
                    assert not weight.problem
                    assert found.shape == weight.shape
                    sound += isinstance(found, ScaledTensor)
        except BrecciaError:
            refused += 1
    assert refused > 20
    assert sound > 0
