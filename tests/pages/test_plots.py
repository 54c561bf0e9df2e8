"""Plots: the page's colours, text as text, and the same bits for the same numbers."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from ddcore.pages import plots
from ddcore.pages.plots import Dot, Line, Mark, dots_svg, lines_svg, marks_svg, thinned

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
HOSTILE = """<script>"$x^2$"#010101"""


def texts(svg: str) -> list[str]:
    tree = ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
    return ["".join(e.itertext()) for e in tree.iter() if e.tag.endswith("text")]


def test_names_from_data_are_text_letter_by_letter():
    for svg in (
        dots_svg([Dot(HOSTILE, 0.5), Dot("b", 0.25)], "accuracy", HOSTILE),
        lines_svg([Line(HOSTILE, [0, 1], [1, 2]), Line("b", [0, 1], [1, 2])], "step", "loss", "curves"),
        marks_svg([Mark(HOSTILE, 1000, 0.5)], [(1000, 0.5)], "bytes", "accuracy", "marks"),
    ):
        assert HOSTILE in texts(svg)
        assert "<script" not in svg and "<style" not in svg and "http" not in svg


def test_colours_and_fonts_are_the_pages():
    svg = marks_svg([Mark("a", 1000, 0.5, colour=1), Mark("b", 2000, 0.4, dim=True, shape=1)], [], "bytes", "up", "x")
    assert "var(--ink)" in svg and "var(--grid)" in svg and "var(--c1)" in svg and "var(--font)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) == set() and "DejaVu" not in svg
    assert not re.search(r'<g id="', svg)


def test_equal_numbers_give_equal_text():
    lines = [Line("a", range(9), [n**2 + 1 for n in range(9)], [0.5] * 9, [90.0] * 9)]
    assert lines_svg(lines, "step", "loss", "x") == lines_svg(lines, "step", "loss", "x")


def test_whiskers_are_as_long_as_the_deviation_says():
    # the axis is linear: a deviation twice as large is a whisker twice as long
    def length(spread: float) -> float:
        svg = dots_svg([Dot("a", 0.5, spread), Dot("b", 0.0), Dot("c", 1.0)], "accuracy", "x")
        ends = [[float(n) for n in re.findall(r"[ML] ([\d.]+)", path)] for path in re.findall(r' d="([^"]*)"', svg)]
        level = re.findall(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) \2 \n"[^>]*stroke: var\(--c0\)', svg)
        assert ends and level
        return max(float(right) - float(left) for left, _, right in level)

    assert length(0.2) == pytest.approx(2 * length(0.1), rel=1e-3)


def test_long_curves_are_thinned_and_keep_their_ends():
    line = thinned(Line("a", range(10_001), range(10_001), range(10_001), range(10_001)), most=100)
    assert len(line.across) <= 102 and (line.across[0], line.across[-1]) == (0, 10_000)
    assert line.across == line.up == line.low == line.high
    assert thinned(line, most=1000) is line


def test_values_far_apart_are_on_a_logarithmic_axis_unless_one_is_not_positive():
    far, crossing = Line("a", [0, 1, 2], [0.01, 1, 100]), Line("a", [0, 1, 2], [-1, 1, 100])
    assert "0.01" in texts(lines_svg([far], "step", "loss", "x"))
    assert "0.01" not in texts(lines_svg([crossing], "step", "loss", "x"))


def test_letters_without_a_picture_in_the_fonts_warn_nobody():
    assert "漢字" in "".join(texts(dots_svg([Dot("漢字", 0.5)], "accuracy", "x")))


def test_colours_of_the_page_are_all_defined_for_light_and_for_dark():
    from importlib import resources

    style = resources.files("ddcore.pages").joinpath("page.html.j2").read_text("utf-8")
    for variable in plots.VARIABLES.values():
        assert style.count(f"{variable}: #") == 2, variable
