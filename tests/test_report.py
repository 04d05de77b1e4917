"""Reports: figures, advice at its thresholds, and pages in a browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from math import exp

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus, metrics
from sk_rqkplus._advice import advise
from sk_rqkplus._prefix_tree import collision_groups, prefix_tree, tree_nodes
from sk_rqkplus._prefixes import sort_by_prefix
from sk_rqkplus._report_data import (
    level_errors,
    random_hashing_collision,
    training_curves,
)
from sk_rqkplus._report_figures import FIGURES, show
from sk_rqkplus._svg import Series, line_chart, nice_ticks, tag
from sk_rqkplus._titles import Titles, clean, keywords, spread
from sk_rqkplus.report import sid_report

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "&amp; &lt;b&gt;",
    "A" * 5000,
    "W" * 40,
    "",
    "  \t ",
    None,
    float("nan"),
    17,
    "\ud800",
    "\u202eevil\x00\n\ttitle",
    "工业用不锈钢螺丝刀套装" * 5,
    "مجموعة أدوات " * 8,
    "🔧🔩👩‍👩‍👧‍👦" * 20,
    "$x^2$",
]


@pytest.fixture(scope="module")
def titles(X):
    words = ["drill", "bearing", "tape", "valve", "switch", "glove"]
    return [f"{words[i % 6]} no. {i}" for i in range(len(X))]


@pytest.fixture(scope="module")
def report(fitted, X, titles):
    return sid_report(fitted, X, titles)


@pytest.fixture(scope="module")
def hostile(fitted, X):
    return sid_report(fitted, X, [HOSTILE[i % len(HOSTILE)] for i in range(len(X))])


# Figures


def test_figures_are_those_of_the_metrics(report, fitted, X):
    codes, ids = fitted.transform(X), fitted.predict(X)
    value = {key: figure["value"] for key, figure in report.figures.items()}
    assert set(value) == set(FIGURES)
    assert value["collision_rate"] == metrics.collision_rate(codes)
    assert value["shared_code_rate"] == metrics.shared_code_rate(codes)
    assert value["largest_group"] == metrics.largest_group(codes)
    assert value["id_collision_rate"] == 0
    assert value["moved_rate"] == np.mean((ids[:, :-1] != codes).any(axis=1))
    assert value["suffix_rate"] == np.mean(ids[:, -1] > 0)
    decoded = fitted.inverse_transform(codes)
    assert value["reconstruction_mse"] == pytest.approx(
        metrics.reconstruction_mse(X, decoded), rel=1e-5
    )
    assert value["reconstruction_r2"] == pytest.approx(
        metrics.reconstruction_r2(X, decoded), rel=1e-5
    )
    assert value["neighbour_recall"] == metrics.neighbour_recall(X, decoded).value
    assert (
        report.figures["path_average_similarity"]["baseline"]
        == metrics.random_pair_similarity(X).value
    )
    sizes = [16, 16, 16]
    shares = [level["perplexity_share"] for level in report.levels]
    assert_allclose(shares, metrics.perplexity(codes, sizes))
    assert_allclose(
        [level["cohesion"]["value"] for level in report.levels],
        [estimate.value for estimate in metrics.prefix_cohesion(codes, X)],
    )


def test_the_floor_counts_copies(X):
    rows = np.vstack([X[:100], X[:50]])
    rq = RQKMeans((8, 8), random_state=0).fit(rows)
    assert sid_report(rq, rows).figures["collision_rate"]["floor"] == 50 / 150


@pytest.mark.parametrize("n, sizes", [(1, (4,)), (3, (2,)), (2, (3, 2)), (5, (1,))])
def test_collisions_of_random_codes_by_enumeration(n, sizes):
    n_codes = int(np.prod(sizes))
    draws = np.stack(np.meshgrid(*[range(n_codes)] * n), axis=-1).reshape(-1, n)
    distinct = [len(set(draw)) for draw in draws.tolist()]
    expected = 1 - np.mean(distinct) / n
    assert random_hashing_collision(n, sizes) == pytest.approx(expected)


def test_collisions_of_random_codes_of_large_books():
    n, n_codes = 3686, 256**3
    published = 1 - n_codes * (1 - exp(-n / n_codes)) / n
    assert random_hashing_collision(n, [256] * 3) == pytest.approx(published, rel=1e-3)
    assert random_hashing_collision(10, [8192] * 200) == 0


def test_errors_fall_from_the_variance_to_the_error(fitted, X):
    errors = level_errors(fitted, X, fitted.codes_)
    assert errors[0] == pytest.approx(X.var(axis=0).mean(), rel=1e-4)
    assert errors[3] == pytest.approx(-fitted.score(X), rel=1e-9)
    assert errors == sorted(errors, reverse=True)
    # The first level by hand: the mean and one codeword.
    books, codes = fitted.codebooks_, fitted.codes_
    by_hand = np.square(X - fitted.mean_ - books[0][codes[:, 0]]).mean()
    assert errors[1] == pytest.approx(by_hand, rel=1e-6)


# Data of the pictures


def test_tree_by_hand():
    codes = np.array([[0, 0], [1, 2], [0, 1], [0, 0], [2, 2], [0, 3]])
    titles = Titles(["red drill", "tape", "blue drill", "red drill", "x", "y"], 6)
    prefixes = sort_by_prefix(codes)
    first, second, third = prefix_tree(codes, prefixes, titles)
    assert (first["code"], first["count"], first["shared"]) == (0, 4, 2)
    assert first["words"][0] == "drill"
    inner = [(node["code"], node["count"]) for node in first["children"]]
    assert inner == [(0, 2), (1, 1), (3, 1)]
    assert [second["code"], third["code"]] == [1, 2]

    one, others = prefix_tree(codes, prefixes, titles, n_first=1)
    assert (others["code"], others["n_codes"], others["count"]) == (None, 2, 2)
    assert others["children"] == []
    kept, rest = prefix_tree(codes, prefixes, titles, n_first=2, n_second=1)[0][
        "children"
    ]
    assert (kept["code"], rest["code"], rest["count"]) == (0, None, 2)


def test_every_item_is_in_the_tree(report, X):
    assert sum(node["count"] for node in report.tree) == len(X)
    for node in report.tree:
        assert sum(child["count"] for child in node["children"]) == node["count"]
        assert sum(child["shared"] for child in node["children"]) == node["shared"]


def test_nodes_that_are_drawn_keep_the_counts(report, X):
    nodes, share = tree_nodes(report.tree, len(X), 5, 2)
    assert [len(node["children"]) <= 2 for node in nodes] == [True] * 5
    assert share == sum(node["count"] for node in nodes) / len(X)
    for node in nodes:
        assert sum(child["count"] for child in node["children"]) == node["count"]


def test_words_of_a_group():
    base = {"drill": 1, "steel": 9, "bit": 3}
    counts = {"drill": 1, "drills": 1, "steel": 1}
    assert keywords(counts, 1, base | {"drills": 0}, 10) == ["drills", "steel"]


def test_largest_groups_by_hand():
    codes = np.array([[0, 1], [2, 2], [0, 1], [2, 2], [0, 1], [1, 1]])
    titles = Titles(list("abcdef"), 6)
    groups = collision_groups(codes, sort_by_prefix(codes), titles, n_titles=2)
    assert [(group["code"], group["count"]) for group in groups] == [
        ([0, 1], 3),
        ([2, 2], 2),
    ]
    assert groups[0]["titles"] == ["a", "e"]
    assert groups[0]["rows"] == [0, 4]


def test_examples_are_the_nearest_neighbours(report, fitted, X):
    ids = fitted.predict(X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    for item in report.examples:
        similarity = unit @ unit[item["row"]]
        similarity[item["row"]] = -np.inf
        found = [near["similarity"] for near in item["neighbours"]]
        assert_allclose(found, np.sort(similarity)[::-1][:5], rtol=1e-5)
        for near in item["neighbours"]:
            assert near["id"] == ids[near["row"]].tolist()
            equal = ids[near["row"], :3] == ids[item["row"], :3]
            assert near["shared_levels"] == np.cumprod(equal).sum()


def test_curves_leave_out_what_is_not_a_number():
    history = [
        {"epoch": 0, "loss": None, "error": 2.0},
        {"epoch": 1, "loss": 1.0, "error": float("nan"), "note": "x"},
        {"epoch": 2, "loss": np.float32(0.5)},
    ]
    assert training_curves(history) == {
        "loss": ([1, 2], [1.0, 0.5]),
        "error": ([0], [2.0]),
    }


def test_spread_has_both_ends():
    assert_array_equal(spread(10, 3), [0, 4, 9])
    assert_array_equal(spread(2, 5), [0, 1])
    assert_array_equal(spread(1, 5), [0])


# Advice


def advice_on(*, n_items=10_000, size=100, perplexity=80.0, **changes):
    """Topics of the advice on a model without a fault but for the changes."""
    collisions = {"value": 0.1, "floor": 0.0, "baseline": 0.01}
    collisions |= {k: v for k, v in changes.items() if k in collisions}
    figures = {
        "collision_rate": collisions,
        "suffix_rate": {"value": changes.get("suffix", 0.0)},
        "path_average_similarity": {"baseline": 0.2},
        "reconstruction_r2": {"value": changes.get("explained", 0.7)},
    }
    cohesion = {"value": 0.5, "low": 0.4, "high": changes.get("cohesion", 0.6)}
    levels = [{"size": size, "perplexity": perplexity, "cohesion": cohesion}]
    model = {
        "n_items": n_items,
        "codebook_sizes": [size],
        "largest_prefix": changes.get("largest_prefix", 10),
        "best_epoch": changes.get("best_epoch", 3),
        "n_epochs": 5,
    }
    return advise(figures, levels, model)


def test_no_advice_where_nothing_is_wrong():
    assert advice_on() == []


@pytest.mark.parametrize(
    "topic, below, at",
    [
        ("collapse", {"perplexity": 29.9}, {"perplexity": 30.0}),
        ("codebooks too large", {"n_items": 399}, {"n_items": 400}),
        ("codebooks too small", {"baseline": 0.101}, {"baseline": 0.1}),
        ("crowded codes", {"value": 0.312}, {"value": 0.309}),
        ("mixed lengths", {"suffix": 0.001}, {"suffix": 0.0}),
        ("prefixes without meaning", {"cohesion": 0.19}, {"cohesion": 0.2}),
        ("no gain from fine-tuning", {"best_epoch": 0}, {"best_epoch": 1}),
        ("worse than the mean", {"explained": -0.0011}, {"explained": -0.001}),
        ("duplicates", {"floor": 0.001}, {"floor": 0.0}),
    ],
)
def test_advice_at_its_threshold(topic, below, at):
    (advice,) = advice_on(**below)
    assert advice.topic == topic
    assert f"{advice.value:.3g}" in advice.trigger()
    assert advice.text.endswith(".")
    assert advice_on(**at) == []


def test_few_copies_are_a_note_and_many_a_warning():
    assert [a.severity for a in advice_on(floor=0.0099)] == ["note"]
    assert [a.severity for a in advice_on(floor=0.01)] == ["warning"]


def test_collisions_of_copies_are_not_held_against_the_model():
    topics = [advice.topic for advice in advice_on(value=0.5, floor=0.25)]
    assert topics == ["duplicates"]


def test_a_level_with_fewer_rows_than_codewords_is_not_called_collapsed():
    topics = [a.topic for a in advice_on(n_items=50, size=256, perplexity=50.0)]
    assert topics == ["codebooks too large"]


def test_a_crowded_prefix_is_named():
    (advice,) = advice_on(suffix=0.1, largest_prefix=1234)
    assert "largest prefix has 1,234 items for 100 last codewords" in advice.text
    assert advice.trigger() == "share of IDs with a suffix above 0: 0.1, above 0"


def test_warnings_come_first():
    found = advice_on(floor=0.001, best_epoch=0, suffix=0.1)
    assert [advice.severity for advice in found] == ["warning", "note", "note"]


def test_a_collapsed_model_is_told_so():
    rng = np.random.RandomState(0)
    X = np.vstack([rng.normal(size=(986, 4)) * 1e-3, rng.normal(size=(14, 4)) * 100])
    rq = RQKMeans((16, 16), balance="none", augment="none", random_state=0).fit(X)
    found = {advice.topic: advice for advice in sid_report(rq, X).advice}
    share = metrics.perplexity(rq.codes_, [16, 16])[0]
    assert found["collapse"].value == pytest.approx(share)


# Text, dictionary, files


def test_the_text_has_every_figure_and_level(report):
    text = str(report)
    for spec in FIGURES.values():
        assert spec.label in text
    assert "level 2" in text
    assert "RQKMeans, 3 × 16 codewords, 600 items of 24 features" in text
    assert repr(report) == "<SIDReport of 600 items, RQKMeans>"


@pytest.mark.parametrize(
    "value, unit, shown",
    [
        (0.1346, "share", "13.5 %"),
        (0.0, "share", "0.0 %"),
        (-1e-15, "share", "0.0 %"),
        (-0.112, "share", "-11.2 %"),
        (-0.0002, "share", "-0.02 %"),
        (0.000217, "share", "0.02 %"),
        (12345, "count", "12,345"),
        (0.000611, "error", "0.000611"),
        (None, "ratio", "–"),
        (0.256, "ratio", "0.26"),
        (229.34, "number", "229.3"),
    ],
)
def test_numbers_are_rounded_for_readers(value, unit, shown):
    assert show(value, unit).replace("\u00a0", " ") == shown


def test_everything_is_ready_for_json(report, tmp_path):
    plain = report.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["levels"] == plain["levels"]
    report.save(tmp_path / "report.json")
    loaded = json.loads((tmp_path / "report.json").read_text())
    assert loaded == json.loads(json.dumps(plain))


def test_the_ending_says_the_format(report, tmp_path):
    report.save(tmp_path / "report.HTML")
    assert (tmp_path / "report.HTML").read_text("utf-8") == report.to_html()
    report.save(str(tmp_path / "report.txt"))
    assert (tmp_path / "report.txt").read_text("utf-8") == f"{report}\n"
    with pytest.raises(ValueError, match=r"should end in one of .html, .json, .txt"):
        report.save(tmp_path / "report.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.HTML",
        "report.txt",
    ]


# What it takes


def test_calls_give_the_same_report_and_leave_the_estimator(fitted, X, titles):
    before = fitted.ids_.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = sid_report(fitted, X, titles)
    assert first.to_dict() == sid_report(fitted, X, np.array(titles)).to_dict()
    assert_array_equal(before, fitted.ids_)
    assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_a_pipeline_transforms_the_rows_first(X, titles):
    pipeline = make_pipeline(StandardScaler(), PCA(6), RQKMeans((8, 8), random_state=0))
    pipeline.fit(X)
    inside = sid_report(pipeline[-1], pipeline[:-1].transform(X), titles)
    assert sid_report(pipeline, X, titles).to_dict() == inside.to_dict()
    nested = make_pipeline(pipeline[:-1], make_pipeline(pipeline[-1]))
    assert sid_report(nested, X, titles).to_dict() == inside.to_dict()


@pytest.mark.filterwarnings("error")
def test_data_frames_keep_their_names(X, titles):
    frame = pd.DataFrame(X).add_prefix("x")
    rq = RQKMeans((8, 8), random_state=0).fit(frame)
    report = sid_report(rq, frame, pd.Series(titles, index=range(7, 607)))
    assert report.to_dict() == sid_report(rq.fit(X), X, titles).to_dict()
    pandas = make_pipeline(StandardScaler(), rq).set_output(transform="pandas")
    assert sid_report(pandas.fit(frame), frame).model["n_items"] == 600


def test_a_search_stands_for_its_best_estimator(X):
    search = GridSearchCV(
        RQKMeans(random_state=0), {"codebook_sizes": [(4, 4), (8, 8)]}, cv=2
    ).fit(X)
    assert sid_report(search, X).model["codebook_sizes"] == [8, 8]


def test_a_memory_map_is_read_in_parts(fitted, X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert sid_report(fitted, rows).to_dict() == sid_report(fitted, X).to_dict()


def test_training_is_shown_where_there_was_one(X):
    plus = RQKMeansPlus(
        (8, 8), hidden_layer_sizes=(8,), max_epochs=3, eval_every=1, random_state=0
    ).fit(X)
    report = sid_report(plus, X)
    assert report.model["best_epoch"] == plus.best_epoch_
    epochs, errors = report.history["reconstruction_error"]
    assert epochs == [0, 1, 2, 3]
    assert errors[0] == plus.history_[0]["reconstruction_error"]
    page = report.to_html()
    assert "<h2>Training</h2>" in page
    assert f"best epoch: {plus.best_epoch_}" in page


@pytest.mark.filterwarnings("ignore:no epoch had a lower")
def test_a_model_whose_latent_space_is_another(X):
    vae = RQVAE(
        (8, 8),
        latent_dim=4,
        hidden_layer_sizes=(8,),
        max_epochs=2,
        eval_every=1,
        random_state=0,
    ).fit(X)
    report = sid_report(vae, X)
    error = report.figures["reconstruction_mse"]
    assert error["value"] == pytest.approx(-vae.score(X))
    assert error["baseline"] == pytest.approx(X.var(axis=0).mean(), rel=1e-4)
    assert "<h2>Training</h2>" in report.to_html()


@pytest.mark.filterwarnings("ignore:codebook:UserWarning", "ignore:.*distinct")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows(X, n, tmp_path):
    rq = RQKMeans((4, 4), random_state=0).fit(X[:n])
    report = sid_report(rq, X[:n], ["only"] * n)
    assert report.model["n_items"] == n
    assert json.dumps(report.to_dict(), allow_nan=False)
    assert f"Semantic IDs of {n} item" in report.to_html()
    assert "–" in str(report) or n > 1


def test_one_level(X, titles):
    report = sid_report(RQKMeans((32,), random_state=0).fit(X), X, titles)
    assert all(node["children"] == [] for node in report.tree)
    assert "<h2>Prefix tree</h2>" in report.to_html()
    assert report.model["largest_prefix"] == len(X)


def test_large_codebooks_do_not_make_large_reports():
    X = np.random.RandomState(0).normal(size=(5000, 3))
    rq = RQKMeans(
        (4096,), balance="none", augment="none", max_iter=1, dedup="suffix"
    ).fit(X)
    report = sid_report(rq, X)
    assert len(report.usage[0]["count"]) <= 256
    assert report.usage[0]["rank"][-1] == 4095
    assert len(report.tree) <= 97
    assert len(report.to_html()) < 200_000


@pytest.mark.parametrize(
    "titles, shape",
    [(["a"], r"\(1,\)"), ("abc", r"\(\)"), ([["a"]] * 600, r"\(600, 1\)")],
)
def test_titles_of_another_length(fitted, X, titles, shape):
    with pytest.raises(ValueError, match=rf"titles have shape={shape}, which should"):
        sid_report(fitted, X, titles)


def test_estimators_that_are_none_of_ours(X):
    with pytest.raises(TypeError, match=r"estimator=PCA\(\) should be an RQKMeans"):
        sid_report(PCA().fit(X), X)
    with pytest.raises(TypeError, match=r"Pipeline that ends in one"):
        sid_report(make_pipeline(PCA(2)).fit(X), X)
    with pytest.raises(NotFittedError, match="RQKMeans instance is not fitted yet"):
        sid_report(RQKMeans(), X)


# Titles


@pytest.mark.parametrize(
    "title, shown",
    [
        ("a\n b\t\x00c", "a b c"),
        ("\u202eright to left", "right to left"),
        ("\ud800", "?"),
        (None, ""),
        (float("nan"), ""),
        (17, "17"),
        ("x" * 161, "x" * 160 + "…"),
    ],
)
def test_titles_are_one_clean_line(title, shown):
    assert clean(title) == shown


def test_items_without_a_title_are_called_by_their_row():
    titles = Titles(["", None, "x"], 3)
    assert [titles[row] for row in range(3)] == ["item 0", "item 1", "x"]
    assert Titles(None, 3)[2] == "item 2"


# The page


class Outline(HTMLParser):
    """Tags, headings and attributes of a page; complains of tags that do not match."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.headings = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append((self.open[-1], data))


