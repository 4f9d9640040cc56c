"""What turns the Markdown of the repository into pages of a site.

Links to files that are no pages lead to the repository; pages that no table of contents names are listed in
``manual.rst``; pages that are but a link to a file above this folder become that file; finished HTML (the axis to play
with, asv's dashboard) is copied beside the pages. Of the members that a class inherits, those of other projects are
documented there.
"""

import os
import re
import shutil
from pathlib import Path

REPOSITORY = "https://github.com/normlib/normlib/blob/main/"
ROOT = Path(__file__).resolve().parents[2]
FINISHED = {"axis": ROOT / "docs" / "axis", "asv": ROOT / ".asv" / "html"}
WHOLE = {"changelog": ROOT / "CHANGELOG.md", "contributing": ROOT / "CONTRIBUTING.md"}
DASHBOARD = """
<p>The history of commits on this site's machine: <a href="asv/index.html">dashboard</a>, with its
<a href="asv/index.html#regressions">regressions</a>.</p>
"""
PICTURES = (".png", ".svg", ".jpg")


def to_repository(text, folder, pages):
    """The text with its links as the site has them; `folder` is that of its file, `pages` the files that are pages."""

    def replaced(link):
        path = Path(os.path.normpath(folder / link[1]))
        if path in pages:
            return f"](/{path.relative_to(ROOT / 'docs').as_posix()}{link[2] or ''})"
        if path.suffix in PICTURES or not path.exists():
            return link[0]
        return f"]({REPOSITORY}{path.relative_to(ROOT).as_posix()}{link[2] or ''})"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)", replaced, text)


def tight(text):
    """The text with its code blocks without the blank line that ends an example for doctest."""
    return re.sub(r"^(```\w*\n.*?)\n+(```)$", r"\1\n\2", text, flags=re.MULTILINE | re.DOTALL)


def unlisted(text, names):
    """The `names` that the `text` does not list, as lines of a toctree."""
    return "\n   ".join(sorted(set(names) - set(re.findall(r"^   (\S+)$", text, re.MULTILINE))))


def prepare(app, docname, source):
    pages = {Path(app.env.doc2path(name)) for name in app.env.found_docs}
    path = Path(app.env.doc2path(docname))
    if docname == "manual":
        app.env.note_reread()  # pages may come and go
        named = re.findall(r"^   (\S+)$", (path.parent / "index.rst").read_text(), re.MULTILINE)
        names = [page.stem for page in pages if page.suffix == ".md" and page.parent == path.parent]
        source[0] = source[0].replace("UNLISTED", unlisted(source[0], set(names) - set(named)))
    elif path.suffix == ".md":
        whole = WHOLE.get(docname, path)
        source[0] = tight(to_repository(whole.read_text(encoding="utf-8"), whole.parent, pages))
        if docname == "performance" and "asv" in finished():
            source[0] += DASHBOARD


def skip(app, what, name, member, skipped, options):
    """Whether a member is left out: what other projects define."""
    module = getattr(member, "__module__", None) or getattr(getattr(member, "fget", None), "__module__", None)
    return True if module and not module.startswith("normlib") else None


def finished():
    """The names of the folders of finished HTML that there are."""
    return [name for name, folder in FINISHED.items() if (folder / "index.html").exists()]


def copy_finished(app, error):
    for name in finished() if error is None and app.builder.format == "html" else ():
        shutil.copytree(FINISHED[name], Path(app.outdir) / name, dirs_exist_ok=True)


def setup(app):
    app.connect("source-read", prepare)
    app.connect("autodoc-skip-member", skip)
    app.connect("build-finished", copy_finished, priority=400)  # before the links are followed
    return {"parallel_read_safe": True, "parallel_write_safe": True}
