#!/usr/bin/env bash
# The digests on aarch64, without such a machine: Debian's CPython and PyPI's NumPy for arm64 run under qemu-user on
# kernels that were cross-compiled here, and compare their results with tests/scripts/digests.txt.
#
#   tests/scripts/aarch64.sh [FOLDER [COMMAND...]]
#
# FOLDER keeps what was downloaded and built (default: build/aarch64). COMMAND is run in place of tests/scripts/digests.py by
# the arm64 Python: `tests/scripts/aarch64.sh build/aarch64 -m pytest -q tests/test_bits.py`. The compiler is that of the PyPI
# package ziglang; AARCH64_CC chooses another: AARCH64_CC=aarch64-linux-gnu-gcc brings OpenMP too.
# Needs: apt-get install qemu-user; pip install ziglang; on Debian or Ubuntu, in an environment that can build normlib.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
work=$(realpath -m "${1:-build/aarch64}")
[ $# -eq 0 ] || shift
compiler=${AARCH64_CC:-"$python -m ziglang cc -target aarch64-linux-gnu"}
root=$work/root
site=$work/site

if [ ! -e "$root/usr/bin/python3" ]; then
    mkdir -p "$work"/apt/{state/lists,cache/archives,etc}/partial "$root"
    : > "$work/apt/status"  # nothing is installed: all that is needed is downloaded
    export APT_CONFIG=$work/apt/conf
    printf '%s\n' 'APT::Architecture "arm64"; APT::Architectures { "arm64"; }; APT::Install-Recommends "false";' \
        "Dir::State \"$work/apt/state\"; Dir::State::status \"$work/apt/status\"; Dir::Cache \"$work/apt/cache\";" > "$APT_CONFIG"
    apt-get -qq update
    apt-get -qq install -y --download-only python3 libpython3-dev libgomp1 libstdc++6
    for package in "$work"/apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    unset APT_CONFIG
fi
arm() { PYTHONPATH=$work/lib:$site PYTHONDONTWRITEBYTECODE=1 qemu-aarch64 -L "$root" "$root/usr/bin/python3" "$@"; }
version=$(arm -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ ! -e "$site/numpy" ]; then
    "$python" -m pip install -q --target "$site" --only-binary=:all: --python-version "$version" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        numpy ml_dtypes pytest hypothesis
fi

# setup.py as on an aarch64 machine: its headers and names of modules, and the compiler for it
rm -rf "$work/lib"
CC=$compiler LDSHARED="$compiler -shared" NORMLIB_REQUIRE_EXT=1 \
CFLAGS="-DNDEBUG -I$root/usr/include/python$version -I$site/numpy/_core/include -idirafter $root/usr/include" \
"$python" - "cpython-${version/./}-aarch64-linux-gnu.so" "$work" <<'PYTHON' > "$work/build.log" 2>&1 || { tail -n 40 "$work/build.log"; exit 1; }
import platform, runpy, sys, sysconfig
suffix, work = sys.argv[1:]
sysconfig.get_config_vars()["EXT_SUFFIX"] = f".{suffix}"
platform.machine = lambda: "aarch64"
sys.argv = ["setup.py", "build", "--build-lib", f"{work}/lib", "--build-temp", f"{work}/temp"]
sys.path.insert(0, "")
runpy.run_path("setup.py", run_name="__main__")
PYTHON
[ $# -gt 0 ] || set -- tests/scripts/digests.py
arm "$@"
