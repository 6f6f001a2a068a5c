"""The page's pictures: one function each, returning SVG text that can stand inside a page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from breccia.demo.measure import one_of_each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from breccia.demo.measure import WeightRow
    from breccia.demo.results import BlockRow, HeatMap, Neighbours
    from breccia.recipes import Recipe

_INK, _GRID = "#1f2933", "#e3e7ec"
_COLOURS = {"float": "#2563a8", "int": "#c2571a", "codebook": "#2f855a"}
_KINDS = {"float": "float elements", "int": "integer elements", "codebook": "codebook elements"}
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#8794a3",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
}
_styled = mpl.rc_context(_STYLE)
"""Decorator: artists take their style when they are made, so the whole of a function runs under it."""


@_styled
def bits_and_noise(rows: Sequence[WeightRow]) -> Figure:
    """Bits per value against signal-to-noise: up and left is better."""
    fig, axes = _figure(9.0, 5.2)
    ax = axes[0]
    finite = [row for row in rows if np.isfinite(row.signal_to_noise)]
    for kind, colour in _COLOURS.items():
        some = [row for row in finite if row.recipe.element.kind == kind]
        if some:
            ax.scatter(
                [r.bits for r in some], [r.signal_to_noise for r in some], s=26, color=colour, label=_KINDS[kind]
            )
    ax.set_xlabel("bits per value, scales and zero points counted")
    ax.set_ylabel("signal-to-noise ratio (dB)")
    ax.set_title("What a bit buys: every linear weight of the model", loc="left")
    ax.grid(color=_GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.margins(y=0.12)
    low, high = ax.get_xlim()
    ax.set_xlim(low, high + 0.24 * (high - low))
    named = one_of_each([row.recipe for row in finite])  # more names than these do not fit
    some = [row for row in finite if row.recipe in named]
    _label_points(ax, [(r.bits, r.signal_to_noise, r.recipe.name, _COLOURS[r.recipe.element.kind]) for r in some])
    ax.legend(frameon=False, loc="lower right")
    return fig


def _label_points(ax: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names right of their points, spread apart within each column of near points, with a thin line to each."""
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    gap, near = (top - bottom) / 36, (right - left) / 5
    columns: list[list[tuple[float, float, str, str]]] = []
    for point in sorted(points):
        if columns and point[0] - columns[-1][0][0] < near:
            columns[-1].append(point)
        else:
            columns.append([point])
    for column in columns:
        x_text = max(point[0] for point in column) + (right - left) / 70
        column.sort(key=lambda point: point[1])
        heights = spread_apart([point[1] for point in column], gap)
        for (x, y, name, colour), height in zip(column, heights, strict=True):
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
            ax.annotate(name, (x, y), (x_text, height), fontsize=7.5, va="center", color=colour, arrowprops=line)


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending `places` moved as little as makes neighbours at least `gap` apart: crowds spread around their own
    middle.

    >>> spread_apart([0.0, 0.0, 5.0], 1.0)
    [-0.5, 0.5, 5.0]
    """
    crowds: list[tuple[float, int]] = []  # (middle, members)
    for place in places:
        middle, members = place, 1
        while crowds and crowds[-1][0] + gap * (crowds[-1][1] + members) / 2 > middle:
            before, count = crowds.pop()
            middle = (before * count + middle * members) / (count + members)
            members += count
        crowds.append((middle, members))
    return [middle + gap * (i - (members - 1) / 2) for middle, members in crowds for i in range(members)]


@_styled
def number_lines(recipes: Sequence[Recipe]) -> Figure:
    """Every value that an element of each format can take, scaled so that the largest is 1."""
    elements = list(dict.fromkeys(recipe.element for recipe in recipes))
    fig, axes = _figure(9.0, 0.9 + 0.26 * len(elements))
    ax = axes[0]
    for row, element in enumerate(elements):
        codes = range(2**element.bits) if element.bits <= 8 else ()
        values = np.array([element.decode_code(code) for code in codes], dtype=np.float64)
        values = np.unique(values[np.isfinite(values)]) / element.max
        ax.plot(
            values, np.full_like(values, -row), "|", color=_COLOURS[element.kind], markersize=9, markeredgewidth=0.7
        )
    ax.set_yticks([-row for row in range(len(elements))], [element.name for element in elements])
    ax.set_xlabel("value / largest value")
    ax.set_xlim(-1.15, 1.05)
    ax.set_title("Where the codes of each element format lie", loc="left")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return fig


@_styled
def heat_maps(name: str, maps: Sequence[HeatMap]) -> Figure:
    """The error of one corner of a weight in a few recipes, in one logarithmic colour scale: blocks show."""
    fig, axes = _figure(9.0, 2.1, len(maps))
    top = max(float(one.error.max()) for one in maps) or 1.0
    image = None
    for ax, one in zip(axes, maps, strict=True):
        scale = LogNorm(top / 1000, top)
        image = ax.imshow(
            np.maximum(one.error, top / 1000), cmap="magma", norm=scale, interpolation="nearest", aspect="auto"
        )
        ax.set_title(one.recipe.name, fontsize=9)
        _bare(ax)
    if image is not None:
        fig.colorbar(image, ax=list(axes), fraction=0.02, pad=0.01).set_label("|error| / rms", fontsize=8)
    rows, columns = maps[0].error.shape
    fig.suptitle(f"Error of {name}, first {rows} rows and {columns} columns", x=0.01, ha="left", fontsize=10)
    return fig


@_styled
def block_cosines(rows: Sequence[BlockRow]) -> Figure:
    """1 - cosine of the compiled block's output, on a logarithmic axis: left is better."""
    shown = [(row.recipe.name, row.weights, row.both) for row in rows if row.recipe is not None]
    shown.sort(key=lambda row: row[1])
    fig, axes = _figure(9.0, 1.0 + 0.2 * len(shown))
    ax = axes[0]
    for y, (_, weights, both) in enumerate(shown):
        ends = [max(1 - value, 1e-9) for value in (weights, both) if value is not None]
        ax.plot(ends, [y] * len(ends), color="#b8c2cc", linewidth=1.2, zorder=1)
        ax.scatter(ends[:1], [y], s=24, color=_COLOURS["float"], zorder=2, label=None if y else "weights cast")
        ax.scatter(
            ends[1:],
            [y] * (len(ends) - 1),
            s=24,
            color=_COLOURS["int"],
            zorder=2,
            label=None if y else "inputs cast too",
        )
    ax.set_xscale("log")
    ax.set_yticks(range(len(shown)), [name for name, _, _ in shown], fontsize=8)
    ax.set_xlabel("1 - cosine with the fp32 output")
    ax.set_title("The compiled block, recipe by recipe", loc="left")
    ax.grid(axis="x", color=_GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, loc="upper right")
    return fig


