"""A report as one HTML page: inline CSS and SVG, no scripts, nothing from a network."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from sk_rqkplus._prefix_tree import tree_nodes
from sk_rqkplus._report_figures import FIGURES, show
from sk_rqkplus._svg import Series, line_chart, tag, treemap
from sk_rqkplus._text import count, sizes_text
from sk_rqkplus._treemap import Box, layout

# Size of the treemap, and most nodes of both levels, on wide and narrow screens.
TREEMAPS = {"wide": ((1080, 660), 60, 9), "narrow": ((360, 620), 18, 5)}
KEY_FIGURES = (
    "collision_rate",
    "suffix_rate",
    "reconstruction_r2",
    "neighbour_recall",
)
LOSSES = "Losses of the training batches"
CURVES = {
    "train_loss": (LOSSES, "total"),
    "reconstruction_loss": (LOSSES, "reconstruction"),
    "quantisation_loss": (LOSSES, "quantisation"),
    "reconstruction_error": ("Reconstruction error (MSE)", "fitted rows"),
    "validation_reconstruction_error": (
        "Reconstruction error (MSE)",
        "rows held out",
    ),
    "collision_rate": ("Collision rate of the codes", "fitted rows"),
    "validation_collision_rate": ("Collision rate of the codes", "rows held out"),
    "neighbour_recall": ("Neighbours kept (recall@10)", "fitted rows"),
    "validation_neighbour_recall": ("Neighbours kept (recall@10)", "rows held out"),
    "monitor": ("What decides about the best epoch", "fitted rows"),
    "validation_monitor": ("What decides about the best epoch", "rows held out"),
    "gradient_norm": ("Norm of the gradient", "mean of the batches"),
    "n_revived": ("Codewords revived", "dead ones, moved to rows of large error"),
}
STYLES = "abcdef"


def render(report: Any) -> str:
    """HTML page of a report.

    Parameters
    ----------
    report : SIDReport
        The report.

    Returns
    -------
    page : str
        A whole HTML document.
    """
    model = report.model
    title = f"Semantic IDs of {count(model['n_items'], 'item')}"
    sections = [
        _section("Advice", _advice(report.advice)),
        _section("Figures", _figures(report.figures)),
        _section("Levels", _levels(report)),
        _section("Prefix tree", *_tree(report)),
        _section("Training", _training(report), report.history),
        _section("Neighbours and their IDs", *_examples(report.examples)),
        _section("Largest groups of one code", *_groups(report.groups)),
    ]
    body = tag("header", f"{tag('h1', title)}{_subtitle(model)}{_cards(report)}")
    body += tag("main", "".join(sections)) + tag("footer", _footer(model))
    css = files("sk_rqkplus").joinpath("report.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(heading: str, content: str, wanted: Any = True) -> str:
    if not wanted or not content:
        return ""
    return tag("section", f"{tag('h2', heading)}\n{content}\n")


def _subtitle(model: dict) -> str:
    parts = [
        model["name"],
        f"{sizes_text(model['codebook_sizes'])} codewords",
        f"{count(model['n_features'], 'feature')} per embedding",
    ]
    if model["best_epoch"] is not None:
        parts.append(f"epoch {model['best_epoch']} of {model['n_epochs']}")
    return tag("p", " · ".join(map(escape, parts)), class_="subtitle")


def _cards(report: Any) -> str:
    cards = [
        _card(FIGURES[key], report.figures[key])
        for key in KEY_FIGURES
        if report.figures[key]["value"] is not None
    ]
    return tag("div", "".join(cards), class_="cards")


def _card(spec: Any, figure: dict) -> str:
    """A large number, a bar from 0 to 1, and marks for what it is compared with."""
    marks = [
        (kind, figure[kind], name)
        for kind, name in (("floor", "floor"), ("baseline", spec.baseline))
        if figure[kind] is not None
    ]
    share = min(1.0, max(0.0, figure["value"]))
    bar = tag("i", style=f"width:{100 * share:.1f}%", class_="fill")
    for kind, value, _ in marks:
        bar += tag("i", style=f"left:{100 * min(1, value):.1f}%", class_=f"mark {kind}")
    notes = " · ".join(f"{name} {show(value, spec.unit)}" for _, value, name in marks)
    return tag(
        "div",
        tag("p", spec.label, class_="name")
        + tag("p", show(figure["value"], spec.unit), class_="number")
        + tag("div", bar, class_="bar", aria_hidden="true")
        + tag("p", notes or "&nbsp;", class_="notes"),
        class_="card",
    )


def _advice(advice: Sequence[Any]) -> str:
    if not advice:
        return tag("p", "No figure is out of the ordinary.", class_="fine")
    items = [
        tag(
            "li",
            tag("strong", escape(one.topic.capitalize()))
            + tag("span", escape(one.trigger()), class_="trigger")
            + tag("p", escape(one.text)),
            class_=one.severity,
        )
        for one in advice
    ]
    return tag("ul", "".join(items), class_="advice")


def _figures(figures: dict[str, dict]) -> str:
    tables = []
    for section in dict.fromkeys(spec.section for spec in FIGURES.values()):
        rows = [
            _figure_row(FIGURES[key], figure)
            for key, figure in figures.items()
            if FIGURES[key].section == section
        ]
        head = _row("th", ["Figure", "Value", "Compare with"], scope="col")
        caption = tag("caption", section)
        tables.append(
            tag(
                "table",
                f"{caption}<thead>{head}</thead><tbody>{''.join(rows)}</tbody>",
                class_="figures",
            )
        )
    return "".join(tables)


def _row(cell: str, values: Iterable[str], **attributes: str) -> str:
    return tag("tr", "".join(tag(cell, value, **attributes) for value in values))


def _figure_row(spec: Any, figure: dict) -> str:
    value = show(figure["value"], spec.unit)
    if figure["low"] is not None and figure["low"] < figure["high"]:
        low, high = (show(figure[end], spec.unit) for end in ("low", "high"))
        value += tag("small", f"{low} to {high}")
    against = []
    if figure["floor"] is not None:
        against.append(f"floor {show(figure['floor'], spec.unit)}")
    if figure["baseline"] is not None:
        against.append(f"{spec.baseline} {show(figure['baseline'], spec.unit)}")
    name = tag("th", spec.label + tag("small", spec.meaning), scope="row")
    cells = tag("td", value, class_="value")
    cells += tag("td", "<br>".join(against), class_="against")
    return tag("tr", name + cells)


# The level table: label, key, unit. Levels are columns, so that it stays narrow.
LEVEL_ROWS = [
    ("Codewords", "size", "count"),
    ("… in use", "utilisation", "share"),
    ("Perplexity", "perplexity", "number"),
    ("Perplexity / size", "perplexity_share", "ratio"),
    ("Gini coefficient", "gini", "ratio"),
    ("Variation of the load", "load_cv", "ratio"),
    ("Most items of a codeword", "largest", "count"),
    ("Explained variance so far", "r2", "share"),
    ("Similarity within the prefix", "cohesion", "similarity"),
]


def _levels(report: Any) -> str:
    levels = report.levels
    head = "<td></td>" + "".join(
        tag("th", f"Level {i}", scope="col") for i in range(len(levels))
    )
    rows = ""
    for label, key, unit in LEVEL_ROWS:
        values = [level[key] for level in levels]
        if all(value is None for value in values):
            continue
        cells = "".join(
            tag("td", show(_centre(v), unit), class_="value") for v in values
        )
        rows += tag("tr", tag("th", label, scope="row") + cells)
    table = tag(
        "table",
        "<caption>How evenly codebooks are used, and what each level adds</caption>"
        f"<thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody>",
        class_="levels",
    )
    scroll = tag(
        "div", table, class_="scroll", tabindex=0, role="region", aria_label="Levels"
    )
    return scroll + _charts([*_usage_charts(report), *_level_charts(report)])


def _centre(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) else value


def _charts(charts: Sequence[tuple[str, str]]) -> str:
    """Charts side by side where there is room."""
    figures = [
        tag("figure", tag("figcaption", escape(caption)) + drawing)
        for caption, drawing in charts
    ]
    return tag("div", "".join(figures), class_="charts") if figures else ""


def _usage_charts(report: Any) -> Iterable[tuple[str, str]]:
    n_items = report.model["n_items"]
    for number, (level, used) in enumerate(
        zip(report.levels, report.usage, strict=True)
    ):
        even = n_items / level["size"]
        yield (
            f"Usage of level {number}",
            line_chart(
                [Series("items", used["rank"], used["count"], area=True)],
                title=f"Usage of level {number}",
                description=(
                    f"Items per codeword in descending order, from "
                    f"{used['count'][0]:,} to {used['count'][-1]:,}; evenly spread "
                    f"there were {even:.4g}"
                ),
                x_label="codewords, most used first",
                references=[(f"evenly spread: {even:.4g}", even)],
                y_format=_short,
                x_format=_short,
            ),
        )


def _short(value: float) -> str:
    """Number of a tick, such as 0.002, 1.5k or 2e-05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _level_charts(report: Any) -> Iterable[tuple[str, str]]:
    r2 = [0.0, *(level["r2"] for level in report.levels)]
    if all(value is not None for value in r2):
        yield (
            "Explained variance",
            line_chart(
                [Series("explained variance", range(len(r2)), r2, dots=True)],
                title="Explained variance",
                description=f"{_percent(r2[-1])} after all levels",
                x_label="levels read",
                x_ticks=range(len(r2)),
                y_format=_percent,
                y_max=1.0,
            ),
        )
    cohesion = [_centre(level["cohesion"]) for level in report.levels]
    baseline = report.figures["path_average_similarity"]["baseline"]
    if any(value is not None for value in cohesion) and baseline is not None:
        yield (
            "Similarity within a prefix",
            line_chart(
                [
                    Series(
                        "same prefix", range(1, len(cohesion) + 1), cohesion, dots=True
                    )
                ],
                title="Similarity within a prefix",
                description="Mean cosine similarity of items that share first codes",
                x_label="levels shared",
                x_ticks=range(1, len(cohesion) + 1),
                references=[("random pairs", baseline)],
                y_format="{:.4g}".format,
            ),
        )


