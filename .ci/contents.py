"""What a distribution may hold: the wheel no C sources and no tests, the sdist all that a build needs."""

import sys
import tarfile
import zipfile

for path in sys.argv[1:]:
    if path.endswith(".whl"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        wrong = [n for n in names if n.endswith((".c", ".pyx", ".o")) or n.startswith(("tests/", "build/"))]
        needed = ["normlib/py.typed", "normlib/ops.pyi", "normlib/examples/minilm.py",
                  "normlib/include/normlib.h", "normlib/capi.pxd", "normlib/_kernels/capi.pxd",
                  "normlib/_kernels/header.pxd", "normlib/views.pxd", "normlib/share/pkgconfig/normlib.pc",
                  "normlib/share/cmake/normlib/normlib-config.cmake", "normlib/interop/torch/bridge/module.cpp"]
    else:
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
    missing = [n for n in needed if n not in names]
    if wrong or missing:
        sys.exit(f"{path}: unwanted {wrong}, missing {missing}")
    print(f"{path.rpartition('/')[2]}: {len(names)} files, as they should be")
