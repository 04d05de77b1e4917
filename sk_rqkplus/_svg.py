"""Small drawings as SVG text: line charts and treemaps, styled by the page's CSS."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from sk_rqkplus._text import fit_text, text_width
from sk_rqkplus._treemap import Box, Cell


def nice_ticks(low: float, high: float, n_ticks: int = 4) -> list[float]:
    """Round numbers that cover an interval."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """Element of SVG or HTML; ``content`` is markup, attributes are escaped."""
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
    ]
    return f"<{name}{''.join(parts)}>{content}</{name}>"


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(str(value))


@dataclass(frozen=True)
class Series:
    """A line of a chart; values that are None are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "a"
    dots: bool = False
    area: bool = False

    def points(self) -> list[tuple[float, float]]:
        """Pairs of the values that exist."""
        pairs = zip(self.x, self.y, strict=True)
        return [
            (float(x), float(y)) for x, y in pairs if y is not None and math.isfinite(y)
        ]


Format = Callable[[float], str]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    x_label: str,
    references: Iterable[tuple[str, float]] = (),
    marker: tuple[str, float] | None = None,
    y_format: Format = "{:g}".format,
    x_format: Format = "{:g}".format,
    x_ticks: Sequence[float] | None = None,
    y_max: float | None = None,
    size: tuple[int, int] = (340, 220),
) -> str:
    """Draw lines from zero up, with horizontal references and a vertical marker.

    Parameters
    ----------
    series : sequence of Series
        Lines, each with at least one value.

    title, description : str
        Heading of the chart, and what a screen reader says.

    x_label : str
        Name of the x axis.

    references : iterable of (str, float)
        Horizontal dashed lines.

    marker : (str, float), optional
        Vertical dashed line.

    y_format, x_format : callable
        Turn the number of a tick into text.

    x_ticks : sequence of float, optional
        Ticks of the x axis; None chooses round numbers.

    y_max : float, optional
        Upper end of the y axis; None is the next tick above all values.

    size : (int, int), default=(340, 220)
        Width and height of the drawing.

    Returns
    -------
    markup : str
        An ``<svg>`` element.
    """
    references = list(references)
    points = [line.points() for line in series]
    values = [y for line in points for _, y in line] + [y for _, y in references]
    xs = [x for line in points for x, _ in line]
    y_ticks = nice_ticks(min(0.0, *values), y_max or max(values))
    if y_max is not None:
        y_ticks = [tick for tick in y_ticks if tick <= y_max * 1.0001]
    x_low, x_high = min(xs), max(xs)
    if x_ticks is None:
        ticks = nice_ticks(x_low, x_high)
        x_ticks = [t for t in ticks if x_low <= t <= x_high] or [x_low]
    width, height = size
    legend = [(line.style, line.name) for line in series]
    legend += [("ref", name) for name, _ in references]
    if marker is not None:
        legend.append(("mark", marker[0]))
    left = 10 + max(text_width(y_format(tick), 11) for tick in y_ticks)
    key, top = _legend(legend, width, left)
    plot = Box(left, top, width - left - 14, height - top - 38)

    def at(x: float, y: float) -> tuple[float, float]:
        share_x = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        share_y = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return plot.x + share_x * plot.width, plot.y + (1 - share_y) * plot.height

    body = [tag("title", escape(f"{title}. {description}")), *key]
    for tick in y_ticks:
        y = at(x_low, tick)[1]
        body.append(_line(plot.x, y, plot.x + plot.width, y, "grid"))
        body.append(_text(y_format(tick), plot.x - 6, y + 4, "end"))
    body += _x_axis(x_ticks, x_format, x_label, plot, lambda x: at(x, 0)[0])
    for line, own in zip(series, points, strict=True):
        body.append(_curve(line, [at(*point) for point in own], plot))
    for _, value in references:
        y = at(x_low, value)[1]
        body.append(_line(plot.x, y, plot.x + plot.width, y, "ref"))
    if marker is not None:
        x = at(marker[1], 0)[0]
        body.append(_line(x, plot.y, x, plot.y + plot.height, "mark"))
    return _figure(body, width, height, title)


def _figure(body: Sequence[str], width: float, height: float, title: str) -> str:
    return tag(
        "svg",
        "".join(body),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
        xmlns="http://www.w3.org/2000/svg",
    )


def _text(
    text: str, x: float, y: float, anchor: str = "start", class_: str = "tick"
) -> str:
    return tag("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _legend(
    entries: Sequence[tuple[str, str]], width: float, left: float
) -> tuple[list[str], float]:
    """Keys of the lines above the plot, and where the plot begins."""
    if len(entries) < 2:
        return [], 12.0
    body, x, y = [], left, 14.0
    for style, name in entries:
        name = fit_text(name, width - left - 30, 11)
        needed = 36 + text_width(name, 11)
        if x > left and x + needed > width:
            x, y = left, y + 16
        body.append(_line(x, y - 4, x + 14, y - 4, f"stroke {style}"))
        body.append(_text(name, x + 19, y))
        x += needed
    return body, y + 14


def _x_axis(
    ticks: Sequence[float],
    x_format: Format,
    label: str,
    plot: Box,
    at: Callable[[float], float],
) -> list[str]:
    """Ticks that do not touch each other, and the label below them."""
    base = plot.y + plot.height
    body, free_from = [], -math.inf
    for tick in ticks:
        text, x = x_format(tick), at(tick)
        half = text_width(text, 11) / 2
        x = min(x, plot.x + plot.width + 12 - half)
        if x - half >= free_from:
            body.append(_text(text, x, base + 16, "middle"))
            free_from = x + half + 6
    middle = plot.x + plot.width / 2
    return [*body, _text(label, middle, base + 32, "middle", "label")]


def _curve(line: Series, points: Sequence[tuple[float, float]], plot: Box) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    body = ""
    base = plot.y + plot.height
    if line.area and points:
        closed = f"{points[0][0]:.1f},{base:.1f} {path} {points[-1][0]:.1f},{base:.1f}"
        body += tag("polygon", points=closed, class_=f"area {line.style}")
    if len(points) > 1:
        body += tag("polyline", points=path, class_=f"stroke {line.style}")
    if line.dots or len(points) == 1:
        body += "".join(
            tag("circle", cx=x, cy=y, r=3, class_=f"dot {line.style}")
            for x, y in points
        )
    return body


def treemap(cells: Sequence[Cell], size: tuple[int, int], *, title: str) -> str:
    """Draw a tree that is laid out.

    Parameters
    ----------
    cells : sequence of Cell
        Boxes with their texts, outer ones before inner ones.

    size : (int, int)
        Width and height of the drawing.

    title : str
        What a screen reader says.

    Returns
    -------
    markup : str
        An ``<svg>`` element.
    """
    body = [tag("title", escape(title)), *map(_cell, cells)]
    return _figure(body, *size, title)


def _cell(cell: Cell) -> str:
    """Box with a tooltip, and lines that show in it alone."""
    class_ = "frame" if cell.shade is None else f"cell q{cell.shade}"
    names = ("x", "y", "width", "height")
    place: dict[str, object] = dict(zip(names, cell.box, strict=True))
    body = tag("title", escape(cell.tooltip)) + tag("rect", class_=class_, **place)
    style = f"name t{cell.shade or 0}" if cell.bold else f"word t{cell.shade or 0}"
    lines = "".join(
        _text(line, x, y, class_=style)
        for line, (x, y) in zip(cell.lines, cell.baselines(), strict=True)
    )
    return tag("g", body + (tag("svg", lines, **place) if lines else ""))
