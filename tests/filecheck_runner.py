"""Runs the `// RUN:` lines of .mlir files in this process, as lit would in a shell, at a tenth of the price.

A line is a pipe of stages: `[not] breccia-opt ARGS [2>&1]`, and at the end `filecheck %s [--check-prefix=X ...]`. `%s`
is the file; a line that ends in a backslash goes on in the next RUN line. As in lit, a pipe fails if any stage does.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options
from filecheck.parser import Parser

Opt = Callable[[list[str], str], tuple[int, str, str]]
"""`breccia.cli.opt.run`: arguments and standard input to exit code, standard output and standard error."""

_RUN = re.compile(r"^\s*//\s*RUN:\s?(.*)$", re.MULTILINE)


class RunLineError(Exception):
    """A RUN line failed, or cannot be read."""


@dataclass(frozen=True)
class Stage:
    """One command of a pipe. Invariant: `negated` and `merge_stderr` belong to breccia-opt alone."""

    command: str
    arguments: tuple[str, ...]
    negated: bool = False
    merge_stderr: bool = False


def run_lines(text: str) -> list[str]:
    """The RUN lines of a file, continued ones joined."""
    joined: list[str] = []
    continued = False
    for line in _RUN.findall(text):
        part = line.strip().removesuffix("\\").strip()
        if continued:
            joined[-1] = f"{joined[-1]} {part}"
        else:
            joined.append(part)
        continued = line.strip().endswith("\\")
    return joined


def parse(line: str, file: Path) -> list[Stage]:
    """The stages of a RUN line, `%s` replaced by `file`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    stages: list[list[str]] = [[]]
    for token in lexer:
        if token == "|":
            stages.append([])
        else:
            stages[-1].append(token.replace("%s", str(file)))
    parsed = [_stage(tokens, line) for tokens in stages]
    for stage in parsed[:-1]:
        if stage.command == "filecheck":
            raise RunLineError(f"filecheck must be the last stage of: {line}")
    return parsed


def _stage(tokens: list[str], line: str) -> Stage:
    negated = tokens[:1] == ["not"]
    tokens = tokens[negated:]
    merge = "2>&1" in tokens
    tokens = [token for token in tokens if token != "2>&1"]
    if not tokens or tokens[0] not in ("breccia-opt", "filecheck"):
        raise RunLineError(
            f"every stage runs breccia-opt or filecheck, found {' '.join(tokens) or 'nothing'!r} in: {line}"
        )
    unread = [token for token in tokens if token.startswith(("%", ">", "<", "&", ";"))]
    if unread:
        raise RunLineError(f"this runner knows %s, 2>&1 and pipes, not {unread[0]!r}, in: {line}")
    return Stage(tokens[0], tuple(tokens[1:]), negated, merge)


def execute(line: str, file: Path, opt: Opt) -> None:
    """Run one RUN line of `file`; raises RunLineError with all output if it fails."""
    piped = ""
    for stage in parse(line, file):
        if stage.command == "filecheck":
            filecheck(piped, stage.arguments)
            continue
        code, out, err = opt(list(stage.arguments), piped)
        if (code != 0) != stage.negated:
            wanted = "fail" if stage.negated else "exit with 0"
            raise RunLineError(f"breccia-opt exited with {code}, and was to {wanted}: {line}\n{out}\n{err}")
        piped = out + err if stage.merge_stderr else out


def filecheck(text: str, arguments: tuple[str, ...]) -> None:
    """Match `text` as the command `filecheck ARGUMENTS` would; raises RunLineError with its report and the text."""
    options = parse_argv_options(["filecheck", *arguments])
    matcher = Matcher(options, FInput("-", FInput.canonicalize_line_ends(text)), Parser.from_opts(options))
    matcher.stderr = report = io.StringIO()
    if matcher.run() != 0:
        raise RunLineError(f"{report.getvalue()}\n--- the text that was checked ---\n{text}")