@pytest.mark.parametrize("which", ["report", "hostile"])
def test_the_page_is_well_formed_and_needs_nothing_else(which, request):
    page = request.getfixturevalue(which).to_html()
    outline = Outline(page)
    assert not {"script", "img", "link", "iframe", "object"} & set(outline.tags)
    assert not {"src", "href", "onerror", "onload"} & {k for k, _ in outline.attributes}
    without_names = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|url\(|@import", without_names)
    assert page.count("<h1>") == 1


def test_pictures_have_a_name_and_a_description(report):
    page = report.to_html()
    pictures = re.findall(r"<svg viewBox[^>]*>", page)
    assert len(pictures) >= 6
    for picture in pictures:
        assert 'role="img"' in picture
        assert "aria-label=" in picture
    assert len(re.findall(r"<svg viewBox[^>]*><title>", page)) == len(pictures)
    assert '<html lang="en">' in page


def test_titles_are_escaped(hostile):
    page = hostile.to_html()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&amp;amp; &amp;lt;b&amp;gt;" in page
    assert "A" * 161 not in page
    page.encode("utf-8")


def test_a_notebook_shows_the_page_in_a_frame(report):
    frame = report._repr_html_()
    assert frame.startswith("<iframe ")
    (inner,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inner) == report.to_html()


def test_markup_is_escaped_in_attributes():
    assert tag("p", "x", class_='a"b', aria_label="1 < 2") == (
        '<p class="a&quot;b" aria-label="1 &lt; 2">x</p>'
    )


def test_ticks_are_round_and_cover():
    assert nice_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert_allclose(nice_ticks(0, 37), [0, 10, 20, 30, 40])
    assert_allclose(nice_ticks(0, 0.00123), [0, 0.0005, 0.001, 0.0015])
    assert len(nice_ticks(5, 5)) > 1


def test_values_that_are_all_zero_have_an_axis():
    drawing = line_chart(
        [Series("a", [0, 1], [0.0, 0.0])], title="t", description="d", x_label="x"
    )
    assert ">1</text>" in drawing
    assert "e-" not in re.sub(r'="[^"]*"', "", drawing)


def test_points_of_a_chart_by_hand():
    drawing = line_chart(
        [Series("a", [0, 1, 2], [0.0, None, 1.0])],
        title="t",
        description="d",
        x_label="x",
        size=(124, 150),
    )
    # Ticks "0.25" need 10 + 4 * 0.62 * 11 = 37.3; the plot is 72.7 wide, 100 high.
    (points,) = re.findall(r'polyline points="([^"]*)"', drawing)
    assert points == "37.3,112.0 110.0,12.0"


CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])),
    None,
)
# Elements outside the page, and texts outside the box or the drawing they belong to.
MEASURE = """
const frame = document.getElementById("frame");
function measure() {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const wide = [...page.body.querySelectorAll("*")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width && !e.ownerSVGElement && !e.closest(".scroll")
      && (box.right > width + 0.5 || box.left < -0.5);
  });
  const texts = [...page.querySelectorAll("svg text")];
  const cut = texts.filter(t => {
    const box = t.getBoundingClientRect(), svg = t.ownerSVGElement;
    const cell = svg.ownerSVGElement ? svg.parentNode.querySelector("rect") : svg;
    const own = cell.getBoundingClientRect();
    return box.width && (box.left < own.left - 0.5 || box.right > own.right + 0.5
      || box.top < own.top - 2 || box.bottom > own.bottom + 2);
  });
  document.getElementById("out").textContent = JSON.stringify({
    texts: texts.length, scroll: page.documentElement.scrollWidth - width,
    wide: wide.map(e => e.outerHTML.slice(0, 80)), cut: cut.map(t => t.textContent),
  });
}
frame.onload = measure;
if (frame.contentDocument.readyState == "complete") measure();
"""


