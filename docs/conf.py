"""Configuration of the documentation site; `.ci/docs` builds it."""

import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Notebooks and pages run on the CPU, so that they print the same everywhere.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Notebooks run in processes that import the same sources.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

import keras_distill  # noqa: E402 - after the path

project = "keras_distill"
copyright = "the keras_distill authors, Apache-2.0"
version = release = keras_distill.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "catalogue",
    "command_line",
    "markdown_docstrings",
]
exclude_patterns = ["_build", "_extensions", "_templates"]
templates_path = ["_templates"]
# Types of other packages are not pages of this site. Links in the text are checked all the same.
nitpick_ignore_regex = [("py:.*", ".*")]

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# NOTEBOOKS=off builds the pages without running the notebooks.
nb_execution_mode = "off" if os.environ.get("NOTEBOOKS") == "off" else "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reference"]
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"keras_distill {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "native"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def copy_pages(app, error):
    """Copy the Markdown of each page beside it, for the links of llms.txt."""
    if error is None:
        for name in app.env.found_docs:
            source = pathlib.Path(app.env.doc2path(name))
            if source.suffix == ".md":
                shutil.copy(source, pathlib.Path(app.outdir, f"{name}.md"))


def setup(app):
    app.connect("build-finished", copy_pages)
