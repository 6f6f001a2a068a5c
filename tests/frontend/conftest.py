"""A disk cache of its own for each test, so that tests neither read nor leave anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from breccia.frontend import lower


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, which does not exist yet; code kept in memory is forgotten."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BRECCIA_CACHE_DIR", str(folder))
    monkeypatch.delenv("BRECCIA_CACHE", raising=False)
    monkeypatch.delenv("BRECCIA_DUMP", raising=False)
    monkeypatch.setattr(lower, "_CODE", {})
    return folder
