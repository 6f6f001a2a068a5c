"""Every `>>>` example in breccia/ is run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from tests.optional import skipped_without_frameworks

ROOT = Path(__file__).parents[1]
_FINDER = doctest.DocTestFinder(exclude_empty=True)


def modules_with_examples() -> list[str]:
    """Dotted names of the modules whose text holds an example; nothing is imported to find them."""
    files = sorted((ROOT / "breccia").rglob("*.py"))
    with_examples = [file for file in files if re.search(r"^\s*>>> ", file.read_text(encoding="utf-8"), re.MULTILINE)]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in with_examples]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str) -> None:
    with skipped_without_frameworks():
        module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for case in _FINDER.find(module, name):
        runner.run(case, out=report.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(report)
