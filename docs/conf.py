"""The documentation: Sphinx, MyST and furo; built with warnings as errors by scripts/test."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autounet import __version__

project = "AutoUNet"
author = "the AutoUNet authors"
copyright = "the AutoUNet authors, Apache-2.0"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"AutoUNet {__version__}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the fields' types stand in the signatures already
nitpicky = False
