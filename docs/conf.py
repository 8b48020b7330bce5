"""Sphinx settings; for `nox -s docs` every warning is an error."""

import typing
from pathlib import Path

typing.GENERATING_DOCUMENTATION = True  # jaxtyping then prints its annotations as they are written

project = "iai"
author = "the iai contributors"
copyright = author
html_title = "iai"
html_theme = "furo"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "results/*", "gallery/*.ipynb", "gallery/*.py"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
napoleon_attr_annotations = False
napoleon_custom_sections = [("Source", "returns_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False
nitpick_ignore_regex = [
    ("py:.*", r"(?!iai_).*"),  # other projects' objects, and axis names
    ("py:.*", r"iai_\w+\.interfaces\.(State|[A-Z]|\w+T(_co|_contra)?)"),  # type variables
    ("py:.*", r"iai_\w+\.(?!interfaces)(\w+\.)+\w+"),  # private records of a package
]

sphinx_gallery_conf = {
    "examples_dirs": [str(Path(__file__).parents[1] / "examples")],
    "gallery_dirs": ["gallery"],
    # Not run: a useful run takes minutes, and its results are in results.md.
    "plot_gallery": False,
    "download_all_examples": False,
    "min_reported_time": 1e9,
}
