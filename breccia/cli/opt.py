"""`breccia-opt`: IR in, passes, IR (or source, or results) out.

    breccia-opt file.mlir -p canonicalize,cse
    breccia-opt --target triton:sm_90 -p default --interpret file.mlir
    breccia-opt --target numpy -p default --emit numpy < file.mlir

Exit code 0 is success, 1 an error in the input or a pass, 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from breccia._version import __version__
from breccia.cli._opt_options import Options
from breccia.errors import BrecciaError

if TYPE_CHECKING:
    from breccia.cli._opt_gradients import Gradients
    from breccia.cli._opt_input import Chunk, Parsed
    from breccia.ir.pipeline import BrecciaPass

Result = tuple[int, str, str]


class UsageError(Exception):
    """The command line is wrong."""


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main() -> None:
    """The command: arguments and standard input of this process."""
    argv = sys.argv[1:]
    reads_stdin = not any(flag in argv for flag in ("--help", "-h", "--version", "--list-passes", "--list-targets"))
    try:
        given = sys.stdin.buffer.read() if reads_stdin and not _names_a_file(argv) else b""
        code, out, err = run(argv, given)
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    raise SystemExit(code)


def _names_a_file(argv: Sequence[str]) -> bool:
    try:
        return _parser().parse_args(list(argv)).file not in (None, "-")
    except UsageError:
        return True


def run(argv: Sequence[str], stdin: str | bytes = "") -> Result:
    """Run the command in this process: (exit code, standard output, standard error)."""
    try:
        given = _parser().parse_args(list(argv))
        if given.help:
            return 0, _parser().format_help(), ""
        if given.version:
            return 0, f"breccia-opt {__version__}\n", ""
        if given.list_passes:
            return 0, _list_passes(), ""
        if given.list_targets:
            return 0, _list_targets(), ""
        return _run(_options(given), stdin)
    except UsageError as error:
        return 2, "", f"breccia-opt: {error} (breccia-opt --help lists the options)\n"


def _parser() -> argparse.ArgumentParser:
    p = _Arguments(prog="breccia-opt", description="Runs passes over breccia IR.", add_help=False, allow_abbrev=False)
    add, flag = p.add_argument, argparse.BooleanOptionalAction
    add("file", nargs="?", metavar="FILE", help="IR text; standard input without it, or for -")
    add(
        "-p", "--passes", default="", metavar="LIST", help="`a,b{option=value}`; `default`: the target's whole pipeline"
    )
    add("--gradients", metavar="LIST", help="first, the forward and backward function: arguments by name, as `x,w`")
    add("--training", metavar="NAME", help="with --gradients: the training recipe that products are encoded by")
    add("--target", metavar="NAME", help="what to lower for, such as numpy or triton:sm_90 (see --list-targets)")
    add("--emit", metavar="NAME", help="print the source that this target makes of the result")
    add("--interpret", action="store_true", help="run input and result on random values, and compare")
    add("--function", metavar="NAME", help="the function to interpret; the first public one without it")
    add("--seed", type=int, default=0, metavar="N", help="of the random values (0)")
    add("--dim", action="append", default=[], metavar="M=40", help="the size of a symbol for --interpret")
    add("--pad", choices=("nan", "zero"), help="interpret tiles at full size, with this outside of tensors")
    add("--print-between", action="store_true", help="print the IR after every pass")
    add("--verify-each", action=flag, default=True, help="verify after every pass (on)")
    add(
        "--split-input-file",
        action="store_true",
        help="take parts between lines of `// -----` for modules of their own",
    )
    add("--verify-diagnostics", action="store_true", help="check errors against `// expected-error {{text}}` comments")
    add("--generic", action="store_true", help="print in MLIR's generic syntax")
    add("--locations", action="store_true", help="print source locations")
    add("--list-passes", action="store_true", help="print the passes and exit")
    add("--list-targets", action="store_true", help="print the targets and exit")
    add("--version", action="store_true", help="print the version and exit")
    add("-h", "--help", action="store_true", help="print this and exit")
    return p


def _options(given: argparse.Namespace) -> Options:
    return Options(
        given.file, _passes(given.passes), _known_target(given.target), _known_target(given.emit), given.interpret,
        given.function, given.seed, _dims(given.dim), given.pad, given.print_between, given.verify_each,
        given.split_input_file, given.verify_diagnostics, given.generic, given.locations,
        _gradients(given.gradients, given.training),
    )  # fmt: skip


def _gradients(arguments: str | None, recipe: str | None) -> Gradients | None:
    if arguments is None:
        if recipe is not None:
            raise UsageError("--training says how products are encoded for --gradients; give both")
        return None
    from breccia.cli._opt_gradients import Gradients

    return Gradients(tuple(name.strip().removeprefix("%") for name in arguments.split(",")), recipe)


def _known_target(name: str | None) -> str | None:
    from breccia.target import find

    try:
        return None if name is None else find(name).full_name
    except BrecciaError as error:
        raise UsageError(str(error)) from error


def _dims(given: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for text in given:
        name, _, size = text.partition("=")
        if not name.isidentifier() or not size.isdecimal():
            raise UsageError(f"--dim {text}: give a symbol and its size, such as --dim M=40")
        sizes[name] = int(size)
    return sizes


def _passes(text: str) -> list[BrecciaPass | str]:
    """The passes that -p names; `default` stays a word until the module's target is known."""
    from xdsl.utils.arg_spec import parse_pipeline
    from xdsl.utils.exceptions import ArgSpecParseError

    if not text.strip():
        return []
    import breccia.passes

    chosen: list[BrecciaPass | str] = []
    try:
        for spec in parse_pipeline(text):
            if spec.name == "default":
                chosen.append("default")
                continue
            chosen.append(breccia.passes.find(spec.name).from_pass_spec(spec))
    except ArgSpecParseError as error:
        raise UsageError(f"-p {text}: {' '.join(str(error).split())}") from error
    except (BrecciaError, ValueError, TypeError) as error:
        raise UsageError(f"-p {text}: {error}") from error
    return chosen


