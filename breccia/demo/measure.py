"""Parts 1 and 3: what each recipe costs and loses on real weights, and what is left of sentence embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

import breccia
from breccia.errors import RecipeError
from breccia.recipes import Block, Recipe, all_recipes, find

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from breccia.demo.encoder import Encoder
    from breccia.demo.tokenize import Tokens
    from breccia.demo.weights import Checkpoint, TensorInfo

    Array = NDArray[np.float32]
    Advance = Callable[[int], None]
    """Called with the number of values that are done, for a progress bar."""


@dataclass(frozen=True)
class WeightRow:
    """One recipe on a set of weights.

    Invariants: `relative_error` is the Frobenius norm of the error over that of the weights; `signal_to_noise` is the
    same in dB (infinite for no error); `nbytes` counts elements, scales and zero points as stored.
    """

    recipe: Recipe
    values: int
    nbytes: int
    relative_error: float

    @property
    def bits(self) -> float:
        """Bits per value, everything counted."""
        return 8 * self.nbytes / self.values

    @property
    def megabytes(self) -> float:
        """Storage in units of 10**6 bytes."""
        return self.nbytes / 1e6

    @property
    def signal_to_noise(self) -> float:
        """20 log10 (norm of the weights / norm of the error), in dB."""
        return -20 * math.log10(self.relative_error) if self.relative_error else math.inf


@dataclass(frozen=True)
class WeightTable:
    """Part 1.

    Invariants: every row covers the same `values` values of `tensors` tensors; `skipped` names the tensors left out
    for NaN or Inf.
    """

    rows: tuple[WeightRow, ...]
    tensors: int
    values: int
    skipped: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far embeddings agree with those of fp32.

    Invariants: `cosine` is a mean over the sentences; `kept` is the share of each sentence's `k` nearest neighbours
    that are still among its `k` nearest; `top` is the share of sentences whose nearest neighbour is the same.
    """

    cosine: float
    kept: float
    top: float
    embeddings: Array


@dataclass(frozen=True, eq=False)
class NeighbourRow:
    """One recipe in the whole encoder: with the weights of linear layers cast, and with their inputs cast too."""

    recipe: Recipe
    weights: Agreement
    both: Agreement


def choose_recipes(text: str | None) -> tuple[Recipe, ...]:
    """The recipes that `--recipes` asks for: names with commas between, `all`, or None for one of each kind.

    Raises RecipeError for an unknown name, listing the known ones.

    >>> [recipe.name for recipe in choose_recipes("nvfp4,mxfp8_e4m3")]
    ['nvfp4', 'mxfp8_e4m3']
    """
    if text is None:
        return one_of_each(tuple(all_recipes().values()))
    if text.strip() == "all":
        return tuple(all_recipes().values())
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise RecipeError("--recipes is empty; give names with commas between, such as nvfp4,mxfp8_e4m3, or `all`")
    return tuple(find(name) for name in names)


def one_of_each(recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """The first of the recipes that differ only in how precisely scales are stored: f16, bf16 and f32 scales count as
    one kind.
    """

    def kind(recipe: Recipe) -> tuple[object, ...]:
        levels: tuple[tuple[Block | None, bool], ...] = tuple(
            (level.block, level.dtype.is_power_of_two) for level in recipe.levels
        )
        return (recipe.element, levels, recipe.zero_point, recipe.offset)

    first: dict[tuple[object, ...], Recipe] = {}
    for recipe in recipes:
        first.setdefault(kind(recipe), recipe)
    return tuple(first.values())


def measure_weights(
    checkpoint: Checkpoint, linears: Sequence[TensorInfo], recipes: Sequence[Recipe], advance: Advance = lambda _: None
) -> WeightTable:
    """Cast every weight in every recipe, as stored: (out, in), blocks along `in`. One tensor is in memory at a time."""
    nbytes = dict.fromkeys(range(len(recipes)), 0)
    noise = dict.fromkeys(range(len(recipes)), 0.0)
    signal, values, skipped = 0.0, 0, list[str]()
    for info in linears:
        weight = checkpoint.read(info.name)
        if not np.isfinite(weight).all():
            skipped.append(info.name)
            advance(weight.size * len(recipes))
            continue
        signal += _energy(weight)
        values += weight.size
        for i, recipe in enumerate(recipes):
            stored = breccia.cast(weight, recipe)
            nbytes[i] += stored.nbytes
            noise[i] += _energy(weight - stored.dequantize())
            advance(weight.size)
    if not values:
        raise RecipeError(f"every one of the {len(skipped)} linear weights of {checkpoint.path} holds NaN or Inf")
    rows = tuple(WeightRow(r, values, nbytes[i], _relative(noise[i], signal)) for i, r in enumerate(recipes))
    return WeightTable(rows, len(linears) - len(skipped), values, tuple(skipped))


def cast_weights(weights: Mapping[str, Array], names: Sequence[str], recipe: Recipe) -> dict[str, Array]:
    """The named weights, cast and decoded again."""
    return {name: breccia.cast(weights[name], recipe).dequantize() for name in names}


def measure_neighbours(
    encoder: Encoder, tokens: Tokens, reference: Array, linears: Sequence[str], recipe: Recipe, k: int
) -> NeighbourRow:
    """Embed the sentences with the linear weights cast, then with the inputs of the linear layers cast too."""
    cast = encoder.with_weights(cast_weights(encoder.weights, linears, recipe))
    both = replace(cast, activation=lambda x: breccia.cast(x, recipe).dequantize())
    return NeighbourRow(
        recipe, agreement(reference, cast.embed(tokens), k), agreement(reference, both.embed(tokens), k)
    )


def cosine(a: Array, b: Array) -> float:
    """Mean cosine of the rows of `a` and `b`, in float64; a row of zeros has cosine 1 with another and 0 with any else.

    >>> round(cosine(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])), 4)
    0.7071
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    of_x, of_y = np.linalg.norm(x, axis=-1), np.linalg.norm(y, axis=-1)
    norms = of_x * of_y
    found = np.where(norms == 0, of_x == of_y, (x * y).sum(axis=-1) / np.where(norms == 0, 1, norms))
    return float(found.mean())


def neighbours(embeddings: Array, k: int) -> NDArray[np.int64]:
    """The indices of each row's `k` nearest other rows, nearest first: shape (rows, k).

    >>> neighbours(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 1).ravel().tolist()
    [1, 0, 1]
    """
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=-1, kind="stable")[:, :k]


def agreement(reference: Array, found: Array, k: int) -> Agreement:
    """Compare unit vectors, one a sentence, with those of fp32; `k` neighbours of each."""
    before, after = neighbours(reference, k), neighbours(found, k)
    kept = np.mean([len(set(a) & set(b)) / k for a, b in zip(before.tolist(), after.tolist(), strict=True)])
    top = np.mean(before[:, 0] == after[:, 0])
    return Agreement(cosine(reference, found), float(kept), float(top), found)


def _energy(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def _relative(noise: float, signal: float) -> float:
    return math.sqrt(noise / signal) if noise else 0.0
