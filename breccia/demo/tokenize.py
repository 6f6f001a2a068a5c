"""Sentences to token ids, by the checkpoint's own tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from breccia.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tokens:
    """A padded batch.

    Invariants: `ids` and `mask` have the shape (sentences, length); `mask` is True on real tokens, which come first in
    each row.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of real tokens."""
        return int(self.mask.sum())


def tokenize(folder: Path, sentences: Sequence[str], max_length: int = 256) -> Tokens:
    """`sentences` as token ids, cut to `max_length` tokens and padded to the longest of them.

    Raises FormatError for no sentences or an unreadable tokenizer.json, UnsupportedError where `tokenizers` is not
    installed.
    """
    import numpy as np

    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UnsupportedError("the demo needs tokenizers: pip install 'breccia[demo]'") from error
    if not sentences:
        raise FormatError("there are no sentences to tokenize; give at least one")
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself, and nothing narrower
        raise FormatError(f"{path} is not a tokenizer ({error}); reinstall the package that carries it") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=np.bool_)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return Tokens(ids, mask)
