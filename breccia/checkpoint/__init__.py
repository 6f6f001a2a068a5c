"""Whole checkpoints, in any format that a bridge knows: opened lazily, checked before anything is computed.

`open_checkpoint(path)` takes a folder, an index, a safetensors file or a GGUF. It finds out from `config.json` and the
names of the tensors which belong together and what they mean, and checks that it is so; `checkpoint.weights` tells of
every tensor, `checkpoint[name]` reads one.
"""

from __future__ import annotations

from breccia.checkpoint.checkpoint import Checkpoint, Weight, open_checkpoint

__all__ = ["Checkpoint", "Weight", "open_checkpoint"]
