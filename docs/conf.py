"""The site, by Sphinx: ``pip install -e '.[docs]'``, then ``python -m sphinx -W -b html docs build/site``.

Pages are the Markdown files of this folder, as they are on GitHub; the reference comes from the docstrings, the gallery
from the scripts in ``gallery/``, which the build runs. A warning is an error, and the finished site needs no network.
"""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "_ext"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pages import finished  # noqa: E402

import normlib  # noqa: E402  (the build documents what is installed)

project = "normlib"
author = "The normlib developers"
copyright = "The normlib developers"
version = release = normlib.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "pages",
    "inner_links",
]
templates_path = ["_templates"]
exclude_patterns = ["index.md", "gallery", "axis"]  # index.rst is the front page here; axis/ is copied as it is
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!normlib\b).*")]  # what other projects document; our own names have to be found

# Markdown
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # by GitHub's rules, as the links between the pages have them

# The reference
autosummary_generate = True
autodoc_typehints = "none"  # types stand in the docstrings
numpydoc_show_class_members = False  # the template of a class lists them

# The gallery
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": "/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "reset_modules": ("matplotlib",),
    "image_srcset": ["2x"],
    "thumbnail_size": (600, 360),
    "write_computation_times": False,
    "min_reported_time": float("inf"),
    "doc_module": ("normlib",),
    "backreferences_dir": "reference/generated/gallery",  # which examples use a function
}

# The look
toc_object_entries_show_parents = "hide"
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "normlib"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "changelog": [], "contributing": []}
html_context = {"finished": finished(), "default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "normlib", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "github_url": "https://github.com/normlib/normlib",
    "navbar_center": ["navbar-nav", "finished-links"],
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
for name in html_context["finished"]:  # `.. only:: axis` in the pages
    tags.add(name)  # noqa: F821  (Sphinx puts it there)
