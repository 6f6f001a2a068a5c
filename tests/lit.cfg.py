"""Lets `lit tests/filecheck` run the RUN lines that tests/test_filecheck.py runs in process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import lit.formats

if TYPE_CHECKING:
    from lit.TestingConfig import TestingConfig

    config: TestingConfig

root = Path(__file__).parent.parent
config.name = "breccia"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
config.test_source_root = str(root / "tests")
config.test_exec_root = str(root / "build" / "lit")
# breccia-opt and filecheck are scripts of the environment that runs lit.
config.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
