"""The BERT encoder in plain NumPy, fp32: what the quantized models are compared with.

Sources: Devlin et al. 2018 (post-norm transformer, exact GELU); sentence-transformers (mean over real tokens, then
unit length).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from breccia.demo.weights import FLOAT_TYPES
from breccia.errors import FormatError, ShapeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from breccia.demo.tokenize import Tokens
    from breccia.demo.weights import Checkpoint

    Array = NDArray[np.float32]

Observer = Callable[[str, "Array"], None]
"""Called with the name of each linear layer and its input, of shape (tokens, in), before the layer runs."""


@dataclass(frozen=True)
class Config:
    """The few numbers of a BERT config.json that decide the computation."""

    layers: int
    heads: int
    width: int
    epsilon: float

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read config.json; raises FormatError for a model that is not a BERT with absolute positions and exact
        GELU.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            found = {key: raw[key] for key in ("model_type", "hidden_act", "position_embedding_type")}
            config = cls(
                raw["num_hidden_layers"], raw["num_attention_heads"], raw["hidden_size"], raw["layer_norm_eps"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path} is not a BERT config.json ({error!r})") from error
        needed = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        if found != needed:
            raise FormatError(f"{path} says {found}; this encoder needs {needed}")
        return config


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder.

    Invariants: `weights` holds fp32 arrays under the checkpoint's names; linear weights are stored as (out, in).
    """

    config: Config
    weights: Mapping[str, Array]
    activation: Callable[[Array], Array] | None = None
    """What the input of every linear layer goes through first, of shape (tokens, in): a cast and back, or None for
    fp32.
    """

    @classmethod
    def load(cls, config: Path, checkpoint: Checkpoint) -> Encoder:
        """The encoder of a checkpoint: reads every float tensor."""
        read = Config.load(config)
        floats = [info.name for info in checkpoint.tensors.values() if info.dtype in FLOAT_TYPES]
        return cls(read, {name: checkpoint.read(name) for name in floats})

    def with_weights(self, changed: Mapping[str, Array]) -> Encoder:
        """This encoder with some weights replaced; raises ShapeError for a name or shape that it does not have."""
        for name, weight in changed.items():
            if name not in self.weights or self.weights[name].shape != weight.shape:
                have = self.weights[name].shape if name in self.weights else "no such weight"
                raise ShapeError(f"cannot replace {name} by an array of shape {weight.shape}; the encoder has {have}")
        return replace(self, weights={**self.weights, **changed})

    def embed(self, tokens: Tokens, observe: Observer | None = None) -> Array:
        """One unit vector a sentence: shape (sentences, width), float32."""
        hidden = self._embeddings(tokens)
        bias = np.where(tokens.mask, np.float32(0), np.float32(-np.inf))[:, None, None, :]
        for layer in range(self.config.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, bias, observe)
        weight = tokens.mask[..., None].astype(np.float32)
        mean = (hidden * weight).sum(axis=1) / weight.sum(axis=1)
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True)

    def _embeddings(self, tokens: Tokens) -> Array:
        words = self.weights["embeddings.word_embeddings.weight"][tokens.ids]
        positions = self.weights["embeddings.position_embeddings.weight"][: tokens.ids.shape[1]]
        kinds = self.weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", words + positions + kinds)

    def _layer(self, name: str, hidden: Array, bias: Array, observe: Observer | None) -> Array:
        attended = self._attention(f"{name}.attention.self", hidden, bias, observe)
        projected = self._linear(f"{name}.attention.output.dense", attended, observe)
        hidden = self._norm(f"{name}.attention.output.LayerNorm", projected + hidden)
        inner = gelu(self._linear(f"{name}.intermediate.dense", hidden, observe))
        outer = self._linear(f"{name}.output.dense", inner, observe)
        return self._norm(f"{name}.output.LayerNorm", outer + hidden)

    def _attention(self, name: str, hidden: Array, bias: Array, observe: Observer | None) -> Array:
        sentences, length, width = hidden.shape
        depth = width // self.config.heads

        def heads(part: str) -> Array:
            y = self._linear(f"{name}.{part}", hidden, observe)
            return y.reshape(sentences, length, self.config.heads, depth).transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(depth)) + bias
        return (softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(sentences, length, width)

    def _linear(self, name: str, x: Array, observe: Observer | None) -> Array:
        rows = x.reshape(-1, x.shape[-1])  # one product for the whole batch, not one a sentence
        if observe is not None:
            observe(name, rows)
        if self.activation is not None:
            rows = self.activation(rows)
        y = rows @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return y.reshape(*x.shape[:-1], -1)

    def _norm(self, name: str, x: Array) -> Array:
        return layer_norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.config.epsilon)


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    """Zero mean and unit variance along the last axis, then an affine map."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(epsilon)) * weight + bias


def softmax(x: Array) -> Array:
    """Softmax along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x: Array) -> Array:
    """Each x times Phi(x), with the normal distribution itself and not its tanh approximation."""
    y = erf(x * np.float32(np.sqrt(0.5)))
    y += np.float32(1)
    y *= x
    y *= np.float32(0.5)
    return y


def erf(x: Array) -> Array:
    """The error function to 6e-7, rounding in fp32 included (Abramowitz and Stegun, 7.1.26).

    In place wherever it can be, since a layer's activations are larger than the caches.

    >>> abs(float(erf(np.float32([0.5]))[0]) - 0.5204998778) < 6e-7
    True
    """
    t = np.abs(x, dtype=np.float32)
    t *= np.float32(0.3275911)
    t += np.float32(1)
    np.reciprocal(t, out=t)
    poly = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly *= t
        poly += np.float32(coefficient)
    poly *= t
    np.square(x, out=t)
    np.negative(t, out=t)
    poly *= np.exp(t, out=t)
    np.subtract(np.float32(1), poly, out=poly)
    return np.copysign(poly, x, out=poly)
