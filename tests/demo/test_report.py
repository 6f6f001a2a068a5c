"""The terminal report and the page, from made-up results."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from breccia.demo import plots, report
from breccia.demo.html import page
from breccia.demo.lexer import IRLexer
from breccia.demo.measure import Agreement, NeighbourRow, WeightRow, WeightTable
from breccia.demo.results import BlockResult, BlockRow, HeatMap, Lowering, Neighbours, Results, environment
from breccia.recipes import all_recipes

_IR = """#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
builtin.module {
  func.func @f(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.tensor<[M, 64], bf16> { // "quoted" & <odd>
    %0 = "breccia.unary"(%x) <{kind = 3 : i32}> : (!breccia.tensor<[M, 64], f32>) -> f32  ½
  ^bb1(%1 : index):
    yield %0 -1.5e-3
  }
}
"""


def _results() -> Results:
    rng = np.random.default_rng(3)
    recipes = tuple(all_recipes().values())
    weights = tuple(WeightRow(r, 1000, 500 + 40 * i, 0.01 * (i + 1)) for i, r in enumerate(recipes))
    vectors = rng.standard_normal((6, 8)).astype(np.float32)
    agreements = [Agreement(0.99 - 0.01 * i, 1.0, 0.5, vectors) for i in range(len(recipes))]
    neighbours = Neighbours(
        ("a < b", "c & d", "e", "f", "g", "h"), 30, 2, vectors,
        tuple(NeighbourRow(r, a, a) for r, a in zip(recipes, agreements, strict=True)),
    )  # fmt: skip
    tiled = _IR.replace("func.func", "breccia.kernel")
    forms = (("traced", _IR), ("partitioned", _IR), ("laid_out", tiled), ("tiled", tiled + "// end\n"))
    lowering = Lowering(
        "def f(x):\n    return x < 1", recipes[0], forms, ("cse", "tile"), "y = x @ w  # <w>\n", "why <so>"
    )
    rows = (BlockRow(None, 1.0, None), *(BlockRow(r, 0.99, 0.98) for r in recipes))
    heat = tuple(HeatMap(r, rng.random((8, 12)).astype(np.float32)) for r in recipes[:4])
    table = WeightTable(weights, 3, 1000, ("bad[0].weight",))
    block = BlockResult(
        "layer [b]0[/b]", "64 rows", lowering, replace(lowering, python="def g(x):\n    pass"), 1e-6, rows
    )
    return Results("breccia x", "<script>alert(1)</script>", table, "w", heat, block, neighbours, "")


class _Page(HTMLParser):
    """Collects ids, references and text, and checks that tags close."""

    VOID = frozenset(("meta", "br"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.data: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "xlink:href", "src"}:
                self.references.append(value or "")
            self.references += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.data.append(data)


@pytest.fixture(scope="module")
def parsed() -> _Page:
    return _Page(page(_results()))


def test_every_tag_closes_and_ids_are_unique(parsed: _Page) -> None:
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids)) > 100


def test_the_page_refers_to_nothing_outside_itself(parsed: _Page) -> None:
    inside = {f"#{name}" for name in parsed.ids}
    embedded = [r for r in parsed.references if r.startswith("data:image/png;base64,")]
    assert set(parsed.references) - set(embedded) <= inside
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert parsed.tags.count("svg") == 5


def test_text_from_outside_is_escaped_and_kept(parsed: _Page) -> None:
    text = "".join(parsed.data)
    for needle in ("<script>alert(1)</script>", "a < b", "c & d", "why <so>", "bad[0].weight", "layer [b]0[/b]", _IR):
        assert needle in text


def test_every_recipe_is_in_every_table(parsed: _Page) -> None:
    for name in all_recipes():
        assert parsed.data.count(name) >= 3, name


def test_the_page_shows_what_changed_from_form_to_form(parsed: _Page) -> None:
    text = "".join(parsed.data)
    assert "(no change)" in text, "traced and partitioned are equal here"
    assert "-  func.func @f" in text
    assert "+  breccia.kernel @f" in text


def test_the_same_results_give_the_same_page() -> None:
    assert page(_results()) == page(_results())


def test_a_skipped_third_part_says_why() -> None:
    text = page(replace(_results(), neighbours=None, skipped="no <sentences>"))
    assert "Skipped: no &lt;sentences&gt;." in text
    assert "Similarity" not in text


def _printed(width: int = 100, **kwargs: object) -> str:
    results, out = _results(), StringIO()
    console = Console(file=out, width=width, **kwargs)  # type: ignore[arg-type]
    report.print_weights(console, results.weights, results.checkpoint)
    report.print_block(console, results.block)
    report.print_neighbours(console, results.neighbours, "")
    report.print_neighbours(console, None, "no [bold]model")
    return out.getvalue()


def test_the_terminal_report_holds_every_table_and_form() -> None:
    text = _printed()
    for name in all_recipes():
        assert len(re.findall(rf"^{re.escape(name)} ", text, re.MULTILINE)) == 3, name
    for needle in (
        "layer [b]0[/b]",
        "bad[0].weight",
        "Skipped: no [bold]model.",
        "-> tiled",
        "cse -> tile",
        "why <so>",
    ):
        assert needle in text
    assert "\x1b[" not in text, "no colours where nobody can see them"


def test_no_line_of_code_is_cut_or_wrapped() -> None:
    line = next(row for row in _IR.splitlines() if "func.func" in row)
    assert len(line) > 60
    printed = _printed(width=60).splitlines()
    assert f"-{line}" in printed
    assert line in printed, "the first form, in full"


def test_added_and_removed_lines_have_colours() -> None:
    text = _printed(force_terminal=True, color_system="standard")
    assert "\x1b[32m+  breccia.kernel" in text
    assert "\x1b[31m-  func.func" in text


def test_tables_fit_a_terminal_of_80_columns() -> None:
    results, out = _results(), StringIO()
    console = Console(file=out, width=80)
    report.print_weights(console, results.weights, "model")
    report.print_neighbours(console, results.neighbours, "")
    assert "…" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


@given(st.text(max_size=60))
def test_the_lexer_loses_nothing(text: str) -> None:
    assert "".join(value for _, _, value in IRLexer().get_tokens_unprocessed(text)) == text


def test_the_lexer_tells_the_parts_of_ir_apart() -> None:
    kinds = {value: str(kind) for _, kind, value in IRLexer().get_tokens_unprocessed(_IR)}
    expected = {
        "#mx": "Name.Constant",
        "%x": "Name.Variable",
        "!breccia.tensor": "Keyword.Type",
        "64": "Literal.Number",
        "f8E4M3FN": "Keyword.Type",
        "bf16": "Keyword.Type",
        "@f": "Name.Function",
        "^bb1": "Name.Label",
        "func.func": "Name.Builtin",
        "->": "Operator",
        "yield": "Keyword",
        "-1.5e-3": "Literal.Number",
        '// "quoted" & <odd>': "Comment.Single",
    }
    assert {value: kinds[value].removeprefix("Token.") for value in expected} == expected
    assert "Token.Error" not in kinds.values()


@given(st.lists(st.floats(-100, 100), max_size=12), st.floats(0.1, 10))
def test_labels_are_spread_apart_in_order_and_around_their_places(places: list[float], gap: float) -> None:
    places.sort()
    found = plots.spread_apart(places, gap)
    assert len(found) == len(places)
    assert all(b - a >= gap * (1 - 1e-9) for a, b in pairwise(found))
    assert sum(found) == pytest.approx(sum(places), abs=1e-6)
    if all(b - a >= gap for a, b in pairwise(places)):
        assert found == pytest.approx(places)


def test_environment_names_versions_and_no_host() -> None:
    import platform

    line = environment()
    assert f"numpy {np.__version__}" in line
    assert not platform.node() or platform.node() not in line