@_styled
def similarities(found: Neighbours) -> Figure:
    """Cosines of all pairs of sentences: fp32, then the best and the worst recipe with weights cast."""
    rows = sorted(found.rows, key=lambda row: -row.weights.cosine)
    ends = rows if len(rows) < 2 else (rows[0], rows[-1])
    picks = [("fp32", found.reference), *((row.recipe.name, row.weights.embeddings) for row in ends)]
    fig, axes = _figure(9.0, 3.3, len(picks))
    image = None
    for ax, (name, vectors) in zip(axes, picks, strict=True):
        image = ax.imshow(vectors @ vectors.T, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(name, fontsize=9)
        _bare(ax)
    if image is not None:
        fig.colorbar(image, ax=list(axes), fraction=0.02, pad=0.01).set_label("cosine", fontsize=8)
    fig.suptitle("Similarity of every pair of sentences", x=0.01, ha="left", fontsize=10)
    return fig


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def to_svg(fig: Figure, prefix: str) -> str:
    """`fig` as an <svg> element whose ids start with `prefix`, so that several can stand in one page."""
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'(<image\b[^>]*?) id="[^"]*"', r"\1", text
    )  # equal pictures get equal ids, and nothing refers to them
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    return re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", text)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `width` by `height` inches with a row of axes; no window system and no global state is touched."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, list(fig.subplots(1, columns, squeeze=False)[0])
