"""NumPy does what its capabilities claim, for every recipe. tests/test_conformance_tables.py does so at one shape."""

from __future__ import annotations

import pytest

from breccia.testing import conform
from breccia.testing.claims import SHAPES


@pytest.mark.exhaustive
def test_every_recipe_and_shape() -> None:
    table = conform("numpy", shapes=[*SHAPES, (130, 576, 300), (2, 1, 1), (3, 129, 128)])
    assert table.passed, str(table)
    assert not table.refused, str(table)
