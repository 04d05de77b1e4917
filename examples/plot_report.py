"""
===================================
Is this tokeniser any good?
===================================

Collision rate 47 %, perplexity 52: is that good? A figure says little alone.
:func:`~sk_rqkplus.report.sid_report` puts floors and chance beside it and says what to
change. This example reads a report, follows its advice, and reads another.
"""

# %%
# A catalogue that can be read
# ----------------------------
#
# The items are the public functions and classes of NumPy, SciPy, scikit-learn and
# torch, embedded by the words of their docstrings. Their names are the titles.

from sklearn.decomposition import PCA

from sk_rqkplus.datasets import load_api_catalogue

catalogue = load_api_catalogue()
X = PCA(64, random_state=0).fit_transform(catalogue.data)
print(X.shape)

# %%
# A first try
# -----------

from sk_rqkplus import RQKMeans
from sk_rqkplus.report import sid_report

small = RQKMeans((16, 16), random_state=0).fit(X)
report = sid_report(small, X, titles=catalogue.names)
print(report)

# %%
# 95 % of the codes collide, but so would codes drawn at random: 256 codes are too few
# for 4,464 items, and the report says so. It also warns that 94 % of the IDs need a
# suffix. What is not wrong is the usage: the last level is balanced, and the first one
# has two thirds of the perplexity that it could have.
#
# How many codewords, then?
# -------------------------
#
# Sizes are fitted to four fifths of the items. The others tell whether codebooks
# generalise.

import matplotlib.pyplot as plt

from sk_rqkplus.model_selection import suggest_codebook_sizes

suggestion = suggest_codebook_sizes(
    X, n_levels=3, candidates=[16, 32, 64, 128, 256], max_collision_rate=0.25
)
print(suggestion)
suggestion.plot()
plt.show()

# %%
# Every doubling lowers the error of items that were held out, though less than that of
# the fitted ones: at 256 codewords, which stand for 17 items each, it is half as much
# again. The collision rate falls to 22 %.
#
# A second try
# ------------

larger = RQKMeans(suggestion.codebook_sizes, random_state=0).fit(X)
report = sid_report(larger, X, titles=catalogue.names)
print(report)

# %%
# What is left is a note: 40 items have the same embedding as another one, and no model
# tells them apart. All IDs are unique without a suffix.
#
# What do prefixes mean?
# ----------------------
#
# Items that share their first code have a similarity of 0.77, random pairs of 0.0. The
# tree shows what they have in common: the words are those that are frequent in a group
# and rare elsewhere.

from sk_rqkplus.plotting import CodebookUsageDisplay, PrefixTreeDisplay

PrefixTreeDisplay.from_estimator(larger, X, titles=catalogue.names)
plt.show()

# %%
# The first level is used as the catalogue is: some subjects have many functions. The
# last one is balanced.

CodebookUsageDisplay.from_estimator(larger, X)
plt.show()

# %%
# The page
# --------
#
# ``report.to_html("report.html")`` writes all of it into one page, with the nearest
# neighbours of some items and the largest groups of one code. A notebook shows it.

page = report.to_html()
print(f"{len(page) / 1024:.0f} KiB")
