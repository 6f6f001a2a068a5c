"""The fp32 encoder against published numbers, against an independent float64 one, and against what sentences mean."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from breccia.demo.encoder import Config, Encoder, erf, gelu
from breccia.demo.measure import cosine, neighbours
from breccia.demo.sentences import PER_SUBJECT, SENTENCES
from breccia.demo.tokenize import Tokens, tokenize
from breccia.errors import FormatError, ShapeError

if TYPE_CHECKING:
    from pathlib import Path


def test_embeddings_equal_the_published_ones(model_folder: Path, encoder: Encoder) -> None:
    # The example of the model's page, as printed there by sentence-transformers.
    tokens = tokenize(model_folder, ["This is an example sentence", "Each sentence is converted"])
    found = encoder.embed(tokens)
    np.testing.assert_allclose(found[0, :3], [6.7657e-02, 6.3496e-02, 4.8713e-02], rtol=2e-5)
    np.testing.assert_allclose(found[1, :3], [8.6439e-02, 1.0276e-01, 5.3946e-03], rtol=1e-4)


def _reference(encoder: Encoder, ids: list[int]) -> np.ndarray:
    """One sentence in float64, token by token and head by head: shares no code with the encoder."""
    w = {name: value.astype(np.float64) for name, value in encoder.weights.items()}
    erf64 = np.vectorize(math.erf)

    def norm(name: str, rows: np.ndarray) -> np.ndarray:
        out = [(r - np.mean(r)) / math.sqrt(np.var(r) + 1e-12) for r in rows]
        return np.array(out) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(name: str, rows: np.ndarray) -> np.ndarray:
        return np.einsum("ti,oi->to", rows, w[f"{name}.weight"], optimize=True) + w[f"{name}.bias"]

    h = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    h = norm("embeddings.LayerNorm", h + w["embeddings.position_embeddings.weight"][: len(ids)])
    for layer in range(6):
        at = f"encoder.layer.{layer}"
        q, k, v = (dense(f"{at}.attention.self.{part}", h) for part in ("query", "key", "value"))
        mixed = np.zeros_like(h)
        for head in range(12):
            part = slice(32 * head, 32 * head + 32)
            for i in range(len(ids)):
                e = np.exp(k[:, part] @ q[i, part] / math.sqrt(32))
                mixed[i, part] = (e / e.sum()) @ v[:, part]
        h = norm(f"{at}.attention.output.LayerNorm", dense(f"{at}.attention.output.dense", mixed) + h)
        inner = dense(f"{at}.intermediate.dense", h)
        inner = inner * 0.5 * (1 + erf64(inner / math.sqrt(2)))
        h = norm(f"{at}.output.LayerNorm", dense(f"{at}.output.dense", inner) + h)
    mean = h.mean(axis=0)
    return mean / math.sqrt((mean * mean).sum())


def test_a_padded_batch_equals_an_independent_float64_encoder(model_folder: Path, encoder: Encoder) -> None:
    tokens = tokenize(model_folder, SENTENCES[:3])
    assert not tokens.mask.all(), "the sentences must differ in length, or padding is not tested"
    found = encoder.embed(tokens)
    for row, ids, mask in zip(found, tokens.ids, tokens.mask, strict=True):
        np.testing.assert_allclose(row, _reference(encoder, ids[mask].tolist()), atol=3e-6)


def test_nearest_neighbours_share_a_subject(model_folder: Path, encoder: Encoder) -> None:
    vectors = encoder.embed(tokenize(model_folder, SENTENCES))
    nearest = neighbours(vectors, PER_SUBJECT - 1)
    subject = np.arange(len(SENTENCES)) // PER_SUBJECT
    assert (subject[nearest[:, 0]] == subject).all()
    assert (subject[nearest] == subject[:, None]).mean() > 0.9


def test_a_changed_weight_changes_the_embedding_and_not_the_encoder(model_folder: Path, encoder: Encoder) -> None:
    tokens = tokenize(model_folder, SENTENCES[:2])
    before = encoder.embed(tokens)
    name = "encoder.layer.5.output.dense.weight"
    changed = encoder.with_weights({name: np.zeros((384, 1536), np.float32)})
    assert cosine(before, changed.embed(tokens)) < 0.999
    np.testing.assert_array_equal(encoder.embed(tokens), before)


@pytest.mark.parametrize(("name", "shape"), [("no.such.weight", (2, 2)), ("pooler.dense.weight", (384, 383))])
def test_weights_that_do_not_fit_are_refused(encoder: Encoder, name: str, shape: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=rf"cannot replace {name} by an array of shape \({shape[0]}, {shape[1]}\)"):
        encoder.with_weights({name: np.zeros(shape, np.float32)})


def test_activation_sees_every_linear_input(model_folder: Path, encoder: Encoder) -> None:
    tokens = tokenize(model_folder, SENTENCES[:2])
    seen: list[str] = []
    calls: list[tuple[int, ...]] = []

    def activation(x: np.ndarray) -> np.ndarray:
        calls.append(x.shape)
        return x

    counted = Encoder(encoder.config, encoder.weights, activation)
    np.testing.assert_array_equal(counted.embed(tokens, lambda name, _: seen.append(name)), encoder.embed(tokens))
    assert len(calls) == len(seen) == 36
    assert len(set(seen)) == 36
    assert set(calls) == {(tokens.ids.size, 384), (tokens.ids.size, 1536)}


def test_erf_and_gelu_are_the_exact_ones_to_fp32() -> None:
    x = np.linspace(-6, 6, 4001, dtype=np.float32)
    exact = np.array([math.erf(v) for v in x.tolist()])
    np.testing.assert_allclose(erf(x), exact, atol=6e-7)
    np.testing.assert_allclose(gelu(x), x * 0.5 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x])), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu_new"}, "gelu_new"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_size": None}, r"KeyError\(.hidden_size.\)"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    good = {
        "model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "num_hidden_layers": 6,
        "num_attention_heads": 12, "hidden_size": 384, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(good))
    assert Config.load(path) == Config(6, 12, 384, 1e-12)
    path.write_text(json.dumps({k: v for k, v in {**good, **change}.items() if v is not None}))
    with pytest.raises(FormatError, match=message):
        Config.load(path)


def test_tokens_match_the_bert_vocabulary(model_folder: Path) -> None:
    tokens = tokenize(model_folder, ["Hello world", "Hello"])
    vocabulary = (model_folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert [vocabulary[i] for i in tokens.ids[0]] == ["[CLS]", "hello", "world", "[SEP]"]
    assert tokens.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert tokens.count == 7


def test_long_sentences_are_cut(model_folder: Path) -> None:
    assert tokenize(model_folder, ["word " * 400]).ids.shape == (1, 256)


def test_tokenizing_nothing_or_without_a_tokenizer_raises(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="at least one"):
        tokenize(model_folder, [])
    with pytest.raises(FormatError, match=r"tokenizer\.json is not a tokenizer"):
        tokenize(tmp_path, ["a"])


def test_padding_does_not_change_an_embedding(model_folder: Path, encoder: Encoder) -> None:
    short = tokenize(model_folder, SENTENCES[:1])
    ids, mask = np.pad(short.ids, ((0, 0), (0, 9))), np.pad(short.mask, ((0, 0), (0, 9)))
    np.testing.assert_allclose(encoder.embed(Tokens(ids, mask)), encoder.embed(short), atol=1e-6)