def _tree(report: Any) -> tuple[str, Any]:
    """Treemap, once for wide and once for narrow screens."""
    drawings = "".join(
        tag("div", _treemap(report, *what), class_=f"treemap {screen}")
        for screen, what in TREEMAPS.items()
    )
    scale = "".join(
        tag("span", tag("i", class_=f"key q{i}") + label)
        for i, label in enumerate(("0–20 %", "–40 %", "–60 %", "–80 %", "–100 %"))
    )
    what = (
        "with words that are frequent in their titles and rare around them"
        if report.model["has_titles"]
        else "with the number of a codeword. Give titles to see what the items are"
    )
    text = (
        "Areas are numbers of items. A frame is a first code and the boxes inside are "
        f"second codes, {what}. The stronger the shade, the more items have a code "
        "that another item has too."
    )
    key = tag("p", f"Items that share their code: {scale}", class_="scale")
    return tag("p", text) + key + drawings, report.tree


def _treemap(report: Any, size: tuple[int, int], n_first: int, n_second: int) -> str:
    n_items = report.model["n_items"]
    nodes, share = tree_nodes(report.tree, n_items, n_first, n_second)
    cells = layout(nodes, Box(0, 0, *size))
    drawing = treemap(list(cells), size, title="Treemap of the first two levels")
    note = f"The {count(len(nodes), 'largest first code')}: {share:.0%} of all items."
    return drawing + (tag("p", note, class_="notes") if share < 1 else "")


