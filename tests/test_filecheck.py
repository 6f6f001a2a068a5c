"""Every RUN line of tests/filecheck is a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.filecheck_runner import execute, run_lines

FILES = Path(__file__).parent / "filecheck"
CASES = [
    pytest.param(file, line, id=f"{file.relative_to(FILES).as_posix()}:{number}")
    for file in sorted(FILES.rglob("*.mlir"))
    for number, line in enumerate(run_lines(file.read_text(encoding="utf-8")), 1)
]


@pytest.mark.parametrize(("file", "line"), CASES)
def test_run_line(file: Path, line: str) -> None:
    from breccia.cli import opt

    execute(line, file, opt.run)


def test_every_file_has_run_and_check_lines() -> None:
    texts = {file.relative_to(FILES).as_posix(): file.read_text(encoding="utf-8") for file in FILES.rglob("*.mlir")}
    assert texts, "tests/filecheck holds no .mlir file"
    assert [name for name, text in texts.items() if not run_lines(text)] == []
