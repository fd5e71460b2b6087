"""Sphinx's settings for the docs site: `make docs` builds it into site/docs, without a network.

The source folder is the whole checkout (`sphinx-build -c docs . site/docs`): so each link between
notebooks, README and CLAIMS.md leads to the same page here as in the repository.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))


import lora_lab  # noqa: E402

project = "lora_lab"
author = "the authors of lora_lab"
version = release = lora_lab.__version__
language = "en"
highlight_language = "text"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # Args and Raises in docstrings
    "course_pages",  # beside this file
]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CLAIMS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "deploy/README.md",
    "notebooks/*.md",
    "notebooks/*.ipynb",
    "notebooks/evidence/README.md",
    "notebooks/evidence/*.ipynb",
]
exclude_patterns = [".*", "site", "build", "dist", "data", "lora_lab", "tests", "benchmarks"]

nb_execution_mode = "off"  # the notebooks carry their outputs
nb_ipywidgets_js = {}  # no state of widgets is kept, so nothing is fetched to draw it
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 4

autodoc_typehints = "signature"
# no python_maximum_signature_line_length: axe-core finds the lists that it makes broken
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
default_role = "code"  # single backticks in docstrings
nitpicky = True
nitpick_ignore_regex = [  # this site links to no other, so that it needs no network
    (r"py:.*", r"(torch|numpy|np|pandas|pd|transformers|peft|ipywidgets|matplotlib|traitlets)\..*"),
    (r"py:.*", r"(pathlib|collections|datetime|enum|typing|types|os|nn)\..*"),
    (r"py:.*", r"(Path|optional|type|Tensor|PeftConfig|Learned|Diverged|NotPrepared|tuple\[.*)"),
    (r"py:class", r"lora_lab\..*"),  # records that are passed on, and are not on the page
]

html_theme = "pydata_sphinx_theme"
html_title = "lora_lab"
templates_path = ["templates"]
html_sidebars = {"**": ["course.html"]}
html_static_path = ["static"]
html_css_files = ["course.css"]
html_extra_path = ["root"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "lora_lab"},
    "navigation_with_keys": False,
    "show_prev_next": True,
    "navbar_center": [],  # the sidebar has all pages
    "collapse_navigation": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
