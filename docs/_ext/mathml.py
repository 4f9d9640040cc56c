"""Formulas as MathML, which browsers draw themselves: no script, no font to fetch, and screen readers read it.

docutils has the converter. Its bar over a term is one character, which does not stretch without a font for formulas;
here it is a line over the term, drawn by ``site.css``.
"""

import html
import re
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError

NAMESPACE = "http://www.w3.org/1998/Math/MathML"


def convert(formula, **options):
    """The LaTeX of a formula as MathML."""
    try:
        text = tex2mathml(formula, **options)
    except MathError as error:
        raise SphinxError(f"formula {formula!r}: {error}") from error
    entities = r"&(?!lt;|gt;|amp;)\w+;"  # XML knows but these
    root = ElementTree.fromstring(re.sub(entities, lambda entity: html.unescape(entity[0]), text))
    for element in root.iter(f"{{{NAMESPACE}}}mover"):
        term, over = element
        if over.text == "_":
            element.tag = f"{{{NAMESPACE}}}mrow"
            element.attrib = {"class": "overline"}
            element[:] = [term]
    ElementTree.register_namespace("", NAMESPACE)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def visit_math(translator, node):
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    translator.body.append(f'<div class="formula" tabindex="0">{convert(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
