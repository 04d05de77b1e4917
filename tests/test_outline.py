"""A first look along few directions decides nothing that float64 would not."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_rqkplus import RQKMeans, _outline
from sk_rqkplus._lloyd import lloyd
from sk_rqkplus._nearest import Codewords, nearest, nearest_in_tile
from sk_rqkplus._outline import (
    Directions,
    OutlinedCodewords,
    choose_width,
    leading_axes,
    outline_rows,
    outlined_labels,
)
from sk_rqkplus._points import Points
from sk_rqkplus._products import pair_products


def draw(n_rows, n_codewords, n_features, seed=0, decay=0.1):
    """Rows about codewords, long in the first directions of a random frame."""
    rng = np.random.default_rng(seed)
    frame = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    spread = np.exp(-decay * np.arange(n_features))
    book = rng.normal(size=(n_codewords, n_features)) * spread
    near = book[rng.integers(n_codewords, size=n_rows)]
    rows = near + 0.7 * rng.normal(size=near.shape) * spread
    rows, book = (rows @ frame).astype(np.float32), (book @ frame).astype(np.float32)
    return torch.from_numpy(rows), torch.from_numpy(book)


def brute_force(rows, book, prices=0.0):
    rows, book = rows.double().numpy(), book.double().numpy()
    apart = np.square(rows[:, None, :] - book).sum(-1)
    return (apart + prices).argmin(axis=1)


def along(book, width):
    """The directions in which codewords are longest."""
    axes = torch.linalg.svd(book.double(), full_matrices=False).Vh[:width].T
    return Directions(axes.float().contiguous())


def looked_at(monkeypatch):
    """Counts of pairs that are looked at whole."""
    counts = []

    def count(rows, codebook, sizes, column):
        counts.append(len(column))
        return pair_products(rows, codebook, sizes, column)

    monkeypatch.setattr(_outline, "pair_products", count)
    return counts


def looks(monkeypatch):
    """Whether first looks told something."""
    outcomes, look = [], _outline.outlined_labels

    def listen(*args):
        found = look(*args)
        outcomes.append(found is not None)
        return found

    monkeypatch.setattr("sk_rqkplus._nearest.outlined_labels", listen)
    return outcomes


# Smaller numbers leave so much in doubt that all codewords are compared.
@pytest.mark.parametrize("width", [1, 12, 20, 40])
@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1.0, 1e15])
@pytest.mark.parametrize("priced", [False, True])
def test_labels_are_those_of_float64(monkeypatch, scale, width, priced):
    outcomes = looks(monkeypatch)
    rows, book = draw(2000, 64, 40)
    prices = torch.linspace(0, 2.0, 64).double() * scale**2 if priced else None
    directions = along(book, width)
    rows, book = rows * scale, book * scale
    outline = outline_rows(rows, directions)
    labels = nearest(rows, Codewords(book, prices), outline)
    expected = brute_force(rows, book, 0.0 if prices is None else prices.numpy())
    assert_array_equal(labels, expected)
    assert all(outcomes) == (scale >= 1 and width > 1)


def test_few_codewords_are_looked_at_whole(monkeypatch):
    rows, book = draw(2000, 64, 40)
    counts = looked_at(monkeypatch)
    outline = outline_rows(rows, along(book, 20))
    nearest(rows, Codewords(book), outline)
    # One for every row, and the others that are near.
    assert 2000 < sum(counts) < 2000 * 3


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_guesses_only_spare_pairs(monkeypatch, share):
    rows, book = draw(2000, 64, 40)
    expected = brute_force(rows, book)
    rng = np.random.default_rng(0)
    guess = np.where(rng.random(2000) < share, expected, rng.integers(64, size=2000))
    outline = outline_rows(rows, along(book, 12))
    counts = looked_at(monkeypatch)
    nearest(rows, Codewords(book), outline)
    without = sum(counts)
    counts.clear()
    outline.guess = torch.from_numpy(guess)
    assert_array_equal(nearest(rows, Codewords(book), outline), expected)
    assert_array_equal(outline.guess, guess)
    if share == 1:
        assert sum(counts) <= without


def test_labels_before_are_the_guess():
    rows, book = draw(20_000, 256, 200)
    points = Points(rows)
    points.look_along_few(book)
    blocks = points.blocks()
    first = [block.assign(book) for block in blocks]
    assert blocks[0]._outline.guess is None
    other = book * 1.01
    second = [block.assign(other) for block in blocks]
    assert blocks[0]._outline.guess is first[0]
    assert_array_equal(torch.cat(second), nearest(rows, Codewords(other)))
    # Labels of more codewords are no guess.
    few = book[:100].clone()
    found = [block.assign(few) for block in blocks]
    assert blocks[0]._outline.guess is None
    assert_array_equal(torch.cat(found), nearest(rows, Codewords(few)))


@pytest.mark.parametrize("stretch", [0.98, 1.0, 1.02])
def test_scores_are_within_their_bounds(stretch):
    rows, book = draw(500, 64, 40)
    directions = Directions(along(book, 12).axes * stretch)
    outline, words = outline_rows(rows, directions), Codewords(book)
    seen = words.along(directions)
    assert seen is words.along(directions)
    r, c, axes = rows.double(), book.double(), directions.exact
    rest = 2 * (r @ c.T - outline.coordinates.double() @ seen.coordinates.double().T)
    reach = 2 * outline.rests.double()[:, None] * seen.rests.double()
    assert (rest.abs() <= reach + 2 * seen.largest * outline.errors[:, None]).all()
    assert (outline.norms >= r.norm(dim=1)).all()
    error = (outline.coordinates.double() - r @ axes).norm(dim=1)
    assert (error <= outline.errors).all()
    if stretch == 1:
        unseen = (r - r @ axes @ axes.T).norm(dim=1)
        assert (outline.rests >= unseen).all()
        assert (outline.rests <= 1.01 * unseen + 1e-3 * outline.norms).all()


def test_worst_rest_is_covered():
    # All that is not seen is parallel: scores are at their bounds, and the codeword
    # that looks worst along the direction is the nearest one.
    rng = np.random.default_rng(0)
    n_features = 30
    axes = torch.zeros(n_features, 1)
    axes[0] = 1
    hidden = torch.from_numpy(rng.normal(size=n_features - 1)).float()
    hidden /= hidden.norm()
    rows = torch.zeros(100, n_features)
    rows[:, 0], rows[:, 1:] = 1.0, hidden
    book = torch.zeros(64, n_features)
    book[:, 0] = torch.linspace(0.5, 1.0, 64)
    book[17, 0], book[17, 1:] = 0.4, 0.9 * hidden
    outline = outline_rows(rows, Directions(axes))
    assert_array_equal(nearest(rows, Codewords(book), outline), np.full(100, 17))


@pytest.mark.parametrize("stretch", [0.999, 1.001, 1.1])
def test_directions_need_not_be_orthonormal(monkeypatch, stretch):
    outcomes = looks(monkeypatch)
    rows, book = draw(2000, 64, 40)
    axes = along(book, 20).axes * stretch
    axes[:, 1] += 0.1 * (stretch - 1) * axes[:, 0]
    outline = outline_rows(rows, Directions(axes))
    assert_array_equal(nearest(rows, Codewords(book), outline), brute_force(rows, book))
    assert all(outcomes) == (stretch < 1.1)


@pytest.mark.parametrize("width", [12, 40])
def test_wrong_coordinates_are_covered(monkeypatch, width):
    # Coordinates that are off by their errors, towards the codeword that is farther.
    outcomes = looks(monkeypatch)
    _, book = draw(10, 64, 40)
    book[1] = book[0] + 1e-3 * torch.nn.functional.normalize(book[0], dim=0)
    directions = along(book, width)
    far, near = book[:1], book[1:2]
    rows = (near + (far - near) * torch.linspace(0.3, 0.499, 500)[:, None]).contiguous()
    outline = outline_rows(rows, directions)
    way = (far - near) @ directions.axes
    outline.errors = torch.full((500,), 1e-3)
    outline.coordinates = outline.coordinates + 1e-3 * way / way.norm()
    labels = nearest(rows, Codewords(book), outline)
    assert_array_equal(labels, brute_force(rows, book))
    assert set(labels.tolist()) == {1}
    assert all(outcomes)


@pytest.mark.parametrize("width", [12, 40])
def test_autocast_does_not_matter(width):
    rows, book = draw(2000, 64, 40)
    directions = along(book, width)
    expected = outline_rows(rows, directions)
    with torch.autocast("cpu", torch.bfloat16):
        outline = outline_rows(rows, directions)
        labels = nearest(rows, Codewords(book), outline)
    assert_array_equal(outline.coordinates, expected.coordinates)
    assert_array_equal(labels, brute_force(rows, book))


def test_default_dtype_does_not_matter():
    X = draw(20_000, 500, 200)[0].numpy()
    params = {"codebook_sizes": (128,), "max_iter": 4, "random_state": 0}
    expected = RQKMeans(**params).fit(X)
    torch.set_default_dtype(torch.float64)
    try:
        found = RQKMeans(**params).fit(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_array_equal(found.codebooks_[0], expected.codebooks_[0])


def test_ties_go_to_the_lower_index():
    rows, book = draw(1000, 64, 40)
    book[50], book[3] = book[7], book[60]
    labels = nearest(rows, Codewords(book), outline_rows(rows, along(book, 12))).numpy()
    assert_array_equal(labels, brute_force(rows, book))
    assert 7 in labels
    assert not np.isin(labels, [50, 60]).any()


@pytest.mark.parametrize("tilt", [-1e-9, 1e-9])
def test_what_float32_cannot_tell_apart_is_decided_in_float64(tilt):
    rows, book = draw(500, 64, 40)
    book[9] = book[4]
    prices = torch.zeros(64).double()
    prices[9] = tilt
    labels = nearest(rows, Codewords(book, prices), outline_rows(rows, along(book, 12)))
    found = set(labels.tolist()) & {4, 9}
    assert found == ({9} if tilt < 0 else {4})


def test_rows_in_the_noise_have_all_their_rivals():
    rows, book = draw(2000, 64, 40)
    words, directions = Codewords(book), along(book, 12)
    outline, asked = outline_rows(rows, directions), []
    noise = torch.full((2000,), 0.05)
    r = rows.double()

    def exact_rows(index):
        asked.append(index.numpy())
        return r[index]

    labels = nearest_in_tile(
        rows, words, outline=outline, noise=noise, exact_rows=exact_rows
    )
    assert_array_equal(labels, brute_force(rows, book))
    certain = np.setdiff1d(np.arange(2000), np.concatenate(asked))
    assert 1000 < len(certain) < 1990
    c = book.double()
    for other in range(64):
        # The worst move is straight to another codeword.
        way = c[other] - c[labels[certain]]
        length = way.norm(dim=1, keepdim=True).clamp(min=1e-9)
        moved = r[certain] + 0.05 * way / length
        mine = (moved - c[labels[certain]]).square().sum(1)
        assert (mine <= (moved - c[other]).square().sum(1) + 1e-12).all()


def test_noise_in_all_directions_is_looked_at_whole():
    rows, book = draw(500, 64, 40, decay=0.0)
    words, outline = Codewords(book), outline_rows(rows, along(book, 1))
    slack = torch.full((500,), 1e-4)
    seen = words.along(outline.directions)
    assert outlined_labels(rows, outline, book, words.offsets, seen, slack) is None
    assert_array_equal(nearest(rows, words, outline), brute_force(rows, book))


def test_numbers_out_of_range_do_not_matter():
    rows, book = draw(500, 64, 40)
    rows[3] *= 1e30
    rows[4] = torch.inf
    outline = outline_rows(rows, along(book, 20))
    words = Codewords(book)
    expected = nearest(rows, words)
    assert_array_equal(nearest(rows, words, outline), expected)
    assert_array_equal(expected[5:], brute_force(rows[5:], book))


@pytest.mark.parametrize("n_rows", [1, 2, 8191, 8193, 20_000])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_tiles_do_not_matter(n_rows, n_threads):
    rows, book = draw(20_000, 256, 40)
    rows = rows[:n_rows]
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        outline = outline_rows(rows, along(book, 20))
        labels = nearest(rows, Codewords(book), outline)
    finally:
        torch.set_num_threads(before)
    assert_array_equal(labels, nearest(rows, Codewords(book)))


def test_products_that_round_their_inputs_are_covered():
    rows, book = draw(2000, 64, 40)
    torch.set_float32_matmul_precision("medium")
    try:
        outline = outline_rows(rows, along(book, 20))
        labels = nearest(rows, Codewords(book), outline)
    finally:
        torch.set_float32_matmul_precision("highest")
    # A row is off by up to 2^-7 of its length, and that of a direction as well.
    assert (outline.errors > 2.0**-8 * outline.norms).all()
    assert_array_equal(labels, brute_force(rows, book))


def test_width_is_chosen_where_rows_have_one():
    rows, book = draw(20_000, 256, 200, decay=0.1)
    axes = leading_axes(rows, book)
    assert 16 <= choose_width(rows, book, axes) <= 64
    assert Directions(axes).skew < 1e-5
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=rows.shape)).float()
    book = rows[:256] * 0.5
    assert choose_width(rows, book, leading_axes(rows, book)) == 0


def test_axes_are_the_longest_first():
    rows, book = draw(20_000, 256, 200, decay=0.1)
    axes = leading_axes(rows, book)
    lengths = (rows @ axes).square().mean(0)
    assert (lengths[:40].diff() < 0.1 * lengths[:39]).all()
    assert lengths[:20].sum() > 0.95 * rows.square().sum(1).mean()


@pytest.mark.parametrize(
    "n_rows, n_codewords, n_features",
    [(20_000, 32, 200), (20_000, 256, 100), (500, 256, 200)],
)
def test_small_problems_are_looked_at_whole(n_rows, n_codewords, n_features):
    assert leading_axes(*draw(n_rows, n_codewords, n_features)) is None


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_equal_rows_are_no_problem(fill):
    points = Points(torch.full((20_000, 200), fill))
    book = torch.full((256, 200), fill)
    points.look_along_few(book)
    assert not points.assign(book).any()


def test_directions_are_chosen_again_where_fewer_will_do(monkeypatch):
    rows, book = draw(20_000, 256, 200)
    points = Points(rows)
    block = points.blocks()[0]
    # 48 are not few enough to be worth other coordinates.
    for chosen, expected in [(64, 64), (48, 64), (32, 32), (64, 32), (0, None)]:
        monkeypatch.setattr(
            "sk_rqkplus._points.choose_width", lambda *args, width=chosen: width
        )
        points.look_along_few(book)
        outline = block._outlined()
        width = None if outline is None else outline.coordinates.shape[1]
        assert width == expected
        assert_array_equal(
            block.assign(book.clone()), nearest(block.rows, Codewords(book))
        )


def test_drawn_rows_want_more_directions_than_means():
    rows, book = draw(20_000, 256, 200, decay=0.03)
    axes = leading_axes(rows, book)
    assert choose_width(rows, book * 0.5, axes) < choose_width(rows, rows[:256], axes)


def test_lloyd_takes_the_same_steps():
    rows, book = draw(40_000, 256, 200)
    start = rows[:256].clone()
    seen = Points(rows)
    found = lloyd(seen, start, 5, 0.0)
    assert seen.blocks()[0]._outlined() is not None
    plain = Points(rows)
    plain.look_along_few = lambda codebook: None
    expected = lloyd(plain, start, 5, 0.0)
    assert plain.blocks()[0]._outlined() is None
    assert_array_equal(found.codebook, expected.codebook)
    assert found.inertia == expected.inertia


def test_fits_have_the_same_bits(monkeypatch):
    X = draw(30_000, 500, 200)[0].numpy()
    params = {"codebook_sizes": (128, 64), "max_iter": 4, "random_state": 0}
    looks = []
    look = _outline.outlined_labels

    def count(*args):
        looks.append(len(args[0]))
        return look(*args)

    monkeypatch.setattr("sk_rqkplus._nearest.outlined_labels", count)
    found = RQKMeans(**params).fit(X)
    assert sum(looks) >= 30_000
    monkeypatch.setattr(_outline, "LEAST_FEATURES", 1000)
    looks.clear()
    expected = RQKMeans(**params).fit(X)
    assert not looks
    for level in range(2):
        assert_array_equal(found.codebooks_[level], expected.codebooks_[level])
    assert_array_equal(found.codes_, expected.codes_)


def test_rests_of_codewords_are_not_below_the_exact_ones():
    _, book = draw(10, 64, 40)
    directions = along(book, 12)
    words = OutlinedCodewords(book.double(), directions)
    rest = book.double() - book.double() @ directions.exact @ directions.exact.T
    assert (words.rests >= rest.norm(dim=1)).all()
    assert words.largest >= float(words.coordinates.norm(dim=1).max())
