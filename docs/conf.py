"""Sphinx configuration: ``make docs`` builds the pages into ``docs/_build/html``."""

from sk_rqkplus import __version__

project = "sk_rqkplus"
author = "the sk_rqkplus developers"
copyright = author
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build", "design"]
default_role = "literal"

autosummary_generate = False
# Half a gigabyte, of which the pages need the names of base classes.
autodoc_mock_imports = ["pyspark"]
autodoc_member_order = "bysource"
# The methods are listed by autodoc; a second table of them would have no targets.
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "show_prev_next": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 3,
}
html_title = f"{project} {version}"
# All pages are in the header.
html_sidebars = {"**": []}
html_show_sourcelink = False


def quote_attribute(app, what, name, obj, options, lines):
    """Keep reST from reading the underscore of n_features_in_ as a link."""
    lines[:] = [
        line.replace("(n_features_in_,)", "(`n_features_in_`,)") for line in lines
    ]


def setup(app):
    """Change docstrings before numpydoc sees them."""
    app.connect("autodoc-process-docstring", quote_attribute, priority=100)
