"""The FileCheck runner itself, on small files and a stand-in for breccia-opt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.filecheck_runner import RunLineError, execute, parse, run_lines


def fake_opt(arguments: list[str], stdin: str) -> tuple[int, str, str]:
    """Stands for breccia-opt: prints a file (or its input) in capitals; `--fail` fails with a message."""
    if "--fail" in arguments:
        return 1, "", "error: it failed\n"
    paths = [argument for argument in arguments if not argument.startswith("-")]
    text = Path(paths[0]).read_text(encoding="utf-8") if paths else stdin
    body = "".join(line + "\n" for line in text.splitlines() if not line.startswith("//"))
    return 0, body.upper() if "--upper" in arguments else body, "a remark\n"


def run(tmp_path: Path, text: str) -> None:
    file = tmp_path / "case.mlir"
    file.write_text(text, encoding="utf-8")
    lines = run_lines(text)
    assert lines
    for line in lines:
        execute(line, file, fake_opt)


def test_matching_text_passes(tmp_path: Path) -> None:
    run(tmp_path, "// RUN: breccia-opt --upper %s | filecheck %s\n%a = add\n// CHECK: %[[A:.*]] = ADD\n")


def test_different_text_fails_and_shows_the_text(tmp_path: Path) -> None:
    with pytest.raises(RunLineError, match=r"(?s)Couldn't match \"SUB\".*the text that was checked ---\nadd"):
        run(tmp_path, "// RUN: breccia-opt %s | filecheck %s\nadd\n// CHECK: SUB\n")


def test_check_not_fails_on_what_it_excludes(tmp_path: Path) -> None:
    with pytest.raises(RunLineError, match="excluded string found"):
        run(tmp_path, "// RUN: breccia-opt %s | filecheck %s\nadd\nmul\n// CHECK-NOT: mul\n")


@pytest.mark.parametrize("option", ["--check-prefix=UP", "--check-prefix UP", "--check-prefixes=UP,X"])
def test_prefixes(tmp_path: Path, option: str) -> None:
    text = f"// RUN: breccia-opt --upper %s | filecheck %s {option}\nadd\n// UP: ADD\n// CHECK: never matched\n"
    run(tmp_path, text)


def test_a_file_without_checks_fails(tmp_path: Path) -> None:
    with pytest.raises(RunLineError, match="No check strings found"):
        run(tmp_path, "// RUN: breccia-opt %s | filecheck %s\nadd\n")


def test_stages_are_piped_and_lines_continued(tmp_path: Path) -> None:
    run(tmp_path, "// RUN: breccia-opt %s | \\\n// RUN:   breccia-opt --upper | filecheck %s\nadd\n// CHECK: ADD\n")


def test_not_wants_a_failure_and_stderr_can_be_checked(tmp_path: Path) -> None:
    run(tmp_path, "// RUN: not breccia-opt --fail %s 2>&1 | filecheck %s\n// CHECK: error: it failed\n")
    with pytest.raises(RunLineError, match="exited with 0, and was to fail"):
        run(tmp_path, "// RUN: not breccia-opt %s\nadd\n")
    with pytest.raises(RunLineError, match=r"(?s)exited with 1, and was to exit with 0.*it failed"):
        run(tmp_path, "// RUN: breccia-opt --fail %s | filecheck %s\n// CHECK: error\n")


def test_stderr_is_not_checked_unless_merged(tmp_path: Path) -> None:
    with pytest.raises(RunLineError, match="Couldn't match"):
        run(tmp_path, "// RUN: breccia-opt %s | filecheck %s\nadd\n// CHECK: a remark\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rm %s", "every stage runs breccia-opt or filecheck, found 'rm"),
        ("breccia-opt %s |", "found 'nothing'"),
        ("filecheck %s | breccia-opt", "filecheck must be the last stage"),
        ("breccia-opt %s > %t", "not '>'"),
    ],
)
def test_lines_that_cannot_be_run_are_refused(line: str, message: str) -> None:
    with pytest.raises(RunLineError, match=message):
        parse(line, Path("case.mlir"))


def test_quotes_and_braces_reach_breccia_opt() -> None:
    (stage,) = parse("breccia-opt -p 'tile{m=64 n=32},cse' --target triton:sm_90 %s", Path("case.mlir"))
    assert stage.arguments == ("-p", "tile{m=64 n=32},cse", "--target", "triton:sm_90", "case.mlir")
