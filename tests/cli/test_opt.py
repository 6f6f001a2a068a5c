"""`breccia-opt` in process: what it prints, what it says about bad input, and its exit codes."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from breccia import target
from breccia._version import __version__
from breccia.cli import opt
from breccia.cli.opt import run
from breccia.ir.dialect import parse_module
from breccia.passes import find, pass_names

NEG = """func.func @f(%x: !breccia.tensor<[M, 4], f32>) -> !breccia.tensor<[M, 4], f32> {
  %y = breccia.unary neg %x
  func.return %y : !breccia.tensor<[M, 4], f32>
}
"""
PRODUCT = """
func.func @mm(%a : !breccia.tensor<[M, 64], f32>,
    %w : !breccia.scaled<[64, 24], bf16, #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>>) -> !breccia.tensor<[M, 24],
    f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 24], f32>
}
"""


def ok(argv: list[str], stdin: str = "") -> str:
    code, out, err = run(argv, stdin)
    assert (code, err) == (0, "")
    return out


def fails(argv: list[str], stdin: str | bytes = "", code: int = 1) -> str:
    found, _, err = run(argv, stdin)
    assert found == code
    assert "Traceback" not in err
    return err


# -- printing ----------------------------------------------------------------------------------------------------------


def test_without_passes_it_prints_what_it_reads() -> None:
    out = ok([], NEG)
    assert parse_module(out).is_structurally_equivalent(parse_module(NEG))
    assert ok(["-"], NEG) == out


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.mlir"
    file.write_text(NEG, encoding="utf-8")
    assert ok([str(file)]) == ok([], NEG)


def test_generic_syntax_and_locations() -> None:
    assert '"breccia.unary"(%x) <{fn = "neg"}>' in ok(["--generic"], NEG)
    located = NEG.replace("neg %x", 'neg %x loc("model.py":7:3)')
    assert 'loc("model.py":7:3)' in ok(["--locations"], located)
    assert "loc(" not in ok([], located)


def test_target_is_written_into_the_module() -> None:
    assert '#breccia.target<"triton:sm_90"' in ok(["--target", "triton:sm_90"], NEG)


def test_passes_run_in_order_with_options_checked() -> None:
    text = NEG.replace("%y = breccia.unary neg %x", "%d = breccia.unary exp %x\n  %y = breccia.unary neg %x")
    assert "exp" in ok([], text)
    assert "exp" not in ok(["-p", "cse,dce"], text)
    assert "-p dce{speed=3}" in fails(["-p", "dce{speed=3}"], text, code=2)


def test_print_between_shows_every_pass() -> None:
    out = ok(["-p", "canonicalize,cse", "--print-between"], NEG)
    assert re.findall(r"// IR after (\S+):", out) == ["canonicalize", "cse"]
    assert out.count("breccia.unary neg") == 3


def test_split_input_runs_each_part() -> None:
    out = ok(["--split-input-file"], f"{NEG}// -----\n{NEG.replace('neg', 'exp')}")
    assert out.count("// -----\n") == 1
    assert "neg" in out.split("// -----")[0]
    assert "exp" in out.split("// -----")[1]


def test_emit_prints_source() -> None:
    out = ok(["--target", "numpy", "-p", "default", "--emit=numpy"], PRODUCT)
    assert "def mm(a, w_elements, w_scale0, *, xp=np, rt=runtime):" in out
    assert "xp.matmul(a, w_values)" in out


def test_lists() -> None:
    passes = ok(["--list-passes"])
    assert [line.split()[0] for line in passes.splitlines()] == list(pass_names())
    targets = ok(["--list-targets"])
    assert "triton:sm_90" in targets
    assert re.search(r"^numpy$", targets, re.MULTILINE)
    assert ok(["--version"]) == f"breccia-opt {__version__}\n"
    assert "--verify-diagnostics" in ok(["--help"])


# -- interpreting ------------------------------------------------------------------------------------------------------


def test_interpret_compares_with_the_module_before_the_passes() -> None:
    out = ok(["--target", "numpy", "-p", "default", "--interpret", "--dim", "M=3", "--seed", "5"], PRODUCT)
    assert "// @mm: seed 5, M = 3" in out
    assert re.search(r"result 0: float32\[3, 24\] (equal|\d+ of 72 differ, by at most)", out)


def test_small_results_are_shown() -> None:
    out = ok(["--interpret", "--dim", "M=1"], NEG)
    values = re.search(r"\[\[(.*)\]\]", out)
    assert values is not None
    assert len(values[1].split(",")) == 4
    assert out != ok(["--interpret", "--dim", "M=1", "--seed", "1"], NEG)


def test_interpret_says_when_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: object, module: object) -> None:
        for op in module.walk():  # type: ignore[attr-defined]
            if op.name == "breccia.unary":
                op.properties["fn"] = type(op.properties["fn"])("square")

    monkeypatch.setattr(find("dce"), "run", wrong)
    out = ok(["-p", "dce", "--interpret"], NEG)
    assert re.search(r"160 of 160 differ, by at most \d", out)


def test_unknown_symbols_and_functions_are_named() -> None:
    assert "--dim K: @f has no such symbol; its symbols: M" in fails(["--interpret", "--dim", "K=3"], NEG)
    assert "has no function 'g'" in fails(["--interpret", "--function", "g"], NEG)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["missing.mlir"], "cannot read missing.mlir: No such file or directory"),
        (["--target", "cuda"], "unknown target 'cuda'; known targets:"),
        (["--emit", "triton"], "which architecture of target triton?"),
        (["-p", "no-such-pass"], "unknown pass 'no-such-pass'; known passes:"),
        (["-p", "cse{"], "-p cse{:"),
        (["--dim", "M"], "--dim M: give a symbol and its size"),
        (["--pad", "five"], "invalid choice: 'five'"),
        (["--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_one_line(argv: list[str], message: str) -> None:
    err = fails(argv, NEG, code=2)
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NEG[:100], r"^<stdin>:2:\d+: error: "),
        (NEG.replace("neg", "nag"), r"^<stdin>:2:22: error: breccia.unary: unary: unknown function 'nag'"),
        (NEG.replace("breccia.unary", "breccia.onary"), r"^<stdin>:2:22: error: Operation breccia.onary is"),
        (NEG.replace("f32>)", "bf16>)"), r"^<stdin>:2:22: error: .*bf16>; elementwise ops take f32.*convert it first"),
        (NEG.replace("neg %x", "neg %z"), r"^<stdin>:2:\d+: error: .*%z"),
        (NEG + NEG.replace("f(", "g(").replace("M, 4", "M, "), r"^<stdin>:5:\d+: error: "),
        (NEG.replace('breccia.unary neg %x', '"breccia.unary"(%x) <{fn = "neg"}> : (!breccia.tensor<[M, 4], f32>) -> '
                     '!breccia.tensor<[M, 5], f32>').replace("%y : !breccia.tensor<[M, 4]",
                                                             "%y : !breccia.tensor<[M, 5]"),
         r"^<stdin>:2:3: error: breccia.unary: result types are"),
    ],
)  # fmt: skip
def test_bad_ir_is_one_message_with_line_and_column(text: str, message: str) -> None:
    err = fails([], text)
    assert re.search(message, err), err
    assert err.count("error:") == 1


def test_the_source_line_is_shown_with_a_caret() -> None:
    err = fails([], NEG.replace("neg", "nag"))
    assert err.endswith("    %y = breccia.unary nag %x\n                       ^\n")


@pytest.mark.parametrize("text", [
    "func.func @f(%x: !breccia.tensor<[" + "(" * 1_000_000, "module {" * 100_000, "{" * 1_000_000, "(" * 1_000_000,
])  # fmt: skip
def test_absurd_nesting_is_a_message(text: str) -> None:
    assert re.match(r"^<stdin>:1:\d+: error: ", fails([], text))


def test_invalid_utf8_is_a_message_with_its_place() -> None:
    assert fails([], b"func.func @f\n  \xff") == "<stdin>:2:3: error: byte 0xff is not UTF-8; IR is UTF-8 text\n"


def test_lines_are_counted_over_the_whole_file_when_it_is_split() -> None:
    err = fails(["--split-input-file"], f"{NEG}// -----\n{NEG.replace('neg', 'nag')}")
    assert err.startswith("<stdin>:7:22: error: ")


def test_a_pass_without_a_target_says_what_to_do() -> None:
    assert "run breccia-opt with --target NAME" in fails(["-p", "place-scales"], PRODUCT)
    assert "run breccia-opt with --target NAME" in fails(["-p", "default"], PRODUCT)


def test_a_target_without_an_emitter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = replace(target.find("metal"), emitter=None, launcher=None)
    monkeypatch.setattr(target, "find", lambda name: silent)
    assert "does not emit code for it" in fails(["--emit", "metal"], NEG)


def test_a_pass_that_makes_bad_ir_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(self: object, module: object) -> None:
        for op in module.walk():  # type: ignore[attr-defined]
            if op.name == "breccia.unary":
                op.properties["fn"] = type(op.properties["fn"])("nag")

    monkeypatch.setattr(find("dce"), "run", breaks)
    assert "error: pass dce made IR that does not verify: unary: unknown function 'nag'" in fails(["-p", "dce"], NEG)
    assert "nag" in ok(["-p", "dce", "--no-verify-each"], NEG)


# -- expected errors ---------------------------------------------------------------------------------------------------

BAD = NEG.replace("neg %x", "nag %x{comment}")
DIAGNOSE = ["--verify-diagnostics", "--split-input-file"]


@pytest.mark.parametrize(
    "comment",
    [
        " // expected-error {{unknown function 'nag'}}",
        "\n  // expected-error@-1 {{nag}}",
        "\n  // expected-error@above {{nag}}",
    ],
)
def test_expected_errors_pass(comment: str) -> None:
    ok(DIAGNOSE, f"{NEG}// -----\n{BAD.replace('{comment}', comment)}")


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        (" // expected-error {{something else}}", r"an error with 'something else' here(.|\n)*and found(.|\n)*unknown"),
        ("\n // expected-error {{nag}}", r"<stdin>:3: error: expected an error with 'nag' here"),
        ("", r"<stdin>:2:22: error: .*unknown function 'nag'"),
        (" // expected-error {{nag}} expected-error {{nag}} // expected-error {{nag}}", "expect one, and split"),
    ],
)  # fmt: skip
def test_other_errors_fail(comment: str, message: str) -> None:
    assert re.search(message, fails(DIAGNOSE, BAD.replace("{comment}", comment)))


def test_an_expected_error_that_does_not_come_fails() -> None:
    assert "expected an error with 'x' here" in fails(DIAGNOSE, f"// expected-error@+2 {{{{x}}}}\n{NEG}")


# -- the command -------------------------------------------------------------------------------------------------------


def test_main_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["breccia-opt", "--generic"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(NEG.encode())))
    with pytest.raises(SystemExit) as exit_:
        opt.main()
    assert exit_.value.code == 0
    assert '"breccia.unary"' in capsys.readouterr().out


def test_main_does_not_wait_for_standard_input_if_a_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["breccia-opt", "missing.mlir"])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as exit_:
        opt.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("breccia-opt: cannot read missing.mlir")
