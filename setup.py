"""Build of the compiled kernels. All else about the package stands in pyproject.toml.

NORMLIB_REQUIRE_EXT=1   a failed build of the kernels is an error; otherwise normlib installs without them
NORMLIB_OPENMP=0        build without OpenMP
NORMLIB_LEVELS=v3,v4    build these ISA levels only (x86-64; all by default)
NORMLIB_SANITIZE=LIST   build with these sanitizers, for example address,undefined; a report ends the process
NORMLIB_COVERAGE=1      build with counters of executed lines, for gcov
"""

import os
import platform
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REQUIRED = os.environ.get("NORMLIB_REQUIRE_EXT", "0") not in ("", "0")
SANITIZE = os.environ.get("NORMLIB_SANITIZE", "")
COVERAGE = os.environ.get("NORMLIB_COVERAGE", "0") not in ("", "0")
KERNELS = Path("normlib/_kernels")
HEADER = Path("normlib/include/normlib.h")
FAILURE = "build_failure.txt"  # beside the kernels, where they could not be built: why, for `normlib info`
CALLS = (
    "machine", "parallel", "schedule", "layout", "masks", "outputs", "check", "call", "from_python", "from_c", "capi",
    "from_xla", "functions", "prepared", "recurrent", "sums",
)  # fmt: skip
GNU_FLAGS = [
    "-O3",
    "-g0",
    "-ffp-contract=off",  # a fused multiply-add would round otherwise than a multiplication and an addition
    "-fno-math-errno",  # sqrt need not set errno: it becomes one instruction
    "-fno-trapping-math",  # no floating-point traps: both sides of a choice may be computed
    "-Wno-unused-function",  # specialisations of fused types that nobody calls
    "-DCYTHON_INLINE=inline __attribute__((always_inline, unused))",
]
# The calls clear a few hundred bytes each time: the library's memset takes half as long as the compiler's "rep stos".
CALLS_FLAGS = ["-O3", "-fno-builtin-memset"]
GCC_FLAG = "-fno-tree-loop-distribute-patterns"  # keep the clearing of lanes in registers: no calls of memset
INSTRUMENTS = [
    *([f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] if SANITIZE else []),
    *(["--coverage", "-fprofile-update=atomic"] if COVERAGE else []),  # else threads share the counters of loops
]
# No symbols but those that the loader needs: a quarter of the size. Reports of instruments want them.
STRIPPED = ["-Wl,--strip-all"] if sys.platform.startswith("linux") and not INSTRUMENTS else []
LEVELS = {"v2": ["-march=x86-64-v2"], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}


def levels():
    """The ISA levels to build; "baseline" is what the compiler makes without being told."""
    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32 and sys.platform != "win32"
    asked = os.environ.get("NORMLIB_LEVELS", ",".join(LEVELS)).split(",")
    return [level for level in LEVELS if level in asked] if x86 else ["baseline"]


def extensions():
    from Cython.Build import cythonize

    def extension(name, depends=()):
        return Extension(f"normlib._kernels.{name}", [str(KERNELS / f"{name}.pyx")], depends=[str(d) for d in depends])

    included = [*sorted(KERNELS.rglob("*.pxi")), *sorted(KERNELS.glob("vectors/*.h")), KERNELS / "plan.pxd"]
    declared = [*sorted(KERNELS.glob("*.pxd")), *sorted(KERNELS.glob("*.h")), HEADER]
    modules = [extension(name, declared) for name in ("probe", *CALLS)]
    modules += [extension(f"isa_{level}", included) for level in levels()]
    modules = cythonize(
        modules,
        build_dir="build",  # keeps the generated C out of the package
        include_path=[str(KERNELS)],
        language_level=3,
        emit_linenums=bool(INSTRUMENTS),  # so that reports speak of the Cython sources
        compiler_directives={"boundscheck": False, "wraparound": False, "initializedcheck": False, "cdivision": True,
                             "freethreading_compatible": True, "embedsignature": True},
    )
    for module in modules:
        module.optional = not REQUIRED  # cythonize() drops the argument of that name
    return modules


