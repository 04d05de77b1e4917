"""Squarified treemaps: areas in proportion to values, shapes close to squares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sk_rqkplus._text import fit_text, text_width, wrap

LINE_HEIGHT = 1.25
HEADING_SIZE, WORD_SIZE = 11, 10
# How much wider bold text is.
BOLD = 1.1


class Box(NamedTuple):
    """A rectangle, by its corner of least coordinates and its size."""

    x: float
    y: float
    width: float
    height: float

    def shrunk(self, left: float, top: float, right: float, bottom: float) -> "Box":
        """Leave a margin at every side; the result is never negative."""
        return Box(
            self.x + left,
            self.y + top,
            max(0.0, self.width - left - right),
            max(0.0, self.height - top - bottom),
        )


def squarify(values: Sequence[float], box: Box) -> list[Box]:
    """Cut a box into one rectangle per value.

    Rectangles are laid in rows along the shorter side of what is left of the box; a row
    takes further values as long as its worst aspect ratio does not rise.

    Parameters
    ----------
    values : sequence of float
        Positive values in descending order.

    box : Box
        What is cut.

    Returns
    -------
    boxes : list of Box
        Rectangles that tile the box, with areas in proportion to the values.

    References
    ----------
    Bruls, Huizing and van Wijk, "Squarified Treemaps", Data Visualization 2000.

    Examples
    --------
    >>> from sk_rqkplus._treemap import Box, squarify
    >>> squarify([2, 1, 1], Box(0, 0, 4, 2))[0]
    Box(x=0, y=0.0, width=2.0, height=2.0)
    """
    if box.width <= 0 or box.height <= 0:
        return [Box(box.x, box.y, 0.0, 0.0) for _ in values]
    total = float(sum(values))
    areas = [value * box.width * box.height / total for value in values]
    boxes: list[Box] = []
    while areas:
        side = min(box.width, box.height)
        n_row = 1
        while n_row < len(areas) and _worst(areas[: n_row + 1], side) <= _worst(
            areas[:n_row], side
        ):
            n_row += 1
        row, areas = areas[:n_row], areas[n_row:]
        boxes.extend(_lay(row, box))
        depth = sum(row) / side
        if box.width >= box.height:
            box = box.shrunk(depth, 0, 0, 0)
        else:
            box = box.shrunk(0, depth, 0, 0)
    return boxes


def _worst(row: Sequence[float], side: float) -> float:
    """Worst aspect ratio of areas in descending order, laid along a side."""
    scale = (side / sum(row)) ** 2
    return max(row[0] * scale, 1 / (row[-1] * scale))


def _lay(row: Sequence[float], box: Box) -> list[Box]:
    """Areas along the shorter side of a box."""
    depth = sum(row) / min(box.width, box.height)
    boxes, at = [], 0.0
    for area in row:
        length = area / depth
        if box.width >= box.height:
            boxes.append(Box(box.x, box.y + at, depth, length))
        else:
            boxes.append(Box(box.x + at, box.y, length, depth))
        at += length
    return boxes


@dataclass
class Cell:
    """A box of a treemap and the text in it.

    Attributes
    ----------
    box : Box
        Place and size.

    shade : int or None
        From 0 to 4; None for a frame around other boxes.

    tooltip : str
        What there is to say about it.

    lines : list of str
        Lines of text that fit.

    bold : bool
        Whether the text is a heading.
    """

    box: Box
    shade: int | None
    tooltip: str
    lines: list[str] = field(default_factory=list)
    bold: bool = False

    def baselines(self) -> list[tuple[float, float]]:
        """Where the lines begin, from the corner of the box."""
        if self.bold:
            return [(4.0, 12.0)] * len(self.lines)
        return [
            (3.0, 2 + WORD_SIZE + i * WORD_SIZE * LINE_HEIGHT)
            for i in range(len(self.lines))
        ]


def layout(nodes: Sequence[dict], box: Box) -> Iterator[Cell]:
    """Lay a tree of two levels out: frames, and cells inside them.

    Parameters
    ----------
    nodes : sequence of dict
        With keys ``count``, ``name``, ``words`` or else ``title``, ``tooltip``,
        ``shade`` (0 to 4) and ``children``, which are such nodes; in descending order
        of count.

    box : Box
        What is filled.

    Yields
    ------
    cell : Cell
        Boxes that can be seen, outer ones before inner ones.
    """
    frames = squarify([node["count"] for node in nodes], box)
    for node, frame in zip(nodes, frames, strict=True):
        frame = frame.shrunk(1.5, 1.5, 1.5, 1.5)
        children = node["children"]
        if not children:
            yield from _leaf(node, frame)
            continue
        heading = _heading(node, frame.width - 8) if frame.height >= 34 else ""
        lines = [heading] if heading else []
        yield Cell(frame, None, node["tooltip"], lines, bold=True)
        inner = frame.shrunk(2, 16 if heading else 2, 2, 2)
        for child, cell in zip(children, _cut(children, inner), strict=True):
            yield from _leaf(child, cell.shrunk(0.5, 0.5, 0.5, 0.5))


def _cut(nodes: Sequence[dict], box: Box) -> list[Box]:
    """Boxes of nodes in descending order; a last one that is larger gets a strip."""
    counts = [node["count"] for node in nodes]
    if len(counts) < 2 or counts[-1] <= counts[-2]:
        return squarify(counts, box)
    share = counts[-1] / sum(counts)
    x, y, width, height = box
    if width >= height:
        cut = width * (1 - share)
        rest = Box(x + cut, y, width - cut, height)
        return [*squarify(counts[:-1], Box(x, y, cut, height)), rest]
    cut = height * (1 - share)
    rest = Box(x, y + cut, width, height - cut)
    return [*squarify(counts[:-1], Box(x, y, width, cut)), rest]


def _leaf(node: dict, box: Box) -> Iterator[Cell]:
    if box.width >= 1 and box.height >= 1:
        yield Cell(box, node["shade"], node["tooltip"], _lines(node, box))


def _heading(node: dict, width: float) -> str:
    """Name and as many words as fit, or as much of the title."""
    words, size = node["words"], BOLD * HEADING_SIZE
    for n_words in range(len(words), 0, -1):
        text = f"{node['name']} {', '.join(words[:n_words])}"
        if text_width(text, size) <= width:
            return text
    text = f"{node['name']} {', '.join(words) or node['title']}"
    return fit_text(text, width, size)


def _lines(node: dict, box: Box) -> list[str]:
    """Words, one a line, or the title in lines, as far as there is room."""
    n_lines = min(4, int((box.height - 4) / (WORD_SIZE * LINE_HEIGHT)))
    width = box.width - 6
    if n_lines < 1 or width < 20:
        return []
    if node["words"]:
        fitted = [fit_text(word, width, WORD_SIZE) for word in node["words"]]
        return [line for line in fitted if line][:n_lines]
    return wrap(node["title"] or node["name"], width, WORD_SIZE, n_lines)