def _list_passes() -> str:
    import breccia.passes

    lines: list[str] = []
    for name in breccia.passes.pass_names():
        step = breccia.passes.find(name)
        doc = (sys.modules[step.__module__].__doc__ or "").strip().partition("\n")[0].partition(" Contract:")[0]
        lines.append(f"{name:24}{step.contract:14}{doc}")
    return "\n".join(lines) + "\n"


def _list_targets() -> str:
    from breccia.target import find, names

    return "".join(f"{n:18}{'' if find(n).emits else 'lowers and interprets only'}".rstrip() + "\n" for n in names())


# -- one input ---------------------------------------------------------------------------------------------------------


def _run(options: Options, stdin: str | bytes) -> Result:
    from breccia.cli._opt_diagnostics import unmet
    from breccia.cli._opt_input import InputError, chunks, read_text

    try:
        name, text = read_text(options.file, stdin)
    except OSError as unreadable:
        return 2, "", f"breccia-opt: cannot read {options.file}: {unreadable.strerror}\n"
    except InputError as undecodable:
        return 1, "", undecodable.shown(options.file or "<stdin>")
    outputs: list[str] = []
    complaints: list[str] = []
    for chunk in chunks(name, text, split=options.split):
        error: InputError | None = None
        try:
            outputs.append(_process(chunk, options))
        except InputError as found:
            error = found
        if options.diagnostics:
            complaints += filter(None, [unmet(chunk, error)])
        elif error is not None:
            complaints.append(error.shown(name))
            break
    return int(bool(complaints)), "// -----\n".join(outputs), "".join(complaints)


def _process(chunk: Chunk, options: Options) -> str:
    """Output text of one module; raises InputError."""
    from breccia.cli._opt_input import InputError, parse
    from breccia.ir.dialect import context
    from breccia.ir.printer import print_module

    parsed = parse(context(), chunk)
    try:
        parsed.verify()
        if options.target is not None:
            _set_target(parsed, options.target)
        if options.gradients is not None:
            from breccia.cli._opt_gradients import both

            parsed.module = both(parsed.module, options.gradients)
        before = parsed.module.clone()
        text = "".join(_apply(parsed, options))
        if options.interpret:
            from breccia.cli._opt_interpret import report

            return text + report(before, parsed.module, options)
        if options.emit is not None:
            from breccia.target import find

            return text + find(options.emit).emit(parsed.module)
        return text + print_module(parsed.module, generic=options.generic, locations=options.locations)
    except BrecciaError as error:
        raise InputError(str(error)) from error
    except RecursionError:
        raise InputError("nested too deeply; split it into functions or values") from None


def _set_target(parsed: Parsed, name: str) -> None:
    from breccia.ir.capabilities import set_target
    from breccia.target import find

    set_target(parsed.module, find(name).capabilities)


def _apply(parsed: Parsed, options: Options) -> list[str]:
    """Run the passes; with --print-between, the IR after each."""
    from breccia.ir.dialect import context
    from breccia.ir.printer import print_module

    printed: list[str] = []
    ctx = context()
    for step in _expanded(parsed, options.passes):
        step.apply(ctx, parsed.module)
        if options.verify_each:
            parsed.verify(after=step.name)
        if options.print_between:
            text = print_module(parsed.module, generic=options.generic, locations=options.locations)
            printed.append(f"// IR after {step.name}:\n{text}\n")
    return printed


def _expanded(parsed: Parsed, passes: list[BrecciaPass | str]) -> list[BrecciaPass]:
    from breccia.ir.capabilities import target_of

    steps: list[BrecciaPass] = []
    for step in passes:
        if isinstance(step, str):
            import breccia.passes

            steps += breccia.passes.default_pipeline(target_of(parsed.module, "the default pipeline"))
        else:
            steps.append(step)
    return steps