def _training(report: Any) -> str:
    panels: dict[str, list[Series]] = {}
    for key, (epochs, values) in report.history.items():
        if not any(values):
            continue
        caption, name = CURVES.get(key, (key.replace("_", " ").capitalize(), key))
        lines = panels.setdefault(caption, [])
        style = STYLES[len(lines) % len(STYLES)]
        lines.append(Series(name, epochs, values, style, dots=len(values) < 30))
    best = report.model["best_epoch"]
    charts = []
    for caption, lines in panels.items():
        inside = best is not None and any(
            min(line.x) <= best <= max(line.x) for line in lines
        )
        percent = caption == CURVES["collision_rate"][0]
        drawing = line_chart(
            lines,
            title=caption,
            description=" ".join(
                f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}."
                for line in lines
            ),
            x_label="epoch",
            marker=(f"best epoch: {best}", best) if inside else None,
            y_format=_percent if percent else _short,
        )
        charts.append((caption, drawing))
    return _charts(charts)


def _chips(code: Sequence[int], n_shared: int = 0, suffix: bool = True) -> str:
    """Code or ID, a box per level; shared levels are marked."""
    n_levels = len(code) - suffix
    spans = []
    for level, value in enumerate(code):
        kind = (
            "same" if level < n_shared else "suffix" if level >= n_levels else "other"
        )
        spans.append(tag("span", str(value), class_=kind))
    return tag("span", " ".join(spans), class_="chips")


def _examples(items: Sequence[dict]) -> tuple[str, Any]:
    cards = []
    for item in items:
        rows = [
            tag(
                "li",
                tag("bdi", escape(near["title"]), class_="title")
                + tag("span", f"{near['similarity']:.2f}", class_="similarity")
                + _chips(near["id"], near["shared_levels"]),
            )
            for near in item["neighbours"]
        ]
        head = tag("h3", tag("bdi", escape(item["title"])))
        cards.append(
            tag(
                "article",
                head + _chips(item["id"]) + tag("ol", "".join(rows)),
                class_="example",
            )
        )
    text = (
        "Items chosen at random, and the items of highest cosine similarity to each. "
        "Codes that a neighbour shares with the item, from the first level on, are "
        "marked; the last number is the suffix."
    )
    has_any = any(item["neighbours"] for item in items)
    cards_ = tag("div", "".join(cards), class_="examples")
    return tag("p", text) + cards_, has_any


def _groups(groups: Sequence[dict]) -> tuple[str, Any]:
    blocks = []
    for group in groups:
        titles = [tag("li", tag("bdi", escape(title))) for title in group["titles"]]
        more = group["count"] - len(titles)
        if more:
            titles.append(tag("li", f"and {more:,} more"))
        head = _chips(group["code"], suffix=False) + f" {count(group['count'], 'item')}"
        blocks.append(
            tag(
                "article",
                tag("h3", head) + tag("ul", "".join(titles)),
                class_="group",
            )
        )
    text = "Before IDs are made unique. Are these variants of one product, or a mix?"
    return tag("p", text) + tag("div", "".join(blocks), class_="groups"), groups


def _footer(model: dict) -> str:
    notes = [
        "Intervals hold 95 % of the uncertainty of sampling.",
        f"Neighbours are those among {count(model['n_sampled'], 'item')}"
        + (" drawn at random." if model["n_sampled"] < model["n_items"] else "."),
        "The floor of the collision rate counts bit-identical rows.",
        "Random codes are drawn evenly from all that the codebooks can make.",
        f"sk_rqkplus {model['version']}.",
    ]
    return tag("p", " ".join(notes))