def in_browser(page, width, folder):
    """What a browser measures on a page in a frame of some width."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f'<meta charset="utf-8"><iframe id="frame" style="width:{width}px;height:900px"'
        f' srcdoc="{html.escape(page)}"></iframe><pre id="out"></pre>'
        f"<script>{MEASURE}</script>",
        encoding="utf-8",
    )
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        "--virtual-time-budget=5000 --window-size=1400,1000 --dump-dom"
    ).split()
    run = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", wrapper.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (out,) = re.findall(r'<pre id="out">(.*?)</pre>', run.stdout, re.DOTALL)
    return json.loads(html.unescape(out))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["report", "hostile"])
def test_nothing_overflows_in_a_browser(which, width, request, tmp_path):
    page = request.getfixturevalue(which).to_html()
    found = in_browser(page, width, tmp_path)
    assert found["texts"] > 100
    assert found["scroll"] <= 0
    assert found["wide"] == []
    assert found["cut"] == []


def test_the_browser_sees_what_overflows(report, tmp_path):
    page = report.to_html().replace(
        "<main>", '<main><p style="width:2000px;max-width:none">wide</p>'
    )
    page = re.sub(
        r">(\d+ \w+)</text>", r">\1 WWWWWWWWWWWWWWWWWWWWWWWWWWWW</text>", page
    )
    found = in_browser(page, 400, tmp_path)
    assert found["scroll"] > 0
    assert any("wide" in element for element in found["wide"])
    assert found["cut"] != []


def test_the_whole_way_on_a_real_catalogue(industrial, tmp_path):
    from conftest import shared_file

    titles = json.loads(shared_file("industrial_titles.json").read_text())
    rq = RQKMeans((64, 64, 64), augment="none", random_state=0).fit(industrial)
    report = sid_report(rq, industrial, titles)
    assert report.figures["collision_rate"]["floor"] == 11 / 3686
    assert [advice.topic for advice in report.advice] == ["duplicates"]
    found = in_browser(report.to_html(), 400, tmp_path)
    assert (found["scroll"], found["wide"], found["cut"]) == (0, [], [])
