"""Reverse mode on the traced form: from one function, the forward and the backward function."""

from __future__ import annotations

from breccia.autodiff.transform import Differentiated, Saved, differentiate

__all__ = ["Differentiated", "Saved", "differentiate"]
