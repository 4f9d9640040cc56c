"""No module of the package needs one that needs it, not even late, inside a function."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "normlib"


def modules(package):
    """The modules of a package by name: their paths."""
    found = {}
    for path in [*package.rglob("*.py"), *package.rglob("*.pyx")]:
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name, path):
    """What a module imports, as (module, name in it)."""
    if path.suffix == ".pyx":
        yield from re.findall(r"^from (\S+) import (\w+)", path.read_text(), re.MULTILINE)
        return
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            yield from ((source, alias.name) for alias in node.names)


def graph(package):
    known = modules(package)
    edges = {name: set() for name in known}
    for name, path in known.items():
        for source, attribute in imported(name, path):
            target = f"{source}.{attribute}"
            edges[name] |= {target if target in known else source} & known.keys() - {name}
    return edges


def test_there_is_no_circle():
    edges = graph(PACKAGE)
    assert "normlib.backends" in edges["normlib._general"]  # relative imports are seen
    assert "normlib._arguments" in edges["normlib._kernels.from_python"]  # and those of what is compiled
    assert not edges["normlib.description"]
    TopologicalSorter(edges).prepare()  # a CycleError names the circle


def test_a_circle_would_be_found(tmp_path):
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("from .roof import tiles\n")
    (package / "roof.py").write_text("from . import wall\n")
    (package / "wall.py").write_text("def stand():\n    from house.roof import tiles\n")
    with pytest.raises(ValueError, match=r"cycle.*house\.(roof|wall)"):
        TopologicalSorter(graph(package)).prepare()