class BuildExt(build_ext):
    """Adds the flags that the compiler at hand takes, and compiles as many modules at once as there are cores."""

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count()

    def build_extensions(self):
        gnu = self.compiler.compiler_type != "msvc"
        openmp = self.openmp_flags(gnu) if os.environ.get("NORMLIB_OPENMP", "1") != "0" else None
        kernel_flags = [*GNU_FLAGS, GCC_FLAG] if gnu and self.takes(GCC_FLAG) else GNU_FLAGS
        for extension in self.extensions:
            name = extension.name.rpartition(".")[2]
            extension.include_dirs += [str(KERNELS), str(KERNELS / "vectors"), str(HEADER.parent)]
            extension.define_macros.append(("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"))
            if name in CALLS:
                import numpy

                extension.include_dirs.append(numpy.get_include())
                extension.extra_compile_args += CALLS_FLAGS if gnu else []
            if name == "parallel" and openmp:
                extension.extra_compile_args += openmp
                extension.extra_link_args += openmp if gnu else []
            if name.startswith("isa_") and gnu:
                extension.extra_compile_args += kernel_flags + LEVELS.get(name.removeprefix("isa_"), [])
            extension.extra_link_args += STRIPPED if gnu else []
            if INSTRUMENTS:
                extension.extra_compile_args += [*INSTRUMENTS, "-O1", "-g1"]
                extension.extra_link_args += INSTRUMENTS
        self.failure = Path(self.get_ext_fullpath("normlib._kernels.probe")).with_name(FAILURE)
        self.failure.unlink(missing_ok=True)
        super().build_extensions()

    def build_extension(self, extension):
        try:
            super().build_extension(extension)
        except Exception as error:  # an optional one is then left out, and only pip's log would tell
            self.failure.parent.mkdir(parents=True, exist_ok=True)
            if not self.failure.exists():
                self.failure.write_text(self.complaint() or f"{extension.name}: {error}".strip()[:200])
            raise

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        if self.failure.exists():  # an editable install runs from the sources
            (KERNELS / FAILURE).write_text(self.failure.read_text())

    def complaint(self):
        """What the compiler says to a file that asks for Python's headers, if it says something."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "headers.c")
            source.write_text("#include <Python.h>\n")
            try:
                command = [*self.compiler.compiler_so, *(f"-I{path}" for path in self.compiler.include_dirs)]
                command += ["-c", source, "-o", Path(folder, "headers.o")]
                run = subprocess.run(command, capture_output=True, text=True)
            except (AttributeError, OSError) as error:  # a compiler of another kind, or none
                return str(error)
        lines = [line for line in run.stderr.splitlines() if "error" in line]
        return lines[0] if lines else f"{command[0]} ended with status {run.returncode}" if run.returncode else ""

    def takes(self, flag):
        """Whether the compiler knows a flag; some clangs make an error of an unknown one."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "empty.c")
            source.write_text("")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[flag])
            except Exception:  # whatever a compiler may raise
                return False
        return True

    def openmp_flags(self, gnu):
        """The flags for OpenMP, or None: Apple's clang has none, and a compiler may lack the library."""
        flags = ["-fopenmp"] if gnu else ["/openmp"]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=flags if gnu else [])
            except Exception as error:  # whatever a compiler may raise
                warnings.warn(f"normlib is built without OpenMP, so it runs on one thread: {error}", stacklevel=2)
                return None
        return flags


def modules():
    (KERNELS / FAILURE).unlink(missing_ok=True)
    try:
        return extensions()
    except Exception as error:
        if REQUIRED:
            raise
        warnings.warn(f"normlib is built without its kernels, so it runs on NumPy: {error}", stacklevel=2)
        (KERNELS / FAILURE).write_text(str(error).strip()[:200])
        return []


setup(ext_modules=modules(), cmdclass={"build_ext": BuildExt})
