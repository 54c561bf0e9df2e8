"""Plots as inline SVG whose text stays text and whose colours are the page's, dark or light. matplotlib draws them,
which the extra ``report`` brings; where it is not installed there are none, and pages say how to get them.

Text from data is shown as it is: nothing in it is read as markup or as mathematics.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ddcore.storage.units import bytes_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LINE = 4.0, 0.24
"""Inches: of a plot, which a phone shows a little larger, and of a row of dots."""
SHAPES = "os^Dv<>P"
COLOURS = 6
INK, GRID = "#010101", "#020202"
SERIES = tuple(f"#0300{n:02x}" for n in range(COLOURS))
VARIABLES = {INK: "--ink", GRID: "--grid", **{colour: f"--c{n}" for n, colour in enumerate(SERIES)}}
"""Colours that are the page's: see ``page.html.j2``."""
LONGEST = 26
MOST_POINTS = 400
LOG_FROM = 50.0
SETTINGS: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@frozen
class Line:
    """A curve, ``across`` ascending.

    Attributes:
        low, high: of a band around it; empty: none.
        colour: number of a colour; lines of one colour and name share a place in the legend.
    """

    name: str
    across: Sequence[float]
    up: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: int = 0


@frozen
class Dot:
    """A mean with its deviation, and the values behind it."""

    name: str
    at: float
    spread: float = 0.0
    values: Sequence[float] = ()
    dim: bool = False


@frozen
class Mark:
    """A point with a name, dim or not; without a colour of its own, which is -1, it is hollow."""

    name: str
    across: float
    up: float
    spread: float = 0.0
    colour: int = 0
    dim: bool = False
    shape: int = 0


def available() -> bool:
    """Whether plots can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def lines_svg(lines: Sequence[Line], across: str, up: str, label: str) -> str:
    """Curves over one axis; the other is logarithmic where values are positive and far apart."""

    def draw(axes: Axes) -> None:
        named: set[str] = set()
        for line in map(thinned, lines):
            colour = SERIES[line.colour % COLOURS]
            if len(line.low):
                axes.fill_between(line.across, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            name = "" if line.name in named else short(line.name)
            axes.plot(line.across, line.up, color=colour, linewidth=1.3, label=name or "_")
            named.add(line.name)
        if _far_apart([v for line in lines for v in line.up]):
            _logarithmic(axes, "y", "{:g}".format)
        axes.set(xlabel=across, ylabel=up)
        axes.locator_params(axis="x", integer=True, nbins=6)
        if len(named) > 1:
            axes.figure.legend(loc="outside lower center", ncols=2)

    return _svg(draw, 2.3 + (0.09 * len(lines) if len(lines) > 1 else 0), label)


def dots_svg(dots: Sequence[Dot], across: str, label: str) -> str:
    """Means with whiskers of one deviation, the first on top, single values as faint ticks."""

    def draw(axes: Axes) -> None:
        rows = range(len(dots))
        for row, dot in zip(rows, dots, strict=True):
            shape: dict[str, Any] = {"color": INK, "alpha": 0.55} if dot.dim else {"color": SERIES[0]}
            axes.plot(dot.values, [row] * len(dot.values), "|", color=INK, alpha=0.45, markersize=9)
            axes.errorbar(dot.at, row, xerr=dot.spread, fmt="o", markersize=6, capsize=3, **shape)
        axes.set(xlabel=across, ylim=(len(dots) - 0.4, -0.6))
        axes.set_yticks(list(rows), [short(dot.name) for dot in dots])
        axes.grid(axis="y", visible=False)

    return _svg(draw, 0.7 + LINE * len(dots), label)


def marks_svg(marks: Sequence[Mark], front: Sequence[tuple[float, float]], across: str, up: str, label: str) -> str:
    """Points over a logarithmic axis, with the line of those that none beats."""

    def draw(axes: Axes) -> None:
        _logarithmic(axes, "x", bytes_text)
        if front:
            axes.plot(*zip(*front, strict=True), color=INK, linewidth=0.9, drawstyle="steps-post", alpha=0.6)
        named: set[str] = set()
        for mark in marks:
            colour = SERIES[mark.colour % COLOURS] if mark.colour >= 0 else INK
            look: dict[str, Any] = {"color": colour, "alpha": 0.4 if mark.dim else 1.0, "capsize": 2, "markersize": 5}
            look |= {"markerfacecolor": "none"} if mark.colour < 0 else {}
            look |= {"fmt": SHAPES[mark.shape % len(SHAPES)], "label": "_" if mark.name in named else short(mark.name)}
            axes.errorbar(mark.across, mark.up, yerr=mark.spread, **look)
            named.add(mark.name)
        axes.set(xlabel=across, ylabel=up)
        axes.figure.legend(loc="outside lower center", ncols=2)

    return _svg(draw, 2.4 + 0.09 * len({mark.name for mark in marks}), label)


def thinned(line: Line, most: int = MOST_POINTS) -> Line:
    """The same curve with about ``most`` points at most, its last one among them."""
    every = -(-len(line.across) // most)
    if every < 2:
        return line
    last = len(line.across) - 1
    kept = sorted({*range(0, last, every), last})
    across, up, low, high = (
        [values[n] for n in kept] if len(values) else () for values in (line.across, line.up, line.low, line.high)
    )
    return Line(line.name, across, up, low, high, line.colour)


def short(name: str) -> str:
    """A name that fits beside a plot, on one line.

    >>> short("a" * 30)
    'aaaaaaaaaaaaaaaaaaaaaaa...'
    """
    name = " ".join(name.split()) or " "
    return name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."


def _logarithmic(axes: Axes, which: str, words: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # an extra

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))


def _far_apart(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_FROM


def _svg(draw: Callable[[Axes], None], height: float, label: str) -> str:
    """The drawing as an ``<svg>`` element; equal arguments give equal text."""
    import matplotlib  # an extra
    from markupsafe import escape
    from matplotlib.figure import Figure

    held = io.StringIO()
    settings: Any = {**SETTINGS, "svg.hashsalt": label}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its fonts have no picture of: the reader's may
        figure = Figure(figsize=(WIDTH, height), facecolor="none", layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        figure.savefig(held, format="svg", metadata={"Date": None})
    text = held.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _of_the_page(tag.group()), text)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    opened = f'<svg viewBox="{box.group(1)}" role="img" aria-label="{escape(label)}">'
    return opened + text[text.index(">") + 1 :]


def _of_the_page(tag: str) -> str:
    """A tag with the page's colours and font, and without a name that another plot of the page has too."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub("|".join(VARIABLES), lambda found: f"var({VARIABLES[found.group()]})", tag)
    return re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", tag)
