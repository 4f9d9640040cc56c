"""What the site of the documentation is built from. The build itself, with warnings as errors, is in .ci/run."""

import ast
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import normlib

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MODULES = {
    "normlib": "normlib",
    "normlib.sync": "sync",
    "normlib.backends": "backends",
    **{f"normlib.{name}": name for name in ("audit", "diagnosis", "testing", "which")},
    **{f"normlib.interop.{name}": name for name in ("torch", "jax", "onnx", "xarray", "sklearn", "dask", "recurrent")},
}
SCRIPTS = sorted((DOCS / "gallery").glob("plot_*.py"))
PAGES_OF_THEIR_OWN = {"backends", "sync"}  # modules among the names of normlib


@pytest.fixture(scope="module")
def extensions():
    """The extensions of the site, by name; none of them needs Sphinx to be imported."""
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        import inner_links
        import pages

        yield SimpleNamespace(inner_links=inner_links, pages=pages)
    finally:
        sys.path.remove(str(DOCS / "_ext"))


def public_names(module):
    """`__all__`, read from the source: the packages that a module needs may be missing."""
    path = ROOT / module.replace(".", "/")
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


def documented_names(page):
    """The entries of the tables of a page of the reference, and what is described there itself."""
    lines = (DOCS / "reference" / f"{page}.rst").read_text(encoding="utf-8").splitlines()
    own = [line.partition(":: ")[2] for line in lines if line.startswith((".. data::", ".. function::"))]
    return {name.partition("(")[0] for name in own} | {
        line.strip() for line in lines if line.startswith("   ") and line.strip().isidentifier()
    }


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_page(module):
    assert public_names(module) - PAGES_OF_THEIR_OWN <= documented_names(MODULES[module])


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_names_nothing_that_is_not_public(module):
    assert documented_names(MODULES[module]) - {"OPS"} <= public_names(module)


def test_the_configuration_runs_and_has_the_version():
    tags = set()
    path = list(sys.path)
    try:
        conf = runpy.run_path(str(DOCS / "conf.py"), init_globals={"tags": tags})
    finally:
        sys.path[:] = path
    assert conf["release"] == normlib.__version__
    assert tags == set(conf["html_context"]["finished"])
    assert all((DOCS / file).exists() for file in ("_static/site.css", "_static/logo.svg", "index.rst", "manual.rst"))


def test_the_manual_lists_pages_that_there_are(extensions):
    lines = (DOCS / "manual.rst").read_text().splitlines()
    listed = [line.strip() for line in lines if line.startswith("   ") and not line.strip().startswith(":")]
    listed.remove("UNLISTED")
    assert all((DOCS / f"{name}.md").exists() for name in listed)
    assert extensions.pages.unlisted("\n".join(lines), ["guide", "new", "maths"]) == "new"


def test_links_to_files_that_are_no_pages_lead_to_the_repository(extensions):
    convert, repository = extensions.pages.to_repository, extensions.pages.REPOSITORY
    known = {DOCS / "maths.md"}
    assert convert("[a](maths.md#forward)", DOCS, known) == "[a](/maths.md#forward)"
    assert convert("[a](../docs/maths.md)", ROOT / "tests", known) == "[a](/maths.md)"
    assert convert("[a](../benchmarks/README.md)", DOCS, known) == f"[a]({repository}benchmarks/README.md)"
    assert convert("[a](examples/depth.py)", DOCS, known) == f"[a]({repository}docs/examples/depth.py)"
    for same in ("[a](https://example.org/x.md)", "[a](#here)", "![a](img/depth.png)", "[a](nowhere.md)"):
        assert convert(same, DOCS, known) == same


def test_code_blocks_end_without_the_blank_line_of_doctest(extensions):
    assert extensions.pages.tight("```python\n>>> 1\n1\n\n```\n\nText\n\n```sh\nls\n```\n") == (
        "```python\n>>> 1\n1\n```\n\nText\n\n```sh\nls\n```\n"
    )


def test_links_of_a_site_are_followed(extensions, tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "index.html").write_text('<h1 id="top-of-it">A</h1><a href="part/">a</a><a href="#top-of-it">b</a>')
    (tmp_path / "part" / "index.html").write_text('<a href="../index.html#top-of-it">c</a><a href="https://a.b/">d</a>')
    assert list(extensions.inner_links.faults(tmp_path)) == []
    (tmp_path / "part" / "index.html").write_text(
        '<a href="../index.html#gone">c</a><a href="gone.html">d</a><script src="https://a.b/c.js"></script>'
    )
    assert list(extensions.inner_links.faults(tmp_path)) == [
        "part/index.html: fetches https://a.b/c.js",
        "part/index.html: ../index.html#gone has no such anchor",
        "part/index.html: gone.html is not there",
    ]


def test_the_gallery_has_its_dozen():
    assert len(SCRIPTS) >= 12


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_of_the_gallery_has_a_title_and_a_picture(path):
    text = path.read_text(encoding="utf-8")
    title, underline = ast.get_docstring(ast.parse(text)).splitlines()[:2]
    assert underline == "=" * len(title)
    assert "normlib" in text
    assert text.count("plt.show()") == text.count("plt.subplots(")


@pytest.mark.parametrize("published", [True, False])
def test_performance_links_to_the_dashboard_where_it_was_published(extensions, published, tmp_path, monkeypatch):
    """`python -m benchmarks.publish` writes it; a link to what is not there would end the build."""
    monkeypatch.setitem(extensions.pages.FINISHED, "asv", tmp_path)
    if published:
        (tmp_path / "index.html").write_text("")
    env = SimpleNamespace(found_docs=["performance"], doc2path=lambda name: str(DOCS / f"{name}.md"))
    source = [""]
    extensions.pages.prepare(SimpleNamespace(env=env), "performance", source)
    assert ('href="asv/index.html"' in source[0]) == published
