#!/bin/sh
# Build CPython 3.13 without the GIL from Debian's source package: build_python3.13t.sh PREFIX
# On a release that has no such package, add the one of a release that has: a deb-src line for trixie.
set -eu
prefix=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" > list
mkdir -p lists/partial
set -- -o "Dir::Etc::sourcelist=$work/list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$work/lists"
apt-get "$@" -q update
apt-get "$@" -q source --download-only python3.13
tar xf python3.13_*.orig.tar.*
cd Python-3.13.*
./configure -q --disable-gil --without-ensurepip --prefix="$prefix"
make -s -j"$(nproc)"
make -s install
"$prefix/bin/python3.13t" -c "import sys; print(sys.version, 'GIL enabled:', sys._is_gil_enabled())"
