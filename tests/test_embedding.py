"""Callers of the C interface: the examples in docs/examples/embed are built and run, threads and versions tried."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support import python

import normlib
from normlib._kernels import backend as kernels
from normlib.testing import _checks as checks

if kernels is None:
    pytest.skip("needs the compiled kernels", allow_module_level=True)

from normlib.capi import function, table_address

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples" / "embed"
HEADER = Path(normlib.get_include(), "normlib.h").read_text(encoding="utf-8")

CALLER = """
#include <pthread.h>
#include <string.h>
#include <normlib.h>

int take(const void *table) { return normlib_use(table); }

/* What comes of calls, and of a text, without a table. */
int without(const char **text)
{
    normlib_array x = {0};
    float row[2] = {1, 2};
    int wrong = normlib_rms_norm_rows(NORMLIB_F32, 1, 2, row, NULL, 1e-6, row, 1) != NORMLIB_NOT_IMPORTED;
    wrong += normlib_layer_norm(&x, NULL, NULL, -1, 1e-5, &x, NULL, NULL, 1) != NORMLIB_NOT_IMPORTED;
    wrong += normlib_instance_norm_backward(&x, &x, NULL, &x, &x, 1, 1, &x, NULL, NULL, 1) != NORMLIB_NOT_IMPORTED;
    wrong += normlib->call(NULL) != NORMLIB_NOT_IMPORTED || normlib->set_num_threads(1) != NORMLIB_NOT_IMPORTED;
    wrong += normlib->get_num_threads() != 0;
    *text = normlib->error_text(NORMLIB_NOT_IMPORTED);
    return wrong + (row[0] != 1);
}

/* Each of four threads normalizes x on `threads` threads, times over, and sees whether the bits are those expected. */
struct work { const normlib_array *x; const void *expected; size_t bytes; char *y; int threads, times, wrong; };

static void *run(void *argument)
{
    struct work *w = argument;
    normlib_array y = *w->x;
    y.data = w->y;
    for (int i = 0; i < w->times; i++) {
        memset(w->y, 255, w->bytes);
        w->wrong += normlib_layer_norm(w->x, NULL, NULL, -1, 1e-5, &y, NULL, NULL, w->threads) != NORMLIB_OK;
        w->wrong += memcmp(w->y, w->expected, w->bytes) != 0;
    }
    return NULL;
}

/* The same in a thread of so many bytes of stack: 0, or -1 where there is no such thread. */
int on_a_small_stack(const normlib_array *x, const void *expected, size_t bytes, char *y, size_t stack)
{
    struct work work = {x, expected, bytes, y, 1, 1, 0};
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) || pthread_attr_setstacksize(&attributes, stack)
        || pthread_create(&thread, &attributes, run, &work))
        return -1;
    pthread_join(thread, NULL);
    return work.wrong;
}

int four(const normlib_array *x, const void *expected, size_t bytes, char *y, int threads, int times, int region)
{
    struct work work[4];
    pthread_t thread[4];
    int wrong = 0;
    for (int t = 0; t < 4; t++)
        work[t] = (struct work){x, expected, bytes, y + t * bytes, threads, times, 0};
    if (region) {
        #pragma omp parallel for num_threads(4)
        for (int t = 0; t < 4; t++)
            run(&work[t]);
    } else {
        for (int t = 0; t < 4; t++)
            pthread_create(&thread[t], NULL, run, &work[t]);
        for (int t = 0; t < 4; t++)
            pthread_join(thread[t], NULL);
    }
    for (int t = 0; t < 4; t++)
        wrong += work[t].wrong;
    return wrong;
}
"""
DRIVER = """
import ctypes, os, sys
import numpy as np
import normlib
from normlib.capi import Array, table_address

x = np.random.default_rng(0).standard_normal((2048, 1024)).astype(np.float32)
expected, y = normlib.layer_norm(x).tobytes(), np.empty((4, *x.shape), np.float32)
free, held = ctypes.CDLL(sys.argv[1]), ctypes.PyDLL(sys.argv[1])  # which keeps the GIL
take, four = free.take, [free.four, held.four]
take.argtypes = [ctypes.c_void_p]
assert take(table_address()) == 0
for function in four:
    function.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p] + 3 * [ctypes.c_int]

def call(function, threads, region):
    return function(ctypes.byref(Array(x)), expected, x.nbytes, y.ctypes.data, threads, 3, region)

for function in four:
    for threads in (1, 3):
        for region in (0, 1):
            assert call(function, threads, region) == 0, (function, threads, region)
