"""The dashboard of asv as a folder that needs no network: ``python -m benchmarks.publish [OPTION OF asv publish...]``.

asv's page has its libraries from public networks. After `asv publish` they are taken from npm's registry, by `npm
pack`, at the versions below, and lie beside the page; its links are changed. They are kept in `.asv/vendor`.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Where the name of a file on asv's page comes from: package and version, and its path in there.
FLOT = "jquery-flot@0.8.3"
LIBRARIES = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "dist/jquery.min.js"),
    "jquery.flot.min.js": (FLOT, "jquery.flot.js"),
    "jquery.flot.time.min.js": (FLOT, "jquery.flot.time.js"),
    "jquery.flot.selection.min.js": (FLOT, "jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": (FLOT, "jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
}
LINK = re.compile(r'(<(?:script src|link rel="stylesheet" href)=")https://[^"]*/([^/"]+)"[^>]*>')


def local(page):
    """The page with its libraries from the folder vendor/, and their names; ValueError where one is not known."""
    names = [name for _, name in LINK.findall(page)]
    if unknown := [name for name in names if name not in LIBRARIES]:
        raise ValueError(f"publish: asv's page has {', '.join(unknown)}, expected only {', '.join(LIBRARIES)}")
    return LINK.sub(lambda found: f'{found[1]}{address(found[2])}">', page), names


def address(name):
    package, path = LIBRARIES[name]
    return f"vendor/{package}/{path}"


def fetch(name, kept):
    """The file of a library, from its package of npm's registry where it is not kept yet."""
    package, path = LIBRARIES[name]
    folder = kept / package
    if not folder.exists():
        kept.mkdir(parents=True, exist_ok=True)
        command = [shutil.which("npm") or "npm", "pack", package, "--json", "--pack-destination", kept]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        with tarfile.open(kept / json.loads(run.stdout)[0]["filename"]) as archive:
            archive.extractall(kept / "unpacked", filter="data")
        (kept / "unpacked" / "package").rename(folder)
    return folder / path


def vendor(html, kept):
    """Make the dashboard in a folder independent of the network; what was downloaded is kept in another."""
    index = html / "index.html"
    page, names = local(index.read_text(encoding="utf-8"))
    for name in names:
        target = html / address(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fetch(name, kept), target)
    index.write_text(page, encoding="utf-8")
    return names


def main(arguments):
    subprocess.run(["asv", "publish", *arguments], cwd=HERE, check=True)
    html = HERE.parent / ".asv" / "html"
    names = vendor(html, HERE.parent / ".asv" / "vendor")
    print(f"{len(names)} libraries beside the page: open {html / 'index.html'} through `asv preview` or any web server")


if __name__ == "__main__":
    main(sys.argv[1:])
