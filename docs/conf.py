"""How the pages are built; `generate.py` beside it writes those of processes and solvers."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "physdiff"
version = release = version_of("physdiff")
copyright = "the physdiff authors"

myst_heading_anchors = 3
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generate"]
exclude_patterns = ["_build", "generated/*.md"]  # the latter are parts of pages
html_theme = "furo"
html_title = f"physdiff {version}"
html_show_sourcelink = False

# Docstrings put names and values between single backticks, as Markdown does.
default_role = "literal"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar, napoleon_use_rtype = True, False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