if hasattr(os, "fork"):  # the parent has run teams
    child = os.fork()
    if child == 0:
        os._exit(call(four[0], 3, 0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert call(four[0], 3, 0) == 0
"""
COMPILER = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(not COMPILER or sys.platform == "win32", reason="needs a C compiler")
INCLUDES = [f"-I{normlib.get_include()}", f"-I{sysconfig.get_path('include')}"]
PACKAGES = Path(normlib.__file__).parent.parent  # where Cython finds normlib/capi.pxd


def compiled(*arguments):
    built = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-5000:]


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A library in plain C that knows the header and nothing of Python."""
    source = tmp_path_factory.mktemp("caller") / "caller.c"
    source.write_text(CALLER)
    library = source.with_suffix(".so")
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wno-unknown-pragmas", "-Werror"]
    flags += ["-shared", "-fPIC", "-pthread"]
    openmp = ["-fopenmp"] if normlib.show_config("dicts")["openmp"] and "gcc" in COMPILER else []
    compiled(COMPILER, *flags, *openmp, INCLUDES[0], source, "-o", library)
    return library


@needs_compiler
def test_threads_regions_and_forks_of_a_caller_in_c(caller):
    """With the GIL and without, in the caller's own threads and OpenMP region, and in a child of all that."""
    python("-c", DRIVER, str(caller), timeout=60)


@needs_compiler
def test_128_kilobytes_of_stack_are_enough(caller):
    """For what needs most: float64 over a strided axis."""
    code = """
import ctypes, sys
import numpy as np, normlib
from normlib.capi import Array, table_address
library = ctypes.CDLL(sys.argv[1])
assert library.take(ctypes.c_void_p(table_address())) == 0
x = np.random.default_rng(0).normal(size=(2, 300, 3000)).transpose(0, 2, 1)
expected, y = normlib.layer_norm(x), np.zeros_like(x)
arguments = ctypes.byref(Array(x)), ctypes.c_void_p(expected.ctypes.data), ctypes.c_size_t(x.nbytes)
assert library.on_a_small_stack(*arguments, ctypes.c_void_p(y.ctypes.data), ctypes.c_size_t(128 << 10)) == 0
"""
    python("-c", code, str(caller))


@needs_compiler
def test_a_call_without_a_table_is_a_status(caller):
    code = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
said = ctypes.c_char_p()
assert library.without(ctypes.byref(said)) == 0
print(said.value.decode())
"""
    assert python("-c", code, str(caller)).strip() == "normlib_import() or normlib_use() has not been called"


@needs_compiler
def test_a_table_of_another_version_is_refused(caller):
    take = ctypes.CDLL(str(caller)).take
    take.argtypes = [ctypes.c_void_p]
    version, size = (ctypes.c_int * 2).from_address(table_address())
    assert size == 8 + 4 * ctypes.sizeof(ctypes.c_void_p)
    for given, taken in [((0, 0), True), ((0, 8), True), ((0, -8), False), ((1, 0), False), ((-1, 0), False)]:
        status = take((ctypes.c_int * 2)(version + given[0], size + given[1]))
        assert (status == 0) == taken, given
    assert function("error_text")(take(None)) == b"the table is of another version than the header"


def built(folder):
    """The folder of examples, copied and built by its own setup.py."""
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    path = os.pathsep.join([str(PACKAGES), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"CFLAGS": "-O0 -Wall -Wextra", "PYTHONPATH": path}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True)


EXTENSION = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, extension, normlib
x, branch = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
weight, expected = branch[0].copy(), x + branch
extension.residual(x, branch, weight, 1e-6)
assert np.array_equal(x, expected) and np.array_equal(branch, normlib.rms_norm(expected, weight))
try:
    extension.residual(x, branch, weight, -1.0)
except ValueError as error:
    print(error)
"""


@needs_compiler
def test_what_setup_builds(tmp_path, monkeypatch):
    """The extension module in C, the Cython module, and SciPy's callback in it."""
    pytest.importorskip("Cython")
    if find_spec("setuptools") is None:  # it must not be imported where distutils has been
        pytest.skip("needs setuptools")
    built(tmp_path)
    assert python("-c", EXTENSION, str(tmp_path)).strip() == "residual: eps: outside its range"

    monkeypatch.syspath_prepend(tmp_path)
    import lines

    x = np.random.default_rng(0).normal(size=(3, 7, 10, 16)).astype(np.float32)
    heads, y = x[:, ::2, 4], np.empty((3, 4, 16), np.float32)
    lines.rms_norm_heads(heads, x[0, 0, 0], 1e-6, y)
    assert checks.same_bits(y, normlib.rms_norm(heads, x[0, 0, 0]))
    with pytest.raises(ValueError, match="x and y have different sizes"):
        lines.rms_norm_heads(heads, x[0, 0, 0], 1e-6, y[1:])
    with pytest.raises(ValueError, match="weight: the number of axes or a size does not fit"):
        lines.rms_norm_heads(heads, x[0, 0, 0, 1:], 1e-6, y)

    pytest.importorskip("scipy")
    assert "stripes before: 3.01 after: 0.0" in python(str(tmp_path / "scipy_lines.py"))


def test_ctypes():
    lines = python(str(EXAMPLES / "ctypes_rows.py")).splitlines()
    assert lines[0] == "weight: the number of axes or a size does not fit"
    assert lines[1] == "largest difference from normlib.rms_norm: 0.0"


def test_numba():
    pytest.importorskip("numba")
    assert "largest difference from the same in NumPy: 0.0" in python(str(EXAMPLES / "numba_rows.py"))


CMAKE = shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))
WITH_NORMLIB = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in (str(PACKAGES), *sys.path) if p)}


