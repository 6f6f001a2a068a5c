"""What passes and targets are tested with: inputs, random programs, translation validation, planted bugs.

Pass authors: `validate_pipeline(module, passes)` runs passes on a clone and holds each to its contract.
"""

from __future__ import annotations
