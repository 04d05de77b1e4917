"""Layouts of treemaps: areas, tiling, and texts that fit."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sk_rqkplus._text import fit_text, text_width, wrap
from sk_rqkplus._treemap import Box, layout, squarify


def test_the_example_of_the_paper():
    # Bruls et al., figure 4: 6, 6, 4, 3, 2, 2, 1 in a box of 6 by 4.
    boxes = squarify([6, 6, 4, 3, 2, 2, 1], Box(0, 0, 6, 4))
    assert_allclose(boxes[0], (0, 0, 3, 2))
    assert_allclose(boxes[1], (0, 2, 3, 2))
    # 4 and 3 lie in a row at the top of what is left, 2 begins a column below them.
    assert_allclose(boxes[2], (3, 0, 12 / 7, 7 / 3))
    assert_allclose(boxes[3], (3 + 12 / 7, 0, 9 / 7, 7 / 3))
    assert_allclose(boxes[4], (3, 7 / 3, 6 / 5, 5 / 3))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(100, 60), (60, 100), (500, 3)])
def test_boxes_tile_what_is_cut(seed, size):
    values = np.sort(np.random.RandomState(seed).pareto(1, size=40) + 0.01)[::-1]
    boxes = np.array(squarify(values.tolist(), Box(10, 20, *size)))
    area = boxes[:, 2] * boxes[:, 3]
    assert_allclose(area / area.sum(), values / values.sum())
    assert_allclose(area.sum(), size[0] * size[1])
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    assert (low >= [10 - 1e-9, 20 - 1e-9]).all()
    assert (high <= np.add([10, 20], size) + 1e-9).all()
    # Of two boxes one ends before the other begins, along some axis.
    apart = (high[:, None] <= low[None] + 1e-9).any(axis=2)
    assert (apart | apart.T | np.eye(len(boxes), dtype=bool)).all()


def test_an_empty_box_has_empty_parts():
    assert squarify([2, 1], Box(1, 2, 0, 5)) == [Box(1, 2, 0, 0)] * 2
    assert squarify([], Box(0, 0, 1, 1)) == []


def node(count, children=(), words=("drill", "bit"), name="7"):
    return {
        "count": count,
        "name": name,
        "words": list(words),
        "title": "A cordless drill",
        "tooltip": "tip",
        "shade": 2,
        "children": list(children),
    }


def test_a_frame_comes_before_the_cells_in_it():
    inside = [node(3), node(1), node(6, words=(), name="+5")]
    cells = list(layout([node(10, inside)], Box(0, 0, 300, 200)))
    frame, *parts = cells
    assert frame.shade is None
    assert frame.bold
    assert frame.lines == ["7 drill, bit"]
    assert [part.shade for part in parts] == [2, 2, 2]
    for part in parts:
        assert part.box.x >= frame.box.x
        assert part.box.y > frame.box.y + 12
        assert part.box.x + part.box.width <= frame.box.x + frame.box.width
    # The others, who are more than any single one, are a strip at the end.
    assert parts[2].box.x > max(parts[0].box.x, parts[1].box.x)


def test_what_cannot_be_seen_is_left_out():
    assert list(layout([node(1000), node(1e-3)], Box(0, 0, 30, 30)))[1:] == []
    assert list(layout([node(1)], Box(0, 0, 20, 20)))[0].lines == []


@pytest.mark.parametrize("text", ["drill", "工业用螺丝刀", "WWWWWW", "🔧🔩🔧🔩", ""])
def test_texts_are_cut_to_the_width(text):
    for width in range(5, 80, 5):
        fitted = fit_text(text, width, 10)
        assert text_width(fitted, 10) <= width
        assert fitted == text or fitted == "" or fitted.endswith("…")
    assert fit_text(text, text_width(text, 10), 10) == text


def test_combining_marks_have_no_width():
    assert text_width("é", 10) == text_width("e", 10)


def test_lines_break_between_words():
    assert wrap("one two three", 90, 10, 3) == ["one two three"]
    assert wrap("one two three", 50, 10, 3) == ["one two", "three"]
    assert wrap("one two three", 36, 10, 1) == ["one…"]
    assert wrap("a b", 1, 10, 2) == []
