"""What a distribution may hold: the wheel 3 MB without sources, tests and symbols, the sdist all that a build needs.

    python .ci/contents.py FILE_OR_FOLDER...
"""

import sys
import tarfile
import zipfile
from pathlib import Path

MOST = 3_000_000  # bytes of a wheel
MODULES = (".so", ".pyd")


def wheel(path):
    """What is wrong with a wheel, and how many files it has."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        modules = [name for name in names if name.startswith("normlib/_kernels/") and name.endswith(MODULES)]
        symbols = [name for name in modules if b".symtab" in archive.read(name)]
    sources = (".c", ".pyx", ".o", "build_failure.txt")
    wrong = [n for n in names if n.endswith(sources) or n.startswith(("tests/", "build/"))]
    needed = ["normlib/py.typed", "normlib/ops.pyi", "normlib/which.toml", "normlib/audit/__init__.py",
              "normlib/diagnosis/__init__.py", "normlib/examples/minilm.py",
              "normlib/bench/page.html", "normlib/bench/page.css", "normlib/bench/page.js",
              "normlib/include/normlib.h", "normlib/capi.pxd", "normlib/_kernels/capi.pxd",
              "normlib/_kernels/header.pxd", "normlib/views.pxd", "normlib/share/pkgconfig/normlib.pc",
              "normlib/share/cmake/normlib/normlib-config.cmake", "normlib/interop/torch/bridge/module.cpp"]
    levels = {"isa_v2", "isa_v3", "isa_v4"} if "x86_64" in path.name else {"isa_baseline"}
    kernels = {"probe", "call", *levels} - {Path(name).name.partition(".")[0] for name in modules}
    missing = [n for n in needed if n not in names] + sorted(kernels)
    large = [size] if (size := path.stat().st_size) > MOST else []
    return {"unwanted": wrong, "missing": missing, "not stripped": symbols, "bytes": large}, len(names)


def sdist(path):
    """What is wrong with an sdist, and how many files it has."""
    with tarfile.open(path) as archive:
        names = [n.partition("/")[2] for n in archive.getnames()]
    wrong = [n for n in names if n.endswith((".c", ".o", ".so")) and not n.startswith(("docs/", "tests/"))]
    needed = ["setup.py", "normlib/_kernels/call.pyx", "normlib/_kernels/vectors/lanes.pxi",
              "normlib/_kernels/vectors/storage.h", "normlib/_kernels/vectors/activations.h",
              "normlib/_kernels/vectors/quantize.h", "normlib/_kernels/vectors/sums.h",
              "normlib/_kernels/walks/rows.pxi", "normlib/_kernels/cells/steps.pxi",
              "normlib/_kernels/plan.pxd", "normlib/include/normlib.h",
              "normlib/interop/torch/bridge/norm.h", "docs/examples/embed/extension.c",
              "tests/conftest.py", "docs/examples/minilm.py", "CHANGELOG.md"]
    return {"unwanted": wrong, "missing": [n for n in needed if n not in names]}, len(names)


def main(arguments):
    paths = [file for path in map(Path, arguments) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    if not paths:
        sys.exit("contents.py: there is nothing, expected wheels or sdists")
    for path in paths:
        wrong, files = (wheel if path.suffix == ".whl" else sdist)(path)
        if any(wrong.values()):
            sys.exit(f"{path}: {', '.join(f'{word} {found}' for word, found in wrong.items() if found)}")
        print(f"{path.name}: {files} files, {path.stat().st_size / 1e6:.1f} MB, as they should be")


if __name__ == "__main__":
    main(sys.argv[1:])
