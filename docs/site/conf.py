"""Sphinx's settings of the site; `ankle course site` copies them to the pages that it writes."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "Moving ankles"
author = "The ankle_lib authors"
copyright = author
extensions = ["myst_nb"]
exclude_patterns = ["extra"]

nb_execution_mode = "off"  # the notebooks come executed
nb_output_stderr = "remove"
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
nb_ipywidgets_js = {}  # nothing is fetched from elsewhere
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_extra_path = ["extra"]
html_css_files = ["course.css"]
html_js_files = ["words.js", "course.js"]
html_favicon = "_static/bones.svg"
html_logo = "_static/bones.svg"
html_use_index = False  # nothing is in it
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_math_renderer = "mathml"  # browsers know MathML; MathJax would be fetched
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#00527d",
        "color-brand-content": "#00527d",
        "color-brand-visited": "#6b3a6f",
        "color-foreground-muted": "#545860",
        "color-foreground-secondary": "#4a4d54",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8cc8ee",
        "color-brand-content": "#8cc8ee",
        "color-brand-visited": "#d4a5d8",
        "color-foreground-muted": "#a3a8b0",
        "color-foreground-secondary": "#b4b9c2",
    },
}


def _inline(writer, node):
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer, node):
    writer.body.append(f"<div>{tex2mathml(node.astext(), as_block=True)}</div>")
    raise nodes.SkipNode


def setup(app):
    """Write formulas as MathML."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
