"""Formulas as MathML, which browsers draw themselves: no script, no font to fetch, and screen readers read it.

docutils has the converter.
"""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError


def convert(node, **options):
    try:
        return tex2mathml(node.astext(), **options)
    except MathError as error:
        raise SphinxError(f"formula {node.astext()!r}: {error}") from error


def visit_math(translator, node):
    translator.body.append(convert(node))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    translator.body.append(f'<div class="formula">{convert(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
