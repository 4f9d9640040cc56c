"""The sizes that the sources keep: lines of a file, lines and arguments of a function.

Lines are lines of code: docstrings, comments and blank lines do not count.
"""

import ast
import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "normlib"
GENERATED = "ritten by .ci/generate"
FILES = sorted(
    path
    for path in SOURCES.rglob("*")
    if path.suffix in (".py", ".pyx", ".pxi", ".pxd") and GENERATED not in path.read_text()[:200]
)
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, ARGUMENTS = 400, 60, 9
KEYWORDS = {"batch_norm", "instance_norm"}  # of ops.py and what it calls: users give their many options by keyword

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
    assert not offences(path)


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
