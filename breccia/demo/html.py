"""The same results as one page that needs nothing else: no network, no script, pictures and colours inside."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import DiffLexer, PythonLexer

from breccia.demo import plots
from breccia.demo.lexer import IRLexer
from breccia.demo.report import (
    block_cells,
    block_note,
    diff_lines,
    neighbour_cells,
    neighbour_head,
    neighbour_note,
    weight_cells,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pygments.lexer import Lexer

    from breccia.demo.results import BlockResult, Lowering, Neighbours, Results

_CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #52606d; --page: #ffffff; --card: #f6f8fa; --line: #d9dee4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa5b1; --page: #14181d; --card: #1c2229; --line: #323a44; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p.note { color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; font-family: ui-monospace, monospace; }
figure { margin: 1.25rem 0; padding: .5rem; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figure svg { display: block; width: 100%; height: auto; }
pre { margin: 0; padding: .9rem 1rem; overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; font: 12.5px/1.45 ui-monospace, monospace; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--soft); }
"""


def page(results: Results) -> str:
    """The whole page as text.

    Every name that comes from the checkpoint or from the IR is escaped.
    """
    parts = [
        "<h1>breccia demo</h1>",
        f"<p>{escape(results.checkpoint)}</p>",
        f'<p class="note">{escape(results.environment)}</p>',
        _weights(results),
        _block(results.block),
        _sentences(results.neighbours, results.skipped),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>breccia demo</title><style>{_CSS}{_code_css()}</style></head>\n"
        f"<body>\n{_join(parts)}\n</body></html>\n"
    )


def _weights(results: Results) -> str:
    table = results.weights
    recipes = [row.recipe for row in table.rows]
    fp32 = ("float32", "32.000", f"{4 * table.values / 1e6:.2f}", "0", "")
    parts = [
        "<h2>1. Every linear weight in every recipe</h2>",
        f"<p>{table.tensors} weights, {table.values:,} values, blocks along each weight's input axis.</p>",
        _table(
            ("recipe", "bits/value", "MB", "relative error", "SNR dB", "decodes as"),
            [(*fp32, ""), *((*weight_cells(row), row.recipe.describe()) for row in table.rows)],
        ),
        *(f'<p class="note">Skipped {escape(name)}: it holds NaN or Inf.</p>' for name in table.skipped),
        _figure(plots.to_svg(plots.bits_and_noise(table.rows), "bits")),
        _figure(plots.to_svg(plots.heat_maps(results.heat_name, results.heat), "heat")),
        _figure(plots.to_svg(plots.number_lines(recipes), "lines")),
    ]
    return _join(parts)


def _block(result: BlockResult) -> str:
    parts = [
        f"<h2>2. A real block, compiled</h2><p>{escape(result.layer)}, run on {escape(result.inputs)}.</p>",
        _code(result.lowering.python, PythonLexer()),
        _lowering(result.lowering),
        "<details><summary>the same with the input of every matmul cast</summary>",
        _code(result.both.python, PythonLexer()),
        _lowering(result.both),
        "</details>",
        "<h3>The output against fp32</h3>",
        _table(
            ("recipe", "cosine: weights cast", "cosine: inputs cast too"), [block_cells(row) for row in result.rows]
        ),
        f'<p class="note">{escape(block_note(result))}</p>',
        _figure(plots.to_svg(plots.block_cosines(result.rows), "block")),
    ]
    return _join(parts)


def _lowering(lowering: Lowering) -> str:
    first, text = lowering.forms[0]
    parts = [f"<h3>IR, {escape(first)} (recipe {escape(lowering.recipe.name)})</h3>", _code(text, IRLexer())]
    for (before, old), (after, new) in zip(lowering.forms, lowering.forms[1:], strict=False):
        diff = "\n".join(diff_lines(old, new, before, after)) or "(no change)"
        parts += [
            f"<h3>IR, {escape(before)} to {escape(after)}</h3>",
            _code(diff, DiffLexer()),
            f"<details><summary>all of the {escape(after)} form</summary>{_code(new, IRLexer())}</details>",
        ]
    parts += [
        f"<p class='note'>Passes: {escape(', '.join(lowering.passes))}.</p>",
        "<h3>The emitted source</h3>",
        _code(lowering.source, PythonLexer()),
        "<h3>explain()</h3>",
        f"<pre>{escape(lowering.explain.rstrip())}</pre>",
    ]
    return _join(parts)


def _sentences(found: Neighbours | None, skipped: str) -> str:
    head = "<h2>3. Sentences, end to end</h2>"
    if found is None:
        return f"{head}<p>Skipped: {escape(skipped)}.</p>"
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.sentences)
    parts = [
        head,
        f"<p>{escape(neighbour_note(found))}</p>",
        _table(neighbour_head(found.k), [neighbour_cells(row) for row in found.rows]),
        _figure(plots.to_svg(plots.similarities(found), "pairs")),
        f"<details><summary>the sentences</summary><ol>{items}</ol></details>",
    ]
    return _join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _code(text: str, lexer: Lexer) -> str:
    return highlight(text, lexer, HtmlFormatter(nowrap=False, cssclass="code"))


def _code_css() -> str:
    """Colours of code for light pages, and for dark ones."""
    light = HtmlFormatter(style="default").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".code")
    plain = ".code, .code pre { background: none; } .code pre { background: var(--card); }"
    return f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{plain}\n"


def _join(parts: Sequence[str]) -> str:
    return "\n".join(parts)
