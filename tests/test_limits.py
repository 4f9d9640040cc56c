"""The sizes that the sources keep: lines of a file, lines and arguments of a function.

Lines are lines of code: docstrings, comments and blank lines do not count.
"""

import ast
import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "normlib"
FILES = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".py", ".pyx", ".pxi", ".pxd"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, ARGUMENTS = 400, 60, 9
KEYWORDS = {"batch_norm", "instance_norm"}  # of ops.py and what it calls: users give their many options by keyword

# The Cython sources that are still too large: functions by name, "file" for the file itself. Whoever makes one smaller
# takes it off the list.
KNOWN = {
    "calls.pyx": "backward_arrays moving_norm channel_backward batch_norm instance_norm",
    "capi.pyx": (
        "file layer_norm_backward moving_norm channel_backward batch_norm batch_norm_backward "
        "instance_norm instance_norm_backward group_norm group_norm_backward rows_of"
    ),
    "channel_columns.pxi": "resettle column_lanes",
    "channel_columns_backward.pxi": "column_backward_lanes backward_rows",
    "channel_rows.pxi": "run_lanes runs_apply groups_normalize groups_scaled",
    "channel_rows_backward.pxi": (
        "block_gradient_sums run_backward_lanes run_descend gradient_sums runs_descend groups_descend"
    ),
    "columns.pxi": (
        "four_moments round_moments last_moments chunk_moments position_gradients round_gradients "
        "ordered_gradients chunk_gradients"
    ),
    "feature_columns.pxi": (
        "block_moments strip_sums normalize_window feature_columns_forward block_gradients "
        "backward_columns feature_columns_backward"
    ),
    "feature_rows.pxi": "apply_lanes apply_part row_apply rows_scaled rows_apply",
    "feature_rows_backward.pxi": (
        "slope_lanes few_slopes block_slopes add_slopes row_slopes rows_slopes backward_lanes "
        "backward_part row_backward rows_descend"
    ),
}


def without_docstrings(text):
    """The lines of a source, those of docstrings and comments empty, and with empty strings."""
    text = re.sub(r'^ *r?"""[\s\S]*?"""', lambda found: "\n" * found[0].count("\n"), text, flags=re.MULTILINE)
    return re.sub(r"""("[^"\n]*"|'[^'\n]*')|#[^\n]*""", lambda found: "''" if found[1] else "", text)


def length(text):
    return sum(bool(line.strip()) for line in text.splitlines())


def python_functions(text):
    """(name, lines, arguments) of each function."""
    lines = without_docstrings(text).splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            given = node.args
            count = len(given.posonlyargs + given.args + given.kwonlyargs)
            yield node.name, length("\n".join(lines[node.lineno - 1 : node.end_lineno])), count


def cython_functions(text):
    """The same of each function that is defined, not of those that are only declared."""
    text = without_docstrings(text)
    for head in re.finditer(r"^( *)(?:cdef|cpdef|def)\b[^\n=(]*?(\w+)\((?=(.))", text, re.MULTILINE | re.DOTALL):
        end, depth, count = head.end(), 1, head[3] != ")"
        while depth:
            character = text[end]
            depth += (character in "([") - (character in ")]")
            count += depth == 1 and character == ","
            end += 1
        first, _, rest = text[end:].partition("\n")
        if first.rstrip().endswith(":"):
            body = re.match(rf"(?: *\n|{head[1]} +[^\n]*\n?)*", rest)[0]
            yield head[2], length(text[head.start() : end] + "\n" + body), count


def offences(path):
    """What is over a limit in a file: {name: what}."""
    text = path.read_text()
    found = {}
    if (lines := length(without_docstrings(text))) > LINES_OF_A_FILE:
        found["file"] = f"{lines} lines"
    for name, lines, count in (python_functions if path.suffix == ".py" else cython_functions)(text):
        many = count > ARGUMENTS and not (path.suffix == ".py" and name in KEYWORDS)
        if many or lines > LINES_OF_A_FUNCTION:
            found[name] = f"{lines} lines, {count} arguments"
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_files_and_functions_keep_the_limits(path):
    found, known = offences(path), set(KNOWN.get(path.name, "").split())
    assert not {name: what for name, what in found.items() if name not in known}, "too large"
    assert not known - set(found), "no longer too large: take them off the list"


def test_the_list_of_exceptions_names_cython_sources_that_there_are():
    assert set(KNOWN) <= {path.name for path in FILES if path.suffix != ".py"}


PYTHON = '''
def few(a, *, b):
    """Three
    lines."""

    # a comment
    return a, "#", b
'''
CYTHON = '''
cdef int declared(int a, int b, int c) noexcept nogil

cdef inline void many(floating[:, ::1] x, int (*call)(int, int),
                      double y=1.0) noexcept nogil:
    """Three
    lines."""
    cdef int i

    for i in range(3):  # a comment
        x[i, 0] = y

def none():
    return {"a(b, c": 1}
'''


@pytest.mark.parametrize(
    ("functions", "text", "expected"),
    [
        (python_functions, PYTHON, [("few", 2, 2)]),
        (cython_functions, CYTHON, [("many", 5, 3), ("none", 2, 0)]),
    ],
)
def test_what_counts(functions, text, expected):
    assert list(functions(text)) == expected
