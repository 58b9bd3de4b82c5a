# SPDX-License-Identifier: BSD-3-Clause
"""How `make docs` builds the site; tests/meta/test_documents.py runs what it shows."""

import sys
from pathlib import Path

import fastreg

sys.path.insert(0, str(Path(__file__).parent))

project = "fastreg"
author = "The fastreg authors"
copyright = author
version = release = fastreg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "figures",
]
exclude_patterns = ["README.md"]
intersphinx_mapping = {}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = False

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "none"  # the docstrings say them in words
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "fastreg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#6fd3a8", "color-brand-content": "#6fd3a8"},
}
