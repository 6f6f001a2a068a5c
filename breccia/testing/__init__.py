"""What passes and targets are tested with: inputs, random programs, translation validation, planted bugs.

Target authors: `conform(target)` holds a target to what its capabilities claim.
Pass authors: `breccia.testing.validate.validate_pipeline(module, passes)` runs passes on a clone and holds each to its
contract.
"""

from __future__ import annotations

from breccia.testing.conformance import conform
from breccia.testing.tables import Row, Table, load_table

__all__ = ["Row", "Table", "conform", "load_table"]