def told(*options):
    """What the command line prints."""
    return python("-m", "normlib", *options, PYTHONPATH=WITH_NORMLIB["PYTHONPATH"]).strip()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program in C++, built by CMake, which finds normlib's header."""
    config = sysconfig.get_config_vars()
    folders, library = [Path(config[name]) for name in ("LIBDIR", "LIBPL")], f"python{config['LDVERSION']}"
    if not (shutil.which("g++") or shutil.which("clang++")) or not any(
        list(folder.glob(f"lib{library}.*")) for folder in folders
    ):
        pytest.skip("needs a C++ compiler and the library of Python")
    folder = tmp_path_factory.mktemp("program")
    flags = f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_CXX_FLAGS=-O1 -Wall -Wextra -Werror"
    for command in ([CMAKE, "-S", EXAMPLES, "-B", folder, *flags], [CMAKE, "--build", folder]):
        done = subprocess.run(command, env=WITH_NORMLIB, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    return folder / "program"


@needs_compiler
def test_the_program_in_cpp(program):
    """It embeds the interpreter, for the table alone."""
    out = subprocess.run([program], env=WITH_NORMLIB, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert "group_norm in 4 threads: largest difference from the formula" in out.stdout


@pytest.mark.parametrize(("asked", "found"), [("0.1", True), (normlib.__version__, True), ("99.0", False)])
def test_cmake_finds_the_version_that_it_asks_for(asked, found, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.18)
project(asks LANGUAGES NONE)
find_package(normlib {asked} CONFIG REQUIRED)
get_target_property(folder normlib::normlib INTERFACE_INCLUDE_DIRECTORIES)
message(STATUS "found ${{normlib_VERSION}} in ${{folder}}")
""")
    command = [CMAKE, "-S", tmp_path, "-B", tmp_path / "build", f"-Dnormlib_DIR={told('--cmakedir')}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == found, done.stderr
    assert not found or f"found {normlib.__version__} in {normlib.get_include()}\n" in done.stdout


def test_pkg_config():
    """By reading what it reads; and by itself, where it is installed."""
    folder = Path(told("--pkgconfigdir"))
    fields = dict(line.split(": ", 1) for line in (folder / "normlib.pc").read_text().splitlines() if ": " in line)
    includes = fields["Cflags"].replace("${includedir}", "${prefix}/include").replace("${prefix}", f"{folder}/../..")
    assert Path(includes.removeprefix("-I")).resolve() == Path(normlib.get_include()).resolve()
    assert fields["Version"] == normlib.__version__
    if command := shutil.which("pkg-config"):
        environment = os.environ | {"PKG_CONFIG_PATH": str(folder)}
        asked = [command, "--cflags", "normlib"]
        flags = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
        assert Path(flags.strip().removeprefix("-I")).resolve() == Path(normlib.get_include()).resolve()


def test_the_flags_for_the_compiler():
    assert told("--includes").split() == [INCLUDES[1], INCLUDES[0]]


@needs_compiler
def test_an_extension_built_for_another_version_does_not_import(tmp_path):
    (tmp_path / "normlib.h").write_text(HEADER.replace("NORMLIB_ABI_VERSION 2", "NORMLIB_ABI_VERSION 3"))
    library = tmp_path / f"extension{sysconfig.get_config_var('EXT_SUFFIX')}"
    link = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    compiled(COMPILER, "-shared", "-fPIC", EXAMPLES / "extension.c", f"-I{tmp_path}", INCLUDES[1], *link, "-o", library)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
try:
    import extension
except ImportError as error:
    print(error)
"""
    assert "has version 2 of its C interface (40 bytes), expected version 3" in python("-c", code)
