"""The kernels and their callers under the sanitizers of GCC and clang. A report ends the process that it is about."""

import subprocess
from pathlib import Path

from tools import Unavailable, built, found, suite

# What loads a framework or another Python, whose own code the sanitizers would watch, or measures time and memory.
ELSEWHERE = ["test_torch.py", "test_interop_onnx.py", "test_interop_jax.py", "test_interop_torch.py", "test_arrays.py",
             "test_torch_fused.py", "test_torch_models.py",
             "test_examples.py", "test_models.py", "test_bench.py", "test_cli.py", "test_embedding.py", "test_views.py",
             "test_memory.py", "test_allocation_failures.py", "test_growth.py", "test_large.py",
             "test_interrupts.py"]  # fmt: skip
# Tests of other compilers, of memory that a sanitizer holds itself, and of the symbols that its reports need.
UNFIT = ["Numba", "torch", "system_may_have", "others_may_miss", "no_symbols"]
SHOWN = ["--capture=sys"]  # what a sanitizer writes to standard error is shown


def library(compiler, *names):
    for name in names:
        printed = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        path = Path(printed.stdout.strip())
        if path.is_absolute() and path.exists():
            return str(path.resolve())
    raise Unavailable(f"{compiler} has no {names[0]}")


def address():
    """AddressSanitizer and UndefinedBehaviorSanitizer over the suite. Python itself never frees all: no leak check
    (test_growth.py looks for leaks). All memory comes from malloc, that of small objects and of large results too, so
    that it is watched."""
    compiler = found("gcc")
    preloaded = f"{library(compiler, 'libasan.so')} {library(compiler, 'libstdc++.so.6')}"
    root = built("address", CC=compiler, NORMLIB_SANITIZE="address,undefined")
    options = [*SHOWN, "-k", " and ".join(f"not {name}" for name in UNFIT)]
    return suite(without=ELSEWHERE, root=root, options=options, effort="suite", workers=2,
                 LD_PRELOAD=preloaded, PYTHONMALLOC="malloc", NORMLIB_KEEP_OUTPUT="0",
                 ASAN_OPTIONS="detect_leaks=0:abort_on_error=1", UBSAN_OPTIONS="print_stacktrace=1")  # fmt: skip


def threads():
    """ThreadSanitizer over the thread tests, with an OpenMP runtime that tells it what synchronizes what."""
    compiler = found("clang", "clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14")
    runtime = library(compiler, "libclang_rt.tsan-x86_64.so", "libclang_rt.tsan.so")
    archer = library(compiler, "libarcher.so")
    root = built("thread", CC=compiler, LDSHARED=f"{compiler} -shared", NORMLIB_SANITIZE="thread")
    # The threads of an OpenMP pool are never joined.
    options = "ignore_noninstrumented_modules=1:report_thread_leaks=0:halt_on_error=1:abort_on_error=1"
    return suite("test_concurrency.py", "test_threads.py", root=root, options=SHOWN, effort="suite",
                 LD_PRELOAD=runtime, OMP_TOOL_LIBRARIES=archer, TSAN_OPTIONS=options)  # fmt: skip
