"""Follows each link of the finished site: files and anchors have to be there, and nothing may come from elsewhere."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

OTHERS = ("_static", "asv")  # the templates of the theme, and the dashboard, which asv writes
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors and the links of one page, and what it fetches from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.foreign = {"", "top"}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        link = given.get(FETCHED.get(tag, "href"))
        if link is None or link.startswith(("data:", "mailto:")):
            return
        if urlsplit(link).netloc:
            if tag in FETCHED and given.get("rel") != "canonical":
                self.foreign.append(link)
        else:
            self.links.append(link)


def faults(site):
    """One line for each link of the `site` that leads nowhere, and for each that would need the network."""
    site = Path(site).resolve()
    files = [path for path in site.rglob("*.html") if path.relative_to(site).parts[0] not in OTHERS]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    for path, page in sorted(pages.items()):
        name = path.relative_to(site)
        for link in page.foreign:
            yield f"{name}: fetches {link}"
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{name}: {link} is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name}: {link} has no such anchor"


def follow(app, error):
    from sphinx.errors import SphinxError

    if error is None and app.builder.name == "html":
        found = list(faults(app.outdir))
        if found:
            raise SphinxError("links of the site:\n  " + "\n  ".join(found))


def setup(app):
    app.connect("build-finished", follow, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
