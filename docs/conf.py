"""How the site is built: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

import flowloop

sys.path.insert(0, str(Path(__file__).parent))

import reference_pages

reference_pages.write()

project = "flowloop"
author = "The authors of flowloop"
release = version = flowloop.__version__

extensions = ["myst_parser"]
exclude_patterns: list[str] = []
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # examples in docstrings leave things out with …

html_theme = "furo"
html_title = f"flowloop {release}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b57d0", "color-brand-content": "#0b57d0"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}
pygments_style = "friendly"
pygments_dark_style = "native"
